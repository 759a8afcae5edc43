"""Known and novel classes: some classes are partly labelled, the others appear unlabelled only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kinfolk.data.derived.classes import check_share, class_count, members_by_class, required_labels, seeded_order
from kinfolk.data.derived.wrapper import with_columns
from kinfolk.data.sources.base import Source, Splits


@dataclass(frozen=True)
class OpenWorldConfig:
    """Make a share of the classes known and label a share of their training samples; everything else is unlabelled.

    Classes are numbered with the known ones first, each kind in its old order, in every part. Training labels of novel
    classes and of the other known samples are -1; what they are stays in the column `true_labels`. The test part is
    complete. Probes are fitted on the labelled samples (`Splits.probe`), which know nothing of the novel classes.

    Args:
        known: share of the classes that are known, rounded; at least one is known and one novel.
        labelled: share of every known class's training samples that are labelled, rounded, at least one.
        seed: which samples are labelled and, with `random_classes`, which classes are known.
        random_classes: draw the known classes; by default they are the first ones, as published.

    Raises:
        ValueError: for shares outside (0, 1) and (0, 1].

    Reference: Cao, Brbić, Leskovec (2022), Open-world semi-supervised learning; Sun, Li (2023), OpenCon: open-world
        contrastive learning.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> full = ArraySource(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.arange(4).repeat(5))
        >>> splits = OpenWorldConfig(known=0.5, labelled=0.4).apply(Splits(full, full))
        >>> splits.train.labels[splits.train.labels >= 0].bincount().tolist(), splits.test.labels.bincount().tolist()
        ([2, 2], [5, 5, 5, 5])
    """

    kind: ClassVar[str] = "open-world"
    known: float = 0.5
    labelled: float = 0.5
    seed: int = 0
    random_classes: bool = False

    def __post_init__(self) -> None:
        check_share("known", self.known)
        check_share("labelled", self.labelled)
        if self.known in (0.0, 1.0) or self.labelled == 0.0:
            raise ValueError(
                f"known must lie between 0 and 1, labelled above 0; found known={self.known}, labelled={self.labelled}"
            )

    def known_classes(self, classes: int) -> int:
        """How many of so many classes are known; afterwards they are the classes below this number.

        Raises:
            ValueError: for fewer than two classes.

        Example:
            >>> OpenWorldConfig(known=0.5).known_classes(99)
            50
        """
        if classes < 2:
            raise ValueError(f"an open world needs at least two classes, one known and one novel; found {classes}")
        return min(max(round(self.known * classes), 1), classes - 1)

    def apply(self, splits: Splits) -> Splits:
        """Hide training labels and number the classes anew.

        Raises:
            ValueError: without labels for every sample, or with fewer than two classes.
        """
        for source in (splits.train, splits.test):
            required_labels(source, needed_for="an open world")
        classes = class_count(splits.train, splits.test)
        known = self.known_classes(classes)
        old = self._old_numbers(classes, known)
        train, test = (_renumbered(source, old) for source in (splits.train, splits.test))
        labels = required_labels(train, needed_for="an open world")
        chosen = [
            members[: max(1, round(self.labelled * len(members)))]
            for members in members_by_class((self.seed,), labels, train.ids, known)
        ]
        positions = torch.cat(chosen).sort().values
        hidden = torch.full_like(labels, -1)
        hidden[positions] = labels[positions]
        train = with_columns(
            train,
            {"labels": hidden, "true_labels": train.columns.get("true_labels", labels)},
            name=f"{train.name}, {known} of {classes} classes known, {self.labelled:.0%} labelled",
        )
        return Splits(train, test, probe=train.subset(positions, name=f"{train.name}, labelled part"))

    def _old_numbers(self, classes: int, known: int) -> Tensor:
        """Old number of every new class: the known ones ascending, then the novel ones."""
        if not self.random_classes:
            return torch.arange(classes)
        order = seeded_order((self.seed, classes), torch.arange(classes))
        return torch.cat([order[:known].sort().values, order[known:].sort().values])


def _renumbered(source: Source, old: Tensor) -> Source:
    """Give every class its new number."""
    new = old.argsort()
    columns: dict[str, Tensor | list | None] = {}
    for name in ("labels", "true_labels"):
        values = source.columns.get(name)
        if isinstance(values, Tensor):
            columns[name] = torch.where(values >= 0, new[values.clamp(min=0)], values)
    names = None if source.class_names is None else tuple(source.class_names[i] for i in old.tolist())
    return with_columns(source, columns, class_names=names)
