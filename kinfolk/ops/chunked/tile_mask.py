"""A mask made ready for a sweep: every tile is masked by float arithmetic or by short lists of places.

On a CPU, a comparison that yields bools and a `masked_fill` take as long as a tile's product. A comparison that yields
floats is ten times as fast, and of ids that match rarely (a sample's own views, listed columns) only the matching
places are touched. Both need no more memory than a tile, or than the list of matches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.ops.chunked.tiles import Walk, shaped
from kinfolk.ops.masks import IdPair, PairMask, Span

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Codes = tuple[Tensor, Tensor]
"""Ids of rows and of columns as floats that are equal where the ids match; an unknown id equals nothing."""

FAR = 1e30
"""What a dropped logit loses: more than any score, and 0 as an exponential."""

_CODES = 1 << 24
"""Whole numbers up to this are exact in float32."""


class TileMask:
    """What a `PairMask` does to the tiles of one walk.

    Args:
        mask: the mask, or None.
        like: a tensor of the scores' dtype and device.
        walk: the tiles to come.
        unit: factor on the biases, that of the logits.
    """

    def __init__(self, mask: PairMask | None, like: Tensor, walk: Walk, *, unit: float = 1.0) -> None:
        self.walk = walk
        mask = PairMask(walk.n, walk.m) if mask is None else mask
        self.offsets = mask.self_offsets
        self.dense = mask.kept
        self.required = [[_codes(pair, like) for pair in union] for union in mask.required]
        self.excluded: list[Codes] = []
        places = [_listed_places(columns) for columns in mask.excluded_columns]
        for pair in mask.excluded:
            found = pair.matches(limit=4 * (walk.n + walk.m))
            if found is None:
                self.excluded.append(_codes(pair, like))
            else:
                places.append(found)
        self.places = _Places(places, walk) if places else None
        self.column_bias = None if mask.column_bias is None else mask.column_bias.detach().to(like) * unit
        self.equal_bias = [(_codes(pair, like), value * unit) for pair, value in mask.equal_bias]
        self._compares = bool(self.required or self.excluded or self.dense)
        needed = self._compares or self.equal_bias
        self._buffers = [like.new_empty(walk.height * walk.width if needed else 0) for _ in range(3)]

    def add_bias_(self, tile: Float[Tensor, "a b"], rows: Span, columns: Span) -> None:
        """Add the biases to a tile of logits."""
        if self.column_bias is not None:
            tile.add_(self.column_bias[slice(*columns)])
        for codes, value in self.equal_bias:
            tile.add_(self._compare(torch.eq, codes, rows, columns, 0), alpha=value)

    def zero_(self, tile: Float[Tensor, "a b"], rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Put 0 on the dropped pairs of a tile."""
        self._fill_places(tile, rows, columns, 0.0)
        if self._compares:
            tile.mul_(self._keep(rows, columns))
        return tile

    def drop_(self, tile: Float[Tensor, "a b"], rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Push the logits of the dropped pairs of a tile below every other."""
        self._fill_places(tile, rows, columns, -FAR)
        if self._compares:
            tile.add_(self._keep(rows, columns).sub_(1.0), alpha=FAR)
        return tile

    def fill_(self, tile: Float[Tensor, "a b"], rows: Span, columns: Span, value: float) -> None:
        """Put a value on the dropped pairs of a tile."""
        self._fill_places(tile, rows, columns, value)
        if self._compares:
            tile.masked_fill_(self._keep(rows, columns) == 0, value)

    def _fill_places(self, tile: Tensor, rows: Span, columns: Span, value: float) -> None:
        height, width = tile.shape
        for offset in self.offsets:
            local = rows[0] + offset - columns[0]
            if -height < local < width:
                tile.diagonal(local).fill_(value)
        if self.places is not None:
            places = self.places.of(rows, columns)
            if places is not None:
                tile.view(-1).index_fill_(0, places, value)

    def _keep(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """1 where the compared parts keep a pair, 0 where one drops it."""
        keep: Tensor | None = None
        for codes in self.excluded:
            keep = self._and(keep, self._compare(torch.ne, codes, rows, columns, keep is not None))
        for union in self.required:
            related = self._compare(torch.eq, union[0], rows, columns, keep is not None)
            for codes in union[1:]:
                related = torch.maximum(related, self._compare(torch.eq, codes, rows, columns, 2), out=related)
            keep = self._and(keep, related)
        for dense in self.dense:
            block = shaped(self._buffers[keep is not None], rows, columns)
            keep = self._and(keep, block.copy_(dense[slice(*rows), slice(*columns)]))
        assert keep is not None
        return keep

    @staticmethod
    def _and(keep: Tensor | None, other: Tensor) -> Tensor:
        return other if keep is None else keep.mul_(other)

    def _compare(self, how, codes: Codes, rows: Span, columns: Span, buffer: int) -> Tensor:  # type: ignore[no-untyped-def]
        left, right = codes
        out = shaped(self._buffers[buffer], rows, columns)
        return how(left[slice(*rows), None], right[None, slice(*columns)], out=out)


class _Places:
    """Single places, sorted by the tile that they fall into."""

    def __init__(self, places: list[tuple[Tensor, Tensor]], walk: Walk) -> None:
        rows, columns = (torch.cat(side) for side in zip(*places, strict=True))
        self.walk, self.across = walk, -(-walk.m // walk.width)
        tile = rows // walk.height * self.across + columns // walk.width
        order = torch.argsort(tile, stable=True)
        count = -(-walk.n // walk.height) * self.across
        self.bounds = torch.searchsorted(tile[order], torch.arange(count + 1, device=tile.device)).tolist()
        self.rows, self.columns = rows[order] % walk.height, columns[order] % walk.width

    def of(self, rows: Span, columns: Span) -> Int[Tensor, " e"] | None:
        """Return the places within a tile as positions of its flat form, or None."""
        tile = rows[0] // self.walk.height * self.across + columns[0] // self.walk.width
        start, stop = self.bounds[tile : tile + 2]
        if start == stop:
            return None
        return self.rows[start:stop] * (columns[1] - columns[0]) + self.columns[start:stop]


def _listed_places(columns: Int[Tensor, "n k"]) -> tuple[Tensor, Tensor]:
    rows = torch.arange(columns.shape[0], device=columns.device).repeat_interleave(columns.shape[1])
    flat = columns.reshape(-1)
    used = flat != -1
    return rows[used], flat[used]


def _codes(pair: IdPair, like: Tensor) -> Codes:
    """Number the ids from 0; -1 of the rows and -1 of the columns become different numbers that no id has."""
    unique, code = torch.unique(torch.cat([pair.rows, pair.columns]), return_inverse=True)
    dtype = torch.float64 if len(unique) >= _CODES else like.dtype
    unknown = torch.cat([pair.rows, pair.columns]) == -1
    code = code.to(dtype).masked_fill_(unknown, -1.0)
    rows, columns = code[: len(pair.rows)], code[len(pair.rows) :]
    return rows, columns.masked_fill(unknown[len(pair.rows) :], -2.0)
