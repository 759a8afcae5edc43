"""A stream of samples as a source: shuffled by a seeded buffer, the same order on every rank, resumed exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.sources.base import ArraySource, Source
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.encoded import OnError
from kinfolk.data.sources.stream_head import Stream, collate

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

T = TypeVar("T")

_DRAWN_AT_ONCE = 4096
_BATCHES_AHEAD = 2


def shuffle_buffer(items: Iterable[T], *, size: int, generator: torch.Generator) -> Iterator[T]:
    """Shuffle a stream through a buffer: each item that arrives takes the place of a random one, which leaves.

    All items leave, once each; one cannot leave more than `size` - 1 places before it arrived. With a buffer as long as
    the stream the order is uniform.

    Args:
        items: any stream that ends.
        size: of the buffer; 1 keeps the order.
        generator: on the CPU; how much it is used depends on the number of items alone.

    Raises:
        ValueError: for a size below 1.

    Example:
        >>> list(shuffle_buffer(range(6), size=1, generator=counter_generator(0)))
        [0, 1, 2, 3, 4, 5]
        >>> sorted(shuffle_buffer(range(6), size=4, generator=counter_generator(0)))
        [0, 1, 2, 3, 4, 5]
    """
    if size < 1:
        raise ValueError(f"shuffle_buffer must be at least 1, which keeps the order; found {size}")
    return _shuffle(iter(items), size, generator)


def _shuffle(items: Iterator[T], size: int, generator: torch.Generator) -> Iterator[T]:
    buffer = list(islice(items, size))
    places: list[int] = []
    for item in items:
        if not places:
            places = torch.randint(size, (_DRAWN_AT_ONCE,), generator=generator).tolist()
        place = places.pop()
        buffer[place], item = item, buffer[place]
        yield item
    yield from (buffer[i] for i in torch.randperm(len(buffer), generator=generator).tolist())


class StreamSource(Source):
    """A source whose training samples come from a stream and whose `head`, in memory, stands for it elsewhere.

    Wherever positions are needed (probes, nearest neighbours, the report) the source *is* its head. `batches` gives
    the training samples. Epoch `e` has the samples from ``e * samples_per_epoch`` on of the stream repeated without
    end, held-out samples left out each time; so all of a long stream is seen over the epochs, and where an epoch is
    longer than the stream samples come more than once. A sample's id is its position in the stream.

    The order within an epoch is that of `shuffle_buffer`, a function of seed and epoch. Every rank reads the whole
    stream and decodes its own slice of each batch, so ranks take equally many steps.

    Args:
        stream: the samples.
        head: the first of them after the held-out ones, decoded; see `read_head`.
        held_out: how many samples at the start of the stream are never trained on.
        samples_per_epoch: at least 1.
        buffer: size of the shuffle buffer, in samples that stay encoded; 1 keeps the order.
        seed: of the order.
        on_error: `raise`, or `skip` a sample that cannot be read: the next readable one of the global batch takes its
            place, and the batch lists what was left out under ``"skipped"``.

    Raises:
        ValueError: for numbers below 1, or an empty head.

    Example:
        >>> class Counting:
        ...     def open(self, start):
        ...         return iter(range(start, 10))
        ...
        ...     def decode(self, sample, position):
        ...         return {"images": torch.full((1, 2, 2), sample, dtype=torch.uint8), "labels": sample % 2}
        >>> head = ArraySource(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), ids=torch.tensor([2]))
        >>> source = StreamSource(Counting(), head, held_out=2, samples_per_epoch=5, buffer=1)
        >>> [batch["ids"].tolist() for batch in source.batches(1, batch_size=2)]
        [[7, 8], [9, 2]]
    """

    in_memory = True

    def __init__(
        self,
        stream: Stream,
        head: ArraySource,
        *,
        samples_per_epoch: int,
        held_out: int = 0,
        buffer: int = 2048,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        if len(head) == 0 or samples_per_epoch < 1 or buffer < 1 or held_out < 0:
            raise ValueError(
                "a stream needs a head of at least one sample, samples_per_epoch and shuffle_buffer of at least 1 and"
                f" held_out of at least 0; found {len(head)}, {samples_per_epoch}, {buffer} and {held_out}"
            )
        self.stream, self.head, self.held_out = stream, head, held_out
        self.samples_per_epoch, self.buffer, self.seed, self.on_error = samples_per_epoch, buffer, seed, on_error
        self.name, self.ids, self.columns, self.class_names = head.name, head.ids, head.columns, head.class_names
        self.channels, self.image_size = head.channels, head.image_size
        self._open: _Endless | None = None

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Index the head's images; see `Source.read`."""
        return self.head.read(indices)

    def subset(self, indices: Int[Tensor, " k"], *, name: str | None = None) -> ArraySource:
        """Return samples of the head as a source of their own."""
        return self.head.subset(indices, name=name)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return how many full batches an epoch has; what is left over at its end is dropped.

        Raises:
            ValueError: when an epoch does not fill one batch.
        """
        if not 1 <= batch_size <= self.samples_per_epoch:
            raise ValueError(
                f"batch_size must be from 1 to samples_per_epoch, {self.samples_per_epoch}; found {batch_size}"
            )
        return self.samples_per_epoch // batch_size

    def batches(
        self,
        epoch: int,
        *,
        batch_size: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Read an epoch's batches, this rank's share of each.

        Args:
            epoch: from 0.
            batch_size: of all ranks together.
            start_step: the first step to give; what comes before is read from the stream and not decoded.
            rank: of this process.
            world_size: number of processes; must divide `batch_size`.
            workers: threads that decode ahead; order and content do not depend on it.

        Returns:
            An iterator over what `Source.fetch` gives.

        Raises:
            ValueError: when `start_step`, the ranks or `batch_size` do not fit.
            UnreadableImage: from the iterator, naming a sample that cannot be read, or with ``on_error="skip"`` when a
                whole global batch cannot.
        """
        steps = self.steps_per_epoch(batch_size)
        if not 0 <= start_step <= steps:
            raise ValueError(f"start_step must be from 0 to the epoch's {steps} steps; found {start_step}")
        if not 0 <= rank < world_size or batch_size % world_size:
            raise ValueError(
                f"rank must be from 0 to world_size - 1 and world_size divide batch_size; found rank {rank}, world_size"
                f" {world_size}, batch_size {batch_size}"
            )
        share = batch_size // world_size
        own = range(rank * share, (rank + 1) * share)
        return self._read(epoch, range(start_step, steps), batch_size, own, workers)

    def _read(self, epoch: int, steps: range, batch_size: int, own: range, workers: int) -> Iterator[dict[str, Any]]:
        samples = self._at(epoch * self.samples_per_epoch)
        order = shuffle_buffer(
            islice(samples, self.samples_per_epoch), size=self.buffer, generator=counter_generator(self.seed, epoch)
        )
        for _ in islice(order, steps.start * batch_size):
            pass
        try:
            yield from self._decoded(order, len(steps), batch_size, own, workers)
        finally:  # also where the last step is taken and no further one asked for
            self._open = samples

    def _decoded(
        self, order: Iterator[tuple[int, Any]], steps: int, batch_size: int, own: range, workers: int
    ) -> Iterator[dict[str, Any]]:
        with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
            ahead: deque[list[_Decoding]] = deque()
            for _ in range(steps):
                whole = list(islice(order, batch_size))
                ahead.append([self._start(whole, place, pool) for place in own])
                if len(ahead) > (_BATCHES_AHEAD if workers else 0):
                    yield collate([decoding() for decoding in ahead.popleft()])
            for decodings in ahead:
                yield collate([decoding() for decoding in decodings])

    def _at(self, start: int) -> _Endless:
        """Take the stream that the last epoch left open, or open it anew; two iterators never share one."""
        samples, self._open = self._open, None
        if samples is not None and 0 <= start - samples.given < self.samples_per_epoch:
            for _ in islice(samples, start - samples.given):
                pass
            return samples
        return _Endless(self.stream, self.held_out, start, None if samples is None else samples.length)

    def _start(self, batch: list[tuple[int, Any]], place: int, pool: ThreadPoolExecutor | None) -> _Decoding:
        if pool is None:
            return lambda: self._first_readable(batch, place)
        future: Future[tuple[dict[str, Any], list[str]]] = pool.submit(self._first_readable, batch, place)
        return future.result

    def _first_readable(self, batch: list[tuple[int, Any]], place: int) -> tuple[dict[str, Any], list[str]]:
        """Decode a sample of the global batch, or the next in it: every rank finds the same one."""
        problems: list[str] = []
        for offset in range(len(batch)):
            position, sample = batch[(place + offset) % len(batch)]
            try:
                return {"ids": position, **self.stream.decode(sample, position)}, problems
            except UnreadableImage as error:
                if self.on_error == "raise":
                    raise
                problems.append(str(error))
        raise UnreadableImage(f"{self.name}: none of a batch of {len(batch)} samples can be read; {problems[0]}")


_Decoding = Callable[[], tuple[dict[str, Any], list[str]]]


class _Endless:
    """A stream without its held-out samples, repeated without end, from a place on."""

    def __init__(self, stream: Stream, held_out: int, start: int, length: int | None) -> None:
        self.stream, self.held_out, self.given, self.length = stream, held_out, start, length
        self._samples = self._repeat(start)

    def __iter__(self) -> _Endless:
        return self

    def __next__(self) -> tuple[int, Any]:
        sample = next(self._samples)
        self.given += 1
        return sample

    def _repeat(self, skip: int) -> Iterator[tuple[int, Any]]:
        while True:
            skip = skip if self.length is None else skip % self.length
            first, count = self.held_out + skip, 0
            for count, sample in enumerate(self.stream.open(first), start=1):
                yield first + count - 1, sample
            if count:
                self.length, skip = skip + count, 0
            else:  # the place lies beyond the end, and only counting tells where that is
                self.length = sum(1 for _ in self.stream.open(self.held_out))
                if self.length == 0:
                    raise ValueError(f"the stream ends within its {self.held_out} held-out samples; hold out fewer")
