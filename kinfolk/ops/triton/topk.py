"""`row_topk`: the k best columns of every row.

A kernel writes the masked products of a panel of pairs in float32, PyTorch's selection takes the k best of each row,
and those join the best of the panels before. Any k; ``2 n m d`` operations and about five passes over 4 bytes a pair,
which is what bounds it below some 1,000 features. Memory O(n k) and a panel. Not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kinfolk.ops.masks import PairMask
from kinfolk.ops.triton.masks import apply_mask, kernel_mask
from kinfolk.ops.triton.panels import panels
from kinfolk.ops.triton.rows import Rows, as_float32, on_device, same_precision, sides
from kinfolk.ops.triton.tiles import TUNED, grouped, launch_options, row_block, tile_scores, tuning


@torch.no_grad()
def row_topk(
    x: Tensor, y: Tensor, *, k: int, largest: bool, mask: PairMask | None, normalize: bool
) -> tuple[Tensor, Tensor]:
    """The k largest (smallest) kept logits of a row, float32, and their columns; -1 where there are fewer than k."""
    x, y = same_precision(x, y)
    bias = None if mask is None or mask.column_bias is None else as_float32(mask.column_bias, x)
    one = torch.ones((), dtype=torch.float32, device=x.device)
    both = sides(Rows.of(x, normalize), Rows.of(y, normalize), one)
    nothing = -torch.inf if largest else torch.inf
    values = one.new_full((both.n, k), nothing)
    indices = torch.full((both.n, k), -1, dtype=torch.int64, device=x.device)
    with on_device(x):
        parts, forms = kernel_mask(mask, bias, x)
        for rows, columns, panel in panels(both.n, both.m, like=one):
            blocks = triton.cdiv(panel.shape[0], row_block(x.dtype))
            write_logits[lambda meta, b=blocks, w=panel.shape[1]: (b * triton.cdiv(w, meta["BLOCK_N"]),)](
                both,
                parts,
                panel,
                panel.stride(0),
                nothing,
                *rows,
                *columns,
                *tuning(both, forms, *panel.shape),
                FORMS=forms,
                **launch_options(both.x),
            )
            best, where = panel.topk(min(k, panel.shape[1]), dim=1, largest=largest)
            where = torch.where(best == nothing, -1, where + columns[0])
            here = slice(*rows)
            joined = torch.cat([values[here], best], 1)
            values[here], order = joined.topk(k, dim=1, largest=largest, sorted=True)
            indices[here] = torch.cat([indices[here], where], 1).gather(1, order)
    return values, indices


@triton.autotune(**TUNED)
@triton.jit(do_not_specialize=["row_start", "row_stop", "column_start", "column_stop", "width_class", "problem_class"])
def write_logits(  # type: ignore[no-untyped-def]
    sides,  # Sides: x [n, d], y [m, d]
    mask,  # Parts
    panel,  # [row_stop - row_start, column_stop - column_start] float32
    stride_panel,
    nothing,  # what stands for a dropped pair
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
    """Write the logits of a panel of pairs."""
    row_blocks, column_blocks = tl.cdiv(row_stop - row_start, BLOCK_M), tl.cdiv(column_stop - column_start, BLOCK_N)
    block, part = grouped(tl.program_id(0), row_blocks, column_blocks, GROUP)
    row, column = row_start + block * BLOCK_M, column_start + part * BLOCK_N
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    logits = tile_scores(sides, rows, columns, 1.0, PRECISION, EVEN_D, BLOCK_M, BLOCK_N, BLOCK_D)
    logits, keep = apply_mask(logits, mask, sides, row, column, row_stop, column_stop, 1.0, FORMS)
    places = (rows - row_start)[:, None] * stride_panel + (columns - column_start)[None, :]
    inside = (rows < row_stop)[:, None] & (columns < column_stop)[None, :]
    tl.store(panel + places, tl.where(keep, logits, nothing), mask=inside)
