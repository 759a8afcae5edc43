"""Which samples a step takes, and how they become a batch of views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from kinfolk.data import Source, StreamSampler, StreamSource, ViewMaker
from kinfolk.data.loader import Sampler
from kinfolk.data.views.table import TableViewMaker

if TYPE_CHECKING:
    from kinfolk.train.config import TrainConfig

_SEEN = ("images", "renderings", "rendering_count", "saliency")  # what the views are made of


def make_sampler(config: TrainConfig, source: Source, *, rank: int, world_size: int) -> Sampler:
    """Make the sampler that the config names; every rank takes the same number of steps.

    Raises:
        ValueError: If the source lacks what the sampler goes by, or is a stream, which has an order of its own.
    """
    if isinstance(source, StreamSource):
        if config.sampler.kind != "plain":
            raise ValueError(
                f"{source.name} is a stream and comes in an order of its own, shuffled by its buffer; sampler must be"
                f" 'plain', found {config.sampler.kind!r}. `kinfolk data shard` writes it to a folder for any."
            )
        return StreamSampler(source, batch_size=config.batch_size, rank=rank, world_size=world_size)
    return config.sampler.build(
        source, batch_size=config.batch_size, seed=config.seed, rank=rank, world_size=world_size
    )


class Length(NamedTuple):
    """How long training is.

    Args:
        steps_per_epoch: steps of a whole epoch; the last one may be shorter.
        epochs: passes begun.
        total_steps: optimiser steps in all.
    """

    steps_per_epoch: int
    epochs: int
    total_steps: int

    def steps_of(self, epoch: int) -> int:
        """Steps of one epoch.

        Example:
            >>> [Length(steps_per_epoch=4, epochs=3, total_steps=10).steps_of(epoch) for epoch in range(3)]
            [4, 4, 2]
        """
        return min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)


def training_length(config: TrainConfig, sampler: Sampler) -> Length:
    """Steps and epochs that the config asks for, by epochs or by image views."""
    per_epoch = min(sampler.steps_per_epoch, config.max_steps_per_epoch or sampler.steps_per_epoch)
    if config.image_views is None or per_epoch == 0:
        return Length(per_epoch, config.epochs, config.epochs * per_epoch)
    total = max(1, round(config.image_views / views_per_step(config)))
    return Length(per_epoch, -(-total // per_epoch), total)


def views_per_step(config: TrainConfig) -> int:
    """Augmented views that one step takes, over all processes."""
    return config.batch_size * config.views.count


def make_batch(
    data: dict[str, Any], views: ViewMaker | TableViewMaker, *, epoch: int, device: torch.device
) -> dict[str, Any]:
    """Move what a source gave to the device and replace its images by their augmented views."""
    batch = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in data.items()
    }
    made = views.of_batch(batch, epoch=epoch)
    return {"views": made, **{name: value for name, value in batch.items() if name not in _SEEN}}
