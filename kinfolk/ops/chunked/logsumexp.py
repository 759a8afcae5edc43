"""`row_logsumexp`: plain, and with half the work where both sides are the same rows.

Multiply-adds, of n x m pairs in d dimensions, forward and backward together:

* both sides the same rows and the pairs symmetric: 2 n^2 d, or 1.5 n^2 d where scores are kept; only the upper
  triangle is visited, and one product takes ``g_i p_ij + g_j p_ji``;
* keys without gradient, as a queue's: 2 n m d; the forward sweep also averages the keys, so that the backward pass is
  elementwise;
* gradient on both sides: 4 n m d, or 3 n m d where scores are kept; ``dL/ds_ij = g_i p_ij``.

Memory O((n + m) d) and two tiles, and at most 16 MB of kept scores.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from kinfolk.ops.chunked import operators as op
from kinfolk.ops.chunked.softmax import TileSoftmax, TileSums, add_both_ways
from kinfolk.ops.chunked.tiles import Kept, Walk, full_precision, keeps_scores, shaped
from kinfolk.ops.masks import PairMask

Saved = Literal["nothing", "scores", "mean"]
"""What a forward sweep leaves for the backward one: nothing, its scores, or the mean key of every row."""


def row_logsumexp(
    x: Tensor, y: Tensor, *, scale: Tensor, mask: PairMask | None, recompute: bool | None = None
) -> Tensor:
    """``lse_j(s_ij + b_ij)`` over the kept columns; -inf with zero gradient where nothing is kept."""
    same = x is y
    bias = op.column_bias(mask, x)
    symmetric = same and (mask is None or mask.symmetric)
    saved: Saved = "nothing"
    if not same and x.requires_grad and not y.requires_grad and not (bias is not None and bias.requires_grad):
        saved = "mean"
    elif keeps_scores(x, y, recompute, triangle=symmetric):
        saved = "scores"
    if not torch.is_grad_enabled():
        saved = "nothing"
    lse, *_ = _forward(x, None if same else y, scale, bias, *op.pack(mask), symmetric, saved)
    return lse


@torch.library.custom_op(
    "kinfolk::row_logsumexp",
    mutates_args=(),
    schema=f"(Tensor x, Tensor? y, Tensor scale, Tensor? bias, {op.MASK.format('')}, bool symmetric, str saved)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def _forward(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    symmetric: bool,
    saved: Saved,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = x if y is None else y
    with full_precision(x):
        walk = Walk(x.shape[0], y.shape[0], x, triangle=symmetric)
        softmax = TileSoftmax(x, y, float(scale), op.unpack(x.shape[0], y.shape[0], parts, layout, bias), walk)
        sums = TileSums(softmax, x.shape[0], x, weighted=(x.shape[1],) if saved == "mean" else None)
        kept = x.new_empty(x.shape[0] * y.shape[0] if saved == "scores" else 0)  # of a triangle, half is never touched
        store = Kept(kept)
        for rows, columns in walk:
            tile = softmax(rows, columns)
            if saved == "scores":
                store.put(tile)
            if symmetric and rows != columns:
                add_both_ways(sums, sums, (rows, columns), tile)
                continue
            tile = sums.add(rows, tile)
            if saved == "mean":
                assert sums.weighted is not None
                sums.weighted[slice(*rows)].addmm_(tile, y[slice(*columns)])
        return sums.logsumexp(), sums.mean() if saved == "mean" else kept, *sums.state()


@_forward.register_fake
def _(x, y, scale, bias, parts, layout, symmetric, saved):  # type: ignore[no-untyped-def]
    size = x.shape[0] * (x if y is None else y).shape[0] if saved == "scores" else 0
    lse, maximum, total = (x.new_empty(x.shape[0]) for _ in range(3))
    return lse, torch.empty_like(x) if saved == "mean" else x.new_empty(size), maximum, total


@torch.library.custom_op(
    "kinfolk::row_logsumexp_backward",
    mutates_args=(),
    schema=f"(Tensor g, Tensor x, Tensor? y, Tensor scale, Tensor? bias, {op.MASK.format('')}, bool symmetric,"
    " str saved, Tensor kept, Tensor maximum, Tensor total, bool[] needed) -> Tensor[]",
)
def _backward(
    g: Tensor,
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    symmetric: bool,
    saved: Saved,
    kept: Tensor,
    maximum: Tensor,
    total: Tensor,
    needed: list[bool],
) -> list[Tensor]:
    same, y = y is None, x if y is None else y
    need_x, need_y, need_scale, need_bias = needed
    with full_precision(x):
        dx, dy, dbias = op.wanted(
            (x.shape, need_x or need_scale), (y.shape, need_y and not same), (y.shape[:1], need_bias), like=x
        )
        if saved == "mean":
            torch.mul(kept, g.masked_fill(total == 0, 0.0).unsqueeze(1), out=dx)
        else:
            walk = Walk(x.shape[0], y.shape[0], x, triangle=symmetric)
            softmax = TileSoftmax(x, y, float(scale), op.unpack(x.shape[0], y.shape[0], parts, layout, bias), walk)
            shares, store = softmax.shares(g, maximum, total), Kept(kept)
            for rows, columns in walk:
                here, there = slice(*rows), slice(*columns)
                if saved == "scores":
                    tile = store.take(shaped(softmax.scores.buffer, rows, columns))
                else:
                    tile = softmax(rows, columns)
                weights = softmax.weigh_(tile, rows, columns, shares, shares if symmetric else None)
                if dx.numel():
                    dx[here].addmm_(weights, y[there])
                if symmetric and rows != columns:
                    dx[there].addmm_(weights.T, x[here])
                if dy.numel() or (same and not symmetric):
                    (dx if same else dy)[there].addmm_(weights.T, x[here])
                if need_bias:
                    dbias[there] += weights.sum(0)
        dscale = op.scale_gradient(x, dx, scale) if need_scale else dx.new_empty(0)
        if same:  # both factors of the product were x
            dscale = dscale / 2
        return [dx.mul_(scale), dy.mul_(scale), dscale, dbias]


@_backward.register_fake
def _(g, x, y, scale, bias, parts, layout, symmetric, saved, kept, maximum, total, needed):  # type: ignore[no-untyped-def]
    other, differs = (x, False) if y is None else (y, True)
    return op.wanted_like(
        (x, needed[0] or needed[2]), (other, needed[1] and differs), (scale, needed[2]), (other[:, 0], needed[3])
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, bias, parts, layout, symmetric, saved = inputs
    ctx.set_materialize_grads(False)  # zeros for what is kept would cost as much as keeping it
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, y, scale, bias, *output[1:], *parts)
    ctx.rest = (layout, symmetric, saved)


def _differentiate(ctx: Any, g: Tensor, *_: None) -> tuple[Any, ...]:
    x, y, scale, bias, kept, maximum, total, *parts = ctx.saved_tensors
    layout, symmetric, saved = ctx.rest
    needed = list(ctx.needs_input_grad[:4])
    found = _backward(g, x, y, scale, bias, parts, layout, symmetric, saved, kept, maximum, total, needed)
    return *op.given(found, needed), *op.none_for(parts), None, None


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(op.refuse)
