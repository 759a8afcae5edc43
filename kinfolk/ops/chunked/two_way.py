"""`two_way_logsumexp`: rows and columns from one pass, for image-text losses.

4 n m d multiply-adds forward and backward together (3 n m d where the scores are kept), memory O((n + m) d), two tiles
and at most 16 MB of kept scores. With upstream gradients g (rows) and h (columns):
``dL/ds_ij = g_i e^{s_ij - r_i} + h_j e^{s_ij - c_j}``; where no shift is needed, both share one exponential.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked import operators as op
from kinfolk.ops.chunked.softmax import TileSoftmax, TileSums, add_both_ways
from kinfolk.ops.chunked.tiles import Kept, Walk, full_precision, keeps_scores, shaped
from kinfolk.ops.masks import PairMask


def two_way_logsumexp(
    x: Tensor, y: Tensor, *, scale: Tensor, mask: PairMask | None, recompute: bool | None = None
) -> tuple[Tensor, Tensor]:
    """The logsumexp of every row and of every column over the kept pairs."""
    keep = torch.is_grad_enabled() and keeps_scores(x, y, recompute, triangle=False)
    rows, columns, *_ = _forward(x, y, scale, op.column_bias(mask, x), *op.pack(mask), keep)
    return rows, columns


@torch.library.custom_op(
    "kinfolk::two_way_logsumexp",
    mutates_args=(),
    schema=f"(Tensor x, Tensor y, Tensor scale, Tensor? bias, {op.MASK.format('')}, bool keep)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    keep: bool,
) -> tuple[Tensor, ...]:
    with full_precision(x):
        walk = Walk(x.shape[0], y.shape[0], x)
        softmax = TileSoftmax(x, y, float(scale), op.unpack(x.shape[0], y.shape[0], parts, layout, bias), walk)
        by_row, by_column = TileSums(softmax, x.shape[0], x), TileSums(softmax, y.shape[0], x)
        kept = x.new_empty(x.shape[0] * y.shape[0] if keep else 0)
        store = Kept(kept)
        for rows, columns in walk:
            tile = softmax(rows, columns)
            if keep:
                store.put(tile)
            add_both_ways(by_row, by_column, (rows, columns), tile)
        return by_row.logsumexp(), by_column.logsumexp(), kept, *by_row.state(), *by_column.state()


@_forward.register_fake
def _(x, y, scale, bias, parts, layout, keep):  # type: ignore[no-untyped-def]
    n, m = x.shape[0], y.shape[0]
    sizes = (n, m, n * m if keep else 0, n, n, m, m)
    return tuple(x.new_empty(size) for size in sizes)


@torch.library.custom_op(
    "kinfolk::two_way_logsumexp_backward",
    mutates_args=(),
    schema=f"(Tensor g, Tensor h, Tensor x, Tensor y, Tensor scale, Tensor? bias, {op.MASK.format('')}, bool keep,"
    " Tensor kept, Tensor row_maximum, Tensor row_total, Tensor column_maximum, Tensor column_total, bool[] needed)"
    " -> Tensor[]",
)
def _backward(
    g: Tensor,
    h: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    keep: bool,
    kept: Tensor,
    row_maximum: Tensor,
    row_total: Tensor,
    column_maximum: Tensor,
    column_total: Tensor,
    needed: list[bool],
) -> list[Tensor]:
    need_x, need_y, need_scale, need_bias = needed
    with full_precision(x):
        dx, dy, dbias = op.wanted((x.shape, need_x or need_scale), (y.shape, need_y), (y.shape[:1], need_bias), like=x)
        walk = Walk(x.shape[0], y.shape[0], x)
        softmax = TileSoftmax(x, y, float(scale), op.unpack(x.shape[0], y.shape[0], parts, layout, bias), walk)
        by_row, by_column = softmax.shares(g, row_maximum, row_total), softmax.shares(h, column_maximum, column_total)
        store = Kept(kept)
        for rows, columns in walk:
            here, there = slice(*rows), slice(*columns)
            tile = store.take(shaped(softmax.scores.buffer, rows, columns)) if keep else softmax(rows, columns)
            weights = softmax.weigh_(tile, rows, columns, by_row, by_column)
            if dx.numel():
                dx[here].addmm_(weights, y[there])
            if dy.numel():
                dy[there].addmm_(weights.T, x[here])
            if need_bias:
                dbias[there] += weights.sum(0)
        dscale = op.scale_gradient(x, dx, scale) if need_scale else dx.new_empty(0)
        return [dx.mul_(scale), dy.mul_(scale), dscale, dbias]


@_backward.register_fake
def _(g, h, x, y, scale, bias, parts, layout, keep, kept, rm, rt, cm, ct, needed):  # type: ignore[no-untyped-def]
    return op.wanted_like((x, needed[0] or needed[2]), (y, needed[1]), (scale, needed[2]), (y[:, 0], needed[3]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, bias, parts, layout, keep = inputs
    ctx.set_materialize_grads(False)  # zeros for what is kept would cost as much as keeping it
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(x, y, scale, bias, *output[2:], *parts)
    ctx.rest = (layout, keep)


def _differentiate(ctx: Any, g: Tensor | None, h: Tensor | None, *_: None) -> tuple[Any, ...]:
    x, y, scale, bias = ctx.saved_tensors[:4]
    state, parts = ctx.saved_tensors[4:9], list(ctx.saved_tensors[9:])
    layout, keep = ctx.rest
    needed = list(ctx.needs_input_grad[:4])
    g = x.new_zeros(x.shape[0]) if g is None else g
    h = x.new_zeros(y.shape[0]) if h is None else h
    found = _backward(g, h, x, y, scale, bias, parts, layout, keep, *state, needed)
    return *op.given(found, needed), *op.none_for(parts), None


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(op.refuse)
