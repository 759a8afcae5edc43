"""A few labels, the same number or share of every class; the others are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from kinfolk.data.derived.classes import check_share, class_count, members_by_class, required_labels
from kinfolk.data.derived.wrapper import with_columns
from kinfolk.data.sources.base import Splits


@dataclass(frozen=True)
class FewLabelsConfig:
    """Keep a few training labels and hide the others as -1; what they were stays in the column `true_labels`.

    Samples are chosen by seed and id within every class, so fewer labels are part of more. Probes and nearest
    neighbours are fitted on the labelled samples alone (`Splits.probe`, also where the splits had another one); the
    test part stays as it is.

    Args:
        per_class: labels of every class.
        share: share of every class instead, rounded, at least one label of each. Give one of the two.
        seed: which samples.

    Raises:
        ValueError: when both or none of `per_class` and `share` are given, or one is out of range.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> full = ArraySource(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.arange(4).repeat(5))
        >>> splits = FewLabelsConfig(per_class=2).apply(Splits(full, full))
        >>> int((splits.train.labels >= 0).sum()), len(splits.train), len(splits.probe)
        (8, 20, 8)
    """

    kind: ClassVar[str] = "few-labels"
    per_class: int | None = None
    share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.per_class is None) == (self.share is None):
            raise ValueError(f"give either per_class or share; found per_class={self.per_class}, share={self.share}")
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"per_class must be at least 1; found {self.per_class}")
        if self.share is not None:
            check_share("share", self.share)
            if self.share == 0:
                raise ValueError("share must be above 0: with no labels at all there is nothing to fit a probe on")

    def apply(self, splits: Splits) -> Splits:
        """Hide training labels.

        Raises:
            ValueError: without labels, or when a class has fewer than `per_class`.
        """
        labels = required_labels(splits.train, needed_for="a set with few labels", complete=False)
        classes = class_count(splits.train, splits.test)
        kept = []
        for label, members in enumerate(members_by_class((self.seed,), labels, splits.train.ids, classes)):
            wanted = self.per_class if self.share is None else max(1, round(self.share * len(members)))
            assert wanted is not None
            if len(members) and len(members) < wanted:
                raise ValueError(
                    f"per_class={wanted} needs as many labelled samples of every class; class {label} of"
                    f" {splits.train.name!r} has {len(members)}"
                )
            kept.append(members[:wanted])
        chosen = torch.cat(kept).sort().values
        hidden = torch.full_like(labels, -1)
        hidden[chosen] = labels[chosen]
        true_labels = splits.train.columns.get("true_labels", labels)
        amount = f"{self.per_class} a class" if self.share is None else f"{self.share:.1%}"
        train = with_columns(
            splits.train,
            {"labels": hidden, "true_labels": true_labels},
            name=f"{splits.train.name}, labels: {amount}",
        )
        return Splits(train, splits.test, probe=train.subset(chosen, name=f"{train.name}, labelled part"))
