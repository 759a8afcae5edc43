"""Every class equally often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.samplers.batches import check_batch, check_step, own_slice
from kinfolk.data.sources.columns import check_labels

if TYPE_CHECKING:
    from jaxtyping import Int


class ClassBalancedSampler:
    """Every class equally often, however many samples it has.

    With `per_class` a global batch has ``batch_size / per_class`` different classes with that many samples each;
    otherwise every place of the batch draws its class uniformly. Within a batch a class's samples differ as long as
    it has enough of them; beyond that they come around again. Unlabelled samples (-1) are never drawn. An epoch has
    as many steps as the labelled samples fill batches; it does not visit each sample once.

    Args:
        labels: integers ``[N]``, -1 = unlabelled.
        batch_size: of all ranks together, at most the number of labelled samples; each rank takes a slice of a
            shuffled batch.
        seed: of the run.
        per_class: samples per class in a batch; must divide `batch_size`.
        rank: of this process, from 0.
        world_size: number of processes; must divide `batch_size`.

    Raises:
        ValueError: when there are fewer labelled samples or classes than a batch needs, or something does not divide
            the batch.

    Example:
        >>> labels = torch.tensor([0] * 9 + [1, 1, 1])
        >>> sampler = ClassBalancedSampler(labels, batch_size=4, seed=0, per_class=2)
        >>> labels[sampler.batch(0, 0)].bincount().tolist()
        [2, 2]
    """

    def __init__(
        self,
        labels: Int[Tensor, " N"],
        *,
        batch_size: int,
        seed: int,
        per_class: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        labels = check_labels(labels, count=len(labels))
        labelled = int((labels >= 0).sum())
        check_batch(labelled, batch_size=batch_size, rank=rank, world_size=world_size, what="labelled samples")
        self._members = [(labels == label).nonzero().flatten() for label in labels.unique().tolist() if label >= 0]
        _check_per_class(batch_size, per_class, len(self._members))
        self.batch_size, self.seed, self.per_class = batch_size, seed, per_class
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = labelled // batch_size

    def batch(self, epoch: int, step: int) -> Int[Tensor, " b"]:
        """Return this rank's positions in the source for one step.

        Raises:
            IndexError: when the epoch has no such step.
        """
        check_step(step, self.steps_per_epoch)
        generator = counter_generator(self.seed, epoch, step)
        classes = len(self._members)
        if self.per_class is None:
            counts = torch.randint(classes, (self.batch_size,), generator=generator).bincount(minlength=classes)
        else:
            counts = torch.zeros(classes, dtype=torch.int64)
            counts[torch.randperm(classes, generator=generator)[: self.batch_size // self.per_class]] = self.per_class
        drawn = [
            _draw(members, count, generator)
            for members, count in zip(self._members, counts.tolist(), strict=True)
            if count > 0
        ]
        shuffled = torch.cat(drawn)[torch.randperm(self.batch_size, generator=generator)]
        return own_slice(shuffled, rank=self.rank, world_size=self.world_size)


def _draw(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw members without replacement, all of them again when they run out."""
    rounds = -(-count // len(members))
    orders = [torch.randperm(len(members), generator=generator) for _ in range(rounds)]
    return members[torch.cat(orders)[:count]]


def _check_per_class(batch_size: int, per_class: int | None, classes: int) -> None:
    if per_class is None:
        return
    if per_class < 1 or batch_size % per_class:
        raise ValueError(f"per_class must divide batch_size; found per_class {per_class}, batch_size {batch_size}")
    if batch_size // per_class > classes:
        raise ValueError(
            f"batch_size {batch_size} with {per_class} per class needs {batch_size // per_class} classes; there are"
            f" {classes}."
            f" Raise per_class or lower batch_size to at most {classes * per_class}."
        )
