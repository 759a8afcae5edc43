"""Partial softmax sums joined to whole ones, in a fixed order.

A partial sum is a pair of planes: what its exponentials were taken against (units of log2; -inf where nothing was
kept) and their total. Reads ``8 k w`` bytes for k parts of w sums. Not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kinfolk.ops.triton.tiles import INTERPRETED

_BLOCK = 32 if INTERPRETED else 128


@triton.jit(do_not_specialize=["parts", "width", "first", "step"])
def merge(  # type: ignore[no-untyped-def]
    sums,  # [2, width], read and overwritten
    stride_sums,
    partial,  # [2, parts, width]
    stride_partial,
    parts,
    width,
    first,  # part k holds columns from first + k * step on
    step,
    BLOCK: tl.constexpr,
):
    """Add the parts to what is there."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    maximum = tl.load(sums + columns, mask=inside, other=float("-inf"))
    total = tl.load(sums + stride_sums + columns, mask=inside, other=0.0)
    for part in range(parts):
        own = inside & (columns >= first + part * step)
        value = tl.load(partial + columns, mask=own, other=float("-inf"))
        count = tl.load(partial + stride_partial + columns, mask=own, other=0.0)
        partial += width
        larger = tl.maximum(maximum, value)
        against = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(maximum - against) + count * tl.exp2(value - against)
        maximum = larger
    tl.store(sums + columns, maximum, mask=inside)
    tl.store(sums + stride_sums + columns, total, mask=inside)


def empty_sums(width: int, device: torch.device) -> Tensor:
    """Return the sums [2, w] of nothing."""
    sums = torch.zeros(2, width, device=device)
    sums[0] = -torch.inf
    return sums


def merge_sums_(sums: Tensor, partial: Tensor, *, first: int = 0, step: int = 0) -> None:
    """Add partial sums [2, k, w] to those already in ``sums`` [2, w], in place.

    Args:
        sums: what is there; rows contiguous.
        partial: rows contiguous and joined.
        first: part k holds columns from ``first + k * step`` on; what stands before is not read.
        step: see ``first``.
    """
    _, parts, width = partial.shape
    merge[(triton.cdiv(width, _BLOCK),)](
        sums,
        sums.stride(0),
        partial,
        partial.stride(0),
        parts,
        width,
        first,
        step,
        BLOCK=_BLOCK,
        enable_fp_fusion=True,
    )


def logsumexp_of(sums: Tensor) -> Tensor:
    """Return the logsumexp in units of log2 of sums [2, ...]; -inf where nothing was kept."""
    return sums[1].log2() + sums[0].masked_fill(sums[0] == -torch.inf, 0.0)


def join(maxima: Tensor, *totals: Tensor) -> tuple[Tensor, ...]:
    """Join few partial sums [k, n] that share their maxima: the maximum and each total, [n]."""
    maximum = maxima.amax(0)
    rescale = torch.exp2(maxima - maximum.masked_fill(maximum == -torch.inf, 0.0))
    return maximum, *((total * rescale).sum(0) for total in totals)


def unreachable(lse: Tensor) -> Tensor:
    """Put +inf in place of the -inf of empty rows, so that their weights are 0 and not NaN."""
    return lse.masked_fill(lse == -torch.inf, torch.inf)
