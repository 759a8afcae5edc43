"""What the tile sweeps share: how large a tile is, the walk over tiles, the products of a tile, tiles that are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.ops.masks import Span

if TYPE_CHECKING:
    from jaxtyping import Float

_ROWS: int | None = None
_COLUMNS: int | None = None
"""A fixed tile, for tests; otherwise `tile_shape` fits tiles to the cache."""

_KEPT_BYTES = 16 << 20
"""Scores that take less than this are kept for the backward pass; more are computed again."""


@cache
def _cache_bytes() -> int:
    """Size of one core's second-level cache, a mebibyte where the system does not say."""
    try:
        kibibytes = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip().removesuffix("K")
        return int(kibibytes) << 10
    except (OSError, ValueError):
        return 1 << 20


def _tile_area(like: Tensor | None, at_once: int) -> int:
    """Return how many scores a tile should hold when a sweep works on so many at once.

    On a CPU a tile fills half of the second-level caches of the threads that work on it, so that it is still there
    when the exponentials and the gradient's products read it. On other devices it is large enough to keep them busy.
    """
    size = 4 if like is None else like.element_size()
    if like is not None and like.device.type != "cpu":
        return (1 << 26) // size
    return min(max(torch.get_num_threads() * _cache_bytes() // (2 * at_once), 1 << 18), 1 << 24) // size


def tile_shape(n: int, m: int, like: Tensor | None = None, *, at_once: int = 1) -> tuple[int, int]:
    """Return the tile that a sweep over ``n x m`` pairs uses: twice as wide as high, where the problem is large.

    Example:
        >>> height, width = tile_shape(100, 100_000)
        >>> height
        100
    """
    if _ROWS is not None and _COLUMNS is not None:
        return max(min(n, _ROWS), 1), max(min(m, _COLUMNS), 1)
    area = _tile_area(like, at_once)
    height = 1 << (int(math.log2(area)) - 1) // 2
    width = max(area // max(min(n, height), 1), 1)
    if m < width:
        height = max(area // max(m, 1), height)
    return max(min(n, height), 1), max(min(m, width), 1)


def triangle_step(n: int, like: Tensor | None = None, *, at_once: int = 1) -> int:
    """Return the side of the square tiles of a sweep over the upper triangle.

    Half of a tile on the diagonal is computed in vain; smaller tiles waste less, but were slower from 1,024 rows on.
    """
    if _ROWS is not None and _COLUMNS is not None:
        return max(min(n, _ROWS, _COLUMNS), 1)
    return max(min(n, 1 << int(math.log2(_tile_area(like, at_once))) // 2), 1)


def spans(length: int, step: int, start: int = 0) -> Iterator[Span]:
    """Cut ``[start, length)`` into ranges of at most ``step``."""
    for begin in range(start, length, step):
        yield begin, min(begin + step, length)


class Walk:
    """The tiles of a sweep, row strip by row strip: all of them, or those on and above the diagonal.

    Args:
        n, m: rows and columns.
        like: a tensor of the scores' dtype and device.
        triangle: leave out what lies below the diagonal.
        at_once: tiles of one place that the sweep works on at once; the more, the smaller.
    """

    def __init__(self, n: int, m: int, like: Tensor | None = None, *, triangle: bool = False, at_once: int = 1) -> None:
        self.n, self.m, self.triangle = n, m, triangle
        if triangle:
            self.height = self.width = triangle_step(n, like, at_once=at_once)
        else:
            self.height, self.width = tile_shape(n, m, like, at_once=at_once)

    def at_least_as_wide(self, width: int) -> Walk:
        """Take wider and lower tiles of the same size where these are narrower."""
        if width > self.width:
            size, self.width = self.height * self.width, max(1, min(width, self.m))
            self.height = max(1, size // self.width)
        return self

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        for rows in spans(self.n, self.height):
            for columns in spans(self.m, self.width, rows[0] if self.triangle else 0):
                yield rows, columns


def keeps_scores(x: Tensor, y: Tensor, recompute: bool | None, *, triangle: bool, tiles: int = 1) -> bool:
    """Whether a sweep keeps its scores: as asked for, otherwise where they are few."""
    if recompute is not None:
        return not recompute
    size = x.shape[0] * y.shape[0] * x.element_size()
    return tiles * (size // 2 if triangle else size) <= _KEPT_BYTES


class TileScores:
    """Scores ``scale * <x_i, y_j>`` of one tile at a time, written into a buffer that is used again."""

    def __init__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], scale: float, walk: Walk) -> None:
        self.x, self.y, self.scale = x, y, scale
        self.buffer = x.new_empty(walk.height * walk.width)
        self._rows: Span | None = None
        self._strip = x

    def __call__(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return the scores of a tile; the next call overwrites them."""
        if rows != self._rows:  # a strip is scaled once, not the whole of x: one copy of it less
            self._rows, self._strip = rows, self.x[slice(*rows)] * self.scale
        return torch.mm(self._strip, self.y[slice(*columns)].T, out=shaped(self.buffer, rows, columns))


def shaped(buffer: Float[Tensor, " k"], rows: Span, columns: Span) -> Float[Tensor, "a b"]:
    """Take a tile's worth of a flat buffer."""
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    return buffer[: height * width].view(height, width)


class Kept:
    """Tiles written in a forward sweep and read, in the same order, in the backward sweep."""

    def __init__(self, buffer: Float[Tensor, " k"]) -> None:
        self.buffer, self.position = buffer, 0

    def put(self, tile: Float[Tensor, "a b"]) -> None:
        """Append a tile."""
        self.buffer[self.position : self.position + tile.numel()].view(tile.shape).copy_(tile)
        self.position += tile.numel()

    def take(self, out: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
        """Copy the next tile into ``out``."""
        tile = self.buffer[self.position : self.position + out.numel()].view(out.shape)
        self.position += out.numel()
        return out.copy_(tile)


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Switch autocast off: sums of exponentials need at least float32."""
    return torch.autocast(like.device.type, enabled=False)
