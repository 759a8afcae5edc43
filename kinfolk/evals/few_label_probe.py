"""Linear classification from a handful of labels per class, over several seeded draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.evals.logistic import LogisticProblem, Standardiser
from kinfolk.evals.protocol import FeatureEvaluator, Measurement

if TYPE_CHECKING:
    from jaxtyping import Int64

    from kinfolk.evals.features import FeatureSplits


@dataclass(frozen=True)
class FewLabelProbe(FeatureEvaluator):
    """Logistic regression on 1, 5 and 10 labelled training rows per class, tested on the whole test set.

    Features are standardised by the statistics of the whole training set, which needs no label. So few labels leave
    none to choose the penalty with: it is fixed. A seed draws one order of the rows, and the first 1, 5, 10 of every
    class are taken, so that larger draws contain the smaller ones. A class with fewer rows than asked gives all it has,
    and the record counts such classes as `classes_short`.

    Args:
        labels_per_class: how many labels, each at least 1.
        seeds: one draw each; the interval of the mean needs at least two.
        l2: penalty on the weights, > 0; the objective is mean cross-entropy + l2 / 2 * ||W||^2, the bias free.
        tolerance: largest gradient entry, in scaled weights, at which a fit stops.
        max_steps: L-BFGS steps per fit.

    Example:
        >>> from kinfolk.evals import Features, FeatureSplits
        >>> rows, labels = torch.arange(20.0)[:, None], torch.arange(20) // 10
        >>> split = Features.from_rows(rows, torch.arange(20), labels)
        >>> [m.name for m in FewLabelProbe(labels_per_class=(1, 5)).run(FeatureSplits(split, split))]
        ['accuracy, 1 per class', 'accuracy, 5 per class']
    """

    labels_per_class: tuple[int, ...] = (1, 5, 10)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    l2: float = 1e-2
    tolerance: float = 1e-5
    max_steps: int = 500

    protocol: ClassVar[str] = "few labels"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        if not self.labels_per_class or min(self.labels_per_class) < 1:
            raise ValueError(
                f"labels_per_class must be at least one count, each at least 1, got {self.labels_per_class}."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be at least one seed, each another one, got {self.seeds}.")
        if not self.l2 > 0:
            raise ValueError(f"l2 must be positive, got {self.l2}.")

    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield mean accuracy, standard deviation and 95 % interval over the draws, for every count of labels."""
        splits = features.labelled()
        train, test = splits.train, splits.test
        assert train.labels is not None
        classes, y = torch.unique(train.labels, return_inverse=True)
        standardise = Standardiser.fit(train.rows)
        x, x_test = standardise(train.rows), standardise(test.rows)
        smallest = y.bincount()
        for count in self.labels_per_class:
            accuracies = []
            for seed in self.seeds:
                chosen = draw_per_class(y, count, seed=seed)
                problem = LogisticProblem(x[chosen], y[chosen], classes=len(classes))
                model = problem.fit(l2=self.l2, tolerance=self.tolerance, max_steps=self.max_steps)
                predicted = model.predict(x_test)
                accuracies.append((classes[predicted] == test.labels).double().mean().item())
            short = int((smallest < count).sum())
            yield Measurement.from_draws(
                f"accuracy, {count} per class", accuracies, better="higher", details={"classes_short": short}
            )


def draw_per_class(labels: Int64[Tensor, " n"], count: int, *, seed: int) -> Int64[Tensor, " r"]:
    """Positions of `count` rows of every class, or all of a smaller class.

    Args:
        labels: class of every row, all >= 0.
        count: rows per class.
        seed: draws with the same seed are nested: a larger count contains the smaller.

    Example:
        >>> draw_per_class(torch.tensor([0, 0, 0, 1]), 2, seed=0).shape
        torch.Size([3])
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    return torch.cat([order[labels[order] == c][:count] for c in labels.unique()])
