"""`target_attraction`: ``sum_j T_ij s_ij`` for a target that can only be had block by block.

The way of last resort, for graphs and masks without a shorter form. Time O(n m d), memory O((n + m) d) and two tiles.
The target is constant: ``dL/ds_ij = g_i T_ij``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked.tiles import TileScores, closed_form, tiles
from kinfolk.ops.masks import Span

TargetBlocks = Callable[[Span, Span], Tensor]
"""Gives the weights ``T[rows, columns]`` of a block; they are not differentiated."""


def target_attraction(x: Tensor, y: Tensor, *, scale: Tensor, target: TargetBlocks) -> Tensor:
    """``sum_j T_ij s_ij``; rows of zeros give 0 with zero gradient."""
    return _TargetAttraction.apply(x, y, scale, target)


class _TargetAttraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, target: TargetBlocks) -> Tensor:
        score = TileScores(x, y, float(scale))
        pull = x.new_zeros(x.shape[0])
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            weights = target(rows, columns).to(x)
            pull[slice(*rows)] += torch.linalg.vecdot(weights, score(rows, columns), dim=1)
        ctx.save_for_backward(x, y, scale)
        ctx.target = target
        return pull

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale = ctx.saved_tensors
        need_x, need_y, need_scale, _ = ctx.needs_input_grad
        dx = torch.zeros_like(x) if need_x or need_scale else None
        dy = torch.zeros_like(y) if need_y else None
        for rows, columns in tiles(x.shape[0], y.shape[0]):
            here, there = slice(*rows), slice(*columns)
            weights = ctx.target(rows, columns).to(x) * g[here, None]
            if dx is not None:
                dx[here].addmm_(weights, y[there])
            if dy is not None:
                dy[there].addmm_(weights.T, x[here])
        dscale = (x * dx).sum().reshape(scale.shape) if need_scale and dx is not None else None
        return (
            dx.mul_(scale) if dx is not None and need_x else None,
            dy.mul_(scale) if dy is not None else None,
            dscale,
            None,
        )
