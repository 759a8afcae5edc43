"""Row i relates to column i: two views of a sample, an image and its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.graphs.base import SimilarityGraph
from kinfolk.ops import PairMask
from kinfolk.ops.masks import Span

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.distributed import Ranks


class PairGraph(SimilarityGraph):
    """Anchor i relates to candidate i and to nothing else; elementwise work only.

    Args:
        n: number of anchors.
        m: number of candidates, by default n; anchors beyond m have no target.
        offset: the candidate of anchor 0, that of anchor i being ``i + offset``.

    Example:
        >>> x = torch.eye(2)
        >>> PairGraph(2).attraction(x, x, scale=10.0)
        tensor([10., 10.])
        >>> PairGraph(2, 4, offset=1).to_dense()
        tensor([[0., 1., 0., 0.],
                [0., 0., 1., 0.]])
    """

    def __init__(self, n: int, m: int | None = None, *, offset: int = 0) -> None:
        self.n, self.m, self.offset = n, n if m is None else m, offset
        if offset < 0:
            raise ValueError(f"offset must be the candidate of anchor 0, at least 0; found {offset}.")
        self._pairs = max(0, min(n, self.m - offset))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        return self.n, self.m

    def gathered(self, ranks: Ranks) -> PairGraph:
        """Shift the pairs to where this rank's keys stand among those of all."""
        if not self._is_per_key(ranks):
            return self
        graph = PairGraph(self.n, ranks.total, offset=self.offset + ranks.offset)
        graph._pairs = self._pairs
        return graph

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        return "PairGraph"

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return 0 on the diagonal, -inf elsewhere."""
        block = torch.full((rows[1] - rows[0], columns[1] - columns[0]), -torch.inf)
        offset = rows[0] + self.offset - columns[0]
        if -block.shape[0] < offset < block.shape[1]:
            block.diagonal(offset).fill_(0.0)
        block[max(0, self._pairs - rows[0]) :] = -torch.inf
        return block

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Elementwise products of pairs."""
        partners = y[self.offset : self.offset + self._pairs]
        keep = (self.log_normaliser(mask) > -torch.inf).to(x.device)
        own = torch.linalg.vecdot(x[: self._pairs], partners)
        own = torch.nn.functional.pad(own, (0, self.n - self._pairs))
        return scale * own.where(keep, torch.zeros_like(own))

    def log_normaliser(self, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return 0 for a row whose pair is kept, -inf otherwise; where the mask's tensors are."""
        index = torch.arange(self._pairs, device=None if mask is None else mask.device)
        keep = torch.zeros(self.n, dtype=torch.bool, device=index.device)
        keep[: len(index)] = True if mask is None else mask.keeps(index, index + self.offset)
        return torch.zeros(self.n, device=index.device).masked_fill(~keep, -torch.inf)

    def __repr__(self) -> str:
        column = f"i+{self.offset}" if self.offset else "i"
        return f"PairGraph({self.n} x {self.m}: row i relates to column {column})"
