"""Whether a classifier is right as often as it says: calibration error, before and after one temperature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kinfolk.evals.confidence import (
    TEMPERATURES,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from kinfolk.evals.features import Features
from kinfolk.evals.linear_probe import LinearHead, LinearProbe
from kinfolk.evals.protocol import Measurement, SubjectEvaluator

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

    from kinfolk.evals.subject import Subject


@dataclass(frozen=True)
class Calibration(SubjectEvaluator):
    """Expected calibration error, log-loss and Brier score of the linear head, plain and with a fitted temperature.

    The head is the linear probe's. Its confidence is the largest probability of its softmax; a calibrated one is right
    in 80 of 100 cases of confidence 0.8. Confidences fall into bins of equal width, and the record holds the count,
    mean confidence and accuracy of each, so that the reliability diagram can be drawn from it.

    One temperature then divides all logits. It minimises the log-loss of training rows that were set aside, from a head
    of the same penalty fitted on the others: on rows that a head has seen, it would come out too small. Rows are set
    aside fold by fold, each with a head of its own, until there are `rows_enough` of them, so that small training sets
    use all their rows and large ones need one more fit. The temperature is applied to the head of all training rows.
    There is none where no class has two rows, or where the loss has no minimum, since all rows set aside are right.

    A test row of a class that the head does not know counts as an error, and its Brier score is that of an outcome of
    probability 0. Its log-loss would be infinite: the mean leaves such rows out, and the record counts them. The error
    of few test rows is biased upwards, more so with many bins; compare at equal test size.

    Args:
        probe: the linear head, shared with the other protocols that use it.
        bins: of confidence, of equal width, at least 1.
        folds: parts of each class's training rows, at least 2.
        rows_enough: rows to fit the temperature on, at least 1; no further fold is set aside then.
        seed: of the folds.

    Reference:
        Guo, Pleiss, Sun, Weinberger (2017), On Calibration of Modern Neural Networks. Naeini, Cooper, Hauskrecht
        (2015), Obtaining Well Calibrated Probabilities Using Bayesian Binning. Brier (1950), Verification of Forecasts
        Expressed in Terms of Probability.

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> from kinfolk.evals import RawPixels, Subject
        >>> test = DigitsConfig().load().test
        >>> train, test = test.subset(torch.arange(200)), test.subset(torch.arange(200, 360))
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(8, 8)), train=train, test=test)
        >>> [m.name for m in Calibration(LinearProbe(l2=(0.1,))).run(subject)][:4]
        ['ECE', 'NLL', 'Brier score', 'temperature']
    """

    probe: LinearProbe = field(default_factory=LinearProbe)
    bins: int = 15
    folds: int = 5
    rows_enough: int = 2_000
    seed: int = 0

    protocol: ClassVar[str] = "calibration"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = LinearProbe.normalisation

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, got {self.bins}; 15 is the default.")
        if self.folds < 2 or self.rows_enough < 1:
            raise ValueError(
                "a temperature needs at least 2 folds and 1 row to be fitted on, got "
                f"folds={self.folds}, rows_enough={self.rows_enough}."
            )

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield the plain head's numbers, the temperature, and the numbers with it."""
        splits = subject.features.labelled()
        head = subject.head(self.probe)
        logits, columns = head.logits(splits.test.rows), _columns(head, splits.test)
        yield from self._measured(logits, columns, "", {"l2_used": head.details["l2_used"]})
        fitted = self.temperature(head, splits.train)
        if fitted is None:
            return
        temperature, rows = fitted
        details = {"temperature": temperature, "temperature_rows": rows}
        yield Measurement("temperature", temperature, details={"temperature_rows": rows})
        yield from self._measured(logits / temperature, columns, ", scaled", details)

    def temperature(self, head: LinearHead, train: Features) -> tuple[float, int] | None:
        """Fit the temperature on held-out training rows.

        Args:
            head: fitted on all of `train`; its penalty is taken.
            train: the training rows.

        Returns:
            The temperature, and on how many rows it was fitted; None where there is none.
        """
        train = train.labelled()
        assert train.labels is not None
        fold = _folds(train.labels, self.folds, seed=self.seed)
        probe = replace(self.probe, l2=(head.details["l2_used"],))
        logits, columns, rows = [], [], 0
        for part in range(self.folds):
            if rows >= self.rows_enough or not bool((fold == part).any()):
                break
            rest, held_out = probe.fit(_only(train, fold != part)), _only(train, fold == part)
            logits.append(rest.logits(held_out.rows))
            columns.append(_columns(rest, held_out))
            rows += len(held_out)
        if rows == 0:
            return None
        temperature = fit_temperature(torch.cat(logits), torch.cat(columns))
        return None if temperature in TEMPERATURES else (temperature, rows)

    def _measured(self, logits: Tensor, columns: Tensor, suffix: str, details: dict[str, Any]) -> Iterator[Measurement]:
        probabilities = logits.softmax(dim=1)
        counts, confidences, accuracies = reliability(probabilities, columns, bins=self.bins)
        drawn = {"bin_counts": counts, "bin_confidences": confidences, "bin_accuracies": accuracies}
        details = {**details, "unknown_class": int((columns < 0).sum())}
        error = expected_calibration_error(probabilities, columns, bins=self.bins)
        yield Measurement(f"ECE{suffix}", error, better="lower", details={**details, **drawn})
        if bool((columns >= 0).any()):
            loss = negative_log_likelihood(logits, columns)
            yield Measurement(f"NLL{suffix}", loss, better="lower", details=details)
        brier = brier_score(probabilities, columns)
        yield Measurement(f"Brier score{suffix}", brier, better="lower", details=details)


def _columns(head: LinearHead, features: Features) -> Int64[Tensor, " n"]:
    """Which column of the head's logits is each row's class, -1 for a class it does not know."""
    assert features.labels is not None
    place = torch.searchsorted(head.classes, features.labels).clamp(max=len(head.classes) - 1)
    return torch.where(head.classes[place] == features.labels, place, -1)


def _folds(labels: Int64[Tensor, " n"], folds: int, *, seed: int) -> Int64[Tensor, " n"]:
    """A fold for every row, class by class; -1 for the only row of a class, which a head cannot do without."""
    # One order of all rows: drawn class by class, it could be the very cut that the probe chose its penalty on.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    fold = torch.full_like(labels, -1)
    for c, count in zip(*labels.unique(return_counts=True), strict=True):
        if count > 1:
            fold[order[labels[order] == c]] = torch.arange(int(count)) % folds
    return fold


def _only(features: Features, keep: Bool[Tensor, " n"]) -> Features:
    labels = features.labels
    return Features(features.rows[keep], features.ids[keep], None if labels is None else labels[keep])
