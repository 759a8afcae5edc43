"""Which samples a step takes, and how they become a batch of views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
