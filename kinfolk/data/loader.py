"""The batches of a run, epoch after epoch, read here or by worker processes, the same either way."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data import Sampler as IndexSampler

from kinfolk.data.cache import CachedSource
from kinfolk.data.sources.base import ArraySource, Source
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.streaming import StreamSource


class Sampler(Protocol):
    """What tells which samples a step takes; see `PlainSampler`."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of every epoch, the same on all ranks."""

    def batch(self, epoch: int, step: int) -> Tensor:
        """Return positions in the source, int64."""


class BatchReader:
    """Reads a sampler's batches, epoch after epoch.

    Worker processes are started once and stay until `close`; they read ahead of the training process. Sources in
    memory, and those whose images a cache holds completely, are read in this process whatever `workers` says. Order
    and content do not depend on any of that.

    Args:
        source: where the samples come from.
        sampler: which samples each step takes.
        workers: processes that read ahead, for sources that decode files.

    Example:
        >>> from kinfolk.data import PlainSampler
        >>> source = ArraySource(torch.zeros(5, 1, 8, 8, dtype=torch.uint8))
        >>> with BatchReader(source, PlainSampler(5, batch_size=2, seed=0)) as reader:
        ...     [batch["images"].shape[0] for batch in reader.epoch(0)]
        [2, 2]
    """

    def __init__(self, source: Source, sampler: Sampler, *, workers: int = 0) -> None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0; found {workers}")
        self.source, self.sampler, self.workers = source, sampler, workers
        self._order = _Order(sampler)
        self._loader: DataLoader | None = None

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[dict[str, Any]]:
        """Read an epoch's batches in the sampler's order.

        Args:
            epoch: from 0.
            start_step: the first step to read, for a run that resumes within an epoch.

        Returns:
            An iterator over what `Source.fetch` gives; only one epoch is read at a time.

        Raises:
            ValueError: when `start_step` is not from 0 to the number of steps.
        """
        steps = self.sampler.steps_per_epoch
        if not 0 <= start_step <= steps:
            raise ValueError(f"start_step must be from 0 to the epoch's {steps} steps; found {start_step}")
        return self._read(epoch, start_step)

    def _read(self, epoch: int, start_step: int) -> Iterator[dict[str, Any]]:
        if isinstance(self.sampler, StreamSampler):
            yield from self.sampler.read(epoch, start_step, workers=self.workers)
            return
        self._order.epoch, self._order.start_step = epoch, start_step
        if self.workers == 0 or _is_indexing(self.source):
            self._stop_workers()
            yield from map(self.source.fetch, self._order)
        else:
            if self._loader is None:
                self._loader = _start_workers(self.source, self._order, self.workers)
            for batch in self._loader:
                if isinstance(batch, UnreadableImage):
                    raise batch
                yield batch
        self._flush()

    def close(self) -> None:
        """Stop the worker processes."""
        self._stop_workers()
        self._flush()

    def _flush(self) -> None:
        kept: Any = self.source
        while isinstance(kept, Source):  # what selects or changes samples stands on top of the cache
            if isinstance(kept, CachedSource):
                kept.flush()
            kept = getattr(kept, "source", None)

    def _stop_workers(self) -> None:
        self._loader = None  # the last reference: its processes end with it

    def __enter__(self) -> BatchReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StreamSampler:
    """What takes the place of a sampler where samples come in an order of the stream's own.

    Args:
        source: the stream.
        batch_size: of all ranks together.
        rank: of this process, from 0.
        world_size: number of processes; must divide `batch_size`.

    Raises:
        ValueError: when an epoch of the stream does not fill one batch.
    """

    def __init__(self, source: StreamSource, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.source, self.batch_size, self.rank, self.world_size = source, batch_size, rank, world_size
        self.steps_per_epoch = source.steps_per_epoch(batch_size)

    def batch(self, epoch: int, step: int) -> Tensor:
        """Raise: a stream has no positions to name."""
        raise TypeError(f"{self.source.name} is a stream, whose samples have no positions; read it with BatchReader")

    def read(self, epoch: int, start_step: int, *, workers: int) -> Iterator[dict[str, Any]]:
        """Read this rank's share of an epoch's batches."""
        return self.source.batches(
            epoch,
            batch_size=self.batch_size,
            start_step=start_step,
            rank=self.rank,
            world_size=self.world_size,
            workers=workers,
        )


def resident(source: Source, device: torch.device, *, limit_mb: int = 8192) -> Source:
    """Move a source's images and columns to a GPU, so that a batch is one indexing there and no transfer.

    Args:
        source: one in memory that is not larger than the limit; any other is returned as it is.
        device: where training runs; on a CPU nothing moves.
        limit_mb: largest size of the images, in MiB.

    Example:
        >>> source = ArraySource(torch.zeros(5, 1, 8, 8, dtype=torch.uint8))
        >>> resident(source, torch.device("cpu")) is source
        True
    """
    if device.type == "cpu" or not isinstance(source, ArraySource) or source.images.numel() > limit_mb * 2**20:
        return source
    return ResidentSource(source, device)


class ResidentSource(Source):
    """An `ArraySource` whose images lie on another device; `fetch` takes positions on any device.

    Args:
        source: in memory.
        device: where its images and tensor columns go.
    """

    in_memory = True

    def __init__(self, source: ArraySource, device: torch.device) -> None:
        self.name, self.ids, self.class_names = source.name, source.ids, source.class_names
        self.channels, self.image_size, self.columns = source.channels, source.image_size, source.columns
        self.device = device
        self._images = source.images.to(device)
        self._tensors = {
            name: column.to(device) for name, column in source.columns.items() if isinstance(column, Tensor)
        }
        self._ids = source.ids.to(device)

    def read(self, indices: Tensor) -> Tensor:
        """Index the images there; see `Source.read`."""
        return self._images[indices.to(self.device)]

    def describe(self, indices: Tensor) -> dict[str, Any]:
        """Index ids and columns there; lists stay where they are."""
        there = indices.to(self.device)
        known: dict[str, Any] = {"ids": self._ids[there]}
        for name, column in self.columns.items():
            known[name] = (
                [column[i] for i in indices.tolist()] if isinstance(column, list) else self._tensors[name][there]
            )
        return known


class _Order(IndexSampler):
    """Positions of one step after another, for the epoch that is set; read again at the start of every epoch."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.epoch, self.start_step = sampler, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        for step in range(self.start_step, self.sampler.steps_per_epoch):
            yield self.sampler.batch(self.epoch, step)

    def __len__(self) -> int:
        return self.sampler.steps_per_epoch - self.start_step


class _Batches(Dataset):
    """A data set that is asked for whole batches by their positions."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, positions: Tensor) -> dict[str, Any] | UnreadableImage:
        try:
            return self.source.fetch(positions)
        except UnreadableImage as error:
            return error  # for the reader to raise: the loader would put this process's traceback into the message


def _is_indexing(source: Source) -> bool:
    return source.in_memory or (isinstance(source, CachedSource) and source.is_complete)


def _start_workers(source: Source, order: _Order, workers: int) -> DataLoader:
    return DataLoader(
        _Batches(source),
        sampler=order,
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
        prefetch_factor=4,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # or it would draw from the global one, and a resumed epoch would draw once more
    )


def _as_it_is(batch: Any) -> Any:
    return batch
