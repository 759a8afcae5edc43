"""Clusters against classes: the best one-to-one matching, and agreement that needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment

from kinfolk.data.optional import import_extra
from kinfolk.evals.protocol import accuracy

if TYPE_CHECKING:
    from jaxtyping import Int, Int64
    from torch import Tensor


class Contingency(NamedTuple):
    """How many rows of every class every cluster holds.

    Attributes:
        counts: int64 ``[k, c]``.
        clusters: the k clusters that have a row, ascending.
        classes: the c classes that have a row, ascending.
    """

    counts: Tensor
    clusters: Tensor
    classes: Tensor


def contingency(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> Contingency:
    """Count the rows of every class in every cluster.

    Args:
        clusters: cluster of every row, any integers; a number says which rows belong together and nothing else.
        labels: true class of every row, each at least 0; leave unlabelled rows out first.

    Raises:
        ValueError: for no rows, shapes that differ, labels below 0.
        TypeError: for entries that are no integers.

    Example:
        >>> contingency(torch.tensor([7, 7, 3]), torch.tensor([0, 2, 2])).counts
        tensor([[0, 1],
                [1, 1]])
    """
    _check(clusters, labels)
    k, row = clusters.unique(return_inverse=True)
    c, column = labels.unique(return_inverse=True)
    counts = (row * len(c) + column).bincount(minlength=len(k) * len(c)).reshape(len(k), len(c))
    return Contingency(counts, k, c)


def matched_classes(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The class that every row's cluster stands for, under the one-to-one matching that makes most rows right.

    The matching maximises the trace of the cluster x class count matrix. With more clusters than classes some stand
    for no class, with fewer some classes have no cluster. Among equally good matchings one is taken, which one depends
    on nothing but the counts in ascending order of cluster and class.

    Args:
        clusters: as in `contingency`.
        labels: as in `contingency`.

    Returns:
        Class of every row, -1 in a cluster without one.

    Raises:
        ValueError: as `contingency`.
        TypeError: as `contingency`.

    Reference: Kuhn (1955), The Hungarian method for the assignment problem.

    Example:
        >>> matched_classes(torch.tensor([0, 0, 1, 2]), torch.tensor([5, 5, 5, 4])).tolist()
        [5, 5, -1, 4]
    """
    counts, k, c = contingency(clusters, labels)
    rows, columns = linear_sum_assignment(counts.double().cpu().numpy(), maximize=True)
    stands_for = torch.full((len(k),), -1, dtype=torch.int64, device=labels.device)
    stands_for[torch.from_numpy(rows)] = c[torch.from_numpy(columns)].long()
    return stands_for[torch.searchsorted(k, clusters)]


def hungarian_accuracy(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Share of rows whose cluster stands for their class under `matched_classes`; rows of unmatched clusters are wrong.

    The matching is chosen with the labels, so that chance is not 0: k clusters of c classes never score below
    1 / max(k, c).

    Raises:
        ValueError: as `contingency`.
        TypeError: as `contingency`.

    Example:
        >>> hungarian_accuracy(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 1]))
        0.75
    """
    return accuracy(matched_classes(clusters, labels), labels)


def normalised_mutual_information(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Mutual information over the mean of the two entropies, in [0, 1], by scikit-learn.

    One cluster and one class agree fully, 1; one cluster on several classes says nothing, 0. Chance is above 0 and
    grows with the number of clusters: compare at equal numbers, or read the adjusted Rand index.

    Raises:
        ValueError: as `contingency`.
        TypeError: as `contingency`.

    Reference: Strehl, Ghosh (2002), Cluster ensembles: a knowledge reuse framework; with the arithmetic mean.

    Example:
        >>> normalised_mutual_information(torch.tensor([3, 3, 1, 1]), torch.tensor([0, 0, 1, 1]))
        1.0
    """
    return _score("normalized_mutual_info_score", clusters, labels)


def adjusted_rand_index(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Share of pairs of rows on which clusters and classes agree, less chance: 1 for equal partitions, 0 by chance.

    It can be negative. One cluster on several classes gives 0, on one class 1. By scikit-learn.

    Raises:
        ValueError: as `contingency`.
        TypeError: as `contingency`.

    Reference: Hubert, Arabie (1985), Comparing partitions.

    Example:
        >>> adjusted_rand_index(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
        -0.5
    """
    return _score("adjusted_rand_score", clusters, labels)


def _score(name: str, clusters: Tensor, labels: Tensor) -> float:
    _check(clusters, labels)
    metrics: Any = import_extra("sklearn.metrics", needed_for="the agreement of clusters with classes")
    return float(getattr(metrics, name)(labels.cpu().numpy(), clusters.cpu().numpy()))


def _check(clusters: Tensor, labels: Tensor) -> None:
    if clusters.ndim != 1 or clusters.shape != labels.shape:
        raise ValueError(
            f"clusters and labels must have one entry per row each: clusters {tuple(clusters.shape)}, labels"
            f" {tuple(labels.shape)}."
        )
    for name, entries in (("clusters", clusters), ("labels", labels)):
        if entries.is_floating_point() or entries.dtype == torch.bool:
            raise TypeError(f"{name} must be integers, got {entries.dtype}.")
    if len(labels) == 0:
        raise ValueError("there is no row to compare clusters and classes on; give at least one.")
    if bool((labels < 0).any()):
        raise ValueError(
            f"labels must be class indices from 0, got {int(labels.min())}; leave unlabelled rows out, of clusters and"
            " labels both."
        )
