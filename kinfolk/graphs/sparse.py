"""Explicit edges in compressed rows: kNN graphs, co-occurrence, anything a user can list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.graphs.base import SimilarityGraph
from kinfolk.ops import PairMask, integer_ids
from kinfolk.ops.masks import Span

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from kinfolk.distributed import Ranks


class SparseGraph(SimilarityGraph):
    """An anchor relates to the candidates that its edges name. Work and memory O(E d).

    Args:
        crow: compressed row pointers [n + 1]: the edges of row i are ``crow[i]`` to ``crow[i + 1]``.
        columns: candidate of every edge [E]: a column, or a sample id where ``m`` is None.
        weights: non-negative weight of every edge [E]; None = 1.
        m: number of candidates. None: ``columns`` holds sample ids, and `resolve` finds their columns in a batch.

    Example:
        >>> graph = SparseGraph(torch.tensor([0, 2, 2]), torch.tensor([0, 2]), torch.tensor([1.0, 3.0]), m=3)
        >>> graph
        SparseGraph(2 x 3: 2 edges)
        >>> graph.row_normalised().to_dense()
        tensor([[0.2500, 0.0000, 0.7500],
                [0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """

    def __init__(
        self,
        crow: Int[Tensor, " n1"],
        columns: Int[Tensor, " E"],
        weights: Float[Tensor, " E"] | None = None,
        *,
        m: int | None = None,
    ) -> None:
        self.crow, self.columns, self.m = integer_ids(crow, "crow"), integer_ids(columns, "columns"), m
        edges = len(self.columns)
        self.weights = torch.ones(edges, device=columns.device) if weights is None else weights.detach()
        steps = self.crow.diff()
        if not len(self.crow) or int(self.crow[0]) != 0 or int(self.crow[-1]) != edges or bool((steps < 0).any()):
            raise ValueError(
                f"crow must rise from 0 to the number of edges, {edges}; found {self.crow.tolist()[:8]}..."
            )
        if self.weights.shape != self.columns.shape or bool((self.weights < 0).any()):
            raise ValueError(f"weights must be {edges} non-negative numbers, one per edge.")
        if m is not None and edges and not 0 <= int(self.columns.min()) <= int(self.columns.max()) < m:
            raise ValueError(f"columns must lie in [0, {m - 1}], found {self.columns.min()} to {self.columns.max()}.")
        self.rows = torch.repeat_interleave(torch.arange(len(steps), device=steps.device), steps)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        if self.m is None:
            raise ValueError(
                "this SparseGraph names its columns by sample id; give the loss ids=, or call resolve(ids)."
            )
        return len(self.crow) - 1, self.m

    def resolve(self, key_ids: Int[Tensor, " m"] | None) -> SparseGraph:
        """Return the edges over the columns at hand: one edge to every column with the id; other ids drop out.

        Example:
            >>> by_id = SparseGraph(torch.tensor([0, 1]), torch.tensor([40]))
            >>> by_id.resolve(torch.tensor([7, 40, 40])).to_dense()
            tensor([[0., 1., 1.]])
        """
        if self.m is not None or key_ids is None:
            return self
        order = torch.argsort(key_ids := integer_ids(key_ids), stable=True)
        found = key_ids[order]
        first, last = torch.searchsorted(found, self.columns), torch.searchsorted(found, self.columns, right=True)
        times = (last - first).where(self.columns != -1, 0)
        edge = torch.repeat_interleave(torch.arange(len(times), device=times.device), times)
        within = torch.arange(len(edge), device=times.device) - (times.cumsum(0) - times)[edge]
        counts = torch.zeros(len(self.crow) - 1, dtype=torch.int64, device=times.device).index_add(0, self.rows, times)
        crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseGraph(crow, order[first[edge] + within], self.weights[edge], m=len(key_ids))

    def gathered(self, ranks: Ranks) -> SimilarityGraph:
        """Leave columns named by sample id for the ids of all ranks to resolve; numbered ones must be global."""
        return self if self.m is None else super().gathered(ranks)

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        return "SparseGraph by sample id" if self.m is None else super().form

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return a block of log weights; parallel edges add up."""
        edges = slice(int(self.crow[rows[0]]), int(self.crow[rows[1]]))
        row, column, weight = self.rows[edges] - rows[0], self.columns[edges] - columns[0], self.weights[edges]
        width = columns[1] - columns[0]
        inside = (column >= 0) & (column < width)
        block = weight.new_zeros(rows[1] - rows[0], width)
        return block.index_put_((row[inside], column[inside]), weight[inside], accumulate=True).log_()

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Mean score along the kept edges."""
        keep = self._kept(mask)
        rows, columns = self.rows[keep], self.columns[keep]
        weights = self.weights[keep].to(x)
        total = torch.zeros_like(x[:, 0]).index_add(0, rows, weights)
        scores = weights * torch.linalg.vecdot(x[rows], y[columns])
        pulled = scale * torch.zeros_like(x[:, 0]).index_add(0, rows, scores)
        some = total > 0
        return (pulled / total.where(some, torch.ones_like(total))).where(some, torch.zeros_like(total))

    def log_normaliser(self, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return the logarithm of every row's kept weights' sum."""
        keep = self._kept(mask)
        total = self.weights.new_zeros(self.shape[0]).index_add(0, self.rows[keep], self.weights[keep])
        return total.log()

    def _kept(self, mask: PairMask | None) -> Bool[Tensor, " E"]:
        if mask is None:
            return torch.ones_like(self.rows, dtype=torch.bool)
        return mask.keeps(self.rows, self.columns)

    def __repr__(self) -> str:
        where = "x by sample id" if self.m is None else f"x {self.m}"
        return f"SparseGraph({len(self.crow) - 1} {where}: {len(self.columns)} edges)"
