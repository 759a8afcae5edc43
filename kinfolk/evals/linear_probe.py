"""The linear probe in closed form: one convex problem on cached features, no training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kinfolk.evals.class_accuracy import accuracies
from kinfolk.evals.logistic import LogisticModel, LogisticProblem, Standardiser
from kinfolk.evals.protocol import FeatureEvaluator, Measurement

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

    from kinfolk.evals.features import Features, FeatureSplits


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear classifier on frozen features.

    Args:
        standardise: by training statistics.
        model: on standardised rows; column j is the class `classes[j]`.
        classes: int64 `[c]`, ascending: the classes that have a training row.
        details: what the fit settled, for the record.

    Example:
        >>> from kinfolk.evals import Features
        >>> train = Features.from_rows(torch.arange(20.0)[:, None], torch.arange(20), torch.arange(20) // 10 + 5)
        >>> LinearProbe().fit(train).predict(torch.tensor([[0.0], [19.0]])).tolist()
        [5, 6]
    """

    standardise: Standardiser
    model: LogisticModel
    classes: Int64[Tensor, " c"]
    details: Mapping[str, Any]

    def logits(self, rows: Float[Tensor, "n d"]) -> Float64[Tensor, "n c"]:
        """Log-probabilities up to a constant per row, one column per entry of `classes`."""
        return torch.addmm(self.model.bias, self.standardise(rows), self.model.weight)

    def predict(self, rows: Float[Tensor, "n d"]) -> Int64[Tensor, " n"]:
        """The most probable class of every row, ties to the lower one."""
        return self.classes[self.logits(rows).argmax(dim=1)]

    def as_module(self) -> nn.Linear:
        """The same map from features to logits as one float32 layer, through which gradients flow."""
        inverse, mean = self.standardise.inverse, self.standardise.mean
        weight = inverse[:, None] * self.model.weight
        layer = nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(weight.T)
            layer.bias.copy_(self.model.bias - mean @ weight)
        return layer.requires_grad_(False)


@dataclass(frozen=True)
class LinearProbe(FeatureEvaluator):
    """Multinomial logistic regression on frozen features, standardised by training statistics.

    The penalty is chosen on a validation part of the training set, which is cut class by class: for every penalty, from
    the strongest down, a model is fitted on the rest, and the most accurate one wins, the stronger penalty on a tie.
    Then the probe is fitted on all training rows. Nothing is random but the cut, and the test set is seen once.

    Where the training set is too small to set a row of any class aside, the middle penalty is taken. With a single
    class every prediction is that class. A test class without training rows counts as errors.

    Args:
        l2: penalties to choose from, each > 0; the objective is mean cross-entropy + l2 / 2 * ||W||^2, the bias free.
        validation_fraction: share of each class that selects the penalty, in (0, 1).
        seed: of the cut.
        selection_rows: the selection stage takes at most so many training rows, validation included; enough to rank
            penalties, and it bounds the time on large sets.
        tolerance: largest gradient entry, in scaled weights, at which a fit stops; ten times that while selecting.
        max_steps: L-BFGS steps per fit.

    Example:
        >>> from kinfolk.evals import Features, FeatureSplits
        >>> rows, labels = torch.arange(20.0)[:, None], torch.arange(20) // 10
        >>> split = Features.from_rows(rows, torch.arange(20), labels)
        >>> [(m.name, m.value) for m in LinearProbe().run(FeatureSplits(split, split))]
        [('accuracy', 1.0), ('balanced accuracy', 1.0)]
    """

    l2: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    validation_fraction: float = 0.2
    seed: int = 0
    selection_rows: int = 20_000
    tolerance: float = 1e-5
    max_steps: int = 500

    protocol: ClassVar[str] = "linear probe"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        object.__setattr__(self, "l2", tuple(self.l2))  # as YAML reads it
        if not self.l2 or not min(self.l2) > 0:
            raise ValueError(f"l2 must be at least one penalty, each positive, got {self.l2}.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie in (0, 1), got {self.validation_fraction}.")

    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield accuracy and balanced accuracy on the test rows, the latter with that of every class."""
        splits = features.labelled()
        head = splits.head(self)
        assert splits.test.labels is not None
        yield from accuracies(head.predict(splits.test.rows), splits.test.labels, details=head.details)

    def fit(self, train: Features) -> LinearHead:
        """Choose the penalty and fit the probe on all labelled rows.

        Args:
            train: the training rows; unlabelled ones are left out.

        Raises:
            ValueError: when no row is labelled.
        """
        train = train.labelled()
        assert train.labels is not None
        classes, y = torch.unique(train.labels, return_inverse=True)
        standardise = Standardiser.fit(train.rows)
        x = standardise(train.rows)
        l2, start = self._selected(x, y, len(classes))
        problem = LogisticProblem(x, y, classes=len(classes))
        model = problem.fit(l2=l2, start=start, tolerance=self.tolerance, max_steps=self.max_steps)
        return LinearHead(standardise, model, classes, {"l2_used": l2, "converged": model.converged})

    def _selected(self, x: Tensor, y: Tensor, classes: int) -> tuple[float, LogisticModel | None]:
        """The best penalty and its model, a good start for the final fit."""
        penalties = sorted(self.l2, reverse=True)
        fit, validation = cut_by_class(y, held_out=self.validation_fraction, seed=self.seed, rows=self.selection_rows)
        if len(validation) == 0 or len(penalties) == 1:
            return penalties[len(penalties) // 2], None
        problem = LogisticProblem(x[fit], y[fit], classes=classes)
        best: tuple[float, LogisticModel | None] = (penalties[0], None)
        best_accuracy, model = -1.0, None
        for l2 in penalties:
            model = problem.fit(l2=l2, start=model, tolerance=10 * self.tolerance, max_steps=self.max_steps)
            accuracy = (model.predict(x[validation]) == y[validation]).double().mean().item()
            if accuracy > best_accuracy:
                best, best_accuracy = (l2, model), accuracy
        return best


def cut_by_class(
    labels: Int64[Tensor, " n"], *, held_out: float, seed: int, rows: int | None = None
) -> tuple[Int64[Tensor, " f"], Int64[Tensor, " v"]]:
    """Cut the training rows class by class into a part to fit on and a part to choose settings with.

    Args:
        labels: of every row, in 0 to C - 1, each class with at least one row.
        held_out: share of each class that is held out, rounded down, in (0, 1): a class of one row keeps it for
            fitting.
        seed: of the cut.
        rows: both parts together take about so many rows, the same share of every class; None takes all.

    Returns:
        Positions for fitting and for validation; the latter are none where every class is too small.

    Example:
        >>> fit, validation = cut_by_class(torch.arange(20) // 10, held_out=0.2, seed=0)
        >>> len(fit), len(validation)
        (16, 4)
    """
    generator = torch.Generator().manual_seed(seed)
    share = 1.0 if rows is None else min(1.0, rows / len(labels))
    fit, validation = [], []
    for c in range(int(labels.max()) + 1):
        members = torch.nonzero(labels == c).squeeze(1)
        members = members[torch.randperm(len(members), generator=generator).to(members.device)]
        members = members[: max(1, round(share * len(members)))]
        held = int(held_out * len(members))
        validation.append(members[:held])
        fit.append(members[held:])
    return torch.cat(fit), torch.cat(validation)
