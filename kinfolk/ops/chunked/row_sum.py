"""`row_sum`: an elementwise function summed over a row.

Time O(n m d), memory O((n + m) d) and one tile. With upstream gradient g:
``dL/ds_ij = g_i fn'(s_ij + b_ij - shift_i)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked.tiles import TileScores, closed_form, tiles
from kinfolk.ops.masks import PairMask, Span
from kinfolk.ops.reference import ELEMENTWISE

_DERIVATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.ones_like,
    "softplus": torch.sigmoid,
    "square": lambda s: 2 * s,
    "exp": torch.exp,
}


def row_sum(x: Tensor, y: Tensor, *, fn: str, scale: Tensor, row_shift: Tensor | None, mask: PairMask | None) -> Tensor:
    """``sum_j fn(s_ij + b_ij - shift_i)`` over the kept columns; 0 where nothing is kept."""
    bias = None if mask is None else mask.column_bias
    return _RowSum.apply(x, y, scale, row_shift, bias, mask, fn)


def _argument(score: TileScores, mask: PairMask | None, row_shift: Tensor | None, rows: Span, columns: Span) -> Tensor:
    """Return ``s + b - shift`` of a tile, 0 where a pair is dropped so that nothing overflows there."""
    tile = score(rows, columns)
    bias = None if mask is None else mask.bias_block(rows, columns)
    if bias is not None:
        tile += bias.to(tile)
    if row_shift is not None:
        tile -= row_shift[slice(*rows), None]
    if mask is not None:
        mask.fill_(tile, rows, columns, 0.0)
    return tile


class _RowSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        row_shift: Tensor | None,
        bias: Tensor | None,
        mask: PairMask | None,
        fn: str,
    ) -> Tensor:
        score = TileScores(x, y, float(scale))
        total = x.new_zeros(x.shape[0])
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            value = ELEMENTWISE[fn](_argument(score, mask, row_shift, rows, columns))
            if mask is not None:
                mask.fill_(value, rows, columns, 0.0)
            total[slice(*rows)] += value.sum(1)
        ctx.save_for_backward(x, y, scale, row_shift)
        ctx.mask, ctx.fn = mask, fn
        return total

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, row_shift = ctx.saved_tensors
        need_x, need_y, need_scale, need_shift, need_bias, *_ = ctx.needs_input_grad
        score = TileScores(x, y, float(scale))
        dx = torch.zeros_like(x) if need_x or need_scale else None
        dy = torch.zeros_like(y) if need_y else None
        dshift = torch.zeros_like(g) if need_shift else None
        dbias = y.new_zeros(y.shape[0]) if need_bias else None
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            here, there = slice(*rows), slice(*columns)
            weights = _DERIVATIVE[ctx.fn](_argument(score, ctx.mask, row_shift, rows, columns)).mul_(g[here, None])
            if ctx.mask is not None:
                ctx.mask.fill_(weights, rows, columns, 0.0)
            if dx is not None:
                dx[here].addmm_(weights, y[there])
            if dy is not None:
                dy[there].addmm_(weights.T, x[here])
            if dshift is not None:
                dshift[here] -= weights.sum(1)
            if dbias is not None:
                dbias[there] += weights.sum(0)
        dscale = (x * dx).sum().reshape(scale.shape) if need_scale and dx is not None else None
        return (
            dx.mul_(scale) if dx is not None and need_x else None,
            dy.mul_(scale) if dy is not None else None,
            dscale,
            dshift,
            dbias,
            None,
            None,
        )
