"""The batches of an epoch, read here or by worker processes, the same either way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kinfolk.data.sources.base import Source


class Sampler(Protocol):
    """What tells which samples a step takes; see `PlainSampler`."""

    steps_per_epoch: int

    def batch(self, epoch: int, step: int) -> Tensor:
        """Return positions in the source, int64."""


def batches(
    source: Source, sampler: Sampler, epoch: int, *, start_step: int = 0, workers: int = 0
) -> Iterator[dict[str, Any]]:
    """Read an epoch's batches in the sampler's order.

    Args:
        source: where the samples come from.
        sampler: which samples each step takes.
        epoch: from 0.
        start_step: the first step to read, for a run that resumes within an epoch.
        workers: processes that read ahead, for sources that decode files; sources in memory are read in this process
            whatever it says. Order and content do not depend on it.

    Returns:
        An iterator over what `Source.fetch` gives.

    Raises:
        ValueError: when `start_step` is not from 0 to the number of steps.

    Example:
        >>> from kinfolk.data import ArraySource, PlainSampler
        >>> source = ArraySource(torch.zeros(5, 1, 8, 8, dtype=torch.uint8))
        >>> [batch["images"].shape[0] for batch in batches(source, PlainSampler(5, batch_size=2, seed=0), 0)]
        [2, 2]
    """
    steps = sampler.steps_per_epoch
    if not 0 <= start_step <= steps:
        raise ValueError(f"start_step must be from 0 to the epoch's {steps} steps; found {start_step}")
    indices = [sampler.batch(epoch, step) for step in range(start_step, steps)]
    if source.in_memory or workers == 0:
        return map(source.fetch, indices)
    loader = DataLoader(
        _Batches(source, indices),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        generator=torch.Generator(),  # or it would draw from the global one, and a resumed epoch would draw once more
    )
    return iter(loader)


class _Batches(Dataset):
    """A data set whose items are the whole batches."""

    def __init__(self, source: Source, indices: list[Tensor]) -> None:
        self.source = source
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, step: int) -> dict[str, Any]:
        return self.source.fetch(self.indices[step])


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch
