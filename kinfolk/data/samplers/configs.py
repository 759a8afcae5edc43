"""How a run draws its batches: one frozen config for each sampler."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from kinfolk.data.samplers.buckets import BucketSampler, quantile_buckets
from kinfolk.data.samplers.captioned import CaptionedSampler
from kinfolk.data.samplers.class_balanced import ClassBalancedSampler
from kinfolk.data.samplers.distinct_captions import DistinctSampler
from kinfolk.data.samplers.plain import PlainSampler
from kinfolk.data.samplers.shards import ShardSampler, shard_numbers

if TYPE_CHECKING:
    from kinfolk.data.sources.base import Source


@dataclass(frozen=True)
class PlainSamplerConfig:
    """Every sample once an epoch; see `PlainSampler`.

    Args:
        drop_last: whether samples that fill no batch are dropped, or the last batch is padded.

    Example:
        >>> PlainSamplerConfig().uses_labels
        False
    """

    kind: ClassVar[str] = "plain"
    drop_last: bool = True

    @property
    def uses_labels(self) -> bool:
        """Whether pretraining sees labels through the sampler."""
        return False

    def build(self, source: Source, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> PlainSampler:
        """Make the sampler for a source."""
        return PlainSampler(
            len(source),
            batch_size=batch_size,
            seed=seed,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world_size,
        )


@dataclass(frozen=True)
class ClassBalancedSamplerConfig:
    """Every class equally often; see `ClassBalancedSampler`.

    Args:
        per_class: samples of a class in a batch, so that a batch has ``batch_size / per_class`` classes; None draws
            every place's class uniformly.

    Raises:
        ValueError: for fewer than one sample per class.

    Example:
        >>> ClassBalancedSamplerConfig(per_class=4).uses_labels
        True
    """

    kind: ClassVar[str] = "class-balanced"
    per_class: int | None = None

    def __post_init__(self) -> None:
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"per_class must be at least 1, or None; found {self.per_class}")

    @property
    def uses_labels(self) -> bool:
        """Whether pretraining sees labels through the sampler."""
        return True

    def build(
        self, source: Source, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> ClassBalancedSampler:
        """Make the sampler for a source.

        Raises:
            ValueError: when the source has no labels, or too few for a batch.
        """
        if source.labels is None:
            raise ValueError(f"sampler 'class-balanced' needs labels, and {source.name} has none; use sampler 'plain'")
        return ClassBalancedSampler(
            source.labels,
            batch_size=batch_size,
            seed=seed,
            per_class=self.per_class,
            rank=rank,
            world_size=world_size,
        )


@dataclass(frozen=True)
class CaptionedSamplerConfig:
    """Pairs and images without a caption in a fixed proportion; see `CaptionedSampler`.

    Args:
        share: of a batch that has captions.

    Raises:
        ValueError: for a share that is not between 0 and 1.

    Example:
        >>> CaptionedSamplerConfig(share=0.25).uses_labels
        False
    """

    kind: ClassVar[str] = "captioned"
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be above 0 and below 1; found {self.share}")

    @property
    def uses_labels(self) -> bool:
        """Whether pretraining sees labels through the sampler."""
        return False

    def build(
        self, source: Source, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> CaptionedSampler:
        """Make the sampler for a source.

        Raises:
            ValueError: when the source has no captions, or too few samples with or without one for a batch.
        """
        texts = cast("Sequence[str]", _column(source, "text", self.kind))
        return CaptionedSampler(
            torch.tensor([bool(text.strip()) for text in texts]),
            batch_size=batch_size,
            seed=seed,
            share=self.share,
            rank=rank,
            world_size=world_size,
        )


@dataclass(frozen=True)
class DistinctSamplerConfig:
    """No key twice in a batch; see `DistinctSampler`.

    Args:
        column: whose entries are the keys: `text`, or an integer column such as `groups`. A sample whose `text` is
            empty is like no other.

    Example:
        >>> DistinctSamplerConfig().column
        'text'
    """

    kind: ClassVar[str] = "distinct"
    column: str = "text"

    @property
    def uses_labels(self) -> bool:
        """Whether pretraining sees labels through the sampler."""
        return self.column in ("labels", "true_labels", "hierarchy")

    def build(
        self, source: Source, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> DistinctSampler:
        """Make the sampler for a source.

        Raises:
            ValueError: when the source has no such column, or too few different keys for a batch.
        """
        keys = _column(source, self.column, self.kind)
        if self.column == "text":
            keys = [text or None for text in cast("Sequence[str]", keys)]
        return DistinctSampler(keys, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)


@dataclass(frozen=True)
class BucketSamplerConfig:
    """Batches of one bucket each; see `BucketSampler`.

    Args:
        column: what names the bucket: an integer or text column, or one of numbers such as `times`.
        buckets: into how many buckets of equal size a column of numbers is cut; other columns have their own.

    Raises:
        ValueError: for fewer than one bucket.

    Example:
        >>> BucketSamplerConfig(column="times", buckets=12).uses_labels
        False
    """

    kind: ClassVar[str] = "bucketed"
    column: str = "labels"
    buckets: int = 8

    def __post_init__(self) -> None:
        if self.buckets < 1:
            raise ValueError(f"buckets must be at least 1; found {self.buckets}")

    @property
    def uses_labels(self) -> bool:
        """Whether pretraining sees labels through the sampler."""
        return self.column in ("labels", "true_labels", "hierarchy")

    def build(self, source: Source, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> BucketSampler:
        """Make the sampler for a source.

        Raises:
            ValueError: when the source has no such column, or no bucket fills a batch.
        """
        keys = _column(source, self.column, self.kind)
        if isinstance(keys, Tensor) and keys.is_floating_point():
            keys = quantile_buckets(keys, count=self.buckets)
        return BucketSampler(keys, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)


@dataclass(frozen=True)
class ShardSamplerConfig:
    """Samples as a streaming reader of tar shards would give them, mixed by a buffer; see `ShardSampler`.

    Args:
        buffer: samples that are mixed at a time.

    Raises:
        ValueError: for a buffer below 1.

    Example:
        >>> ShardSamplerConfig(buffer=1000).uses_labels
        False
    """

    kind: ClassVar[str] = "shards"
    buffer: int = 10_000

    def __post_init__(self) -> None:
        if self.buffer < 1:
            raise ValueError(f"buffer must be at least 1; found {self.buffer}")

    @property
    def uses_labels(self) -> bool:
        """Whether pretraining sees labels through the sampler."""
        return False

    def build(self, source: Source, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> ShardSampler:
        """Make the sampler for a source.

        Raises:
            ValueError: when the source does not lie in shards.
        """
        return ShardSampler(
            shard_numbers(source),
            batch_size=batch_size,
            seed=seed,
            buffer=self.buffer,
            rank=rank,
            world_size=world_size,
        )


def _column(source: Source, column: str, kind: str) -> Tensor | Sequence[Hashable]:
    if column not in source.columns:
        known = ", ".join(source.columns) or "no columns"
        raise ValueError(f"sampler {kind!r} needs the column {column!r}; {source.name} has {known}")
    return cast("Tensor | Sequence[Hashable]", source.columns[column])
