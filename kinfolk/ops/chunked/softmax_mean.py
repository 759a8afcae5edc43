"""`row_softmax_mean`: the mean of a row's scores, weighted by a softmax of those scores.

Time O(n m d), memory O((n + m) d) and one tile. With ``p = softmax(w s + b)``, ``f_i = sum_j p_ij s_ij`` and upstream
gradient g: ``dL/ds_ij = g_i p_ij (1 + w (s_ij - f_i))``, or ``g_i p_ij`` with detached weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked.tiles import RunningSoftmax, TileScores, add_mask_, closed_form, tiles, unreachable
from kinfolk.ops.masks import PairMask


def row_softmax_mean(
    x: Tensor, y: Tensor, *, scale: Tensor, weight_scale: float, mask: PairMask | None, detach_weights: bool
) -> Tensor:
    """``sum_j softmax_j(w s_ij + b_ij) s_ij`` over the kept columns; 0 where nothing is kept."""
    bias = None if mask is None or detach_weights else mask.column_bias
    return _SoftmaxMean.apply(x, y, scale, bias, mask, weight_scale, detach_weights)


class _SoftmaxMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        mask: PairMask | None,
        weight_scale: float,
        detach_weights: bool,
    ) -> Tensor:
        score = TileScores(x, y, float(scale))
        running = RunningSoftmax(x.shape[0], x, None, weighted=True)
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            s = score(rows, columns)
            logits = s * weight_scale
            add_mask_(logits, mask, rows, columns)
            weights = running.exponentials_(rows, logits)
            running.add(rows, weights, s.mul_(weights))
        lse, mean = running.logsumexp(), running.mean()
        ctx.save_for_backward(x, y, scale, lse, mean)
        ctx.mask, ctx.weight_scale, ctx.detach_weights = mask, weight_scale, detach_weights
        return mean

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, lse, mean = ctx.saved_tensors
        need_x, need_y, need_scale, need_bias, *_ = ctx.needs_input_grad
        score = TileScores(x, y, float(scale))
        lse = unreachable(lse)
        dx = torch.zeros_like(x) if need_x or need_scale else None
        dy = torch.zeros_like(y) if need_y else None
        dbias = y.new_zeros(y.shape[0]) if need_bias else None
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            here, there = slice(*rows), slice(*columns)
            s = score(rows, columns)
            logits = s * ctx.weight_scale
            add_mask_(logits, ctx.mask, rows, columns)
            weights = logits.sub_(lse[here, None]).exp_().mul_(g[here, None])
            if not ctx.detach_weights:
                deviation = s.sub_(mean[here, None])
                if dbias is not None:
                    dbias[there] += torch.linalg.vecdot(weights, deviation, dim=0)
                weights.mul_(deviation.mul_(ctx.weight_scale).add_(1.0))
            if dx is not None:
                dx[here].addmm_(weights, y[there])
            if dy is not None:
                dy[there].addmm_(weights.T, x[here])
        dscale = (x * dx).sum().reshape(scale.shape) if need_scale and dx is not None else None
        return (
            dx.mul_(scale) if dx is not None and need_x else None,
            dy.mul_(scale) if dy is not None else None,
            dscale,
            dbias,
            None,
            None,
            None,
        )
