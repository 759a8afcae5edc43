"""`logsumexp_and_kernel_attraction`: partition and soft target from one sweep, for graphs made of side embeddings.

With scores ``s = scale x y^T`` and relations ``r = u v^T / tau_s``, ``T = softmax_j(r)`` over the target's kept pairs,
one pass yields ``lse_j(s_ij)`` and ``a_i = sum_j T_ij s_ij``. With upstream gradients g and h:
``dL/ds_ij = g_i p_ij + h_i T_ij``, so that one product serves both, and, where side embeddings are learnt,
``dL/dr_ij = h_i T_ij (s_ij - a_i)``. Time O(n m (d + e)), memory O((n + m)(d + e)) and two tiles; where both sides
are the same rows, the upper triangle serves both halves.
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
from kinfolk.ops.masks import PairMask, Span


def logsumexp_and_kernel_attraction(
    x: Tensor,
    y: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    scale: Tensor,
    relation_scale: float,
    mask: PairMask | None,
    target_mask: PairMask | None,
) -> tuple[Tensor, Tensor]:
    """``lse_j(s_ij + b_ij)`` over the kept and ``sum_j T_ij s_ij`` over the target's kept columns.

    The attraction is 0 where the target's row is empty. Biases of ``target_mask`` play no role.
    """
    constant = not (u.requires_grad or v.requires_grad)
    masks_symmetric = all(m is None or m.symmetric for m in (mask, target_mask))
    if x is y and u is v and constant and masks_symmetric:
        shift = safe_shift(x.detach(), y.detach(), float(scale.detach()), mask)
        relation_shift = safe_shift(u, v, relation_scale, None)
        if shift is not None and relation_shift is not None:
            return _SymmetricKernel.apply(x, scale, u, relation_scale, mask, target_mask, shift, relation_shift)
    bias = None if mask is None else mask.column_bias
    return _RowKernel.apply(x, y, u, v, scale, bias, relation_scale, mask, target_mask)


def _relations(score: TileScores, target_mask: PairMask | None, rows: Span, columns: Span) -> Tensor:
    relations = score(rows, columns)
    if target_mask is not None:
        target_mask.fill_(relations, rows, columns, -torch.inf)
    return relations


class _RowKernel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        u: Tensor,
        v: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        relation_scale: float,
        mask: PairMask | None,
        target_mask: PairMask | None,
    ) -> tuple[Tensor, Tensor]:
        score, relate = TileScores(x, y, float(scale)), TileScores(u, v, relation_scale)
        partition = RunningSoftmax(x.shape[0], x, safe_shift(x, y, float(scale), mask))
        target = RunningSoftmax(x.shape[0], x, safe_shift(u, v, relation_scale, None), weighted=True)
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            s = score(rows, columns)
            relations = _relations(relate, target_mask, rows, columns)
            kernel = target.exponentials_(rows, relations)
            target.add(rows, kernel, kernel * s)
            add_mask_(s, mask, rows, columns)
            partition.add(rows, partition.exponentials_(rows, s))
        lse, pull = partition.logsumexp(), target.mean()
        ctx.save_for_backward(x, y, u, v, scale, lse, pull, *target.shift_and_total())
        ctx.mask, ctx.target_mask, ctx.relation_scale = mask, target_mask, relation_scale
        return lse, pull

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        x, y, u, v, scale, lse, pull, relation_shift, total = ctx.saved_tensors
        need_x, need_y, need_u, need_v, need_scale, need_bias, *_ = ctx.needs_input_grad
        score, relate = TileScores(x, y, float(scale)), TileScores(u, v, ctx.relation_scale)
        lse, relation_shift = unreachable(lse), unreachable(relation_shift)
        share = (h / total).masked_fill(total == 0, 0.0)  # apart from the shift: at tau_s = 1e-5 a sum would lose it
        dx = torch.zeros_like(x) if need_x or need_scale else None
        dy = torch.zeros_like(y) if need_y else None
        du = torch.zeros_like(u) if need_u else None
        dv = torch.zeros_like(v) if need_v else None
        dbias = y.new_zeros(y.shape[0]) if need_bias else None
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            here, there = slice(*rows), slice(*columns)
            s = score(rows, columns)
            target = _relations(relate, ctx.target_mask, rows, columns)
            target = target.sub_(relation_shift[here, None]).exp_().mul_(share[here, None])
            if du is not None or dv is not None:
                slope = target * (s - pull[here, None])
                if du is not None:
                    du[here].addmm_(slope, v[there])
                if dv is not None:
                    dv[there].addmm_(slope.T, u[here])
            add_mask_(s, ctx.mask, rows, columns)
            weights = s.sub_(lse[here, None]).exp_().mul_(g[here, None])
            if dbias is not None:
                dbias[there] += weights.sum(0)
            weights += target
            if dx is not None:
                dx[here].addmm_(weights, y[there])
            if dy is not None:
                dy[there].addmm_(weights.T, x[here])
        dscale = (x * dx).sum().reshape(scale.shape) if need_scale and dx is not None else None
        return (
            dx.mul_(scale) if dx is not None and need_x else None,
            dy.mul_(scale) if dy is not None else None,
            du.mul_(ctx.relation_scale) if du is not None else None,
            dv.mul_(ctx.relation_scale) if dv is not None else None,
            dscale,
            dbias,
            None,
            None,
            None,
        )


class _SymmetricKernel(torch.autograd.Function):
    """The same for ``y = x`` and ``v = u`` constant, on the tiles above the diagonal."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        u: Tensor,
        relation_scale: float,
        mask: PairMask | None,
        target_mask: PairMask | None,
        shift: float,
        relation_shift: float,
    ) -> tuple[Tensor, Tensor]:
        score, relate = TileScores(x, x, float(scale)), TileScores(u, u, relation_scale)
        partition, target = RunningSoftmax(len(x), x, shift), RunningSoftmax(len(x), x, relation_shift, weighted=True)
        for rows, columns in triangle(len(x)):
            s = score(rows, columns)
            kernel = target.exponentials_(rows, _relations(relate, target_mask, rows, columns))
            products = kernel * s
            target.add(rows, kernel, products)
            if rows != columns:
                target.add(columns, kernel.T, products.T)
            add_mask_(s, mask, rows, columns)
            exponentials = partition.exponentials_(rows, s)
            partition.add(rows, exponentials)
            if rows != columns:
                partition.add(columns, exponentials.T)
        lse, pull = partition.logsumexp(), target.mean()
        ctx.save_for_backward(x, scale, u, lse, target.logsumexp())
        ctx.masks, ctx.relation_scale, ctx.shifts = (mask, target_mask), relation_scale, (shift, relation_shift)
        return lse, pull

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, u, lse, normaliser = ctx.saved_tensors
        (mask, target_mask), (shift, relation_shift) = ctx.masks, ctx.shifts
        score, relate = TileScores(x, x, float(scale)), TileScores(u, u, ctx.relation_scale)
        push = g * torch.exp(shift - unreachable(lse))
        pull = h * torch.exp(relation_shift - unreachable(normaliser))
        dx = torch.zeros_like(x)
        for rows, columns in triangle(len(x)):
            here, there = slice(*rows), slice(*columns)
            kernel = _relations(relate, target_mask, rows, columns).sub_(relation_shift).exp_()
            kernel.mul_(pull[here, None] + pull[None, there])
            s = score(rows, columns)
            add_mask_(s, mask, rows, columns)
            weights = s.sub_(shift).exp_().mul_(push[here, None] + push[None, there]).add_(kernel)
            dx[here].addmm_(weights, x[there])
            if rows != columns:
                dx[there].addmm_(weights.T, x[here])
        dscale = (x * dx).sum().div(2).reshape(scale.shape) if ctx.needs_input_grad[1] else None
        return dx.mul_(scale), dscale, None, None, None, None, None, None
