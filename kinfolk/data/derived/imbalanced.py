"""Imbalanced training sets by the rules of the literature, with exact counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.derived.classes import class_count, members_by_class, required_labels
from kinfolk.data.sources.base import Splits

if TYPE_CHECKING:
    from jaxtyping import Int

_BLOCKS = 10


@dataclass(frozen=True)
class ImbalancedConfig:
    """Keep a different share of every class of the training part, by the class's number c of C.

    `linear` keeps (b + 1) / 10 and `exponential` e^(b + 1) / e^10 of a class in block b = floor(10 c / C): the classes
    in ten blocks of equal size by number, so C must be a multiple of ten. `long-tail` keeps n_max factor^(-c / (C-1))
    samples, n_max being the largest class (a class that has fewer keeps all of them). Counts are rounded down; a class
    may vanish. Samples are shuffled once by seed and id and the first are kept, so a smaller share is part of a larger.

    The test part stays as it is. For *pretraining* on the imbalanced set, probes are fitted on the full training part
    (`Splits.probe`); with `supervised` there is no such part, and the classifier sees the imbalanced set only.

    Args:
        rule: `linear`, `exponential` or `long-tail`.
        factor: how many times larger the first class is than the last; only for `long-tail`.
        seed: of the shuffling.
        supervised: whether classifiers and probes are fitted on the imbalanced set too.

    Raises:
        ValueError: for a rule that does not exist, or a factor below one.

    Reference: Cui, Jia, Lin, Song, Belongie (2019), Class-balanced loss based on effective number of samples (the
        long tail); Zheng et al. (2021), Contrastive attraction and contrastive repulsion for representation learning
        (linear and exponential).

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> labels = torch.arange(10).repeat(20)
        >>> full = ArraySource(torch.zeros(200, 1, 4, 4, dtype=torch.uint8), labels)
        >>> splits = ImbalancedConfig(rule="long-tail", factor=10).apply(Splits(full, full))
        >>> splits.train.labels.bincount().tolist(), len(splits.probe)
        ([20, 15, 11, 9, 7, 5, 4, 3, 2, 2], 200)
    """

    kind: ClassVar[str] = "imbalanced"
    rule: Literal["linear", "exponential", "long-tail"] = "linear"
    factor: float = 100.0
    seed: int = 2021
    supervised: bool = False

    def __post_init__(self) -> None:
        if self.rule not in ("linear", "exponential", "long-tail"):
            raise ValueError(f"rule must be 'linear', 'exponential' or 'long-tail'; found {self.rule!r}")
        if not self.factor >= 1:
            raise ValueError(f"factor must be at least 1 (the first class's size over the last's); found {self.factor}")

    @property
    def leaves_probes(self) -> bool:
        """Whether what probes are fitted on and tested with is what it was without."""
        return not self.supervised

    def counts(self, available: tuple[int, ...]) -> tuple[int, ...]:
        """How many samples of each class are kept, given how many there are.

        Raises:
            ValueError: for `linear` and `exponential` when the number of classes is no multiple of ten.

        Example:
            >>> ImbalancedConfig(rule="exponential").counts((5000,) * 10)
            (0, 1, 4, 12, 33, 91, 248, 676, 1839, 5000)
        """
        classes = len(available)
        if self.rule == "long-tail":
            tail = [self.factor ** (-c / max(classes - 1, 1)) for c in range(classes)]
            return tuple(
                min(_rounded_down(max(available) * share), count) for share, count in zip(tail, available, strict=True)
            )
        if classes % _BLOCKS or classes == 0:
            raise ValueError(
                f"the {self.rule} rule puts the classes into ten equal blocks, so their number must be a multiple of"
                f" ten; found {classes}. rule='long-tail' takes any number."
            )
        blocks = [_BLOCKS * c // classes for c in range(classes)]
        if self.rule == "linear":
            return tuple(count * (b + 1) // _BLOCKS for b, count in zip(blocks, available, strict=True))
        return tuple(int(math.exp(b + 1 - _BLOCKS) * count) for b, count in zip(blocks, available, strict=True))

    def apply(self, splits: Splits) -> Splits:
        """Make the training part imbalanced.

        Raises:
            ValueError: without labels for every training sample, or when nothing is left.
        """
        labels = required_labels(splits.train, needed_for="an imbalanced set")
        classes = class_count(splits.train, splits.test)
        members = members_by_class((self.seed,), labels, splits.train.ids, classes)
        counts = self.counts(tuple(len(positions) for positions in members))
        if sum(counts) == 0:
            raise ValueError(f"{self} keeps no sample of {len(labels)} in {classes} classes; it needs more samples")
        kept = torch.cat([positions[:count] for positions, count in zip(members, counts, strict=True)]).sort().values
        rule = f"long tail {self.factor:g}" if self.rule == "long-tail" else self.rule
        train = splits.train.subset(kept, name=f"{splits.train.name}, {rule}")
        return Splits(train, splits.test, probe=None if self.supervised else splits.reference)


def shot_groups(
    train_labels: Int[Tensor, " n"], classes: int, *, many: int = 100, few: int = 20
) -> dict[str, Int[Tensor, " k"]]:
    """Group the classes by how many training samples they have.

    Args:
        train_labels: of the imbalanced set; -1 counts for no class.
        classes: number of classes, also those that have no sample.
        many: a class has many samples with more than this.
        few: a class has few samples with less than this.

    Returns:
        The classes with more than `many` samples as ``"many"``, fewer than `few` as ``"few"``, others as ``"medium"``.

    Raises:
        ValueError: when a label has no class, or the bounds overlap.

    Reference: Liu, Miao, Zhan, Wang, Gong, Yu (2019), Large-scale long-tailed recognition in an open world.

    Example:
        >>> groups = shot_groups(torch.tensor([0] * 101 + [1] * 20), 3)
        >>> {name: members.tolist() for name, members in groups.items()}
        {'many': [0], 'medium': [1], 'few': [2]}
    """
    if len(train_labels) and int(train_labels.max()) >= classes:
        raise ValueError(f"labels go up to {int(train_labels.max())}, but there are only {classes} classes")
    check_shots(many, few)
    counts = train_labels[train_labels >= 0].bincount(minlength=classes)
    chosen = {"many": counts > many, "medium": (counts >= few) & (counts <= many), "few": counts < few}
    return {name: chosen_here.nonzero().flatten() for name, chosen_here in chosen.items()}


def check_shots(many: int, few: int) -> None:
    """Refuse bounds by which a class would have both many and few samples, or no class could have few."""
    if not 1 <= few <= many + 1:
        raise ValueError(
            f"many and few are bounds on a class's samples: few must be at least 1 and not above many + 1, found "
            f"many={many}, few={few}; 100 and 20 are the usual ones."
        )


def _rounded_down(value: float) -> int:
    """Round down, but not below a whole number that rounding errors just miss, such as 5000 * 100^-1."""
    return math.floor(value + 1e-9)
