"""What losses over labelled rows share: the graph of a batch's labels and ids, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kinfolk.graphs import LabelGraph, checked_labels
from kinfolk.losses.base import one_per_row
from kinfolk.ops import integer_ids

if TYPE_CHECKING:
    from jaxtyping import Int


def label_graph(rows: Tensor, labels: Int[Tensor, " m"], ids: Int[Tensor, " m"] | None = None) -> LabelGraph:
    """Relate rows of equal labels or equal ids, where the rows are; -1 equals nothing.

    Raises:
        TypeError: for float or bool labels or ids.
        ValueError: for labels below -1, or labels or ids that are not one per row.

    Example:
        >>> import torch
        >>> label_graph(torch.zeros(3, 8), torch.tensor([0, 0, -1]))
        LabelGraph(3 x 3: equal labels, 1 classes, 1 unlabelled)
    """
    labels = checked_labels(labels)
    one_per_row(labels, rows)
    if ids is None:
        return LabelGraph(labels.to(rows.device))
    ids = integer_ids(ids)
    one_per_row(ids, rows, "ids")
    return LabelGraph(labels.to(rows.device), ids.to(rows.device))
