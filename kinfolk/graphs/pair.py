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


class PairGraph(SimilarityGraph):
    """Anchor i relates to candidate i and to nothing else; elementwise work only.

    Args:
        n: number of anchors.
        m: number of candidates, by default n; anchors beyond m have no target.

    Example:
        >>> x = torch.eye(2)
        >>> PairGraph(2).attraction(x, x, scale=10.0)
        tensor([10., 10.])
    """

    def __init__(self, n: int, m: int | None = None) -> None:
        self.n, self.m = n, n if m is None else m

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        return self.n, self.m

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return 0 on the diagonal, -inf elsewhere."""
        block = torch.full((rows[1] - rows[0], columns[1] - columns[0]), -torch.inf)
        offset = rows[0] - columns[0]
        if -block.shape[0] < offset < block.shape[1]:
            block.diagonal(offset).fill_(0.0)
        return block

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Elementwise products of pairs."""
        pairs = min(self.shape)
        keep = (self.log_normaliser(mask) > -torch.inf).to(x.device)
        own = torch.nn.functional.pad(torch.linalg.vecdot(x[:pairs], y[:pairs]), (0, self.n - pairs))
        return scale * own.where(keep, torch.zeros_like(own))

    def log_normaliser(self, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return 0 for a row whose pair is kept, -inf otherwise."""
        index = torch.arange(min(self.shape))
        keep = torch.zeros(self.n, dtype=torch.bool)
        keep[: len(index)] = True if mask is None else mask.keeps(index, index)
        return torch.zeros(self.n).masked_fill(~keep, -torch.inf)

    def __repr__(self) -> str:
        return f"PairGraph({self.n} x {self.m}: row i relates to column i)"
