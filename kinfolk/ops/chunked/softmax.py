"""One softmax over tiles: exponentials that never overflow, their sums, and the weights of the backward pass.

Scores lie within the product of the largest norms. Where these and the biases stay below 42, exponentials need no
shift at all, and rows and columns share them. Otherwise the sums follow the running maximum over the kept
entries, in powers of two: ``exp`` is a hundred times slower on a CPU where its result underflows, ``exp2`` is not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.ops.chunked.tile_mask import FAR, TileMask
from kinfolk.ops.chunked.tiles import TileScores, Walk, shaped
from kinfolk.ops.masks import PairMask, Span

if TYPE_CHECKING:
    from jaxtyping import Float

_SAFE_EXPONENT = 42.0
"""Sums of ``exp`` of anything in [-42, 42], and a gradient divided by such a sum, are normal float32 numbers."""

_LOG2E = math.log2(math.e)


class TileSoftmax:
    """The exponentials (where no shift is needed) or the logits in powers of two of one tile at a time.

    Args:
        x, y, scale: the scores, ``scale * <x_i, y_j>``.
        mask: which pairs are kept, and their biases.
        walk: the tiles to come.
    """

    def __init__(self, x: Tensor, y: Tensor, scale: float, mask: PairMask | None, walk: Walk) -> None:
        self.fixed = _is_bounded(x, y, scale, mask)
        self.unit = 1.0 if self.fixed else _LOG2E
        self.scores = TileScores(x, y, scale * self.unit, walk)
        self.mask = TileMask(mask, x, walk, unit=self.unit)
        self.spare = x.new_empty(walk.height * walk.width)
        self.least = -100.0 if x.dtype == torch.float32 else -1000.0

    def __call__(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return a tile, ready for `TileSums.add` and `weigh_`."""
        return self.finish_(self.scores(rows, columns), rows, columns)

    def finish_(self, tile: Float[Tensor, "a b"], rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Turn the scores of a tile into what `__call__` returns, in place."""
        self.mask.add_bias_(tile, rows, columns)
        if self.fixed:
            return self.mask.zero_(tile.exp_(), rows, columns)
        return self.mask.drop_(tile, rows, columns)

    @staticmethod
    def shares(gradient: Float[Tensor, " n"], maximum: Float[Tensor, " n"], total: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `weigh_` needs to know of rows (or columns): gradient over sum, and the maximum.

        Maximum and sum stay apart: their logsumexp would round the sum away where the maximum is 1e5.
        """
        return (gradient / total).masked_fill(total == 0, 0.0), maximum

    def weigh_(
        self,
        tile: Float[Tensor, "a b"],
        rows: Span,
        columns: Span,
        by_row: tuple[Tensor, Tensor],
        by_column: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "a b"]:
        """Turn a tile into ``g_i p_ij``, or with columns too into ``g_i p_ij + h_j q_ij``, in place.

        p is the softmax of a row, q that of a column. What is below 2^-100 of a sum becomes 0: as a denormal number it
        would slow the product down.
        """
        here, there = slice(*rows), slice(*columns)
        (g, maximum), spare = by_row, shaped(self.spare, rows, columns)
        if self.fixed:
            if by_column is None:
                return tile.mul_(g[here, None])
            return tile.mul_(torch.add(g[here, None], by_column[0][None, there], out=spare))
        if by_column is None:
            return self._powers_(tile.sub_(maximum[here, None])).mul_(g[here, None])
        h, column_maximum = by_column
        torch.sub(tile, column_maximum[None, there], out=spare)
        self._powers_(spare).mul_(h[None, there])
        return self._powers_(tile.sub_(maximum[here, None])).mul_(g[here, None]).add_(spare)

    def _powers_(self, exponents: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
        return torch.threshold_(exponents, self.least, -torch.inf).exp2_()


class TileSums:
    """Sums of exponentials per row or per column while tiles pass by, and of values weighted by them.

    Args:
        softmax: whose tiles these are.
        length: number of rows, or of columns.
        like: a tensor of the sums' dtype and device.
        weighted: what is averaged as well: None, a number per pair (``()``), or a vector (``(d,)``).
    """

    def __init__(
        self, softmax: TileSoftmax, length: int, like: Tensor, *, weighted: tuple[int, ...] | None = None
    ) -> None:
        self.softmax = softmax
        self.maximum = like.new_full((length,), 0.0 if softmax.fixed else -torch.inf)
        self.total = like.new_zeros(length)
        self.weighted = None if weighted is None else like.new_zeros((length, *weighted))

    def add(
        self, span: Span, tile: Float[Tensor, "a b"], *, of_rows: bool = True, in_place: bool = True
    ) -> Float[Tensor, "a b"]:
        """Add a tile to the sums of its rows (or columns) and return its exponentials.

        Against a running maximum the exponentials overwrite the tile, or with ``in_place=False`` a spare one.
        """
        dim, here = (1 if of_rows else 0), slice(*span)
        if not self.softmax.fixed:
            old = self.maximum[here]
            new = torch.maximum(old, tile.amax(dim))
            new = new.masked_fill(new < -FAR / 2, -torch.inf)
            against = new.masked_fill(new == -torch.inf, 0.0)
            rescale = torch.exp2(old - against)
            self.maximum[here] = new
            self.total[here] *= rescale
            if self.weighted is not None:
                self.weighted[here] *= rescale.view(-1, *[1] * (self.weighted.ndim - 1))
            out = tile if in_place else self.softmax.spare[: tile.numel()].view(tile.shape)
            tile = torch.sub(tile, against.unsqueeze(dim), out=out).exp2_()
        self.total[here] += tile.sum(dim)
        return tile

    def logsumexp(self) -> Float[Tensor, " n"]:
        """Return the logsumexp of every row; -inf where nothing was kept."""
        return self.total.log() if self.softmax.fixed else (self.total.log2() + self.maximum) / _LOG2E

    def state(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return every row's maximum (0 where there is none) and sum, for the backward sweep."""
        return self.maximum.masked_fill_(self.maximum == -torch.inf, 0.0), self.total

    def mean(self) -> Tensor:
        """Return the weighted mean of every row; 0 where nothing was kept."""
        assert self.weighted is not None
        total = self.total.view(-1, *[1] * (self.weighted.ndim - 1))
        return (self.weighted / total).masked_fill(total == 0, 0.0)


def add_both_ways(rows: TileSums, columns: TileSums, spans: tuple[Span, Span], tile: Float[Tensor, "a b"]) -> None:
    """Add a tile to the sums of its rows and to those of its columns."""
    columns.add(spans[1], tile, of_rows=False, in_place=False)
    rows.add(spans[0], tile)


@torch.no_grad()
def _is_bounded(x: Tensor, y: Tensor, scale: float, mask: PairMask | None) -> bool:
    """Whether every logit is so small that its exponential needs no shift."""
    if not (x.numel() and y.numel()):
        return True
    largest = torch.linalg.vector_norm(x, dim=1).max() * torch.linalg.vector_norm(y, dim=1).max()
    bound = abs(scale) * float(largest)
    if mask is not None and mask.column_bias is not None:
        bound += float(mask.column_bias.abs().max())
    bound += sum(abs(value) for _, value in mask.equal_bias) if mask is not None else 0.0
    return bound < _SAFE_EXPONENT
