"""Wrong labels, an exact share of every class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.counter import counter_uniform
from kinfolk.data.derived.classes import check_share, class_count, members_by_class, required_labels
from kinfolk.data.derived.wrapper import with_columns
from kinfolk.data.sources.base import Splits

if TYPE_CHECKING:
    from jaxtyping import Int

CIFAR10_CONFUSIONS = (0, 1, 0, 5, 7, 3, 6, 7, 8, 1)
"""The usual map for CIFAR-10: bird to airplane, cat and dog to one another, deer to horse, truck to automobile."""

_WHO, _WHAT = 1, 2


@dataclass(frozen=True)
class LabelNoiseConfig:
    """Give a share of the training labels a wrong value; what they were stays in the column `true_labels`.

    Of every class, round(share n_c) samples are chosen by seed and id; more noise contains less noise. `symmetric`
    gives each another class, all others equally likely; `asymmetric` the class that `class_map` names, by default the
    next one (the last becomes the first). Classes that the map sends to themselves stay clean. Unlabelled samples stay
    unlabelled, and the test part as it is.

    Args:
        share: share of every class that is wrong afterwards, from 0 to 1.
        rule: `symmetric` or `asymmetric`.
        class_map: what each class becomes; only for `asymmetric`. `CIFAR10_CONFUSIONS` is the usual one there.
        seed: which samples, and which wrong classes.
        clean_probe: whether probes and nearest neighbours get the true labels (`Splits.probe`) instead of the noisy
            ones that training has. Splits that have a probe part of their own keep it.

    Raises:
        ValueError: for a share outside [0, 1], a rule that does not exist, or a map that does not fit the rule.

    Reference: Patrini, Rozza, Menon, Nock, Qu (2017), Making deep neural networks robust to label noise: a loss
        correction approach.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> clean = ArraySource(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.arange(4).repeat(5))
        >>> noisy = LabelNoiseConfig(share=0.4).apply(Splits(clean, clean)).train
        >>> int((noisy.labels != noisy.columns["true_labels"]).sum())
        8
    """

    kind: ClassVar[str] = "label-noise"
    share: float = 0.4
    rule: Literal["symmetric", "asymmetric"] = "symmetric"
    class_map: tuple[int, ...] | None = None
    seed: int = 0
    clean_probe: bool = False

    def __post_init__(self) -> None:
        check_share("share", self.share)
        if self.rule not in ("symmetric", "asymmetric"):
            raise ValueError(f"rule must be 'symmetric' or 'asymmetric'; found {self.rule!r}")
        if self.class_map is not None:
            object.__setattr__(self, "class_map", tuple(self.class_map))
            if self.rule == "symmetric":
                raise ValueError("class_map belongs to rule='asymmetric'; rule='symmetric' draws the wrong class")

    @property
    def leaves_probes(self) -> bool:
        """Whether what probes are fitted on and tested with is what it was without."""
        return self.clean_probe

    def apply(self, splits: Splits) -> Splits:
        """Make training labels wrong.

        Raises:
            ValueError: without labels, with fewer than two classes, or when the map does not fit the classes.
        """
        clean = required_labels(splits.train, needed_for="label noise", complete=False)
        classes = class_count(splits.train, splits.test)
        if classes < 2:
            raise ValueError(f"label noise needs at least two classes; source {splits.train.name!r} has {classes}")
        wrong = self._wrong_labels(clean, splits.train.ids, classes)
        noisy = clean.clone()
        for members in members_by_class((self.seed, _WHO), clean, splits.train.ids, classes):
            chosen = members[: round(self.share * len(members))]
            noisy[chosen] = wrong[chosen]
        true_labels = splits.train.columns.get("true_labels", clean)
        train = with_columns(
            splits.train,
            {"labels": noisy, "true_labels": true_labels},
            name=f"{splits.train.name}, {self.share:.0%} {self.rule} label noise",
        )
        return Splits(train, splits.test, probe=splits.reference if self.clean_probe else splits.probe)

    def _wrong_labels(self, labels: Tensor, ids: Tensor, classes: int) -> Int[Tensor, " n"]:
        """What every label becomes if its sample is chosen."""
        if self.rule == "symmetric":
            drawn = counter_uniform((self.seed, _WHAT), ids, count=1)[:, 0]
            step = 1 + (drawn * (classes - 1)).to(torch.int64).clamp(max=classes - 2)
            return (labels + step) % classes
        class_map = torch.tensor(self.class_map or [(c + 1) % classes for c in range(classes)])
        if len(class_map) != classes or not 0 <= int(class_map.min()) <= int(class_map.max()) < classes:
            raise ValueError(
                f"class_map must name a class from 0 to {classes - 1} for each of the {classes} classes; found"
                f" {tuple(class_map.tolist())}"
            )
        return class_map[labels.clamp(min=0)]
