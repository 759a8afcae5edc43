"""Exact nearest neighbours by cosine, with ties that depend neither on the tiling nor on how they were searched."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from kinfolk.data.optional import import_extra

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64

# Features are float32, so cosines that differ by less than this are ties. Without the grid, the features of a collapsed
# encoder, equal but for rounding, would be ranked by noise.
GRID = 2.0**-20
_TILE_ENTRIES = 2**23  # 64 MB of float64 per tile
_RANKED_ENTRIES = 2**17  # 1 MB: candidates' rows are compared while they are in the processor's cache
_SEARCHED = 4096  # queries per call of faiss, its own block size
_WORTH_IT = 2**26  # pairs from which faiss, twice as fast, saves more than the half second its import takes
_HOPELESS = 0.25  # share of queries that float32 cannot decide, above which faiss is time lost


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
    for start in range(0, max(len(queries), 1), step):  # no query makes one empty tile
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

    Large searches on the CPU use faiss where it is installed, with the same result: see `nearest_by_candidates`.

    Args:
        queries: normalised rows.
        keys: normalised rows, at least one, on the same device.
        k: neighbours to find; at most m are returned.
        exclude: the key that is no neighbour of each query (itself), -1 for none.
        tile: queries per tile, which also does without faiss; it never changes the result.

    Returns:
        Cosines on the grid and key indices. Where fewer than k keys remain, cosine -inf and index -1.

    Example:
        >>> rows = normalised(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
        >>> nearest(rows, rows, k=2, exclude=torch.arange(3))[1].tolist()
        [[1, 2], [0, 2], [1, 0]]
    """
    if tile is None and _is_worth_it(queries, keys, k):
        return nearest_by_candidates(queries, keys, k=k, exclude=exclude)
    return _by_tiles(queries, keys, k, exclude, tile)


def nearest_by_candidates(
    queries: Float64[Tensor, "q d"],
    keys: Float64[Tensor, "m d"],
    *,
    k: int,
    exclude: Int64[Tensor, " q"] | None = None,
) -> tuple[Float64[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """The same answer as `nearest`, from candidates that faiss finds in float32 and float64 ranks again.

    A query's answer is taken when no key outside its candidates can reach the grid point of its k-th neighbour,
    whatever float32 rounding did; otherwise, as where many keys are tied, the query is searched again without faiss.
    Once a quarter of the queries of a block were, the rest is searched without faiss as well.

    Args:
        queries: normalised rows on the CPU.
        keys: normalised rows on the CPU, more than k of them.
        k: neighbours to find.
        exclude: the key that is no neighbour of each query, -1 for none.

    Returns:
        As `nearest`.

    Raises:
        ImportError: without faiss, with the command that installs it.

    Reference:
        Johnson, Douze, Jegou (2019), Billion-Scale Similarity Search with GPUs.

    Example:
        >>> rows = normalised(torch.eye(8))
        >>> if find_spec("faiss") is not None:
        ...     assert nearest_by_candidates(rows, rows, k=1)[1].flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    """
    faiss = import_extra("faiss", needed_for="the search by candidates", extra="index")
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys.float().numpy())
    count = min(_candidates(k), len(keys))
    cosines, indices = [], []
    for start in range(0, len(queries), _SEARCHED):
        part = slice(start, start + _SEARCHED)
        asked, own = queries[part], None if exclude is None else exclude[part]
        scores, found = map(torch.from_numpy, index.search(asked.float().numpy(), count))
        near, which, sure = _ranked_again(asked, keys, found, scores, k=k, exclude=own)
        again = torch.nonzero(~sure).squeeze(1)
        if len(again):
            near[again], which[again] = _by_tiles(asked[again], keys, k, None if own is None else own[again], None)
        cosines.append(near)
        indices.append(which)
        rest = slice(start + _SEARCHED, None)
        if len(again) > _HOPELESS * len(asked) and len(queries[rest]):
            near, which = _by_tiles(queries[rest], keys, k, None if exclude is None else exclude[rest], None)
            return torch.cat([*cosines, near]), torch.cat([*indices, which])
    return torch.cat(cosines), torch.cat(indices)


def _is_worth_it(queries: Tensor, keys: Tensor, k: int) -> bool:
    """Whether faiss finds candidates faster than all cosines are computed; a GPU computes them fast enough."""
    large = len(queries) * len(keys) >= _WORTH_IT and len(keys) > 4 * _candidates(k)
    return large and keys.device.type == "cpu" and find_spec("faiss") is not None


def _candidates(k: int) -> int:
    """How many candidates to rank again: room for a query itself and for what float32 puts in the wrong order."""
    return k + 16 + k // 8


def _by_tiles(
    queries: Tensor, keys: Tensor, k: int, exclude: Tensor | None, tile: int | None
) -> tuple[Float64[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """All cosines, tile by tile: what the search means."""
    places = torch.arange(len(keys), device=keys.device)
    parts = [
        _best(units, places, len(keys), k, None if exclude is None else exclude[part])
        for part, units in cosine_tiles(queries, keys, tile=tile)
    ]
    return torch.cat([near for near, _ in parts]), torch.cat([which for _, which in parts])


def _best(
    units: Float64[Tensor, "q c"], places: Tensor, m: int, k: int, exclude: Tensor | None
) -> tuple[Float64[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """The k highest cosines, ties to the lower of the keys' places `[c]` or `[q, c]`; changes the cosines."""
    # Cosine and index share one float64 key, so that topk, which promises nothing about ties, has none to break:
    # 2^21 grid points leave room for 2^32 keys in the 53 bits of a float64.
    packed = units.mul_(m).add_(m - 1 - places)
    if exclude is not None:
        packed.masked_fill_(places == exclude[:, None], -torch.inf)
    best = packed.topk(min(k, units.shape[1]), dim=1).values
    units = (best / m).floor()
    found = best.isfinite()
    return torch.where(found, units * GRID, -torch.inf), torch.where(found, m - 1 - (best - units * m), -1).long()


def _ranked_again(
    queries: Float64[Tensor, "q d"],
    keys: Float64[Tensor, "m d"],
    found: Int64[Tensor, "q c"],
    scores: Float[Tensor, "q c"],
    *,
    k: int,
    exclude: Tensor | None,
) -> tuple[Float64[Tensor, "q k"], Int64[Tensor, "q k"], Bool[Tensor, " q"]]:
    """The k best candidates by cosines in float64, and whether they are the k best of all keys."""
    step = max(1, _RANKED_ENTRIES // (found.shape[1] * keys.shape[1]))
    parts = zip(queries.split(step), found.split(step), strict=True)
    units = torch.cat([_cosines_of(asked, keys, near) for asked, near in parts]).div_(GRID)
    # A sum's last bits depend on the order of its terms, and at the edge of a grid cell they decide the grid point.
    settled = ((units - units.floor() - 0.5).abs() > GRID).all(dim=1)
    near, which = _best(units.round_(), found, len(keys), k, exclude)
    # A dot product of d float32 terms is off by at most d roundings, whatever their order, rounding the rows by two.
    error = (keys.shape[1] + 4) * 2.0**-24
    beyond = (scores.double().min(dim=1).values + error) / GRID
    return near, which, settled & ((beyond + 0.5).floor() < (near[:, -1] / GRID))


def _cosines_of(queries: Tensor, keys: Tensor, found: Int64[Tensor, "q c"]) -> Float64[Tensor, "q c"]:
    rows = keys.index_select(0, found.flatten()).view(*found.shape, -1)  # half the time of keys[found]
    return torch.bmm(rows, queries[:, :, None]).squeeze(2)
