"""`row_softmax_mean`: the mean of a row's scores, weighted by a softmax of those scores.

4 n m d multiply-adds forward and backward together, memory O((n + m) d) and three tiles. With ``p = softmax(w s + b)``,
``f_i = sum_j p_ij s_ij`` and upstream gradient g: ``dL/ds_ij = g_i p_ij (1 + w (s_ij - f_i))``, or ``g_i p_ij`` with
detached weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked import operators as op
from kinfolk.ops.chunked.softmax import TileSoftmax, TileSums
from kinfolk.ops.chunked.tiles import Walk, full_precision, shaped
from kinfolk.ops.masks import PairMask


def row_softmax_mean(
    x: Tensor, y: Tensor, *, scale: Tensor, weight_scale: float, mask: PairMask | None, detach_weights: bool
) -> Tensor:
    """``sum_j softmax_j(w s_ij + b_ij) s_ij`` over the kept columns; 0 where nothing is kept."""
    bias = op.column_bias(mask, x)
    if bias is not None and detach_weights:
        bias = bias.detach()
    return _forward(x, y, scale, bias, *op.pack(mask), weight_scale, detach_weights)[0]


class _Weights:
    """The softmax of ``w s``, and the scores s themselves, of one tile at a time."""

    def __init__(self, x: Tensor, y: Tensor, scale: float, weight_scale: float, mask: PairMask | None) -> None:
        self.walk = Walk(x.shape[0], y.shape[0], x, at_once=2)
        self.softmax = TileSoftmax(x, y, scale * weight_scale, mask, self.walk)
        self.softmax.scores.scale = scale  # the sweep multiplies by w itself: it needs s as well
        self.rate = weight_scale * self.softmax.unit
        self.logits = x.new_empty(self.walk.height * self.walk.width)

    def __call__(self, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the scores and the softmax's tile."""
        scores = self.softmax.scores(rows, columns)
        logits = torch.mul(scores, self.rate, out=shaped(self.logits, rows, columns))
        return scores, self.softmax.finish_(logits, rows, columns)


@torch.library.custom_op(
    "kinfolk::row_softmax_mean",
    mutates_args=(),
    schema=f"(Tensor x, Tensor y, Tensor scale, Tensor? bias, {op.MASK.format('')}, float weight_scale,"
    " bool detach_weights) -> (Tensor, Tensor, Tensor)",
)
def _forward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    weight_scale: float,
    detach_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    with full_precision(x):
        weights = _Weights(x, y, float(scale), weight_scale, op.unpack(x.shape[0], y.shape[0], parts, layout, bias))
        sums = TileSums(weights.softmax, x.shape[0], x, weighted=())
        assert sums.weighted is not None
        for rows, columns in weights.walk:
            scores, tile = weights(rows, columns)
            tile = sums.add(rows, tile)
            sums.weighted[slice(*rows)] += scores.mul_(tile).sum(1)
        return sums.mean(), *sums.state()


@_forward.register_fake
def _(x, y, scale, bias, parts, layout, weight_scale, detach_weights):  # type: ignore[no-untyped-def]
    return tuple(x.new_empty(x.shape[0]) for _ in range(3))


@torch.library.custom_op(
    "kinfolk::row_softmax_mean_backward",
    mutates_args=(),
    schema=f"(Tensor g, Tensor x, Tensor y, Tensor scale, Tensor? bias, {op.MASK.format('')}, float weight_scale,"
    " bool detach_weights, Tensor mean, Tensor maximum, Tensor total, bool[] needed) -> Tensor[]",
)
def _backward(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    weight_scale: float,
    detach_weights: bool,
    mean: Tensor,
    maximum: Tensor,
    total: Tensor,
    needed: list[bool],
) -> list[Tensor]:
    need_x, need_y, need_scale, need_bias = needed
    with full_precision(x):
        dx, dy, dbias = op.wanted((x.shape, need_x or need_scale), (y.shape, need_y), (y.shape[:1], need_bias), like=x)
        weights = _Weights(x, y, float(scale), weight_scale, op.unpack(x.shape[0], y.shape[0], parts, layout, bias))
        shares = weights.softmax.shares(g, maximum, total)
        for rows, columns in weights.walk:
            here, there = slice(*rows), slice(*columns)
            scores, tile = weights(rows, columns)
            tile = weights.softmax.weigh_(tile, rows, columns, shares)
            if not detach_weights:
                deviation = scores.sub_(mean[here, None])
                if need_bias:
                    dbias[there] += (tile * deviation).sum(0)
                tile.mul_(deviation.mul_(weight_scale).add_(1.0))
            if dx.numel():
                dx[here].addmm_(tile, y[there])
            if dy.numel():
                dy[there].addmm_(tile.T, x[here])
        dscale = op.scale_gradient(x, dx, scale) if need_scale else dx.new_empty(0)
        return [dx.mul_(scale), dy.mul_(scale), dscale, dbias]


@_backward.register_fake
def _(g, x, y, scale, bias, parts, layout, weight_scale, detach_weights, mean, maximum, total, needed):  # type: ignore[no-untyped-def]
    return op.wanted_like((x, needed[0] or needed[2]), (y, needed[1]), (scale, needed[2]), (y[:, 0], needed[3]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, bias, parts, layout, weight_scale, detach_weights = inputs
    ctx.set_materialize_grads(False)  # zeros for what is kept would cost as much as keeping it
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, y, scale, bias, *output, *parts)
    ctx.rest = (layout, weight_scale, detach_weights)


def _differentiate(ctx: Any, g: Tensor, *_: None) -> tuple[Any, ...]:
    x, y, scale, bias, mean, maximum, total, *parts = ctx.saved_tensors
    layout, weight_scale, detach_weights = ctx.rest
    needed = list(ctx.needs_input_grad[:4])
    found = _backward(g, x, y, scale, bias, parts, layout, weight_scale, detach_weights, mean, maximum, total, needed)
    return *op.given(found, needed), *op.none_for(parts), None, None


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(op.refuse)
