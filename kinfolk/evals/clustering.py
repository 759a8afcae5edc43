"""Clustering: do k-means clusters of the features coincide with the classes?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from kinfolk.data.optional import import_extra
from kinfolk.evals.assignment import adjusted_rand_index, hungarian_accuracy, normalised_mutual_information
from kinfolk.evals.neighbours import normalised
from kinfolk.evals.protocol import FeatureEvaluator, Measurement

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.evals.features import FeatureSplits


class Clusters(NamedTuple):
    """Result of `k_means`.

    Attributes:
        of_row: cluster of every row, int64 ``[n]``.
        inertia: sum of squared distances to the centres, of the best start.
        converged: whether that start came to rest before its last iteration.
    """

    of_row: Tensor
    inertia: float
    converged: bool


@dataclass(frozen=True)
class KMeans:
    """How rows are clustered: Lloyd's algorithm from several k-means++ starts, the one with the least inertia.

    Args:
        starts: k-means++ starts, at least 1.
        iterations: at most so many of each start, at least 1.
        seed: of the starts.

    Raises:
        ValueError: for numbers below 1, or a seed below 0.

    Reference: Arthur, Vassilvitskii (2007), k-means++: the advantages of careful seeding.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> first, second, third = KMeans().fit(rows, clusters=2).of_row.tolist()
        >>> first == second, first == third
        (True, False)
    """

    starts: int = 10
    iterations: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.starts, self.iterations) < 1 or self.seed < 0:
            raise ValueError(
                f"starts and iterations must be at least 1 and seed at least 0, got starts={self.starts},"
                f" iterations={self.iterations}, seed={self.seed}."
            )

    def fit(self, rows: Float[Tensor, "n d"], *, clusters: int) -> Clusters:
        """Cluster rows of length 1, by scikit-learn, on one thread: sums over several come in no fixed order.

        Args:
            rows: features of any length; a zero row stays zero.
            clusters: how many; at most n are made, and no more than there are distinct rows have one.

        Raises:
            ValueError: for fewer than one cluster.
            ImportError: without scikit-learn.
        """
        if clusters < 1:
            raise ValueError(f"clusters must be at least 1, got {clusters}.")
        cluster: Any = import_extra("sklearn.cluster", needed_for="clustering by k-means")
        few_distinct: Any = import_extra("sklearn.exceptions", needed_for="clustering by k-means").ConvergenceWarning
        means = cluster.KMeans(
            min(clusters, len(rows)), n_init=self.starts, max_iter=self.iterations, random_state=self.seed
        )
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", few_distinct)  # fewer distinct rows than clusters: the collapsed encoder
            means.fit(normalised(rows).cpu().numpy())
        found = torch.from_numpy(means.labels_).long().to(rows.device)
        return Clusters(found, float(means.inertia_), bool(means.n_iter_ < self.iterations))


@dataclass(frozen=True)
class Clustering(FeatureEvaluator):
    """Hungarian accuracy, NMI and ARI of k-means clusters against the classes.

    One split is clustered and scored on its own clusters, as published results do; nothing is fitted on the other.
    Accuracy is that of the best one-to-one matching of clusters and classes, rows of unmatched clusters being errors.
    It uses the labels of what it scores: it is no classifier's accuracy and not comparable with kNN or a probe.
    Constant features fall into one cluster: accuracy is the largest class's share, NMI and ARI are 0.

    Args:
        clusters: how many; None takes the number of classes that the split has. The record says which.
        split: the rows that are clustered and scored, "test" or "train".
        k_means: how they are clustered.

    Raises:
        ValueError: for fewer than one cluster, or another split.

    Reference: Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool (2020), SCAN: learning to classify images
        without labels.

    Example:
        >>> from kinfolk.evals import Features, FeatureSplits
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> split = Features.from_rows(rows, torch.arange(4), torch.tensor([0, 0, 1, 1]))
        >>> [(m.name, round(m.value, 6)) for m in Clustering().run(FeatureSplits(split, split))]
        [('accuracy', 1.0), ('NMI', 1.0), ('ARI', 1.0)]
    """

    clusters: int | None = None
    split: Literal["test", "train"] = "test"
    k_means: KMeans = field(default_factory=KMeans)

    protocol: ClassVar[str] = "clustering"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        if self.clusters is not None and self.clusters < 1:
            raise ValueError(f"clusters must be at least 1, or None for the number of classes, got {self.clusters}.")
        if self.split not in ("test", "train"):
            raise ValueError(f"split must be 'test' or 'train', got {self.split!r}.")

    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield accuracy, NMI and ARI on the labelled rows of the chosen split.

        Raises:
            ValueError: when the split has no labelled row.
            ImportError: without scikit-learn.
        """
        rows = (features.test if self.split == "test" else features.train).labelled()
        assert rows.labels is not None
        classes = len(rows.labels.unique())
        wanted = classes if self.clusters is None else self.clusters
        found = self.k_means.fit(rows.rows, clusters=wanted)
        details = {
            "rows": len(rows),
            "classes": classes,
            "matching": "one to one, most rows right; unmatched clusters are errors",
            **cluster_details(found, wanted=wanted, given=self.clusters is not None),
        }
        for name, score in (
            ("accuracy", hungarian_accuracy),
            ("NMI", normalised_mutual_information),
            ("ARI", adjusted_rand_index),
        ):
            yield Measurement(name, score(found.of_row, rows.labels), better="higher", details=details)


def cluster_details(found: Clusters, *, wanted: int, given: bool) -> dict[str, Any]:
    """What a record says about clusters: how many were asked for and why, how many have a row, how well they fit.

    Example:
        >>> cluster_details(Clusters(torch.tensor([0, 0]), 0.0, True), wanted=2, given=False)["clusters_found"]
        1
    """
    return {
        "clusters_used": wanted,
        "clusters_from": "given" if given else "number of classes",
        "clusters_found": len(found.of_row.unique()),
        "inertia": found.inertia,
        "converged": found.converged,
    }
