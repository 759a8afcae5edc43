"""Which samples a step takes: a pure function of seed, epoch and step, so that a resumed run goes on as it was."""

from kinfolk.data.samplers.buckets import BucketSampler, quantile_buckets
from kinfolk.data.samplers.captioned import CaptionedSampler
from kinfolk.data.samplers.class_balanced import ClassBalancedSampler
from kinfolk.data.samplers.configs import (
    BucketSamplerConfig,
    CaptionedSamplerConfig,
    ClassBalancedSamplerConfig,
    DistinctSamplerConfig,
    PlainSamplerConfig,
    ShardSamplerConfig,
)
from kinfolk.data.samplers.distinct_captions import DistinctSampler
from kinfolk.data.samplers.plain import PlainSampler

__all__ = [
    "BucketSampler",
    "BucketSamplerConfig",
    "CaptionedSampler",
    "CaptionedSamplerConfig",
    "ClassBalancedSampler",
    "ClassBalancedSamplerConfig",
    "DistinctSampler",
    "DistinctSamplerConfig",
    "PlainSampler",
    "PlainSamplerConfig",
    "ShardSamplerConfig",
    "quantile_buckets",
]
