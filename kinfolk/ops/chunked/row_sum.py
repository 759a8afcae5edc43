"""`row_sum`: an elementwise function summed over a row.

4 n m d multiply-adds forward and backward together, memory O((n + m) d) and two tiles. With upstream gradient g:
``dL/ds_ij = g_i fn'(s_ij + b_ij - shift_i)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked import operators as op
from kinfolk.ops.chunked.tile_mask import TileMask
from kinfolk.ops.chunked.tiles import TileScores, Walk, full_precision
from kinfolk.ops.masks import PairMask, Span
from kinfolk.ops.reference import ELEMENTWISE

_DERIVATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda s: s.fill_(1.0),
    "softplus": torch.sigmoid_,
    "square": lambda s: s.mul_(2.0),
    "exp": torch.exp_,
}


def row_sum(x: Tensor, y: Tensor, *, fn: str, scale: Tensor, row_shift: Tensor | None, mask: PairMask | None) -> Tensor:
    """``sum_j fn(s_ij + b_ij - shift_i)`` over the kept columns; 0 where nothing is kept."""
    return _forward(x, y, scale, op.column_bias(mask, x), row_shift, *op.pack(mask), fn)


class _Arguments:
    """``s + b - shift`` of one tile at a time, 0 where a pair is dropped so that nothing overflows there."""

    def __init__(self, x: Tensor, y: Tensor, scale: float, shift: Tensor | None, mask: PairMask | None) -> None:
        self.walk = Walk(x.shape[0], y.shape[0], x)
        self.scores, self.mask = TileScores(x, y, scale, self.walk), TileMask(mask, x, self.walk)
        self.shift = shift
        bias = self.mask.column_bias
        self.possible = None if bias is None else (bias != -torch.inf).to(x)  # a bias of -inf drops its column
        if bias is not None:
            self.mask.column_bias = bias.masked_fill(bias == -torch.inf, 0.0)

    def __call__(self, rows: Span, columns: Span) -> Tensor:
        tile = self.scores(rows, columns)
        self.mask.add_bias_(tile, rows, columns)
        if self.shift is not None:
            tile -= self.shift[slice(*rows), None]
        return self.zero_(tile, rows, columns)

    def zero_(self, tile: Tensor, rows: Span, columns: Span) -> Tensor:
        """Put 0 on the dropped pairs of a tile."""
        if self.possible is not None:
            tile *= self.possible[slice(*columns)]
        return self.mask.zero_(tile, rows, columns)


@torch.library.custom_op(
    "kinfolk::row_sum",
    mutates_args=(),
    schema=f"(Tensor x, Tensor y, Tensor scale, Tensor? bias, Tensor? shift, {op.MASK.format('')}, str fn) -> Tensor",
)
def _forward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    shift: Tensor | None,
    parts: list[Tensor],
    layout: str,
    fn: str,
) -> Tensor:
    with full_precision(x):
        argument = _Arguments(x, y, float(scale), shift, op.unpack(x.shape[0], y.shape[0], parts, layout, bias))
        total = x.new_zeros(x.shape[0])
        for rows, columns in argument.walk:
            value = ELEMENTWISE[fn](argument(rows, columns))
            total[slice(*rows)] += argument.zero_(value, rows, columns).sum(1)
        return total


@_forward.register_fake
def _(x, y, scale, bias, shift, parts, layout, fn):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0])


@torch.library.custom_op(
    "kinfolk::row_sum_backward",
    mutates_args=(),
    schema=f"(Tensor g, Tensor x, Tensor y, Tensor scale, Tensor? bias, Tensor? shift, {op.MASK.format('')}, str fn,"
    " bool[] needed) -> Tensor[]",
)
def _backward(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    shift: Tensor | None,
    parts: list[Tensor],
    layout: str,
    fn: str,
    needed: list[bool],
) -> list[Tensor]:
    need_x, need_y, need_scale, need_bias, need_shift = needed
    with full_precision(x):
        dx, dy, dbias, dshift = op.wanted(
            (x.shape, need_x or need_scale),
            (y.shape, need_y),
            (y.shape[:1], need_bias),
            (x.shape[:1], need_shift),
            like=x,
        )
        argument = _Arguments(x, y, float(scale), shift, op.unpack(x.shape[0], y.shape[0], parts, layout, bias))
        for rows, columns in argument.walk:
            here, there = slice(*rows), slice(*columns)
            weights = _DERIVATIVE[fn](argument(rows, columns)).mul_(g[here, None])
            argument.zero_(weights, rows, columns)
            if dx.numel():
                dx[here].addmm_(weights, y[there])
            if dy.numel():
                dy[there].addmm_(weights.T, x[here])
            if need_shift:
                dshift[here] -= weights.sum(1)
            if need_bias:
                dbias[there] += weights.sum(0)
        dscale = op.scale_gradient(x, dx, scale) if need_scale else dx.new_empty(0)
        return [dx.mul_(scale), dy.mul_(scale), dscale, dbias, dshift]


@_backward.register_fake
def _(g, x, y, scale, bias, shift, parts, layout, fn, needed):  # type: ignore[no-untyped-def]
    return op.wanted_like(
        (x, needed[0] or needed[2]), (y, needed[1]), (scale, needed[2]), (y[:, 0], needed[3]), (x[:, 0], needed[4])
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, scale, bias, shift, parts, layout, fn = inputs
    ctx.save_for_backward(x, y, scale, bias, shift, *parts)
    ctx.rest = (layout, fn)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, y, scale, bias, shift, *parts = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:5])
    found = _backward(g, x, y, scale, bias, shift, parts, *ctx.rest, needed)
    return *op.given(found, needed), *op.none_for(parts), None


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(op.refuse)
