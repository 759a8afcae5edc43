"""`row_softmax_mean`: the mean of a row's scores, weighted by a softmax of those scores.

With ``p = softmax(w s + b)``, ``f_i = sum_j p_ij s_ij`` and upstream gradient g, ``dL/ds_ij = g_i p_ij (1 + w (s_ij -
f_i))``, or ``g_i p_ij`` with detached weights. Forward ``2 n m d`` operations and an exponential a pair, backward
``6 n m d``; memory O((n + m) d) and a panel. Not yet measured on a GPU.
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
from kinfolk.ops.triton.merge import join, unreachable
from kinfolk.ops.triton.panels import Gradients, half_gain, panels
from kinfolk.ops.triton.rows import Rows, as_float32, largest_score, on_device, same_precision, sides
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


def row_softmax_mean(
    x: Tensor,
    y: Tensor,
    *,
    scale: Tensor,
    weight_scale: float,
    mask: PairMask | None,
    detach_weights: bool,
    normalize: bool,
) -> Tensor:
    """``sum_j softmax_j(w s_ij + b_ij) s_ij`` over the kept columns, float32; 0 where nothing is kept."""
    x, y = same_precision(x, y)
    bias = None if mask is None or mask.column_bias is None else as_float32(mask.column_bias, x)
    bias = bias.detach() if bias is not None and detach_weights else bias
    mean: Tensor = _SoftmaxMean.apply(
        x, y, as_float32(scale, x), bias, mask, float(weight_scale), detach_weights, normalize
    )
    return mean


@triton.autotune(**TUNED)
@triton.jit(do_not_specialize=["chunk", "width_class", "problem_class"])
def sweep_mean(  # type: ignore[no-untyped-def]
    sides,  # Sides: x [n, d], y [m, d]
    mask,  # Parts
    out,  # [3, chunks, n]: maximum and total of the weights, weighted sum of the scores
    weight_scale,
    chunk,
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
    """Softmax sums of a block of rows over a chunk of columns."""
    chunks = tl.cdiv(sides.m, chunk)
    block, part = grouped(tl.program_id(0), tl.cdiv(sides.n, BLOCK_M), chunks, GROUP)
    row = block * BLOCK_M
    rows = row + tl.arange(0, BLOCK_M)
    begin, stop = part * chunk, tl.minimum(part * chunk + chunk, sides.m)
    maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    weighted = tl.zeros((BLOCK_M,), tl.float32)

    for column in range(begin, stop, BLOCK_N):
        columns = column + tl.arange(0, BLOCK_N)
        scores = tile_scores(sides, rows, columns, 1.0, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
        logits = scores * (weight_scale * LOG2E)
        logits, keep = apply_mask(logits, mask, sides, row, column, sides.n, stop, LOG2E, FORMS)
        logits = tl.where(keep, logits, float("-inf"))
        larger = tl.maximum(maximum, tl.max(logits, 1))
        against = tl.where(larger == float("-inf"), 0.0, larger)
        rescale = tl.exp2(maximum - against)
        weights = tl.exp2(logits - against[:, None])
        total = total * rescale + tl.sum(weights, 1)
        weighted = weighted * rescale + tl.sum(tl.where(keep, weights * scores, 0.0), 1)
        maximum = larger

    place = out + part * sides.n + rows
    plane = chunks * sides.n
    tl.store(place, maximum, mask=rows < sides.n)
    tl.store(place + plane, total, mask=rows < sides.n)
    tl.store(place + 2 * plane, weighted, mask=rows < sides.n)


@triton.autotune(**TUNED)
@triton.jit(do_not_specialize=["row_start", "row_stop", "column_start", "column_stop", "width_class", "problem_class"])
def weigh_mean(  # type: ignore[no-untyped-def]
    sides,  # Sides
    mask,  # Parts
    g_ptr,  # [n] upstream gradients over the totals
    maximum_ptr,  # [n] what the weights' exponentials are taken against, units of log2
    mean_ptr,  # [n]
    gain_ptr,  # []
    panel,  # [row_stop - row_start, column_stop - column_start]
    stride_panel,
    sums,  # [row blocks, columns of the panel] float32, None where the bias needs no gradient
    weight_scale,
    row_start,
    row_stop,
    column_start,
    column_stop,
    width_class,
    problem_class,
    DETACHED: tl.constexpr,
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
    scores = tile_scores(sides, rows, columns, 1.0, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
    logits = scores * (weight_scale * LOG2E)
    logits, keep = apply_mask(logits, mask, sides, row, column, row_stop, column_stop, LOG2E, FORMS)
    against = load_rows(maximum_ptr, rows, row_stop, float("inf"))
    w = tl.exp2(logits - against[:, None]) * load_rows(g_ptr, rows, row_stop, 0.0)[:, None]
    w = tl.where(keep, w, 0.0)
    if not DETACHED:
        deviation = tl.where(keep, scores - load_rows(mean_ptr, rows, row_stop, 0.0)[:, None], 0.0)
        if sums is not None:
            summed = tl.sum(w * deviation, 0)
            tl.store(sums + block * width + (columns - column_start), summed, mask=columns < column_stop)
        w *= 1.0 + weight_scale * deviation
    w = inverse_norms(sides, w, rows, columns) * tl.load(gain_ptr)
    places = (rows - row_start)[:, None] * stride_panel + (columns - column_start)[None, :]
    inside = (rows < row_stop)[:, None] & (columns < column_stop)[None, :]
    tl.store(panel + places, w.to(panel.dtype.element_ty), mask=inside)


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
        detached: bool,
        normalize: bool,
    ) -> Tensor:
        both = sides(Rows.of(x, normalize), Rows.of(y, normalize), scale)
        with on_device(x):
            maximum, total, weighted = _forward(both, kernel_mask(mask, bias, x), weight_scale)
        mean = (weighted / total).masked_fill(total == 0, 0.0)
        ctx.save_for_backward(x, y, scale, bias, maximum, total, mean)
        ctx.mask, ctx.more = mask, (weight_scale, detached, normalize)
        return mean

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, bias, maximum, total, mean = ctx.saved_tensors
        need_x, need_y, need_scale, need_bias, *_ = ctx.needs_input_grad
        weight_scale, detached, normalize = ctx.more
        left, right = Rows.of(x, normalize), Rows.of(y, normalize)
        limit = g.abs().amax() if g.numel() else g.new_zeros(())
        gain = half_gain(limit * (1 + 2 * abs(weight_scale) * largest_score(left, right, scale)), x.dtype)
        gradients = Gradients(left, right, need=(need_x or need_scale, need_y))
        dbias = torch.zeros_like(bias) if need_bias else None
        both, parts = sides(left, right, scale), kernel_mask(ctx.mask, bias, x)
        share = (g / total).masked_fill(total == 0, 0.0)
        pointers = (share, unreachable(maximum), mean, gain)
        for rows, columns, panel in panels(both.n, both.m, like=x):
            _weigh(both, parts, pointers, panel, rows, columns, dbias, weight_scale, detached)
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
            None,
        )


def _forward(both: Sides, mask: tuple[Parts, Forms], weight_scale: float) -> tuple[Tensor, Tensor, Tensor]:
    blocks, chunk, chunks = sweep_shape(both)
    out = both.x.new_zeros(3, chunks, both.n, dtype=torch.float32)
    out[0] = -torch.inf
    if both.n and both.m:
        sweep_mean[(blocks * chunks,)](
            both,
            mask[0],
            out,
            weight_scale,
            chunk,
            *tuning(both, mask[1], both.n, both.m),
            FORMS=mask[1],
            **launch_options(both.x),
        )
    maximum, total, weighted = join(*out)
    return maximum, total, weighted


def _weigh(
    both: Sides,
    mask: tuple[Parts, Forms],
    pointers: tuple[Tensor, ...],
    panel: Tensor,
    rows: Span,
    columns: Span,
    dbias: Tensor | None,
    weight_scale: float,
    detached: bool,
) -> None:
    blocks, grid = weigh_blocks(panel)
    sums = None if dbias is None else dbias.new_empty(blocks, panel.shape[1])
    weigh_mean[grid](
        both,
        mask[0],
        *pointers,
        panel,
        panel.stride(0),
        sums,
        weight_scale,
        *rows,
        *columns,
        *tuning(both, mask[1], *panel.shape),
        DETACHED=detached,
        FORMS=mask[1],
        **launch_options(both.x),
    )
    if dbias is not None and sums is not None:
        dbias[slice(*columns)] += sums.sum(0)
