"""Data sets made from others: one file per kind, each with a frozen config whose `apply` turns splits into others."""

from kinfolk.data.derived.biased import ColouredConfig, TexturedConfig
from kinfolk.data.derived.caption_noise import CaptionNoiseConfig
from kinfolk.data.derived.class_captions import ClassCaptionsConfig
from kinfolk.data.derived.composites import CompositeConfig
from kinfolk.data.derived.corruptions import CORRUPTIONS, CorruptedConfig, corrupt
from kinfolk.data.derived.few_labels import FewLabelsConfig
from kinfolk.data.derived.imbalanced import ImbalancedConfig, shot_groups
from kinfolk.data.derived.label_noise import CIFAR10_CONFUSIONS, LabelNoiseConfig
from kinfolk.data.derived.labelled_part import LabelledPartConfig
from kinfolk.data.derived.loose_captions import LooseCaptionsConfig
from kinfolk.data.derived.open_world import OpenWorldConfig
from kinfolk.data.derived.unpaired import TextPart, UnpairedConfig, UnpairedSplits
from kinfolk.data.derived.wrapper import DerivedSource, with_columns, with_images

__all__ = [
    "CIFAR10_CONFUSIONS",
    "CORRUPTIONS",
    "CaptionNoiseConfig",
    "ClassCaptionsConfig",
    "ColouredConfig",
    "CompositeConfig",
    "CorruptedConfig",
    "DerivedSource",
    "FewLabelsConfig",
    "ImbalancedConfig",
    "LabelNoiseConfig",
    "LabelledPartConfig",
    "LooseCaptionsConfig",
    "OpenWorldConfig",
    "TextPart",
    "TexturedConfig",
    "UnpairedConfig",
    "UnpairedSplits",
    "corrupt",
    "shot_groups",
    "with_columns",
    "with_images",
]
