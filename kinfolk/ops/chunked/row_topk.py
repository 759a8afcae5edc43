"""`row_topk`: the k best columns of every row while tiles pass by.

Time O(n m (d + log k)), memory O(n k) and one tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinfolk.ops.chunked.tiles import TileScores, spans, tile_shape
from kinfolk.ops.masks import PairMask
from kinfolk.ops.reference import fill_topk


def row_topk(x: Tensor, y: Tensor, *, k: int, largest: bool, mask: PairMask | None) -> tuple[Tensor, Tensor]:
    """The k largest (smallest) kept logits of a row and their columns, in order; index -1 where there are fewer."""
    n, m = x.shape[0], y.shape[0]
    height, width = tile_shape(n, m)
    score = TileScores(x, y, 1.0)
    nothing = -torch.inf if largest else torch.inf
    values = x.new_full((n, k), nothing)
    indices = torch.full((n, k), -1, dtype=torch.int64, device=x.device)
    for rows in spans(n, height):
        here = slice(*rows)
        for columns in spans(m, width):
            tile = score(rows, columns)
            bias = None if mask is None else mask.bias_block(rows, columns)
            if bias is not None:
                tile += bias.to(tile)
            if mask is not None:
                mask.fill_(tile, rows, columns, nothing)
            best, where = tile.topk(min(k, tile.shape[1]), dim=1, largest=largest)
            where = torch.where(best == nothing, -1, where + columns[0])
            joined = torch.cat([values[here], best], 1)
            values[here], order = joined.topk(k, dim=1, largest=largest, sorted=True)
            indices[here] = torch.cat([indices[here], where], 1).gather(1, order)
    return fill_topk(values, indices, k, nothing)
