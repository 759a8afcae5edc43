"""From a source and a sampler to the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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


def read_epoch(
    source: Source, sampler: Sampler, *, epoch: int, steps: range, workers: int = 0
) -> Iterator[dict[str, Any]]:
    """Read some of the epoch's batches, as the source gives them (uint8 images).

    Args:
        source: Where the samples come from.
        sampler: Which samples a step takes.
        epoch: The epoch.
        steps: Which of its steps.
        workers: Processes that read beside this one; 0 reads here, and so do sources that lie in memory.
    """
    indices = [sampler.batch(epoch, step) for step in steps]
    # Without a generator of its own a DataLoader draws a seed from torch's; a resumed epoch would draw once more.
    return iter(
        DataLoader(
            _Fetch(source),
            batch_size=None,
            sampler=indices,  # type: ignore[arg-type]
            num_workers=0 if source.in_memory else workers,
            generator=torch.Generator(),
        )
    )


def make_batch(data: dict[str, Any], views: ViewMaker, *, epoch: int, device: torch.device) -> dict[str, Any]:
    """Move what a source gave to the device and replace its images by their augmented views."""
    batch = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in data.items()
    }
    images = batch.pop("images")
    return {"views": views(images, batch["ids"], epoch=epoch), **batch}


class _Fetch(Dataset):
    """A data set whose items are whole batches: item ``indices`` is ``source.fetch(indices)``."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, indices: Tensor) -> dict[str, Any]:
        return self._source.fetch(indices)
