"""An order of samples in which shards are read from front to back, mixed by a buffer, and still exactly resumable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.samplers.plain import PlainSampler
from kinfolk.data.sources.base import Source
from kinfolk.data.sources.shards import ShardSource
from kinfolk.data.sources.whole import whole_of

if TYPE_CHECKING:
    from jaxtyping import Int


class ShardSampler:
    """Every sample once an epoch, in the order of a reader that streams shards through a shuffle buffer.

    Each epoch has its own order of the shards. Their samples, shard after shard, form one ring; each rank reads an
    equal arc of it from front to back and mixes it through a buffer: every place of a batch takes a random sample out
    of `buffer` waiting ones, and the next sample of the arc takes its place. All of it is computed from the numbers of
    the shards, so any step of any epoch is known without reading what came before.

    At a time a rank's reads fall into a window of a few buffers of one or two shards, which the system's cache and
    its reading ahead serve well; with `PlainSampler` they fall anywhere. The price is a weaker shuffle: samples of
    one shard come close to one another, so shards should be mixed themselves when they are written, or the buffer
    should cover several of them. A buffer of one gives the shards' own order; one as large as a rank's arc, a full
    shuffle.

    `batch_size` counts all ranks together. ``n % batch_size`` samples of an epoch are dropped, where the ring is cut,
    which is another place each epoch; every rank takes the same number of steps whatever the shards' sizes.

    Args:
        shard_of: integers ``[N]``, the shard of each sample, samples of a shard in the order in which they lie there;
            see `shard_numbers`.
        batch_size: of all ranks together, at most N.
        seed: of the run.
        buffer: samples that wait, at least 1.
        rank: of this process, from 0.
        world_size: number of processes; must divide `batch_size`.

    Raises:
        ValueError: when there are fewer samples than a batch needs, the ranks do not divide the batch, or the buffer
            is empty.

    Example:
        >>> sampler = ShardSampler(torch.tensor([0, 0, 0, 1, 1, 1]), batch_size=2, seed=0, buffer=1)
        >>> sampler.steps_per_epoch, torch.cat([sampler.batch(0, step) for step in range(3)]).tolist()
        (3, [5, 0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        shard_of: Int[Tensor, " N"],
        *,
        batch_size: int,
        seed: int,
        buffer: int = 10_000,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        plain = PlainSampler(len(shard_of), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        if buffer < 1:
            raise ValueError(f"buffer must hold at least 1 sample; found {buffer}")
        self.n, self.batch_size, self.seed, self.buffer = len(shard_of), batch_size, seed, buffer
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = plain.steps_per_epoch
        self._shard = shard_of.unique(return_inverse=True)[1]
        self._order: tuple[int, Tensor] | None = None

    def batch(self, epoch: int, step: int) -> Int[Tensor, " b"]:
        """Return this rank's positions in the source for one step.

        Raises:
            IndexError: when the epoch has no such step.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"an epoch has steps 0 to {self.steps_per_epoch - 1}; found step {step}")
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._epoch(epoch)
        share = self.batch_size // self.world_size
        return self._order[1][step * share : (step + 1) * share]

    def _epoch(self, epoch: int) -> Tensor:
        generator = counter_generator(self.seed, epoch)
        rank_of_shard = torch.randperm(int(self._shard.max()) + 1, generator=generator)
        ring = rank_of_shard[self._shard].argsort(stable=True)
        start = int(torch.randint(self.n, (), generator=generator))
        share = self.steps_per_epoch * (self.batch_size // self.world_size)
        arc = ring.roll(-start)[self.rank * share : (self.rank + 1) * share]
        return arc[_buffered(len(arc), self.buffer, counter_generator(self.seed, epoch, self.rank))]


def shard_numbers(source: Source) -> Int[Tensor, " n"]:
    """Return the shard of every sample of a source that reads tar shards, or of a subset of one.

    Raises:
        TypeError: for another source.
    """
    whole, positions = whole_of(source)
    if not isinstance(whole, ShardSource):
        raise TypeError(
            f"only a source of tar shards has shards; found {type(whole).__name__}. PlainSampler orders any source."
        )
    return whole.shard_of[positions]


def _buffered(count: int, buffer: int, generator: torch.Generator) -> Tensor:
    """Return in which order `count` incoming samples leave a shuffle buffer.

    The buffer's first slots hold the first samples. At every moment a random slot gives out its sample and takes the
    next incoming one; at the end what still waits comes out in random order. So a slot gives out what it took when it
    was last chosen, which a stable sort by slot finds for all moments at once.
    """
    buffer = min(buffer, count)
    slots = torch.randint(buffer, (count - buffer,), generator=generator)
    # each slot takes its first sample before the first moment: -buffer + slot
    taken_by = torch.cat([torch.arange(buffer), slots])
    order = taken_by.argsort(stable=True)
    is_last = torch.ones(count, dtype=torch.bool)
    is_last[:-1] = taken_by[order[1:]] != taken_by[order[:-1]]
    leaves_at = torch.empty(count, dtype=torch.int64)
    # the sample that a slot took leaves at the slot's next moment; the last one of each slot waits until the end
    leaves_at[order[:-1][~is_last[:-1]]] = order[1:][~is_last[:-1]]
    waiting = order[is_last]
    leaves_at[waiting] = count + torch.randperm(buffer, generator=generator)
    return leaves_at.argsort()
