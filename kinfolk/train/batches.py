"""Which samples a step takes, and how they become a batch of views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.data import ClassBalancedSampler, PlainSampler, Source, ViewMaker

if TYPE_CHECKING:
    from kinfolk.train.config import TrainConfig

Sampler = PlainSampler | ClassBalancedSampler


def make_sampler(config: TrainConfig, source: Source, *, rank: int, world_size: int) -> Sampler:
    """Make the sampler that the config names; every rank takes the same number of steps.

    Raises:
        ValueError: If classes are to be balanced and the source has no labels.
    """
    if config.sampler == "plain":
        return PlainSampler(
            len(source), batch_size=config.batch_size, seed=config.seed, rank=rank, world_size=world_size
        )
    if source.labels is None:
        raise ValueError(f"sampler 'class-balanced' needs labels, and {source.name} has none; use sampler 'plain'")
    return ClassBalancedSampler(
        source.labels, batch_size=config.batch_size, seed=config.seed, rank=rank, world_size=world_size
    )


def make_batch(data: dict[str, Any], views: ViewMaker, *, epoch: int, device: torch.device) -> dict[str, Any]:
    """Move what a source gave to the device and replace its images by their augmented views."""
    batch = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in data.items()
    }
    images = batch.pop("images")
    return {"views": views(images, batch["ids"], epoch=epoch), **batch}
