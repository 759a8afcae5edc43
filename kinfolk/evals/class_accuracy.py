"""Accuracy, and accuracy class by class, for every protocol that predicts classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from kinfolk.evals.protocol import Measurement, accuracy

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64
    from torch import Tensor

_LISTED_CLASSES = 200  # the accuracies of more classes would drown the record


def accuracy_by_group(
    predicted: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], groups: Int64[Tensor, " n"]
) -> tuple[Int64[Tensor, " g"], Float64[Tensor, " g"], Int64[Tensor, " g"]]:
    """Accuracy of each group of rows.

    Args:
        predicted: class of every row.
        labels: true class of every row.
        groups: any number that rows of one group share; the label itself gives the accuracy of every class.

    Returns:
        The groups that have a row, ascending, their accuracies and their sizes.

    Example:
        >>> labels = torch.tensor([0, 0, 3])
        >>> [part.tolist() for part in accuracy_by_group(torch.tensor([0, 3, 3]), labels, labels)]
        [[0, 3], [0.5, 1.0], [2, 1]]
    """
    present, place, sizes = groups.unique(return_inverse=True, return_counts=True)
    right = torch.zeros(len(present), dtype=torch.float64, device=groups.device)
    right.scatter_add_(0, place, (predicted == labels).double())
    return present, right / sizes, sizes


def accuracies(
    predicted: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], *, details: Mapping[str, Any]
) -> Iterator[Measurement]:
    """Yield accuracy over rows, then balanced accuracy: the mean over the classes that have a test row.

    On a balanced test set the two are equal. Balanced accuracy's details hold `accuracy_by_class` where there are at
    most 200 classes.

    Args:
        predicted: class of every test row; a class that no row has, such as -1, is an error like any other.
        labels: true class of every test row, at least one row.
        details: facts for both records.

    Example:
        >>> found = accuracies(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]), details={})
        >>> [(m.name, m.value) for m in found]
        [('accuracy', 0.75), ('balanced accuracy', 0.5)]
    """
    yield Measurement("accuracy", accuracy(predicted, labels), better="higher", details=details)
    classes, values, _ = accuracy_by_group(predicted, labels, labels)
    listed = {str(c): value for c, value in zip(classes.tolist(), values.tolist(), strict=True)}
    more = {"accuracy_by_class": listed} if len(listed) <= _LISTED_CLASSES else {}
    yield Measurement("balanced accuracy", values.mean().item(), better="higher", details={**details, **more})
