"""What every evaluator has in common: a frozen description that runs on features and yields measurements."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scipy.special import stdtrit

if TYPE_CHECKING:
    from torch import Tensor

    from kinfolk.evals.features import FeatureSplits
    from kinfolk.evals.subject import Subject

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measurement:
    """One number of one protocol, with its spread where it was drawn several times.

    Args:
        name: what was measured, such as "accuracy".
        value: the number, or the mean over draws.
        sd: sample standard deviation over draws; None for fewer than two.
        low: lower end of the 95 % interval of the mean; None for fewer than two draws.
        high: upper end of it.
        draws: how many seeded draws the value averages.
        better: the direction that is better; None for a diagnostic that has none.
        details: what the run settled and the evaluator's fields do not say: the k in use, the chosen penalty, rows left
            out.
    """

    name: str
    value: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    draws: int = 1
    better: Direction | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_draws(
        cls,
        name: str,
        values: Sequence[float],
        *,
        better: Direction | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Measurement:
        """Mean, standard deviation and Student's 95 % interval of the mean.

        Args:
            name: what was measured.
            values: one number per draw, at least one; a single draw has no spread.
            better: the direction that is better.
            details: facts for the record.

        Raises:
            ValueError: without a draw.

        Example:
            >>> drawn = Measurement.from_draws("accuracy", [0.8, 0.9, 1.0])
            >>> round(drawn.value, 3), round(drawn.sd, 3), round(drawn.low, 3), round(drawn.high, 3)
            (0.9, 0.1, 0.652, 1.148)
        """
        draws = len(values)
        if draws == 0:
            raise ValueError(f"{name} needs at least one draw; give at least one seed.")
        mean = math.fsum(values) / draws
        if draws == 1:
            return cls(name, mean, better=better, details=details or {})
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (draws - 1))
        half = float(stdtrit(draws - 1, 0.975)) * sd / math.sqrt(draws)
        return cls(name, mean, sd, mean - half, mean + half, draws, better, details or {})


class Evaluator(ABC):
    """A protocol: its parameters are the fields of a frozen dataclass, its numbers come from `run`.

    `protocol` is its name in tables, `needs_labels` says whether it works without labels at all, `needs_columns` what
    else the test rows must carry, `sees_pretraining` whether it looks at the pretraining set itself, and
    `normalisation` what it does to the features first. A concrete one is a `FeatureEvaluator` or a `SubjectEvaluator`.
    """

    protocol: ClassVar[str]
    needs_labels: ClassVar[bool]
    needs_columns: ClassVar[tuple[str, ...]] = ()
    sees_pretraining: ClassVar[bool] = False
    normalisation: ClassVar[str]


class FeatureEvaluator(Evaluator):
    """A protocol that reads nothing but features."""

    @abstractmethod
    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield this protocol's measurements.

        Args:
            features: both splits; unlabelled rows are left out where labels are needed.

        Raises:
            ValueError: when the protocol needs labels and a split has none.
        """


class SubjectEvaluator(Evaluator):
    """A protocol that needs more than features: the images, the encoder's gradient, or a classifier on top of it."""

    @abstractmethod
    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield this protocol's measurements; nothing where the subject's data cannot answer its question.

        Args:
            subject: an encoder with its data and features; it is left as it was.

        Raises:
            ValueError: when the protocol needs labels and a split has none.
        """

    def missing(self, subject: Subject) -> str | None:
        """Say what these data lack for this protocol, such as "no masks"; None when nothing."""
        return None


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries, in float64."""
    return (predicted == labels).double().mean().item()
