"""`logsumexp_and_kernel_attraction`: partition and soft target from one sweep, for graphs made of side embeddings.

With scores ``s = scale x y^T`` and relations ``r = u v^T / tau_s``, ``T = softmax_j(r)`` over the target's kept pairs,
one pass yields ``lse_j(s_ij)`` and ``a_i = sum_j T_ij s_ij``. With upstream gradients g and h,
``dL/ds_ij = g_i p_ij + h_i T_ij``, so that one product serves both, and, where side embeddings are learnt,
``dL/dr_ij = h_i T_ij (s_ij - a_i)``.

Forward ``2 n m (d + e)`` operations for relations e wide and two exponentials a pair; backward as much again plus
``4 n m d``. Where both sides are the same and all masks symmetric, the backward takes half of the panels and one
product. float32 side embeddings cost float32 products whatever the precision of x. Memory O((n + m)(d + e)) and one
panel (two with learnt side embeddings). Not yet measured on a GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kinfolk.ops.masks import PairMask, Span
from kinfolk.ops.triton.closed_form import closed_form
from kinfolk.ops.triton.masks import Forms, Parts, apply_mask, kernel_mask
from kinfolk.ops.triton.merge import join, logsumexp_of, unreachable
from kinfolk.ops.triton.panels import Gradients, half_gain, panels
from kinfolk.ops.triton.rows import Rows, as_float32, largest_score, on_device, same_precision, sides
from kinfolk.ops.triton.tiles import (
    LN2,
    LOG2E,
    TUNED_FOR_TWO,
    Sides,
    grouped,
    inverse_norms,
    launch_options,
    load_rows,
    relation_options,
    sweep_shape,
    tile_scores,
    tuning,
    weigh_blocks,
)


def logsumexp_and_kernel_attraction(
    x: Tensor,
    y: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    scale: Tensor,
    relation_scale: float,
    mask: PairMask | None,
    target_mask: PairMask | None,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """``lse_j(s_ij + b_ij)`` over the kept and ``sum_j T_ij s_ij`` over the target's kept columns, float32.

    ``normalize`` is about x and y; u and v are taken as they are. The attraction is 0 where the target's row is
    empty. Biases of ``target_mask`` play no role.
    """
    symmetric = x is y and u is v and not u.requires_grad and all(m is None or m.symmetric for m in (mask, target_mask))
    x, y = same_precision(x, y)
    u, v = same_precision(u, v)
    bias = None if mask is None or mask.column_bias is None else as_float32(mask.column_bias, x)
    target_mask = None if target_mask is None else target_mask.without_bias()
    options = _Options(mask, target_mask, float(relation_scale), normalize, symmetric)
    both: tuple[Tensor, Tensor] = _Attraction.apply(x, y, u, v, as_float32(scale, x), bias, options)
    return both


class _Options(NamedTuple):
    mask: PairMask | None
    target_mask: PairMask | None
    relation_scale: float
    normalize: bool
    symmetric: bool


class _Inputs(NamedTuple):
    """What both kernels read."""

    both: Sides
    relations: Sides
    mask: tuple[Parts, Forms]
    target: tuple[Parts, Forms]


@triton.autotune(**TUNED_FOR_TWO)
@triton.jit(do_not_specialize=["chunk", "width_class", "problem_class"])
def sweep_attraction(  # type: ignore[no-untyped-def]
    sides,  # Sides: x [n, d], y [m, d]
    relations,  # Sides: u [n, e], v [m, e]
    mask,  # Parts
    target,  # Parts
    out,  # [5, chunks, n]: maximum and total; the target's maximum and total, weighted sum of the scores
    chunk,
    width_class,
    problem_class,
    FORMS: tl.constexpr,
    TARGET_FORMS: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_D: tl.constexpr,
    PRECISION_E: tl.constexpr,
    EVEN_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Softmax sums of logits and of relations, of a block of rows over a chunk of columns, in units of log2."""
    n, chunks = sides.n, tl.cdiv(sides.m, chunk)
    block, part = grouped(tl.program_id(0), tl.cdiv(n, BLOCK_M), chunks, GROUP)
    row = block * BLOCK_M
    rows = row + tl.arange(0, BLOCK_M)
    begin, stop = part * chunk, tl.minimum(part * chunk + chunk, sides.m)
    maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    target_maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    target_total = tl.zeros((BLOCK_M,), tl.float32)
    weighted = tl.zeros((BLOCK_M,), tl.float32)

    for column in range(begin, stop, BLOCK_N):
        columns = column + tl.arange(0, BLOCK_N)
        r = tile_scores(relations, rows, columns, LOG2E, PRECISION_E, EVEN_E, BLOCK_M, BLOCK_N, BLOCK_E)
        r, keep = apply_mask(r, target, sides, row, column, n, stop, LOG2E, TARGET_FORMS)
        r = tl.where(keep, r, float("-inf"))
        larger = tl.maximum(target_maximum, tl.max(r, 1))
        against = tl.where(larger == float("-inf"), 0.0, larger)
        rescale = tl.exp2(target_maximum - against)
        kernel = tl.exp2(r - against[:, None])
        target_total = target_total * rescale + tl.sum(kernel, 1)
        target_maximum = larger

        s = tile_scores(sides, rows, columns, LOG2E, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
        weighted = weighted * rescale + tl.sum(tl.where(kernel != 0.0, kernel * s, 0.0), 1)
        s, keep = apply_mask(s, mask, sides, row, column, n, stop, LOG2E, FORMS)
        s = tl.where(keep, s, float("-inf"))
        larger = tl.maximum(maximum, tl.max(s, 1))
        against = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(maximum - against) + tl.sum(tl.exp2(s - against[:, None]), 1)
        maximum = larger

    inside = rows < n
    place = out + part * n + rows
    plane = chunks * n
    tl.store(place, maximum, mask=inside)
    tl.store(place + plane, total, mask=inside)
    tl.store(place + 2 * plane, target_maximum, mask=inside)
    tl.store(place + 3 * plane, target_total, mask=inside)
    tl.store(place + 4 * plane, weighted, mask=inside)


@triton.autotune(**TUNED_FOR_TWO)
@triton.jit(do_not_specialize=["row_start", "row_stop", "column_start", "column_stop", "width_class", "problem_class"])
def weigh_attraction(  # type: ignore[no-untyped-def]
    sides,  # Sides
    relations,  # Sides
    mask,  # Parts
    target,  # Parts
    g_ptr,  # [n] upstream gradients of the logsumexp
    lse_ptr,  # [n] units of log2, +inf where a row is empty
    share_ptr,  # [n] upstream gradients of the attraction over the target's totals
    target_maximum_ptr,  # [n] units of log2, +inf where a target's row is empty
    pull_ptr,  # [n] the attraction
    gain_ptr,  # []
    slope_gain_ptr,  # []
    panel,  # [row_stop - row_start, column_stop - column_start]
    stride_panel,
    slopes,  # the same for the relations' weights, None where side embeddings are constant
    stride_slopes,
    sums,  # [row blocks, columns of the panel] float32, None where the bias needs no gradient
    row_start,
    row_stop,
    column_start,
    column_stop,
    width_class,
    problem_class,
    SYMMETRIC: tl.constexpr,
    FORMS: tl.constexpr,
    TARGET_FORMS: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_D: tl.constexpr,
    PRECISION_E: tl.constexpr,
    EVEN_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Write ``dL/d<x_i, y_j>`` and ``dL/d<u_i, v_j>`` over their scales, times their gains, of a panel."""
    width = column_stop - column_start
    row_blocks, column_blocks = tl.cdiv(row_stop - row_start, BLOCK_M), tl.cdiv(width, BLOCK_N)
    block, part = grouped(tl.program_id(0), row_blocks, column_blocks, GROUP)
    row, column = row_start + block * BLOCK_M, column_start + part * BLOCK_N
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    inside = (rows < row_stop)[:, None] & (columns < column_stop)[None, :]

    r = tile_scores(relations, rows, columns, LOG2E, PRECISION_E, EVEN_E, BLOCK_M, BLOCK_N, BLOCK_E)
    r, keep = apply_mask(r, target, sides, row, column, row_stop, column_stop, LOG2E, TARGET_FORMS)
    against = load_rows(target_maximum_ptr, rows, row_stop, float("inf"))
    w = tl.exp2(r - against[:, None]) * load_rows(share_ptr, rows, row_stop, 0.0)[:, None]
    if SYMMETRIC:
        against = load_rows(target_maximum_ptr, columns, column_stop, float("inf"))
        w += tl.exp2(r - against[None, :]) * load_rows(share_ptr, columns, column_stop, 0.0)[None, :]
    w = tl.where(keep, w, 0.0)

    s = tile_scores(sides, rows, columns, LOG2E, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
    if slopes is not None:
        deviation = s * 0.6931471805599453 - load_rows(pull_ptr, rows, row_stop, 0.0)[:, None]
        slope = tl.where(w != 0.0, w * deviation, 0.0) * tl.load(slope_gain_ptr)
        places = (rows - row_start)[:, None] * stride_slopes + (columns - column_start)[None, :]
        tl.store(slopes + places, slope.to(slopes.dtype.element_ty), mask=inside)
    s, keep = apply_mask(s, mask, sides, row, column, row_stop, column_stop, LOG2E, FORMS)
    lse = load_rows(lse_ptr, rows, row_stop, float("inf"))
    push = tl.exp2(s - lse[:, None]) * load_rows(g_ptr, rows, row_stop, 0.0)[:, None]
    if SYMMETRIC:
        lse = load_rows(lse_ptr, columns, column_stop, float("inf"))
        push += tl.exp2(s - lse[None, :]) * load_rows(g_ptr, columns, column_stop, 0.0)[None, :]
    push = tl.where(keep, push, 0.0)
    if sums is not None:
        tl.store(sums + block * width + (columns - column_start), tl.sum(push, 0), mask=columns < column_stop)
    w = inverse_norms(sides, w + push, rows, columns) * tl.load(gain_ptr)
    places = (rows - row_start)[:, None] * stride_panel + (columns - column_start)[None, :]
    tl.store(panel + places, w.to(panel.dtype.element_ty), mask=inside)


class _Attraction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, u: Tensor, v: Tensor, scale: Tensor, bias: Tensor | None, options: _Options
    ) -> tuple[Tensor, Tensor]:
        with on_device(x):
            lse, maximum, total, weighted = _forward(_inputs(x, y, u, v, scale, bias, options))
        pull = (weighted / total).masked_fill(total == 0, 0.0) * LN2
        ctx.save_for_backward(x, y, u, v, scale, bias, lse, maximum, total, pull)
        ctx.options = options
        return lse * LN2, pull

    @staticmethod
    @closed_form
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        x, y, u, v, scale, bias, lse, maximum, total, pull = ctx.saved_tensors
        need_x, need_y, need_u, need_v, need_scale, need_bias, _ = ctx.needs_input_grad
        inputs, symmetric = _inputs(x, y, u, v, scale, bias, ctx.options), ctx.options.symmetric
        left, right = Rows.of(x, ctx.options.normalize), Rows.of(y, ctx.options.normalize)
        limit = (g.abs() + h.abs()).amax() if g.numel() else g.new_zeros(())
        gain = half_gain(2 * limit if symmetric else limit, x.dtype)
        slope_gain = half_gain(2 * limit * largest_score(left, right, scale), u.dtype)
        gradients = Gradients(left, None if symmetric else right, need=(need_x or need_scale, need_y and not symmetric))
        side = Gradients(Rows.of(u, False), Rows.of(v, False), need=(need_u, need_v))
        share = (h / total).masked_fill(total == 0, 0.0)
        pointers = (g, unreachable(lse), share, unreachable(maximum), pull, gain, slope_gain)
        dbias = torch.zeros_like(bias) if need_bias else None
        for rows, columns, panel in panels(len(x), len(y), like=x, above_diagonal=symmetric):
            slopes = u.new_empty(panel.shape) if need_u or need_v else None
            _weigh(inputs, pointers, panel, slopes, rows, columns, dbias, symmetric)
            gradients.add(panel, rows, columns)
            if slopes is not None:
                side.add(slopes, rows, columns)
        dscale = gradients.scale(gain, scale) if need_scale else None
        factor = ctx.options.relation_scale / slope_gain
        return (
            gradients.rows(scale / gain) if need_x else None,
            gradients.columns(scale / gain) if need_y and not symmetric else None,
            side.rows(factor) if need_u else None,
            side.columns(factor) if need_v else None,
            dscale,
            dbias,
            None,
        )


def _inputs(
    x: Tensor, y: Tensor, u: Tensor, v: Tensor, scale: Tensor, bias: Tensor | None, options: _Options
) -> _Inputs:
    relation_scale = torch.full((), options.relation_scale, dtype=torch.float32, device=x.device)
    return _Inputs(
        sides(Rows.of(x, options.normalize), Rows.of(y, options.normalize), scale),
        sides(Rows.of(u, False), Rows.of(v, False), relation_scale),
        kernel_mask(options.mask, bias, x),
        kernel_mask(options.target_mask, None, x),
    )


def _constants(inputs: _Inputs) -> dict[str, Any]:
    return {
        "FORMS": inputs.mask[1],
        "TARGET_FORMS": inputs.target[1],
        **launch_options(inputs.both.x),
        **relation_options(inputs.relations.x),
    }


def _forward(inputs: _Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    both = inputs.both
    blocks, chunk, chunks = sweep_shape(both)
    out = both.x.new_zeros(5, chunks, both.n, dtype=torch.float32)
    out[0] = out[2] = -torch.inf
    if both.n and both.m:
        sweep_attraction[(blocks * chunks,)](
            both,
            inputs.relations,
            inputs.mask[0],
            inputs.target[0],
            out,
            chunk,
            *tuning(both, inputs.mask[1], both.n, both.m),
            **_constants(inputs),
        )
    maximum, total, weighted = join(*out[2:])
    return logsumexp_of(torch.stack(join(*out[:2]))), maximum, total, weighted


def _weigh(
    inputs: _Inputs,
    pointers: tuple[Tensor, ...],
    panel: Tensor,
    slopes: Tensor | None,
    rows: Span,
    columns: Span,
    dbias: Tensor | None,
    symmetric: bool,
) -> None:
    both, (blocks, grid) = inputs.both, weigh_blocks(panel)
    sums = None if dbias is None else dbias.new_empty(blocks, panel.shape[1])
    weigh_attraction[grid](
        both,
        inputs.relations,
        inputs.mask[0],
        inputs.target[0],
        *pointers,
        panel,
        panel.stride(0),
        slopes,
        0 if slopes is None else slopes.stride(0),
        sums,
        *rows,
        *columns,
        *tuning(both, inputs.mask[1], *panel.shape),
        SYMMETRIC=symmetric,
        **_constants(inputs),
    )
    if dbias is not None and sums is not None:
        dbias[slice(*columns)] += sums.sum(0)
