"""Weighted k-nearest-neighbour classification on frozen features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.evals.class_accuracy import accuracies
from kinfolk.evals.neighbours import nearest, normalised
from kinfolk.evals.protocol import FeatureEvaluator, Measurement, accuracy

if TYPE_CHECKING:
    from jaxtyping import Int64

    from kinfolk.evals.features import Features, FeatureSplits


@dataclass(frozen=True)
class KNN(FeatureEvaluator):
    """The k nearest training rows vote, each with weight `exp(cos / temperature)`.

    Both 0.1 and 0.07 are in use as temperature, and numbers at one are not comparable with numbers at the other: the
    record carries it. Training sets below 2k rows use half their rows as k. A test sample that is also in the training
    set, by id, never votes for itself; one left without any neighbour counts as an error, and so does a class that the
    training set does not have. Equal scores go to the lower class index.

    Precision@1 is the share of test rows whose single nearest training row is of their class, equally near ones to the
    lower id. It comes from the same search, and it is the number to read where classes are smaller than k: there the
    vote is between classes that mostly cannot win it.

    Args:
        k: neighbours that vote, at least 1.
        temperature: of the votes, > 0; small means that only the nearest count.

    Reference:
        Wu, Xiong, Yu, Lin (2018), Unsupervised Feature Learning via Non-Parametric Instance Discrimination.

    Example:
        >>> from kinfolk.evals import Features, FeatureSplits
        >>> train = Features.from_rows(torch.eye(2), torch.arange(2), torch.tensor([0, 1]))
        >>> test = Features.from_rows(torch.tensor([[0.9, 0.1]]), torch.tensor([2]), torch.tensor([0]))
        >>> [(m.name, m.value) for m in KNN().run(FeatureSplits(train, test))]
        [('accuracy', 1.0), ('balanced accuracy', 1.0), ('precision@1', 1.0)]
    """

    k: int = 200
    temperature: float = 0.07

    protocol: ClassVar[str] = "kNN"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}; 0.07 is the default.")

    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield accuracy, balanced accuracy with that of every class, and precision@1 on the test rows."""
        splits = features.labelled()
        assert splits.train.labels is not None
        assert splits.test.labels is not None
        cosines, found = self._nearest(splits.train, splits.test)
        voted = self._voted(splits.train.labels, cosines, found)
        details = {"k_used": self.k_for(len(splits.train))}
        yield from accuracies(voted, splits.test.labels, details=details)
        first = torch.where(found[:, 0] >= 0, splits.train.labels[found[:, 0].clamp(min=0)], -1)
        yield Measurement("precision@1", accuracy(first, splits.test.labels), better="higher", details=details)

    def k_for(self, n_train: int) -> int:
        """The k in use with so many training rows: `min(k, n_train / 2)`, at least 1."""
        return max(1, min(self.k, n_train // 2))

    def predict(self, train: Features, test: Features, *, tile: int | None = None) -> Int64[Tensor, " q"]:
        """Class of every test row, -1 for a row without any neighbour.

        Args:
            train: labelled rows.
            test: rows to classify.
            tile: test rows per tile; it never changes the result.
        """
        train = train.labelled()
        assert train.labels is not None
        return self._voted(train.labels, *self._nearest(train, test, tile=tile))

    def _nearest(self, train: Features, test: Features, *, tile: int | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and training positions of every test row's k nearest; a row is no neighbour of itself."""
        queries, keys = normalised(test.rows), normalised(train.rows)
        return nearest(queries, keys, k=self.k_for(len(train)), exclude=train.positions(test.ids), tile=tile)

    def _voted(self, labels: Tensor, cosines: Tensor, found: Tensor) -> Tensor:
        classes, train_class = torch.unique(labels, return_inverse=True)
        # Shifted by the nearest cosine: the shift cancels in the comparison and a small temperature cannot overflow.
        weights = ((cosines - cosines[:, :1].clamp(min=-1)) / self.temperature).exp()
        scores = torch.zeros(len(found), len(classes), dtype=torch.float64, device=weights.device)
        scores.scatter_add_(1, train_class[found.clamp(min=0)], weights)
        return torch.where(found[:, 0] >= 0, classes[_lowest_best(scores)], -1)


def _lowest_best(scores: Tensor) -> Tensor:
    """First class within rounding of the best score: a sum's last bits depend on the order of its terms."""
    best = scores.max(dim=1, keepdim=True).values
    return (scores >= best * (1 - 1e-9)).int().argmax(dim=1)
