"""`target_attraction`: ``sum_j T_ij s_ij`` for a target that can only be had block by block.

The way of last resort, for graphs and masks without a shorter form. The sum is ``scale <x_i, sum_j T_ij y_j>``: the
forward sweep averages the keys, n m d multiply-adds, and no score is ever computed; the backward sweep is elementwise
for x and one product ``T^T`` for y. Memory O((n + m) d) and two tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked.tiles import Walk, full_precision
from kinfolk.ops.masks import Span

TargetBlocks = Callable[[Span, Span], Tensor]
"""Gives the weights ``T[rows, columns]`` of a block; they are not differentiated."""


def target_attraction(x: Tensor, y: Tensor, *, scale: Tensor, target: TargetBlocks) -> Tensor:
    """``sum_j T_ij s_ij``; rows of zeros give 0 with zero gradient."""
    with full_precision(x):
        return scale * torch.linalg.vecdot(x, _TargetMean.apply(y, len(x), target))


class _TargetMean(torch.autograd.Function):
    """``sum_j T_ij y_j``: linear in y, so that its derivative is the same sum over the transposed target."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, n: int, target: TargetBlocks) -> Tensor:
        ctx.target, ctx.m = target, len(y)
        mean = y.new_zeros(n, y.shape[1])
        for rows, columns in Walk(n, len(y), y):
            mean[slice(*rows)].addmm_(target(rows, columns).to(y), y[slice(*columns)])
        return mean

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(gradient):
            transposed = _TargetMean.apply(gradient, ctx.m, lambda rows, columns: ctx.target(columns, rows).T)
        return transposed, None, None
