"""`row_topk`: the k best columns of every row while tiles pass by.

n m d multiply-adds and n m comparisons, memory O(n k) and one tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinfolk.ops.chunked import operators as op
from kinfolk.ops.chunked.tile_mask import TileMask
from kinfolk.ops.chunked.tiles import TileScores, Walk, full_precision
from kinfolk.ops.masks import PairMask
from kinfolk.ops.reference import fill_topk

_WIDTHS = 4  # a tile has at least so many times k columns: what is kept so far is ranked again with every tile


def row_topk(x: Tensor, y: Tensor, *, k: int, largest: bool, mask: PairMask | None) -> tuple[Tensor, Tensor]:
    """The k largest (smallest) kept logits of a row and their columns, in order; index -1 where there are fewer."""
    return _forward(x, y, op.column_bias(mask, x), *op.pack(mask), k, largest)


@torch.library.custom_op(
    "kinfolk::row_topk",
    mutates_args=(),
    schema=f"(Tensor x, Tensor y, Tensor? bias, {op.MASK.format('')}, int k, bool largest) -> (Tensor, Tensor)",
)
def _forward(
    x: Tensor,
    y: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    k: int,
    largest: bool,
) -> tuple[Tensor, Tensor]:
    n, nothing = x.shape[0], -torch.inf if largest else torch.inf
    with full_precision(x):
        walk = Walk(n, y.shape[0], x).at_least_as_wide(_WIDTHS * k)
        score, mask = (
            TileScores(x, y, 1.0, walk),
            TileMask(op.unpack(x.shape[0], y.shape[0], parts, layout, bias), x, walk),
        )
        best = x.new_full((n, k), nothing)
        places = torch.full((n, k), -1, dtype=torch.int64, device=x.device)
        for rows, columns in walk:
            here = slice(*rows)
            tile = score(rows, columns)
            mask.add_bias_(tile, rows, columns)
            mask.fill_(tile, rows, columns, nothing)
            found, where = tile.topk(min(k, tile.shape[1]), dim=1, largest=largest)
            where = torch.where(found == nothing, -1, where + columns[0])
            best[here], order = torch.cat([best[here], found], 1).topk(k, dim=1, largest=largest, sorted=True)
            places[here] = torch.cat([places[here], where], 1).gather(1, order)
        return fill_topk(best, places, k, nothing)


@_forward.register_fake
def _(x, y, bias, parts, layout, k, largest):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], k), x.new_empty(x.shape[0], k, dtype=torch.int64)
