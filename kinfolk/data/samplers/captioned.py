"""So many samples with a caption in every batch, and so many without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.samplers.batches import check_batch, check_step, own_slice

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


class CaptionedSampler:
    """Pairs and images without a caption in a fixed proportion, however few the pairs are.

    Where most images have no caption and look for one, a plain batch has few pairs, and pairs are what teaches. Here
    every global batch has ``round(share batch_size)`` of them, drawn anew for each step, and none twice. An epoch has
    as many steps as all samples fill batches; it does not visit each sample once.

    Args:
        captioned: which samples have a caption [N].
        batch_size: of all ranks together; each rank takes a slice of a shuffled batch.
        seed: of the run.
        share: of a batch that has captions, between 0 and 1.
        rank: of this process, from 0.
        world_size: number of processes; must divide `batch_size`.

    Raises:
        ValueError: for a share that leaves one of the two out, or when there are too few of either for a batch.

    Example:
        >>> captioned = torch.tensor([True, False, False, False, True, False])
        >>> sampler = CaptionedSampler(captioned, batch_size=4, seed=0)
        >>> captioned[sampler.batch(0, 0)].sum()
        tensor(2)
    """

    def __init__(
        self,
        captioned: Bool[Tensor, " N"],
        *,
        batch_size: int,
        seed: int,
        share: float = 0.5,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_batch(len(captioned), batch_size=batch_size, rank=rank, world_size=world_size, what="samples")
        pairs = round(share * batch_size)
        if not 0 < pairs < batch_size:
            raise ValueError(f"share {share} of a batch of {batch_size} gives {pairs} pairs; both kinds must be there")
        self._kinds = [(captioned.nonzero().flatten(), pairs), ((~captioned).nonzero().flatten(), batch_size - pairs)]
        if any(len(members) < count for members, count in self._kinds):
            (with_caption, _), (without, rest) = self._kinds
            raise ValueError(
                f"a batch takes {pairs} samples with a caption and {rest} without; there are {len(with_caption)} and"
                f" {len(without)}. Change share, or lower batch_size."
            )
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.steps_per_epoch = len(captioned) // batch_size

    def batch(self, epoch: int, step: int) -> Int[Tensor, " b"]:
        """Return this rank's positions in the source for one step.

        Raises:
            IndexError: when the epoch has no such step.
        """
        check_step(step, self.steps_per_epoch)
        generator = counter_generator(self.seed, epoch, step)
        drawn = torch.cat(
            [members[torch.randperm(len(members), generator=generator)[:count]] for members, count in self._kinds]
        )
        shuffled = drawn[torch.randperm(self.batch_size, generator=generator)]
        return own_slice(shuffled, rank=self.rank, world_size=self.world_size)
