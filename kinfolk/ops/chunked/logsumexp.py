"""`row_logsumexp`: plain, and with half the work where both sides are the same rows.

Time O(n m d), memory O((n + m) d) and one tile. Backward, with ``P = exp(s - lse)`` and upstream gradient ``g``:
``dL/ds_ij = g_i p_ij``, recomputed tile by tile. Where ``x`` is ``y`` and the kept pairs are symmetric, the forward
visits the upper triangle only and the backward does one product with ``g_i p_ij + g_j p_ji``.
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
    triangle,
    unreachable,
)
from kinfolk.ops.masks import PairMask


def row_logsumexp(x: Tensor, y: Tensor, *, scale: Tensor, mask: PairMask | None) -> Tensor:
    """``lse_j(s_ij + b_ij)`` over the kept columns; -inf with zero gradient where nothing is kept."""
    if x is y and (mask is None or mask.symmetric):
        shift = safe_shift(x.detach(), y.detach(), float(scale.detach()), mask)
        if shift is not None:
            return _SymmetricLogsumexp.apply(x, scale, mask, shift)
    bias = None if mask is None else mask.column_bias
    return _RowLogsumexp.apply(x, y, scale, bias, mask)


class _RowLogsumexp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, mask: PairMask | None) -> Tensor:
        score = TileScores(x, y, float(scale))
        running = RunningSoftmax(x.shape[0], x, safe_shift(x, y, float(scale), mask))
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            logits = score(rows, columns)
            add_mask_(logits, mask, rows, columns)
            running.add(rows, running.exponentials_(rows, logits))
        lse = running.logsumexp()
        ctx.save_for_backward(x, y, scale, lse)
        ctx.mask = mask
        return lse

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, lse = ctx.saved_tensors
        need_x, need_y, need_scale, need_bias, _ = ctx.needs_input_grad
        score = TileScores(x, y, float(scale))
        shift = unreachable(lse).unsqueeze(1)
        dx = torch.zeros_like(x) if need_x or need_scale else None
        dy = torch.zeros_like(y) if need_y else None
        dbias = y.new_zeros(y.shape[0]) if need_bias else None
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            here, there = slice(*rows), slice(*columns)
            weights = score(rows, columns)
            add_mask_(weights, ctx.mask, rows, columns)
            weights.sub_(shift[here]).exp_().mul_(g[here, None])
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


class _SymmetricLogsumexp(torch.autograd.Function):
    """The same for ``y = x``: each tile above the diagonal serves its rows and, transposed, its columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, mask: PairMask | None, shift: float) -> Tensor:
        score = TileScores(x, x, float(scale))
        total = x.new_zeros(x.shape[0])
        for rows, columns in triangle(x.shape[0]):
            exponentials = _exponentials(score, mask, rows, columns, shift)
            total[slice(*rows)] += exponentials.sum(1)
            if rows != columns:
                total[slice(*columns)] += exponentials.sum(0)
        lse = total.log() + shift
        ctx.save_for_backward(x, scale, lse)
        ctx.mask, ctx.shift = mask, shift
        return lse

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, lse = ctx.saved_tensors
        score = TileScores(x, x, float(scale))
        share = g * torch.exp(ctx.shift - unreachable(lse))  # g_i p_ij = share_i exp(s_ij - shift)
        dx = torch.zeros_like(x)
        for rows, columns in triangle(x.shape[0]):
            here, there = slice(*rows), slice(*columns)
            weights = _exponentials(score, ctx.mask, rows, columns, ctx.shift)
            weights.mul_(share[here, None] + share[None, there])
            dx[here].addmm_(weights, x[there])
            if rows != columns:
                dx[there].addmm_(weights.T, x[here])
        dscale = (x * dx).sum().div(2).reshape(scale.shape) if ctx.needs_input_grad[1] else None
        return dx.mul_(scale), dscale, None, None


def _exponentials(
    score: TileScores, mask: PairMask | None, rows: tuple[int, int], columns: tuple[int, int], shift: float
) -> Tensor:
    """Return ``exp(logit - shift)`` of a tile, 0 where a pair is dropped."""
    logits = score(rows, columns)
    add_mask_(logits, mask, rows, columns)
    return logits.sub_(shift).exp_()
