"""Pseudo-labels relate: clusters of features in the place of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.data.optional import import_extra
from kinfolk.data.relations.features import read_features
from kinfolk.data.relations.labels import EqualLabels
from kinfolk.data.sources.base import Source

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class PseudoLabelsConfig:
    """Two samples relate when k-means puts them into one cluster.

    Args:
        features: ``"pixels"`` (less the mean image), or a ``.npy`` or ``.npz`` file with one row per sample.
        clusters: how many, at least 2; more than there are classes is the safer side.
        confidence: how much nearer a sample must be to its own centre than to the next one, from 0 (any sample counts)
            to 1: one minus the ratio of the two distances. Samples below relate to their own views only.
        seed: of k-means.

    Raises:
        ValueError: for numbers out of range.

    Reference: Sculley (2010), Web-scale k-means clustering.

    Example:
        >>> PseudoLabelsConfig(clusters=20, confidence=0.1).kind
        'pseudo-labels'
    """

    kind: ClassVar[str] = "pseudo-labels"
    labels_used: ClassVar[str] = "none"
    features: str = "pixels"
    clusters: int = 20
    confidence: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clusters < 2:
            raise ValueError(f"clusters must be at least 2; found {self.clusters}")
        if not 0 <= self.confidence < 1:
            raise ValueError(f"confidence must be in [0, 1); found {self.confidence}")

    def build(self, source: Source) -> EqualLabels:
        """Build the relation over a source's samples.

        Raises:
            TypeError: for a stream.
            ValueError: for fewer samples than clusters, features that do not fit, or when no sample is confident.
            FileNotFoundError: when there is no such file.
            ImportError: without scikit-learn.
        """
        rows = read_features(source, self.features, needed_for="pseudo-labels")
        if len(rows) < self.clusters:
            raise ValueError(f"{self.clusters} clusters need as many samples; {source.name!r} has {len(rows)}")
        labels = pseudo_labels(rows, clusters=self.clusters, confidence=self.confidence, seed=self.seed)
        if not bool((labels >= 0).any()):
            raise ValueError(f"no sample reaches confidence {self.confidence:g}; take a lower one, or other features")
        relation = EqualLabels(source.ids, labels, classes=labels if source.labels is None else source.labels)
        relation.about = f"{self.clusters} clusters of {self.features} ({int((labels >= 0).sum())} samples)"
        return relation


def pseudo_labels(
    features: Float[Tensor, "N f"], *, clusters: int, confidence: float = 0.0, seed: int = 0
) -> Int[Tensor, " N"]:
    """Cluster rows of features of length 1 by mini-batch k-means; -1 where the cluster is not clear.

    Args:
        features: any length of rows.
        clusters: how many.
        confidence: see `PseudoLabelsConfig`.
        seed: of k-means.

    Raises:
        ImportError: without scikit-learn.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> labels = pseudo_labels(rows, clusters=2)
        >>> bool(labels[0] == labels[1]), bool(labels[0] == labels[2])
        (True, False)
    """
    cluster = import_extra("sklearn.cluster", needed_for="pseudo-labels by k-means")
    rows = torch.nn.functional.normalize(features.to(torch.float32), dim=1).numpy()
    means = cluster.MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=max(1024, 3 * clusters)).fit(rows)
    distances = torch.from_numpy(means.transform(rows)).to(torch.float64)
    (first, second), order = distances.topk(2, dim=1, largest=False).values.T, distances.argmin(dim=1)
    unclear = 1 - first / second.clamp(min=1e-300) < confidence
    return order.masked_fill(unclear, -1)
