"""Linear classification from few labels, so many of a class or a share of it, over several seeded draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.evals.logistic import LogisticProblem, Standardiser
from kinfolk.evals.protocol import FeatureEvaluator, Measurement, accuracy

if TYPE_CHECKING:
    from jaxtyping import Int64

    from kinfolk.evals.features import FeatureSplits


@dataclass(frozen=True)
class FewLabelProbe(FeatureEvaluator):
    """Logistic regression on a few labelled training rows per class, by number and by share, tested on all test rows.

    Features are standardised by the statistics of the whole training set, which needs no label. So few labels leave
    none to choose the penalty with: it is fixed, for all sizes alike. A seed draws one order of the rows, and the
    first rows of every class are taken, so that larger draws contain the smaller ones. A class with fewer rows than
    asked for gives all it has, and the record counts such classes as `classes_short`; a share gives every class at
    least one row. The record says how many `labels` a draw has.

    Args:
        labels_per_class: how many labels of every class, each at least 1.
        shares: which shares of every class, in (0, 1], rounded; class-balanced in that the classes keep their ratio.
        seeds: one draw each; the interval of the mean needs at least two.
        l2: penalty on the weights, > 0; the objective is mean cross-entropy + l2 / 2 * ||W||^2, the bias free.
        tolerance: largest gradient entry, in scaled weights, at which a fit stops; at ten times as much fits take half
            the time, and one label per class gives raw pixels a point more.
        max_steps: L-BFGS steps per fit.

    Raises:
        ValueError: for no size at all, sizes out of range, seeds that repeat.

    Example:
        >>> from kinfolk.evals import Features, FeatureSplits
        >>> rows, labels = torch.arange(20.0)[:, None], torch.arange(20) // 10
        >>> split = Features.from_rows(rows, torch.arange(20), labels)
        >>> [m.name for m in FewLabelProbe(labels_per_class=(1, 5), shares=(0.1,)).run(FeatureSplits(split, split))]
        ['accuracy, 1 per class', 'accuracy, 5 per class', 'accuracy, 10 % of labels']
    """

    labels_per_class: tuple[int, ...] = (1, 5, 10)
    shares: tuple[float, ...] = (0.01, 0.05, 0.1)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    l2: float = 1e-2
    tolerance: float = 1e-5
    max_steps: int = 500

    protocol: ClassVar[str] = "few labels"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        for name in ("labels_per_class", "shares", "seeds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # as YAML reads them
        if not self.labels_per_class and not self.shares:
            raise ValueError("there is nothing to measure: give labels_per_class, shares, or both.")
        if min(self.labels_per_class, default=1) < 1:
            raise ValueError(f"labels_per_class must be counts, each at least 1, got {self.labels_per_class}.")
        if not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must lie in (0, 1], got {self.shares}; 1 % is 0.01.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be at least one seed, each another one, got {self.seeds}.")
        if not self.l2 > 0:
            raise ValueError(f"l2 must be positive, got {self.l2}.")

    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield mean accuracy, standard deviation and 95 % interval over the draws, for every number and share."""
        splits = features.labelled()
        assert splits.train.labels is not None
        assert splits.test.labels is not None
        classes, y = torch.unique(splits.train.labels, return_inverse=True)
        sizes = y.bincount()
        standardise = Standardiser.fit(splits.train.rows)
        x, x_test = standardise(splits.train.rows), standardise(splits.test.rows)
        for name, wanted in self._draws(sizes):
            values = []
            for seed in self.seeds:
                chosen = draw_per_class(y, wanted, seed=seed)
                problem = LogisticProblem(x[chosen], y[chosen], classes=len(classes))
                model = problem.fit(l2=self.l2, tolerance=self.tolerance, max_steps=self.max_steps)
                values.append(accuracy(classes[model.predict(x_test)], splits.test.labels))
            details = {"labels": int(wanted.minimum(sizes).sum()), "classes_short": int((sizes < wanted).sum())}
            yield Measurement.from_draws(name, values, better="higher", details=details)

    def _draws(self, sizes: Int64[Tensor, " c"]) -> Iterator[tuple[str, Int64[Tensor, " c"]]]:
        """What is measured, and the rows that it takes of every class."""
        for count in self.labels_per_class:
            yield f"accuracy, {count} per class", torch.full_like(sizes, count)
        for share in self.shares:
            yield f"accuracy, {100 * share:g} % of labels", (share * sizes.double()).round().long().clamp(min=1)


def draw_per_class(labels: Int64[Tensor, " n"], wanted: Int64[Tensor, " c"], *, seed: int) -> Int64[Tensor, " r"]:
    """Positions of some rows of every class, or all of a smaller class.

    Args:
        labels: class of every row, in 0 to c - 1.
        wanted: rows of each class.
        seed: draws with the same seed are nested: a larger one contains the smaller.

    Example:
        >>> draw_per_class(torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2]), seed=0).shape
        torch.Size([3])
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    by_class = labels[order].argsort(stable=True)
    sizes = labels.bincount(minlength=len(wanted))
    rank = torch.arange(len(labels), device=labels.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return order[by_class][rank < wanted.repeat_interleave(sizes)]
