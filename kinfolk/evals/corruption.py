"""Accuracy on corrupted test images: 15 corruptions at 5 severities, with the head that was trained on clean ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kinfolk.data.derived.corruptions import Corruption, corrupt
from kinfolk.data.sources.base import ArraySource, Source
from kinfolk.evals.geometry import subset
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Measurement, SubjectEvaluator, accuracy

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from kinfolk.evals.subject import Subject

_SEVERITIES = (1, 2, 3, 4, 5)
_LARGEST_MEMO = 2**28  # bytes; 75 copies of 1,000 grey images of 28 x 28 take 59 million

_made: WeakKeyDictionary[Source, dict[tuple[object, ...], Tensor]] = WeakKeyDictionary()
"""Corrupted copies of the test sources that are in use; they go when the source goes."""


@dataclass(frozen=True)
class CorruptionRobustness(SubjectEvaluator):
    """Accuracy of the linear head on corrupted test images, mean over corruptions and severities.

    The head is fitted on clean training features. Every corruption and every severity counts the same; a test image has
    the same noise for all encoders, and at all severities of one corruption. Relative to clean is the mean divided by
    the accuracy on the same rows as they are, and is left out where that is 0. A class that the training set does not
    have counts as errors, clean and corrupted.

    The published constants go by the size of the images, see `kinfolk.data.corrupt`: numbers on images up to 64 pixels
    and above do not compare. Corrupted copies are kept as long as the test source lives, for the next encoder
    that is measured on the same one, up to 256 MiB.

    Args:
        corruptions: names from `kinfolk.data.derived.CORRUPTIONS`, each once.
        severities: from 1 to 5, each once.
        max_rows: labelled test rows in use, a seeded subset, at least 1.
        seed: of the subset and of the corruptions.
        probe: of the linear head, fitted once for all protocols with these settings.

    Raises:
        ValueError: for an unknown or repeated corruption or severity, none of them, or no row.

    Reference: Hendrycks, Dietterich (2019), Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations.

    Example:
        >>> from kinfolk.evals import RawPixels, Subject
        >>> labels = torch.arange(20) % 2
        >>> source = ArraySource((labels * 90).byte()[:, None, None, None].repeat(1, 1, 8, 8), labels)
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(8, 8)), train=source, test=source)
        >>> {m.name: m.value for m in CorruptionRobustness(corruptions=("brightness",), severities=(1, 5)).run(subject)}
        {'clean accuracy': 1.0, 'corrupted accuracy': 0.75, 'corrupted / clean': 0.75}
    """

    corruptions: tuple[Corruption, ...] = get_args(Corruption)
    severities: tuple[int, ...] = _SEVERITIES
    max_rows: int = 1000
    seed: int = 0
    probe: LinearProbe = field(default_factory=LinearProbe)

    protocol: ClassVar[str] = "corruptions"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        for name, known in {"corruptions": get_args(Corruption), "severities": _SEVERITIES}.items():
            chosen = tuple(getattr(self, name))
            object.__setattr__(self, name, chosen)  # as YAML reads it
            if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} must be some of {', '.join(map(str, known))}, each once; found {chosen}.")
        if self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}.")

    def missing(self, subject: Subject) -> str | None:
        """Say that the samples are no pictures, as in a table; None when they are."""
        return no_pictures(subject)

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield the accuracy on clean and on corrupted rows, the latter part by part in its details, and their
        ratio."""
        if self.missing(subject) is not None:
            return
        head, samples = subject.head(self.probe), scored_samples(subject, at_most=self.max_rows, seed=self.seed)
        assert samples.labels is not None
        classes = samples.labels.unique()
        details: dict[str, Any] = {
            "n_test": len(samples),
            "classes_without_training_row": int((~torch.isin(classes, head.classes)).sum()),
            **head.details,
        }
        clean = self._accuracy(subject, samples)
        yield Measurement("clean accuracy", clean, better="higher", details=details)
        table = torch.tensor(
            [[self._corrupted(subject, samples, c, s) for s in self.severities] for c in self.corruptions],
            dtype=torch.float64,
        )
        parts = {
            "accuracy_by_corruption": dict(zip(self.corruptions, table.mean(1).tolist(), strict=True)),
            "accuracy_by_severity": dict(zip(map(str, self.severities), table.mean(0).tolist(), strict=True)),
            "accuracy_by_corruption_and_severity": dict(zip(self.corruptions, table.tolist(), strict=True)),
        }
        mean = table.mean().item()
        yield Measurement("corrupted accuracy", mean, better="higher", details={**details, **parts})
        if clean > 0:
            yield Measurement("corrupted / clean", mean / clean, better="higher", details=details)

    def _corrupted(self, subject: Subject, samples: ArraySource, corruption: Corruption, severity: int) -> float:
        """Accuracy under one corruption at one severity."""
        made = self._images(subject, samples, corruption, severity)
        return self._accuracy(subject, ArraySource(made, samples.labels, ids=samples.ids, name=samples.name))

    def _images(
        self, subject: Subject, samples: ArraySource, corruption: Corruption, severity: int
    ) -> UInt8[Tensor, "n c h w"]:
        """The corrupted images, made once for all encoders on one test source."""
        kept = _made.setdefault(subject.test, {})
        key = (corruption, severity, self.seed, tuple(samples.ids.tolist()))
        if key in kept:
            return kept[key]
        made = corrupt(samples.images, samples.ids, corruption=corruption, severity=severity, seed=self.seed)
        if made.nbytes + sum(one.nbytes for one in kept.values()) <= _LARGEST_MEMO:
            kept[key] = made
        return made

    def _accuracy(self, subject: Subject, samples: ArraySource) -> float:
        features = subject.extract(samples)
        assert features.labels is not None
        return accuracy(subject.head(self.probe).predict(features.rows), features.labels)


def no_pictures(subject: Subject) -> str | None:
    """Say that a subject's samples are no pictures: a table's rows, or single pixels; None when they are."""
    return None if max(subject.test.image_size) > 1 else "no pictures"


def scored_samples(subject: Subject, *, at_most: int, seed: int) -> ArraySource:
    """Read a seeded subset of a subject's labelled test samples into memory, in ascending order of id.

    Args:
        subject: a sample of its test source that has no feature row, since it cannot be read, is not taken.
        at_most: how many; all where there are fewer.
        seed: of the subset, which depends on the ids alone.

    Returns:
        Images as they are, ids and labels.

    Raises:
        ValueError: when no test row is labelled.

    Example:
        >>> from kinfolk.evals import RawPixels, Subject
        >>> source = ArraySource(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([4, -1, 5]),
        ...                      ids=torch.tensor([9, 8, 7]))
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(2, 2)), train=source, test=source)
        >>> samples = scored_samples(subject, at_most=10, seed=0)
        >>> samples.ids.tolist(), samples.columns["labels"].tolist()
        ([7, 9], [5, 4])
    """
    known = subject.features.test.labelled()
    assert known.labels is not None
    chosen = subset(len(known), at_most, seed=seed)
    order = subject.test.ids.argsort()
    positions = order[torch.searchsorted(subject.test.ids[order], known.ids[chosen].cpu())]
    images = torch.cat([subject.test.read(part) for part in positions.split(subject.batch_size)])
    return ArraySource(images, known.labels[chosen].cpu(), ids=known.ids[chosen].cpu(), name=subject.test.name)
