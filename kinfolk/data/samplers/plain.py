"""Every sample once an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.samplers.batches import check_batch, check_step, own_slice

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


class PlainSampler:
    """Every sample once an epoch, in a new order each time.

    `batch_size` is the *global* batch; each rank takes its own slice of it. All batches are full and all ranks take
    equally many steps. The last ``n % batch_size`` samples of an epoch's order are dropped, others each epoch; or,
    with ``drop_last=False``, they make one more batch, which the epoch's first samples fill up. `is_padding` marks
    those, so that nothing is counted twice; no sample is twice in one batch.

    Args:
        n: number of samples.
        batch_size: of all ranks together, at most `n`.
        seed: of the run.
        drop_last: whether the samples that fill no batch are dropped, or the last batch is padded.
        rank: of this process, from 0.
        world_size: number of processes; must divide `batch_size`.

    Raises:
        ValueError: when there are fewer samples than a batch needs, or the ranks do not divide the batch.

    Example:
        >>> sampler = PlainSampler(10, batch_size=4, seed=0)
        >>> sampler.steps_per_epoch, len(sampler.batch(0, 1))
        (2, 4)
        >>> padded = PlainSampler(10, batch_size=4, seed=0, drop_last=False)
        >>> padded.steps_per_epoch, padded.is_padding(0, 2).tolist()
        (3, [False, False, True, True])
    """

    def __init__(
        self, n: int, *, batch_size: int, seed: int, drop_last: bool = True, rank: int = 0, world_size: int = 1
    ) -> None:
        check_batch(n, batch_size=batch_size, rank=rank, world_size=world_size, what="samples")
        self.n, self.batch_size, self.seed, self.drop_last = n, batch_size, seed, drop_last
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = n // batch_size if drop_last else -(-n // batch_size)
        self._order: tuple[int, Tensor] | None = None

    @property
    def padded(self) -> int:
        """How many places of an epoch, over all ranks, are padding."""
        return 0 if self.drop_last else self.steps_per_epoch * self.batch_size - self.n

    def batch(self, epoch: int, step: int) -> Int[Tensor, " b"]:
        """Return this rank's positions in the source for one step.

        Raises:
            IndexError: when the epoch has no such step.
        """
        check_step(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(self.n, generator=counter_generator(self.seed, epoch))
            self._order = epoch, torch.cat([order, order[: self.padded]])
        start = step * self.batch_size
        return self._own(self._order[1][start : start + self.batch_size])

    def is_padding(self, epoch: int, step: int) -> Bool[Tensor, " b"]:
        """Say which places of `batch` repeat a sample that the epoch has had already.

        Raises:
            IndexError: when the epoch has no such step.
        """
        check_step(step, self.steps_per_epoch)
        return self._own(torch.arange(step * self.batch_size, (step + 1) * self.batch_size) >= self.n)

    def _own(self, batch: Tensor) -> Tensor:
        return own_slice(batch, rank=self.rank, world_size=self.world_size)
