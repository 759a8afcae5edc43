"""What a method's own classifier says of test images, for methods that learn one beside the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kinfolk.data.derived import shot_groups
from kinfolk.data.derived.imbalanced import check_shots
from kinfolk.evals.class_accuracy import accuracies
from kinfolk.evals.confidence import expected_calibration_error, negative_log_likelihood, reliability
from kinfolk.evals.extraction import extract
from kinfolk.evals.protocol import Measurement, SubjectEvaluator, accuracy
from kinfolk.evals.shot_accuracy import pretraining_classes

if TYPE_CHECKING:
    from jaxtyping import Int64

    from kinfolk.evals.features import Features
    from kinfolk.evals.subject import Subject


@dataclass(frozen=True)
class OwnClassifier(SubjectEvaluator):
    """Accuracy, calibration error and log-loss of the classifier that training made, with no probe in between.

    Where the pretraining samples have classes, accuracy on those with many, medium and few shots is measured too, as in
    `ShotAccuracy`. A test row of a class beyond the classifier's is an error; the log-loss leaves it out.

    Args:
        bins: of confidence, of equal width, at least 1.
        many: a class has many shots with more pretraining images than this.
        few: a class has few shots with fewer than this.

    Raises:
        ValueError: for no bins, or bounds that overlap.

    Reference: Guo, Pleiss, Sun, Weinberger (2017), On Calibration of Modern Neural Networks. Liu, Miao, Zhan, Wang,
        Gong, Yu (2019), Large-Scale Long-Tailed Recognition in an Open World (many, medium, few).

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> from kinfolk.evals import RawPixels, Subject
        >>> train, test = DigitsConfig().load().train.subset(torch.arange(40)), DigitsConfig().load().test
        >>> pixels = RawPixels(channels=1, image_size=(8, 8))
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> subject = Subject.of("trained", pixels, train=train, test=test, classifier=classifier)
        >>> [m.name for m in OwnClassifier().run(subject)]
        ['accuracy', 'balanced accuracy', 'accuracy, few', 'ECE', 'NLL']
    """

    bins: int = 15
    many: int = 100
    few: int = 20

    protocol: ClassVar[str] = "own classifier"
    needs_labels: ClassVar[bool] = True
    sees_pretraining: ClassVar[bool] = True
    normalisation: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, got {self.bins}; 15 is the default.")
        check_shots(self.many, self.few)

    def missing(self, subject: Subject) -> str | None:
        """Say that the method learnt no classifier, where that is so."""
        return "no learnt classes" if subject.classifier_module is None else None

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield accuracies, then calibration error and log-loss."""
        found = own_logits(subject)
        if found is None:
            return
        logits, labels = found.rows, found.labels
        assert labels is not None
        predicted = logits.argmax(dim=1)
        known = labels < logits.shape[1]
        details = {"classes": logits.shape[1], "test_rows": len(labels), "unknown_class": int((~known).sum())}
        yield from accuracies(predicted, labels, details=details)
        yield from self._by_shots(subject, predicted, labels, details)
        columns = labels.where(known, -1)
        probabilities = logits.softmax(dim=1)
        counts, confidences, rights = reliability(probabilities, columns, bins=self.bins)
        drawn = {"bin_counts": counts, "bin_confidences": confidences, "bin_accuracies": rights}
        error = expected_calibration_error(probabilities, columns, bins=self.bins)
        yield Measurement("ECE", error, better="lower", details={**details, **drawn})
        if bool(known.any()):
            yield Measurement("NLL", negative_log_likelihood(logits, columns), better="lower", details=details)

    def _by_shots(
        self, subject: Subject, predicted: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], details: dict[str, Any]
    ) -> Iterator[Measurement]:
        shots = pretraining_classes(subject.pretraining)
        if shots is None:
            return
        classes = 1 + max(int(shots.max()), int(labels.max()))
        for name, members in shot_groups(shots, classes, many=self.many, few=self.few).items():
            rows = torch.isin(labels, members)
            if bool(rows.any()):
                value = accuracy(predicted[rows], labels[rows])
                more = {
                    **details,
                    "test_rows": int(rows.sum()),
                    "classes": len(members),
                    "many_above": self.many,
                    "few_below": self.few,
                }
                yield Measurement(f"accuracy, {name}", value, better="higher", details=more)


def own_logits(subject: Subject) -> Features | None:
    """Return the logits of the labelled test images from the classifier that training made; None if there is none."""
    if subject.classifier_module is None:
        return None
    return extract(
        subject.classifier_module, subject.test, batch_size=subject.batch_size, device=subject.device
    ).labelled()
