"""`row_logsumexp` and `two_way_logsumexp`: rows, rows and columns, and the upper triangle where both sides are one.

Forward, in units of log2: a program owns a block of rows, walks over a chunk of the columns and keeps a running
maximum and sum per row; with columns, every tile also leaves the sums of its own columns. Partial results are
merged afterwards in a fixed order (`merge`). Where x is y and the mask symmetric, the tiles below the diagonal are
left out and the column results belong to the rows. Columns need an exponential of their own, against their own
maximum, unless all scores are known to lie within a range that one shift serves (`shared_shift`, on the device).

Backward, with ``R`` and ``C`` the results: ``dL/ds_ij = g_i e^{s_ij - R_i} + h_j e^{s_ij - C_j}``; for the triangle
h = g and C = R, one product with weights that are symmetric.

Forward ``2 n m d`` operations (half for the triangle) and 1 to 2 exponentials a pair; backward ``6 n m d`` (triangle:
3). Memory O((n + m) d), a panel, and at most `_COLUMN_BYTES` of partial results. Not yet measured on a GPU.
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
from kinfolk.ops.triton.merge import empty_sums, logsumexp_of, merge_sums_, unreachable
from kinfolk.ops.triton.panels import Gradients, half_gain, panels
from kinfolk.ops.triton.rows import Rows, as_float32, largest_score, on_device, same_precision, sides
from kinfolk.ops.triton.tiles import (
    INTERPRETED,
    LN2,
    LOG2E,
    TUNED,
    Sides,
    chunk_columns,
    grouped,
    inverse_norms,
    launch_options,
    load_rows,
    row_block,
    tile_scores,
    tuning,
    weigh_blocks,
)

_COLUMN_BYTES = 1 << 11 if INTERPRETED else 1 << 26
_SAFE_EXPONENT = 80.0


def row_logsumexp(x: Tensor, y: Tensor, *, scale: Tensor, mask: PairMask | None, normalize: bool) -> Tensor:
    """``lse_j(s_ij + b_ij)`` over the kept columns, float32; -inf with zero gradient where nothing is kept."""
    symmetric = x is y and (mask is None or mask.symmetric)
    x, y = same_precision(x, y)
    bias = None if mask is None or mask.column_bias is None else as_float32(mask.column_bias, x)
    lse: Tensor = _Logsumexp.apply(x, None if symmetric else y, as_float32(scale, x), bias, mask, normalize, symmetric)
    return lse


def two_way_logsumexp(
    x: Tensor, y: Tensor, *, scale: Tensor, mask: PairMask | None, normalize: bool
) -> tuple[Tensor, Tensor]:
    """The logsumexp of every row and of every column over the kept pairs, float32."""
    if x is y and (mask is None or mask.symmetric):
        lse = row_logsumexp(x, y, scale=scale, mask=mask, normalize=normalize)
        return lse, lse.clone()
    x, y = same_precision(x, y)
    bias = None if mask is None or mask.column_bias is None else as_float32(mask.column_bias, x)
    both: tuple[Tensor, Tensor] = _Logsumexp.apply(x, y, as_float32(scale, x), bias, mask, normalize, True)
    return both


def shared_shift(x: Rows, y: Rows, scale: Tensor, mask: PairMask | None, bias: Tensor | None) -> Tensor:
    """Return a shift in units of log2 that serves all exponentials of all rows and columns, and 1 where it is safe.

    Scores lie within `largest_score` of 0. When twice that and the range of the biases are small, one exponential
    serves row and column and no maximum is needed. [2], on the device: nothing waits for it.
    """
    bound = largest_score(x, y, scale)
    low = high = torch.zeros_like(bound)
    if bias is not None and bias.numel():
        finite = bias.detach().masked_fill(bias == -torch.inf, 0.0)
        low, high = finite.amin().clamp_max(0.0), finite.amax().clamp_min(0.0)
    for _, value in mask.equal_bias if mask is not None else ():
        low, high = low + min(value, 0.0), high + max(value, 0.0)
    safe = 2 * bound + (high - low) < _SAFE_EXPONENT
    return torch.stack([(bound + high) / LN2, safe.float()])


@triton.autotune(**TUNED)
@triton.jit(do_not_specialize=["column_plane", "row_start", "row_stop", "chunk", "width_class", "problem_class"])
def sweep(  # type: ignore[no-untyped-def]
    sides,  # Sides: x [n, d], y [m, d]
    mask,  # Parts
    shift_ptr,  # [2]: shared shift, whether it is safe; None without columns
    row_out,  # [2, chunks, row_stop - row_start] maxima and totals
    column_out,  # [2, row blocks, m], None without columns
    column_plane,  # elements between its two planes
    row_start,
    row_stop,
    chunk,
    width_class,
    problem_class,
    FORMS: tl.constexpr,
    TRIANGLE: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sums of exponentials of a block of rows over a chunk of columns, and of columns over a block of rows."""
    chunks = tl.cdiv(sides.m, chunk)
    block, part = grouped(tl.program_id(0), tl.cdiv(row_stop - row_start, BLOCK_M), chunks, GROUP)
    row = row_start + block * BLOCK_M
    rows = row + tl.arange(0, BLOCK_M)
    begin, stop = part * chunk, tl.minimum(part * chunk + chunk, sides.m)
    if TRIANGLE:
        begin = tl.maximum(begin, row)
    maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    fixed = False
    shift = 0.0
    if column_out is not None:
        shift = tl.load(shift_ptr)
        fixed = tl.load(shift_ptr + 1) != 0.0

    for column in range(begin, stop, BLOCK_N):
        columns = column + tl.arange(0, BLOCK_N)
        logits = tile_scores(sides, rows, columns, LOG2E, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
        logits, keep = apply_mask(logits, mask, sides, row, column, sides.n, stop, LOG2E, FORMS)
        logits = tl.where(keep, logits, float("-inf"))
        if column_out is not None:
            if fixed:
                exponentials = tl.exp2(logits - shift)
                total += tl.sum(exponentials, 1)
                top = tl.zeros((BLOCK_N,), tl.float32) + shift
                column_total = tl.sum(exponentials, 0)
            else:
                larger = tl.maximum(maximum, tl.max(logits, 1))
                against = tl.where(larger == float("-inf"), 0.0, larger)
                total = total * tl.exp2(maximum - against) + tl.sum(tl.exp2(logits - against[:, None]), 1)
                maximum = larger
                top = tl.max(logits, 0)
                against = tl.where(top == float("-inf"), 0.0, top)
                column_total = tl.sum(tl.exp2(logits - against[None, :]), 0)
            own = columns < stop  # of a triangle's diagonal tile too, whose columns `merge` does not read
            place = column_out + block * sides.m + columns
            tl.store(place, top, mask=own)
            tl.store(place + column_plane, column_total, mask=own)
        else:
            larger = tl.maximum(maximum, tl.max(logits, 1))
            against = tl.where(larger == float("-inf"), 0.0, larger)
            total = total * tl.exp2(maximum - against) + tl.sum(tl.exp2(logits - against[:, None]), 1)
            maximum = larger

    if column_out is not None:
        maximum = tl.where(fixed, shift, maximum)
    place = row_out + part * (row_stop - row_start) + (rows - row_start)
    tl.store(place, maximum, mask=rows < row_stop)
    tl.store(place + chunks * (row_stop - row_start), total, mask=rows < row_stop)


@triton.autotune(**TUNED)
@triton.jit(do_not_specialize=["row_start", "row_stop", "column_start", "column_stop", "width_class", "problem_class"])
def weigh(  # type: ignore[no-untyped-def]
    sides,  # Sides
    mask,  # Parts
    g_ptr,  # [n] upstream gradients of the rows
    row_lse,  # [n] units of log2, +inf where a row is empty
    h_ptr,  # [m] upstream gradients of the columns, None without them
    column_lse,  # [m]
    shift_ptr,  # [2]
    gain_ptr,  # []
    panel,  # [row_stop - row_start, column_stop - column_start]
    stride_panel,
    sums,  # [row blocks, columns of the panel] float32 sums of the weights, None where the bias needs no gradient
    row_start,
    row_stop,
    column_start,
    column_stop,
    width_class,
    problem_class,
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
    logits = tile_scores(sides, rows, columns, LOG2E, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
    logits, keep = apply_mask(logits, mask, sides, row, column, row_stop, column_stop, LOG2E, FORMS)
    g = load_rows(g_ptr, rows, row_stop, 0.0)
    lse = load_rows(row_lse, rows, row_stop, float("inf"))
    if h_ptr is not None:
        h = load_rows(h_ptr, columns, column_stop, 0.0)
        other = load_rows(column_lse, columns, column_stop, float("inf"))
        shift = tl.load(shift_ptr)
        if tl.load(shift_ptr + 1) != 0.0:
            share = (g * tl.exp2(shift - lse))[:, None] + (h * tl.exp2(shift - other))[None, :]
            w = tl.exp2(logits - shift) * share
        else:
            w = tl.exp2(logits - lse[:, None]) * g[:, None] + tl.exp2(logits - other[None, :]) * h[None, :]
    else:
        w = tl.exp2(logits - lse[:, None]) * g[:, None]
    w = tl.where(keep, w, 0.0)
    if sums is not None:
        tl.store(sums + block * width + (columns - column_start), tl.sum(w, 0), mask=columns < column_stop)
    w = inverse_norms(sides, w, rows, columns) * tl.load(gain_ptr)
    places = (rows - row_start)[:, None] * stride_panel + (columns - column_start)[None, :]
    inside = (rows < row_stop)[:, None] & (columns < column_stop)[None, :]
    tl.store(panel + places, w.to(panel.dtype.element_ty), mask=inside)


class _Logsumexp(torch.autograd.Function):
    """Rows alone, rows and columns (``columns``), or, where there is no y, the triangle (``columns`` as well)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        scale: Tensor,
        bias: Tensor | None,
        mask: PairMask | None,
        normalize: bool,
        columns: bool,
    ) -> Any:
        left = Rows.of(x, normalize)
        right = left if y is None else Rows.of(y, normalize)
        with on_device(x):
            shift = shared_shift(left, right, scale, mask, bias) if columns else None
            row_lse, column_lse = _forward(sides(left, right, scale), kernel_mask(mask, bias, x), shift, y is None)
        ctx.save_for_backward(x, y, scale, bias, row_lse, column_lse, shift)
        ctx.mask, ctx.normalize = mask, normalize
        return row_lse * LN2 if column_lse is None else (row_lse * LN2, column_lse * LN2)

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor, h: Tensor | None = None) -> tuple[Tensor | None, ...]:
        x, y, scale, bias, row_lse, column_lse, shift = ctx.saved_tensors
        need_x, need_y, need_scale, need_bias, *_ = ctx.needs_input_grad
        left = Rows.of(x, ctx.normalize)
        right = left if y is None else Rows.of(y, ctx.normalize)
        if y is None:
            h, column_lse = g, row_lse
        limit = g.abs().amax() if g.numel() else g.new_zeros(())
        limit = limit if h is None or not h.numel() else limit + h.abs().amax()
        gain = half_gain(limit, x.dtype)
        gradients = Gradients(left, None if y is None else right, need=(need_x or need_scale, need_y))
        dbias = torch.zeros_like(bias) if need_bias else None
        both = sides(left, right, scale)
        pointers = (g, unreachable(row_lse), h, None if h is None else unreachable(column_lse), shift, gain)
        parts = kernel_mask(ctx.mask, bias, x)
        for rows, columns, panel in panels(both.n, both.m, like=x, above_diagonal=y is None):
            _weigh(both, parts, pointers, panel, rows, columns, dbias)
            gradients.add(panel, rows, columns)
        dscale = gradients.scale(gain, scale) if need_scale else None
        return (
            gradients.rows(scale / gain) if need_x else None,
            gradients.columns(scale / gain) if need_y else None,
            dscale,
            dbias,
            None,
            None,
            None,
        )


def _forward(
    both: Sides, mask: tuple[Parts, Forms], shift: Tensor | None, triangle: bool
) -> tuple[Tensor, Tensor | None]:
    """Sweep over strips of rows, whose partial results are merged before the next strip overwrites them."""
    n, m, height, device = both.n, both.m, row_block(both.x.dtype), both.x.device
    rows = empty_sums(n, device)
    columns = None if shift is None else rows if triangle else empty_sums(m, device)
    if n and m:
        strip = n if columns is None else min(n, max(1, _COLUMN_BYTES // (8 * height * m)) * height)
        blocks = triton.cdiv(strip, height)
        chunk = chunk_columns(blocks, m, finer=4 if triangle else 1)
        chunks = triton.cdiv(m, chunk)
        column_parts = None if columns is None else rows.new_empty(2, blocks, m)
        for start in range(0, n, strip):
            stop = min(start + strip, n)
            row_parts, count = rows.new_empty(2, chunks, stop - start), triton.cdiv(stop - start, height)
            sweep[(count * chunks,)](
                both,
                mask[0],
                shift,
                row_parts,
                column_parts,
                blocks * m,
                start,
                stop,
                chunk,
                *tuning(both, mask[1], n, m),
                FORMS=mask[1],
                TRIANGLE=triangle,
                **launch_options(both.x),
            )
            merge_sums_(rows[:, start:stop], row_parts)
            if columns is not None and column_parts is not None:
                offset, step = (start + height, height) if triangle else (0, 0)
                merge_sums_(columns, column_parts[:, :count], first=offset, step=step)
    return logsumexp_of(rows), None if columns is None or triangle else logsumexp_of(columns)


def _weigh(
    both: Sides,
    mask: tuple[Parts, Forms],
    pointers: tuple[Tensor | None, ...],
    panel: Tensor,
    rows: Span,
    columns: Span,
    dbias: Tensor | None,
) -> None:
    blocks, grid = weigh_blocks(panel)
    sums = None if dbias is None else dbias.new_empty(blocks, panel.shape[1])
    weigh[grid](
        both,
        mask[0],
        *pointers,
        panel,
        panel.stride(0),
        sums,
        *rows,
        *columns,
        *tuning(both, mask[1], *panel.shape),
        FORMS=mask[1],
        **launch_options(both.x),
    )
    if dbias is not None and sums is not None:
        dbias[slice(*columns)] += sums.sum(0)
