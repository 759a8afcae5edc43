"""`row_sum`: an elementwise function summed over a row.

With upstream gradient g, ``dL/ds_ij = g_i fn'(s_ij + b_ij - shift_i)``; the sum of ``fn'`` over a row, which the
shift's gradient needs, falls out of the forward sweep. Forward ``2 n m d`` operations, backward ``6 n m d``; memory
O((n + m) d) and a panel. Not yet measured on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kinfolk.ops.masks import PairMask, Span
from kinfolk.ops.triton.closed_form import closed_form
from kinfolk.ops.triton.masks import Forms, Parts, apply_mask, kernel_mask
from kinfolk.ops.triton.panels import Gradients, half_gain, panels
from kinfolk.ops.triton.rows import Rows, as_float32, on_device, same_precision, sides
from kinfolk.ops.triton.tiles import (
    LOG2E,
    TUNED,
    Sides,
    grouped,
    inverse_norms,
    launch_options,
    load_rows,
    sweep_shape,
    tile_scores,
    tuning,
    weigh_blocks,
)


def row_sum(
    x: Tensor,
    y: Tensor,
    *,
    fn: str,
    scale: Tensor,
    row_shift: Tensor | None,
    mask: PairMask | None,
    normalize: bool,
) -> Tensor:
    """``sum_j fn(s_ij + b_ij - shift_i)`` over the kept columns, float32; 0 where nothing is kept."""
    x, y = same_precision(x, y)
    bias = None if mask is None or mask.column_bias is None else as_float32(mask.column_bias, x)
    shift = None if row_shift is None else as_float32(row_shift, x)
    total: Tensor = _RowSum.apply(x, y, as_float32(scale, x), shift, bias, mask, fn, normalize)
    return total


@triton.jit
def elementwise(t, FN: tl.constexpr):  # type: ignore[no-untyped-def]
    """The function that is summed."""
    if FN == "softplus":
        small = tl.exp2(-tl.abs(t) * LOG2E)  # log(1 + e) loses small e; the ratio gives back what 1 + e rounded off
        one = 1.0 + small
        t = tl.maximum(t, 0.0) + tl.where(
            one == 1.0, small, tl.log(one) * (small / tl.where(one == 1.0, 1.0, one - 1.0))
        )
    elif FN == "square":
        t = t * t
    elif FN == "exp":
        t = tl.exp2(t * LOG2E)
    return t


@triton.jit
def derivative(t, FN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Its derivative."""
    if FN == "softplus":
        t = 1.0 / (1.0 + tl.exp2(-t * LOG2E))
    elif FN == "square":
        t = 2.0 * t
    elif FN == "exp":
        t = tl.exp2(t * LOG2E)
    else:
        t = tl.full(t.shape, 1.0, tl.float32)
    return t


@triton.autotune(**TUNED)
@triton.jit(do_not_specialize=["chunk", "width_class", "problem_class"])
def sweep_sum(  # type: ignore[no-untyped-def]
    sides,  # Sides: x [n, d], y [m, d]
    mask,  # Parts
    shift_ptr,  # [n] or None
    out,  # [chunks, n]
    slopes,  # [chunks, n] sums of the derivative, or None
    chunk,
    width_class,
    problem_class,
    FN: tl.constexpr,
    FORMS: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum a block of rows over a chunk of columns."""
    block, part = grouped(tl.program_id(0), tl.cdiv(sides.n, BLOCK_M), tl.cdiv(sides.m, chunk), GROUP)
    row = block * BLOCK_M
    rows = row + tl.arange(0, BLOCK_M)
    begin, stop = part * chunk, tl.minimum(part * chunk + chunk, sides.m)
    total = tl.zeros((BLOCK_M,), tl.float32)
    slope = tl.zeros((BLOCK_M,), tl.float32)

    for column in range(begin, stop, BLOCK_N):
        columns = column + tl.arange(0, BLOCK_N)
        t = tile_scores(sides, rows, columns, 1.0, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
        t, keep = apply_mask(t, mask, sides, row, column, sides.n, stop, 1.0, FORMS)
        if shift_ptr is not None:
            t -= load_rows(shift_ptr, rows, sides.n, 0.0)[:, None]
        t = tl.where(keep, t, 0.0)
        total += tl.sum(tl.where(keep, elementwise(t, FN), 0.0), 1)
        if slopes is not None:
            slope += tl.sum(tl.where(keep, derivative(t, FN), 0.0), 1)

    place = part * sides.n + rows
    tl.store(out + place, total, mask=rows < sides.n)
    if slopes is not None:
        tl.store(slopes + place, slope, mask=rows < sides.n)


@triton.autotune(**TUNED)
@triton.jit(do_not_specialize=["row_start", "row_stop", "column_start", "column_stop", "width_class", "problem_class"])
def weigh_sum(  # type: ignore[no-untyped-def]
    sides,  # Sides
    mask,  # Parts
    g_ptr,  # [n] upstream gradients
    shift_ptr,  # [n] or None
    gain_ptr,  # []
    panel,  # [row_stop - row_start, column_stop - column_start]
    stride_panel,
    sums,  # [row blocks, columns of the panel] float32, None where the bias needs no gradient
    row_start,
    row_stop,
    column_start,
    column_stop,
    width_class,
    problem_class,
    FN: tl.constexpr,
    FORMS: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write ``dL/d<x_i, y_j>`` over the scale, times the gain, of a panel."""
    width = column_stop - column_start
    row_blocks, column_blocks = tl.cdiv(row_stop - row_start, BLOCK_M), tl.cdiv(width, BLOCK_N)
    block, part = grouped(tl.program_id(0), row_blocks, column_blocks, GROUP)
    row, column = row_start + block * BLOCK_M, column_start + part * BLOCK_N
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    t = tile_scores(sides, rows, columns, 1.0, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
    t, keep = apply_mask(t, mask, sides, row, column, row_stop, column_stop, 1.0, FORMS)
    if shift_ptr is not None:
        t -= load_rows(shift_ptr, rows, row_stop, 0.0)[:, None]
    t = tl.where(keep, t, 0.0)
    w = tl.where(keep, derivative(t, FN) * load_rows(g_ptr, rows, row_stop, 0.0)[:, None], 0.0)
    if sums is not None:
        tl.store(sums + block * width + (columns - column_start), tl.sum(w, 0), mask=columns < column_stop)
    w = inverse_norms(sides, w, rows, columns) * tl.load(gain_ptr)
    places = (rows - row_start)[:, None] * stride_panel + (columns - column_start)[None, :]
    inside = (rows < row_stop)[:, None] & (columns < column_stop)[None, :]
    tl.store(panel + places, w.to(panel.dtype.element_ty), mask=inside)


class _RowSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        shift: Tensor | None,
        bias: Tensor | None,
        mask: PairMask | None,
        fn: str,
        normalize: bool,
    ) -> Tensor:
        both = sides(Rows.of(x, normalize), Rows.of(y, normalize), scale)
        with on_device(x):
            total, slope = _forward(both, kernel_mask(mask, bias, x), shift, fn, ctx.needs_input_grad[3])
        ctx.save_for_backward(x, y, scale, shift, bias, total, slope)
        ctx.mask, ctx.more = mask, (fn, normalize)
        return total

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, shift, bias, total, slope = ctx.saved_tensors
        need_x, need_y, need_scale, need_shift, need_bias, *_ = ctx.needs_input_grad
        fn, normalize = ctx.more
        left, right = Rows.of(x, normalize), Rows.of(y, normalize)
        gain = half_gain(_largest_weight(fn, g, total), x.dtype)
        gradients = Gradients(left, right, need=(need_x or need_scale, need_y))
        dbias = torch.zeros_like(bias) if need_bias else None
        both, parts = sides(left, right, scale), kernel_mask(ctx.mask, bias, x)
        if need_x or need_y or need_scale or need_bias:
            for rows, columns, panel in panels(both.n, both.m, like=x):
                _weigh(both, parts, (g, shift, gain), panel, rows, columns, dbias, fn)
                gradients.add(panel, rows, columns)
        dscale = gradients.scale(gain, scale) if need_scale else None
        return (
            gradients.rows(scale / gain) if need_x else None,
            gradients.columns(scale / gain) if need_y else None,
            dscale,
            -g * slope if need_shift else None,
            dbias,
            None,
            None,
            None,
        )


def _largest_weight(fn: str, g: Tensor, total: Tensor) -> Tensor:
    """Return a bound on ``|g_i fn'(t_ij)|``: no term of a sum of squares or exponentials exceeds the sum."""
    if not g.numel():
        return g.new_zeros(())
    if fn == "exp":
        g = g * total
    elif fn == "square":
        g = 2 * g * total.sqrt()
    return g.abs().amax()


def _forward(
    both: Sides, mask: tuple[Parts, Forms], shift: Tensor | None, fn: str, need_slope: bool
) -> tuple[Tensor, Tensor | None]:
    blocks, chunk, chunks = sweep_shape(both)
    out = both.x.new_zeros(chunks, both.n, dtype=torch.float32)
    slopes = torch.zeros_like(out) if need_slope else None
    if both.n and both.m:
        sweep_sum[(blocks * chunks,)](
            both,
            mask[0],
            shift,
            out,
            slopes,
            chunk,
            *tuning(both, mask[1], both.n, both.m),
            FN=fn,
            FORMS=mask[1],
            **launch_options(both.x),
        )
    return out.sum(0), None if slopes is None else slopes.sum(0)


def _weigh(
    both: Sides,
    mask: tuple[Parts, Forms],
    pointers: tuple[Tensor | None, ...],
    panel: Tensor,
    rows: Span,
    columns: Span,
    dbias: Tensor | None,
    fn: str,
) -> None:
    blocks, grid = weigh_blocks(panel)
    sums = None if dbias is None else dbias.new_empty(blocks, panel.shape[1])
    weigh_sum[grid](
        both,
        mask[0],
        *pointers,
        panel,
        panel.stride(0),
        sums,
        *rows,
        *columns,
        *tuning(both, mask[1], *panel.shape),
        FN=fn,
        FORMS=mask[1],
        **launch_options(both.x),
    )
    if dbias is not None and sums is not None:
        dbias[slice(*columns)] += sums.sum(0)
