"""Equal labels relate: classes, or groups of samples that show the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from kinfolk.data.relations.base import Relation
from kinfolk.data.relations.known import known_column
from kinfolk.data.sources.base import Source
from kinfolk.data.sources.columns import check_labels
from kinfolk.graphs import LabelGraph

if TYPE_CHECKING:
    from jaxtyping import Int


class EqualLabels(Relation):
    """Two samples relate, all alike, when their label is the same; a sample always relates to its own views.

    Args:
        ids: int64 ``[N]``, unique.
        labels: integers ``[N]``; an unlabelled sample (-1) relates to its own views only.
        classes: for the summary's own-class mass where that is not about `labels`.

    Raises:
        ValueError: for labels below -1, or not one per id.
        TypeError: for labels that are not integers.

    Example:
        >>> import torch
        >>> relation = EqualLabels(torch.tensor([7, 8, 9]), torch.tensor([0, 0, -1]))
        >>> relation.for_batch(torch.tensor([9, 7, 8]), 1).to_dense()
        tensor([[1., 0., 0.],
                [0., 1., 1.],
                [0., 1., 1.]])
    """

    def __init__(
        self, ids: Int[Tensor, " N"], labels: Int[Tensor, " N"], *, classes: Int[Tensor, " N"] | None = None
    ) -> None:
        self.labels = check_labels(labels, count=len(ids))
        super().__init__(ids, temperature=None, labels=self.labels if classes is None else classes)

    def for_batch(self, ids: Int[Tensor, " b"], views: int) -> LabelGraph:
        """Return the batch's `LabelGraph`; see `Relation.for_batch`."""
        return LabelGraph(self._equal(ids).repeat(views), ids=ids.repeat(views))

    def between(self, ids: Int[Tensor, " n"], key_ids: Int[Tensor, " m"]) -> LabelGraph:
        """Return the `LabelGraph` of some samples over others; see `Relation.between`."""
        return LabelGraph(self._equal(ids), ids=ids, key_labels=self._equal(key_ids), key_ids=key_ids)

    def _equal(self, ids: Tensor) -> Tensor:
        self.labels = self.labels.to(ids.device)
        return self.labels[self._positions(ids)]


@dataclass(frozen=True)
class LabelsConfig:
    """Which labels relate when they are equal.

    Args:
        column: ``"labels"``, ``"groups"`` for samples that show the same thing (one concept drawn by several hands),
            or any other column of integers with -1 for unknown.

    Example:
        >>> from kinfolk.data.sources import DigitsConfig
        >>> relation = LabelsConfig().build(DigitsConfig().load().train)
        >>> relation.has_temperature
        False
    """

    kind: ClassVar[str] = "labels"
    column: str = "labels"

    @property
    def labels_used(self) -> str:
        """Which labels training sees through the relation."""
        return "all" if self.column in ("labels", "true_labels") else "none"

    def build(self, source: Source) -> EqualLabels:
        """Build the relation over a source's samples; no image is read.

        Raises:
            TypeError: for a stream, or a column that holds no integers.
            ValueError: when the source does not have the column.
        """
        values = known_column(source, self.column, needed_for="a label graph")
        labels = check_labels(values, count=len(source), name=self.column)
        relation = EqualLabels(source.ids, labels, classes=source.labels)
        relation.about = f"equal {self.column}"
        return relation
