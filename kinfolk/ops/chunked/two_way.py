"""`two_way_logsumexp`: rows and columns from one pass, for image-text losses.

Time O(n m d), memory O((n + m) d) and one tile. With upstream gradients g (rows) and h (columns):
``dL/ds_ij = g_i e^{s_ij - r_i} + h_j e^{s_ij - c_j}``; where a fixed shift serves, both share one exponential.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked.tiles import (
    RunningSoftmax,
    TileScores,
    add_mask_,
    closed_form,
    safe_shift,
    tiles,
    unreachable,
)
from kinfolk.ops.masks import PairMask


def two_way_logsumexp(x: Tensor, y: Tensor, *, scale: Tensor, mask: PairMask | None) -> tuple[Tensor, Tensor]:
    """The logsumexp of every row and of every column over the kept pairs."""
    bias = None if mask is None else mask.column_bias
    return _TwoWay.apply(x, y, scale, bias, mask)


class _TwoWay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, mask: PairMask | None
    ) -> tuple[Tensor, Tensor]:
        score = TileScores(x, y, float(scale))
        shift = safe_shift(x, y, float(scale), mask)
        by_row = RunningSoftmax(x.shape[0], x, shift)
        by_column = RunningSoftmax(y.shape[0], y, shift)
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            logits = score(rows, columns)
            add_mask_(logits, mask, rows, columns)
            if shift is None:
                by_column.add(columns, by_column.exponentials_(columns, logits.T.clone()))
            exponentials = by_row.exponentials_(rows, logits)
            by_row.add(rows, exponentials)
            if shift is not None:
                by_column.add(columns, exponentials.T)
        row_lse, column_lse = by_row.logsumexp(), by_column.logsumexp()
        ctx.save_for_backward(x, y, scale, row_lse, column_lse)
        ctx.mask, ctx.shift = mask, shift
        return row_lse, column_lse

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, row_lse, column_lse = ctx.saved_tensors
        need_x, need_y, need_scale, need_bias, _ = ctx.needs_input_grad
        score = TileScores(x, y, float(scale))
        row_lse, column_lse = unreachable(row_lse), unreachable(column_lse)
        dx = torch.zeros_like(x) if need_x or need_scale else None
        dy = torch.zeros_like(y) if need_y else None
        dbias = y.new_zeros(y.shape[0]) if need_bias else None
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            here, there = slice(*rows), slice(*columns)
            logits = score(rows, columns)
            add_mask_(logits, ctx.mask, rows, columns)
            if ctx.shift is not None:
                share = g[here, None] * torch.exp(ctx.shift - row_lse[here, None])
                share = share + h[None, there] * torch.exp(ctx.shift - column_lse[None, there])
                weights = logits.sub_(ctx.shift).exp_().mul_(share)
            else:
                by_column = (logits - column_lse[None, there]).exp_().mul_(h[None, there])
                weights = logits.sub_(row_lse[here, None]).exp_().mul_(g[here, None]).add_(by_column)
            if dx is not None:
                dx[here].addmm_(weights, y[there])
            if dy is not None:
                dy[there].addmm_(weights.T, x[here])
            if dbias is not None:
                dbias[there] += weights.sum(0)
        dscale = (x * dx).sum().reshape(scale.shape) if need_scale and dx is not None else None
        return (
            dx.mul_(scale) if dx is not None and need_x else None,
            dy.mul_(scale) if dy is not None else None,
            dscale,
            dbias,
            None,
        )
