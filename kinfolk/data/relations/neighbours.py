"""Nearest neighbours relate: each sample to the k others whose features are most like its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.data.relations.base import Relation
from kinfolk.data.relations.features import read_features
from kinfolk.data.sources.base import Source
from kinfolk.graphs import SparseGraph
from kinfolk.ops import row_topk

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_ROWS = 4096


class Neighbours(Relation):
    """A sample relates to its listed neighbours and to its own views, all alike.

    In a batch a row's edges are those to neighbours that the batch holds: with N samples, k neighbours and batches of
    b that is about ``k b / N``, so that large data sets want a large k.

    Args:
        ids: int64 ``[N]``, unique.
        neighbours: int64 ``[N, k]``, positions of every sample's neighbours, -1 = none.
        labels: classes, for the summary's own-class mass only.

    Raises:
        ValueError: for positions that do not exist, or not one row per id.

    Example:
        >>> relation = Neighbours(torch.tensor([7, 8, 9]), torch.tensor([[1], [0], [-1]]))
        >>> ids = torch.tensor([9, 7, 8])
        >>> relation.for_batch(ids, 1).resolve(ids).to_dense()
        tensor([[1., 0., 0.],
                [0., 1., 1.],
                [0., 1., 1.]])
    """

    def __init__(
        self, ids: Int[Tensor, " N"], neighbours: Int[Tensor, "N k"], *, labels: Int[Tensor, " N"] | None = None
    ) -> None:
        if neighbours.ndim != 2 or len(neighbours) != len(ids):
            raise ValueError(
                f"neighbours must be one row per id [N, k]: {len(ids)} ids, neighbours {tuple(neighbours.shape)}"
            )
        if neighbours.numel() and not -1 <= int(neighbours.min()) <= int(neighbours.max()) < len(ids):
            raise ValueError(
                f"neighbours must be positions from 0 to {len(ids) - 1}, or -1; found {int(neighbours.min())} to"
                f" {int(neighbours.max())}"
            )
        super().__init__(ids, temperature=None, labels=labels)
        named = ids[neighbours.clamp(min=0)].masked_fill(neighbours == -1, -1)
        self.related = torch.cat([ids[:, None], named], dim=1)  # ids, the sample's own first

    def for_batch(self, ids: Int[Tensor, " b"], views: int) -> SparseGraph:
        """Return the batch's `SparseGraph`, its columns named by sample id; see `Relation.for_batch`."""
        return _edges(self._related_to(ids).repeat(views, 1))

    def between(self, ids: Int[Tensor, " n"], key_ids: Int[Tensor, " m"]) -> SparseGraph:
        """Return the `SparseGraph` of some samples over others; see `Relation.between`."""
        return _edges(self._related_to(ids)).resolve(key_ids)

    def _related_to(self, ids: Tensor) -> Tensor:
        self.related = self.related.to(ids.device)
        return self.related[self._positions(ids)]


def _edges(columns: Int[Tensor, "n k"]) -> SparseGraph:
    rows, edges = columns.shape
    return SparseGraph(torch.arange(rows + 1, device=columns.device) * edges, columns.flatten())


@dataclass(frozen=True)
class KNNConfig:
    """Each sample relates to the k others with the nearest features, by cosine.

    Args:
        features: ``"pixels"`` (less the mean image), or a ``.npy`` or ``.npz`` file with one row per sample.
        k: neighbours of every sample, at least 1.
        mutual: keep those only that have the sample among their own k; some samples may keep none.

    Raises:
        ValueError: for k below 1.

    Example:
        >>> from kinfolk.data.sources import DigitsConfig
        >>> relation = KNNConfig(k=5).build(DigitsConfig().load().test)
        >>> relation.related.shape
        torch.Size([360, 6])
    """

    kind: ClassVar[str] = "knn"
    labels_used: ClassVar[str] = "none"
    features: str = "pixels"
    k: int = 10
    mutual: bool = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k counts neighbours, at least 1; found {self.k}")

    def build(self, source: Source) -> Neighbours:
        """Build the relation over a source's samples: N^2 products of features, by blocks.

        Raises:
            TypeError: for a stream.
            ValueError: for fewer than k + 1 samples, or features that do not fit.
            FileNotFoundError: when there is no such file.
        """
        rows = read_features(source, self.features, needed_for="a graph of nearest neighbours")
        if len(rows) <= self.k:
            raise ValueError(
                f"k={self.k} neighbours need at least {self.k + 1} samples; {source.name!r} has {len(rows)}"
            )
        found = nearest_others(rows, self.k)
        relation = Neighbours(source.ids, mutual_only(found) if self.mutual else found, labels=source.labels)
        relation.about = f"{self.k} {'mutual ' if self.mutual else ''}nearest by {self.features}"
        return relation


def nearest_others(features: Float[Tensor, "N f"], k: int) -> Int[Tensor, "N k"]:
    """Return the positions of the k other rows with the largest cosine, best first; k is less than N.

    Example:
        >>> nearest_others(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 1).flatten().tolist()
        [1, 0, 1]
    """
    rows = torch.nn.functional.normalize(features, dim=1)
    parts = []
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS]
        columns = row_topk(block, rows, k=k + 1)[1]
        own = columns == torch.arange(start, start + len(block), device=rows.device)[:, None]
        own[~own.any(dim=1), -1] = True  # many copies of a row can push it out of its own list; the last goes then
        parts.append(columns[~own].reshape(len(block), k))
    return torch.cat(parts)


def mutual_only(neighbours: Int[Tensor, "N k"]) -> Int[Tensor, "N k"]:
    """Replace by -1 the neighbours that do not list the sample themselves.

    Example:
        >>> mutual_only(torch.tensor([[1], [0], [1]])).flatten().tolist()
        [1, 0, -1]
    """
    parts = []
    for start in range(0, len(neighbours), _ROWS):
        block = neighbours[start : start + _ROWS]
        theirs = neighbours[block.clamp(min=0)]
        own = torch.arange(start, start + len(block), device=block.device)[:, None, None]
        parts.append(block.masked_fill(~(theirs == own).any(dim=2), -1))
    return torch.cat(parts) if parts else neighbours
