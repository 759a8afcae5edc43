"""Accuracy on the classes that were frequent, of middling size and rare in pretraining."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from kinfolk.data.derived import shot_groups
from kinfolk.data.derived.imbalanced import check_shots
from kinfolk.evals.class_accuracy import accuracy_by_group
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Measurement, SubjectEvaluator, accuracy

if TYPE_CHECKING:
    from jaxtyping import Int64

    from kinfolk.data.sources import Source
    from kinfolk.evals.subject import Subject


@dataclass(frozen=True)
class ShotAccuracy(SubjectEvaluator):
    """Accuracy of the linear head on the test rows of many-shot, medium-shot and few-shot classes.

    A class has many shots with more than 100 images in the pretraining set, medium with 20 to 100, few below 20, which
    takes in a class that vanished; sets of few and large classes want other bounds. Only groups with a test row are
    measured. The value is over test rows; the record has the mean over the group's classes beside it, which is the same
    on a balanced test set. Classes are counted by `true_labels` where pretraining hid or spoilt labels.

    The head is fitted on the probe's training rows, balanced or not as the splits have it: after imbalanced
    *pretraining* on the full set, in a *supervised* comparison on the imbalanced one.

    Args:
        probe: of the linear head, fitted once for all protocols with these settings.
        many: a class has many shots with more images than this.
        few: a class has few shots with fewer images than this.

    Raises:
        ValueError: for bounds that overlap.

    Reference: Liu, Miao, Zhan, Wang, Gong, Yu (2019), Large-Scale Long-Tailed Recognition in an Open World.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels, Subject
        >>> labels = torch.tensor([0] * 120 + [1] * 30)
        >>> source = ArraySource((labels * 200).byte()[:, None, None, None], labels)
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(1, 1)), train=source, test=source)
        >>> [(m.name, m.value) for m in ShotAccuracy().run(subject)]
        [('accuracy, many', 1.0), ('accuracy, medium', 1.0)]
    """

    probe: LinearProbe = field(default_factory=LinearProbe)
    many: int = 100
    few: int = 20

    protocol: ClassVar[str] = "shots"
    needs_labels: ClassVar[bool] = True
    sees_pretraining: ClassVar[bool] = True
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        check_shots(self.many, self.few)

    def missing(self, subject: Subject) -> str | None:
        """Say that nothing tells how large the classes were in pretraining, where that is so."""
        return "no classes of the pretraining samples" if pretraining_classes(subject.pretraining) is None else None

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield one accuracy for each of many, medium and few that has a test row, in this order."""
        shots = pretraining_classes(subject.pretraining)
        if shots is None:
            return
        head, test = subject.head(self.probe), subject.features.test.labelled()
        assert test.labels is not None
        predicted = head.predict(test.rows)
        classes = 1 + max(int(shots.max()), int(test.labels.max()))
        for name, members in shot_groups(shots, classes, many=self.many, few=self.few).items():
            rows = torch.isin(test.labels, members)
            if not bool(rows.any()):
                continue
            labels = test.labels[rows]
            present, by_class, _ = accuracy_by_group(predicted[rows], labels, labels)
            details = {
                **head.details,
                "classes": len(present),
                "test_rows": len(labels),
                "mean_over_classes": by_class.mean().item(),
                "pretraining_rows_without_class": int((shots < 0).sum()),
                "many_above": self.many,
                "few_below": self.few,
            }
            yield Measurement(f"accuracy, {name}", accuracy(predicted[rows], labels), better="higher", details=details)


def pretraining_classes(source: Source) -> Int64[Tensor, " n"] | None:
    """Class of every sample that an encoder was trained on, -1 where unknown; None where all are.

    Where labels were hidden or made wrong for training, these are what they were before.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> images = torch.zeros(2, 1, 1, 1, dtype=torch.uint8)
        >>> hidden = ArraySource(images, torch.tensor([-1, 1]), columns={"true_labels": torch.tensor([0, 1])})
        >>> pretraining_classes(hidden).tolist()
        [0, 1]
    """
    found = cast("Tensor | None", source.columns.get("true_labels", source.labels))
    return found if found is not None and bool((found >= 0).any()) else None
