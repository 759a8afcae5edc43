"""Batches of one bucket each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.samplers.batches import check_batch, check_step, numbered, own_slice

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class BucketSampler:
    """Batches whose samples all come from one bucket: one class, one length, one style, one season.

    Negatives of the same bucket are hard ones, and a nuisance that a bucket shares cannot tell them apart. Within an
    epoch every bucket fills as many batches as it can, so steps are in proportion to its size, and the batches of all
    buckets come in random order. A bucket's last ``size % batch_size`` samples are dropped, others each epoch; buckets
    smaller than a batch are never drawn and counted in `left_out`.

    Args:
        keys: the bucket of each sample: integers ``[N]`` with -1 for none, or one hashable value per sample with None
            for none. `quantile_buckets` makes buckets of numbers.
        batch_size: of all ranks together, at most the size of the largest bucket.
        seed: of the run.
        rank: of this process, from 0.
        world_size: number of processes; must divide `batch_size`.

    Raises:
        ValueError: when no bucket fills a batch, or the ranks do not divide the batch.
        TypeError: for a tensor of keys that are not integers.

    Attributes:
        steps_per_epoch: steps of every epoch, the same on all ranks.
        left_out: samples in no bucket, or in one smaller than a batch.

    Example:
        >>> sampler = BucketSampler(["day", "night", "day", "day", "night"], batch_size=2, seed=0)
        >>> sampler.steps_per_epoch, {1, 4} in [set(sampler.batch(0, step).tolist()) for step in range(2)]
        (2, True)
    """

    def __init__(
        self,
        keys: Int[Tensor, " N"] | Sequence[Hashable],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        numbers = numbered(keys)
        counts = numbers[numbers >= 0].bincount()
        largest = int(counts.max()) if len(counts) else 0
        check_batch(
            largest, batch_size=batch_size, rank=rank, world_size=world_size, what="samples of the largest bucket"
        )
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self._members = (numbers.argsort(stable=True)[int((numbers < 0).sum()) :]).split(counts.tolist())
        self._members = tuple(members for members in self._members if len(members) >= batch_size)
        self.steps_per_epoch = sum(len(members) // batch_size for members in self._members)
        self.left_out = len(numbers) - sum(len(members) for members in self._members)
        self._epoch: tuple[int, Tensor] | None = None

    def batch(self, epoch: int, step: int) -> Int[Tensor, " b"]:
        """Return this rank's positions in the source for one step.

        Raises:
            IndexError: when the epoch has no such step.
        """
        check_step(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(counter_generator(self.seed, epoch))
        return own_slice(self._epoch[1][step], rank=self.rank, world_size=self.world_size)

    def _batches(self, generator: torch.Generator) -> Int[Tensor, "steps batch"]:
        batches = []
        for members in self._members:
            shuffled = members[torch.randperm(len(members), generator=generator)]
            batches.append(shuffled[: len(members) // self.batch_size * self.batch_size].view(-1, self.batch_size))
        return torch.cat(batches)[torch.randperm(self.steps_per_epoch, generator=generator)]


def quantile_buckets(values: Float[Tensor, " n"], *, count: int) -> Int[Tensor, " n"]:
    """Put numbers, such as times or lengths, into buckets of nearly equal size, in ascending order.

    Args:
        values: one number per sample; equal numbers share a bucket.
        count: how many buckets, at least 1.

    Returns:
        The bucket of each sample, from 0; -1 where the value is not finite. Ties may leave buckets empty.

    Raises:
        ValueError: for another shape, or fewer than one bucket.

    Example:
        >>> quantile_buckets(torch.tensor([0.1, 5.0, 0.2, 7.0]), count=2)
        tensor([0, 1, 0, 1])
    """
    if values.ndim != 1 or count < 1:
        raise ValueError(
            f"expected one value per sample, [N], and at least 1 bucket; found {tuple(values.shape)}, count {count}"
        )
    buckets = torch.full((len(values),), -1, dtype=torch.int64)
    known = values.isfinite() if values.is_floating_point() else torch.ones_like(values, dtype=torch.bool)
    ordered = values[known].sort().values
    if len(ordered):
        first = torch.searchsorted(ordered, values[known].contiguous())  # of the equal ones, so ties stay together
        buckets[known] = first * count // len(ordered)
    return buckets
