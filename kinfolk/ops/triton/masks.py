"""A `PairMask` as kernels read it: pointers to what is there, and constants that say what to compile in."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kinfolk.ops.masks import IdPair, PairMask


class Parts(NamedTuple):
    """Pointers of a mask; None for what it does not have."""

    row_ids: Tensor | None = None  # [ids, n] int64: excluded, then required, then biased pairs of ids
    column_ids: Tensor | None = None  # [ids, m]
    margins: Tensor | None = None  # [biased] float32
    listed: Tensor | None = None  # [n, lists] int32
    lists: int = 0
    kept: Tensor | None = None  # [n, m] uint8
    kept_row: int = 0  # its strides
    kept_column: int = 0
    bias: Tensor | None = None  # [m] float32
    offset: int = 0


class Forms(NamedTuple):
    """What a kernel is compiled for: numbers of id pairs of each kind, and whether a row's own place is dropped."""

    excluded: int = 0
    required: int = 0
    ends: int = 0  # bit e is set where the e-th required pair closes its union
    biased: int = 0
    own: bool = False


def kernel_mask(mask: PairMask | None, bias: Tensor | None, like: Tensor) -> tuple[Parts, Forms]:
    """Return what kernels read of a mask beside ``like``, with ``bias`` (float32) in place of its own column bias.

    Forms of which a mask may hold several are merged: further self offsets become ids, lists of columns are joined,
    explicit matrices are multiplied.
    """
    if mask is None:
        return Parts(), Forms()
    assert mask.n is not None
    assert mask.m is not None
    device = like.device
    offsets = [_offset_ids(mask, offset, device) for offset in mask.self_offsets[1:]]
    excluded, required = [*mask.excluded, *offsets], [pair for union in mask.required for pair in union]
    biased = [pair for pair, _ in mask.equal_bias]
    pairs = [*excluded, *required, *biased]
    ends = sum(1 << (last - 1) for last in accumulate(len(union) for union in mask.required))
    listed = torch.cat(mask.excluded_columns, 1) if mask.excluded_columns else None
    kept = _product(mask.kept)
    parts = Parts(
        row_ids=torch.stack([pair.rows for pair in pairs]).to(device) if pairs else None,
        column_ids=torch.stack([pair.columns for pair in pairs]).to(device) if pairs else None,
        margins=torch.tensor([value for _, value in mask.equal_bias], device=device) if biased else None,
        listed=None if listed is None else listed.to(device, torch.int32).contiguous(),
        lists=0 if listed is None else listed.shape[1],
        kept=None if kept is None else kept.to(device),
        kept_row=0 if kept is None else kept.stride(0),
        kept_column=0 if kept is None else kept.stride(1),
        bias=None if bias is None else bias.detach().contiguous(),
        offset=mask.self_offsets[0] if mask.self_offsets else 0,
    )
    return parts, Forms(len(excluded), len(required), ends, len(biased), bool(mask.self_offsets))


def _offset_ids(mask: PairMask, offset: int, device: torch.device) -> IdPair:
    """Column ``i + offset`` of row i as ids; -1, which equals nothing, is no column."""
    return IdPair(torch.arange(mask.n or 0, device=device) + offset, torch.arange(mask.m or 0, device=device))


def _product(matrices: tuple[Tensor, ...]) -> Tensor | None:
    if not matrices:
        return None
    joined = matrices[0]
    for matrix in matrices[1:]:
        joined = joined & matrix
    return joined.view(torch.uint8)


@triton.jit
def _equal(mask, e, sides, rows, columns):  # type: ignore[no-untyped-def]
    """Where the e-th ids of a tile's pairs are equal; -1 equals nothing."""
    left = tl.load(mask.row_ids + e * sides.n + rows, mask=rows < sides.n, other=-1)
    right = tl.load(mask.column_ids + e * sides.m + columns, mask=columns < sides.m, other=-2)
    return (left[:, None] == right[None, :]) & (left != -1)[:, None]


@triton.jit
def apply_mask(  # type: ignore[no-untyped-def]
    logits_MN, mask, sides, row, column, row_stop, column_stop, unit, FORMS: tl.constexpr
):
    """Add the biases, times ``unit``, to the scores of the tile at (row, column).

    Returns the logits and which pairs are kept; none is outside ``row_stop`` and ``column_stop``.
    """
    EXCLUDED: tl.constexpr = FORMS[0]
    REQUIRED: tl.constexpr = FORMS[1]
    ENDS: tl.constexpr = FORMS[2]
    BIASED: tl.constexpr = FORMS[3]
    OWN: tl.constexpr = FORMS[4]
    rows, columns = row + tl.arange(0, logits_MN.shape[0]), column + tl.arange(0, logits_MN.shape[1])
    keep_MN = (rows < row_stop)[:, None] & (columns < column_stop)[None, :]
    if OWN:
        keep_MN = keep_MN & (columns[None, :] != (rows + mask.offset)[:, None])
    for e in tl.static_range(EXCLUDED):
        keep_MN = keep_MN & (_equal(mask, e, sides, rows, columns) == 0)
    if REQUIRED > 0:
        met_MN = keep_MN & (keep_MN == 0)
        for e in tl.static_range(REQUIRED):
            met_MN = met_MN | _equal(mask, EXCLUDED + e, sides, rows, columns)
            if (ENDS >> e) & 1:
                keep_MN = keep_MN & met_MN
                met_MN = met_MN & (met_MN == 0)
    if mask.listed is not None:
        for entry in range(mask.lists):
            listed = tl.load(mask.listed + rows.to(tl.int64) * mask.lists + entry, mask=rows < row_stop, other=-1)
            keep_MN = keep_MN & (listed[:, None] != columns[None, :])
    if mask.kept is not None:
        corner = mask.kept + tl.cast(row, tl.int64) * mask.kept_row + tl.cast(column, tl.int64) * mask.kept_column
        places = (rows - row)[:, None] * mask.kept_row + (columns - column)[None, :] * mask.kept_column
        keep_MN = keep_MN & (tl.load(corner + places, mask=keep_MN, other=0) != 0)
    if mask.bias is not None:
        bias = tl.load(mask.bias + columns, mask=columns < column_stop, other=0.0)
        keep_MN = keep_MN & (bias != float("-inf"))[None, :]
        logits_MN += (bias * unit)[None, :]
    for e in tl.static_range(BIASED):
        margin = tl.load(mask.margins + e) * unit
        logits_MN += tl.where(_equal(mask, EXCLUDED + REQUIRED + e, sides, rows, columns), margin, 0.0)
    return logits_MN, keep_MN
