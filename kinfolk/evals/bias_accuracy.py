"""Accuracy where a nuisance factor goes along with the class as in pretraining, and where it contradicts it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.evals.class_accuracy import accuracy_by_group
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Measurement, SubjectEvaluator, accuracy
from kinfolk.evals.shot_accuracy import pretraining_classes

if TYPE_CHECKING:
    from jaxtyping import Int64

    from kinfolk.data.sources import Source
    from kinfolk.evals.subject import Subject

_LISTED_CLASSES = 200  # more would drown the record


@dataclass(frozen=True)
class BiasAccuracy(SubjectEvaluator):
    """Accuracy of the linear head on bias-aligned and on bias-conflicting test rows, and over all combinations.

    Every class may have an aligned bias: the most frequent one of its pretraining samples, or, with
    `aligned="same index"`, the one with the class's own number. A test row is aligned when its bias is that of its
    class, and conflicting when it is another. In kinfolk's coloured and textured sets both rules agree. A class whose
    most frequent bias is not unique, or that pretraining does not have, has none: its rows are neither, and the record
    counts them.

    The gap is aligned minus conflicting; it has no better direction, since an encoder that knows nothing has none.
    Unbiased accuracy is the mean over the groups of test rows with one class and one bias, each counting the same; the
    worst of these groups may be small, so its size is recorded. Rows with an unknown bias (-1) are left out.

    Args:
        aligned: which bias goes with a class.
        probe: of the linear head, fitted once for all protocols with these settings.

    Raises:
        ValueError: for an unknown rule.

    Reference: Bahng, Chun, Yun, Choo, Oh (2020), Learning De-biased Representations with Biased Representations;
        Sagawa, Koh, Hashimoto, Liang (2020), Distributionally Robust Neural Networks for Group Shifts (worst group).

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels, Subject
        >>> labels = torch.arange(40) // 20
        >>> bias = torch.where(torch.arange(40) % 10 == 0, 1 - labels, labels)
        >>> source = ArraySource((bias * 200).byte()[:, None, None, None], labels, bias_labels=bias)
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(1, 1)), train=source, test=source)
        >>> for found in BiasAccuracy().run(subject):  # the only pixel shows the bias
        ...     print(found.name, found.value)
        accuracy, aligned 1.0
        accuracy, conflicting 0.0
        gap 1.0
        accuracy, unbiased 0.5
        accuracy, worst group 0.0
    """

    aligned: Literal["most frequent", "same index"] = "most frequent"
    probe: LinearProbe = field(default_factory=LinearProbe)

    protocol: ClassVar[str] = "bias"
    needs_labels: ClassVar[bool] = True
    sees_pretraining: ClassVar[bool] = True
    needs_columns: ClassVar[tuple[str, ...]] = ("bias_labels",)
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        if self.aligned not in ("most frequent", "same index"):
            raise ValueError(f"aligned must be 'most frequent' or 'same index', got {self.aligned!r}.")

    def missing(self, subject: Subject) -> str | None:
        """Say what the test rows lack, or why no bias goes with any class."""
        test = subject.features.test
        known = None if test.bias_labels is None else test.bias_labels >= 0
        if known is None or not bool((known if test.labels is None else known & (test.labels >= 0)).any()):
            return "no bias labels"
        classes, _ = self._aligned(subject)
        return "no class whose pretraining samples have one most frequent bias" if len(classes) == 0 else None

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield both accuracies and their gap, where there are such rows, then unbiased and worst-group accuracy."""
        if self.missing(subject) is not None:
            return
        head, test = subject.head(self.probe), subject.features.test.labelled()
        assert test.labels is not None
        assert test.bias_labels is not None
        known = test.bias_labels >= 0
        if not bool(known.any()):
            return
        labels, bias, predicted = test.labels[known], test.bias_labels[known], head.predict(test.rows[known])
        classes, theirs = self._aligned(subject)
        has_one, own = _look_up(labels, classes, theirs)
        details = {
            **head.details,
            "bias_unknown": int((~known).sum()),
            "rows_without_aligned_bias": int((~has_one).sum()),
            **_listed(classes, theirs),
        }
        values = {}
        for name, rows in {"aligned": has_one & (bias == own), "conflicting": has_one & (bias != own)}.items():
            if bool(rows.any()):
                values[name] = accuracy(predicted[rows], labels[rows])
                more = {**details, "test_rows": int(rows.sum())}
                yield Measurement(f"accuracy, {name}", values[name], better="higher", details=more)
        if len(values) == 2:
            yield Measurement("gap", values["aligned"] - values["conflicting"], details=details)
        yield from _over_groups(predicted, labels, bias, details)

    def _aligned(self, subject: Subject) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
        """The classes with an aligned bias, ascending, and that bias."""
        if self.aligned == "same index":
            assert subject.features.test.labels is not None
            labels = subject.features.test.labels
            classes = labels[labels >= 0].unique()
            return classes, classes
        return most_frequent_bias(subject.pretraining)


def most_frequent_bias(source: Source) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
    """The most frequent bias of each class.

    Args:
        source: with labels and bias labels; samples where one of them is unknown do not count.

    Returns:
        The classes where one bias is more frequent than every other, ascending, and that bias.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> images, labels = torch.zeros(5, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1])
        >>> source = ArraySource(images, labels, bias_labels=torch.tensor([7, 7, 8, 7, 8]))
        >>> [part.tolist() for part in most_frequent_bias(source)]
        [[0], [7]]
    """
    labels, bias = pretraining_classes(source), source.bias_labels
    none = torch.empty(0, dtype=torch.int64)
    if labels is None or bias is None:
        return none, none
    known = (labels >= 0) & (bias >= 0)
    pairs, counts = torch.stack([labels[known], bias[known]], 1).unique(dim=0, return_counts=True)
    classes, theirs = [], []
    for c in pairs[:, 0].unique().tolist():
        here = pairs[:, 0] == c
        most = here & (counts == counts[here].max())
        if int(most.sum()) == 1:
            classes.append(c)
            theirs.append(int(pairs[most, 1]))
    return torch.tensor(classes, dtype=torch.int64), torch.tensor(theirs, dtype=torch.int64)


def _look_up(labels: Tensor, classes: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each row's class has an aligned bias, and which; -1 where it has none."""
    place = torch.searchsorted(classes, labels).clamp(max=len(classes) - 1)
    has_one = classes[place] == labels
    return has_one, torch.where(has_one, theirs[place], -1)


def _listed(classes: Tensor, theirs: Tensor) -> dict[str, Any]:
    if len(classes) > _LISTED_CLASSES:
        return {}
    pairs = zip(classes.tolist(), theirs.tolist(), strict=True)
    return {"aligned_bias_by_class": {str(c): bias for c, bias in pairs}}


def _over_groups(predicted: Tensor, labels: Tensor, bias: Tensor, details: dict[str, Any]) -> Iterator[Measurement]:
    """The mean over the groups of one class and one bias, and the worst of them."""
    width = int(bias.max()) + 1
    groups, values, sizes = accuracy_by_group(predicted, labels, labels * width + bias)
    worst = int(values.argmin())
    shared = {**details, "groups": len(groups)}
    yield Measurement("accuracy, unbiased", values.mean().item(), better="higher", details=shared)
    of_worst = {
        "worst_class": int(groups[worst]) // width,
        "worst_bias": int(groups[worst]) % width,
        "worst_rows": int(sizes[worst]),
    }
    yield Measurement("accuracy, worst group", values[worst].item(), better="higher", details={**shared, **of_worst})
