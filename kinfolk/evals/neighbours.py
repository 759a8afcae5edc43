"""Exact nearest neighbours by cosine, tile by tile, with ties that do not depend on the tiling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

# Features are float32, so cosines that differ by less than this are ties. Without the grid, the features of a collapsed
# encoder, equal but for rounding, would be ranked by noise.
GRID = 2.0**-20
_TILE_ENTRIES = 2**23  # 64 MB of float64 per tile


def normalised(rows: Float[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
    """Rows of length one in float64; a zero row stays zero.

    Example:
        >>> normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    return F.normalize(rows.double(), dim=1, eps=1e-12)


def cosine_tiles(
    queries: Float64[Tensor, "q d"], keys: Float64[Tensor, "m d"], *, tile: int | None = None
) -> Iterator[tuple[slice, Float64[Tensor, "t m"]]]:
    """Cosines of normalised rows in units of `GRID`, rounded to whole numbers, for a tile of queries at a time.

    Args:
        queries: normalised rows.
        keys: normalised rows.
        tile: queries per tile; None keeps a tile at 64 MB. It never changes a value.

    Yields:
        The slice of queries and their `[t, m]` cosines, a fresh tensor the caller may change.
    """
    step = max(1, _TILE_ENTRIES // len(keys)) if tile is None else tile
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        yield part, (queries[part] @ keys.T).div_(GRID).round_()


def nearest(
    queries: Float64[Tensor, "q d"],
    keys: Float64[Tensor, "m d"],
    *,
    k: int,
    exclude: Int64[Tensor, " q"] | None = None,
    tile: int | None = None,
) -> tuple[Float64[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """The k nearest keys of every query, nearest first, ties to the lower index.

    Args:
        queries: normalised rows.
        keys: normalised rows.
        k: neighbours to find; at most m are returned.
        exclude: the key that is no neighbour of each query (itself), -1 for none.
        tile: queries per tile; it never changes the result.

    Returns:
        Cosines on the grid and key indices. Where fewer than k keys remain, cosine -inf and index -1.

    Example:
        >>> rows = normalised(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
        >>> nearest(rows, rows, k=2, exclude=torch.arange(3))[1].tolist()
        [[1, 2], [0, 2], [1, 0]]
    """
    m = len(keys)
    # Cosine and index share one float64 key, so that topk, which promises nothing about ties, has none to break:
    # 2^21 grid points leave room for 2^32 keys in the 53 bits of a float64.
    lower_first = torch.arange(m - 1, -1, -1, dtype=torch.float64, device=keys.device)
    cosines, indices = [], []
    for part, tile_cosines in cosine_tiles(queries, keys, tile=tile):
        packed = tile_cosines.mul_(m).add_(lower_first)
        if exclude is not None:
            own = exclude[part]
            rows = torch.nonzero(own >= 0).squeeze(1)
            packed[rows, own[rows]] = -torch.inf
        best = packed.topk(min(k, m), dim=1).values
        units = (best / m).floor()
        found = best.isfinite()
        cosines.append(torch.where(found, units * GRID, -torch.inf))
        indices.append(torch.where(found, m - 1 - (best - units * m), -1).long())
    return torch.cat(cosines), torch.cat(indices)
