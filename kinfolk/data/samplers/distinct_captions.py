"""No caption, or other key, twice in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.samplers.batches import check_batch, check_step, numbered, own_slice

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


class DistinctSampler:
    """Batches in which no two samples share a caption, or any other key.

    Where captions repeat ("a photo of a dog"), an image's own caption stands several times among the candidates, and
    a loss over pairs contrasts equals. Here samples with one caption go to different steps of the epoch. An epoch has
    the most steps for which that is possible with full batches, and no sample comes twice in it. What is left over (a
    caption that occurs more often than there are steps, and what fills no batch) is counted in `leftovers`; which
    samples that are changes each epoch.

    An epoch's batches are dealt like cards: the samples, sorted by caption, go round the steps in turn, so that equals
    come to lie in different ones. Captions are in random order before, batches and their places after. For
    400,000 captions, numbering them took 1.7 s once and ordering an epoch half a second, on one core.

    Args:
        keys: one caption or other hashable value per sample, None for a sample that is like no other; or integers
            ``[N]``, such as the `groups` or `labels` column, with -1 for those.
        batch_size: of all ranks together, at most the number of different keys.
        seed: of the run.
        rank: of this process, from 0.
        world_size: number of processes; must divide `batch_size`.

    Raises:
        ValueError: when there are fewer different keys than a batch has places, or the ranks do not divide the batch.
        TypeError: for a tensor of keys that are not integers.

    Attributes:
        steps_per_epoch: steps of every epoch, the same on all ranks.
        leftovers: samples that an epoch does not visit.

    Example:
        >>> sampler = DistinctSampler(["a cat", "a cat", "a dog", "a fox"], batch_size=2, seed=0)
        >>> sampler.steps_per_epoch, sampler.leftovers
        (2, 0)
        >>> {0, 1} <= set(sampler.batch(0, 0).tolist())
        False
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
        alone = numbers < 0  # a sample without a key is like no other
        numbers[alone] = len(numbers) + torch.arange(int(alone.sum()))
        numbers = numbers.unique(return_inverse=True)[1]
        counts = numbers.bincount()
        check_batch(
            len(counts), batch_size=batch_size, rank=rank, world_size=world_size, what="samples with different keys"
        )
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.steps_per_epoch = _most_steps(counts, batch_size)
        self.leftovers = len(numbers) - self.steps_per_epoch * batch_size
        self._numbers, self._counts = numbers, counts
        self._epoch: tuple[int, Tensor] | None = None

    def batch(self, epoch: int, step: int) -> Int[Tensor, " b"]:
        """Return this rank's positions in the source for one step.

        Raises:
            IndexError: when the epoch has no such step.
        """
        check_step(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._deal(counter_generator(self.seed, epoch))
        return own_slice(self._epoch[1][step], rank=self.rank, world_size=self.world_size)

    def _deal(self, generator: torch.Generator) -> Int[Tensor, "steps batch"]:
        steps, batch_size = self.steps_per_epoch, self.batch_size
        order = torch.randperm(len(self._numbers), generator=generator)
        order = order[self._first_of_each_key(order, steps)][: steps * batch_size]
        key_order = torch.randperm(len(self._counts), generator=generator)
        sorted_by_key = order[key_order[self._numbers[order]].argsort(stable=True)]
        batches = sorted_by_key.view(batch_size, steps).T  # a key's samples lie side by side, at most one in a step
        batches = batches[torch.randperm(steps, generator=generator)]
        places = torch.rand(batches.shape, generator=generator).argsort(dim=1)  # ranks take slices of a batch
        return batches.gather(1, places)

    def _first_of_each_key(self, order: Tensor, most: int) -> Bool[Tensor, " n"]:
        """Mark the first `most` samples of every key, in the given order."""
        if int(self._counts.max()) <= most:
            return torch.ones(len(order), dtype=torch.bool)
        by_key = self._numbers[order].argsort(stable=True)
        starts = self._counts.cumsum(0) - self._counts
        rank_in_key = torch.empty_like(order)
        rank_in_key[by_key] = torch.arange(len(order)) - starts.repeat_interleave(self._counts)
        return rank_in_key < most


def _most_steps(counts: Tensor, batch_size: int) -> int:
    """Return the most steps S that full batches allow: the samples in use, at most S of each key, must fill them.

    That is necessary, since a key gives a step one sample at most, and dealing shows that it is enough. The share of
    steps that can be filled falls with S, so a bisection finds the largest.
    """
    low, high = 1, int(counts.sum()) // batch_size
    while low < high:
        middle = (low + high + 1) // 2
        if int(counts.clamp(max=middle).sum()) >= middle * batch_size:
            low = middle
        else:
            high = middle - 1
    return low
