"""Which pairs count, as data: one object that every implementation reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Span = tuple[int, int]
"""A half-open range of rows or columns, ``(start, stop)``."""


_CONJUNCTIONS = ("self_offsets", "excluded", "required", "excluded_columns", "kept", "equal_bias")
"""The parts of a mask that `&` joins one after the other."""


class IdPair(NamedTuple):
    """Integer ids of the rows and of the columns; a pair matches where they are equal, and -1 matches nothing."""

    rows: Tensor
    columns: Tensor

    def equal(self, rows: Span, columns: Span) -> Bool[Tensor, "a b"]:
        """Where the ids of a block of pairs are equal."""
        left = self.rows[slice(*rows), None]
        return (left == self.columns[None, slice(*columns)]) & (left != -1)

    def equal_at(self, rows: Int[Tensor, " e"], columns: Int[Tensor, " e"]) -> Bool[Tensor, " e"]:
        """Where the ids of listed pairs are equal."""
        left = self.rows[rows]
        return (left == self.columns[columns]) & (left != -1)

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> IdPair:
        """The same rows against the columns of all ranks."""
        return IdPair(self.rows, gather(self.columns))

    def column_slice(self, columns: slice) -> IdPair:
        """The same rows against a range of columns."""
        return IdPair(self.rows, self.columns[columns])

    def matches(self, *, limit: int) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]] | None:
        """Return the rows and columns of all matching pairs, or None where there are more than ``limit``."""
        order = torch.argsort(self.columns, stable=True)
        found = self.columns[order]
        first = torch.searchsorted(found, self.rows)
        times = (torch.searchsorted(found, self.rows, right=True) - first).where(self.rows != -1, 0)
        if int(times.sum()) > limit:
            return None
        rows = torch.repeat_interleave(torch.arange(len(times), device=times.device), times)
        within = torch.arange(len(rows), device=times.device) - (times.cumsum(0) - times)[rows]
        return rows, order[first[rows] + within]

    @property
    def symmetric(self) -> bool:
        """Whether pair (i, j) matches exactly when (j, i) does; a traced program knows it only of one tensor."""
        if self.rows is self.columns:
            return True
        return not torch.compiler.is_compiling() and torch.equal(self.rows, self.columns)


def integer_ids(ids: Int[Tensor, " n"], name: str = "ids") -> Int[Tensor, " n"]:
    """Check that ids or labels are a vector of integers and cast them to int64.

    Args:
        ids: one integer per row, any integer dtype.
        name: what to call them in an error.

    Raises:
        TypeError: for float or bool ids, which would merge or lose values.
        ValueError: when they are not a vector.

    Example:
        >>> integer_ids(torch.tensor([3, 1], dtype=torch.int16)).dtype
        torch.int64
    """
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name} must be an integer tensor, found {type(ids).__name__}; wrap them in torch.as_tensor.")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, found {ids.dtype}; convert them with .long() if they are whole.")
    if ids.ndim != 1:
        raise ValueError(f"{name} must be a vector with one entry per row, found shape {tuple(ids.shape)}.")
    return ids.detach().to(torch.int64)


@dataclass(frozen=True, eq=False, repr=False)
class PairMask:
    """Which pairs (row, column) are kept, and a bias on their logits, without an n x m matrix.

    A mask is a conjunction: a pair is kept when no part drops it. Build one from the class methods and join them
    with ``&``. Ids of -1 equal nothing. A bias is added to the logit of a kept pair wherever a primitive looks at
    logits; it never enters a graph's attraction.

    Example:
        >>> ids = torch.tensor([0, 1, 0, 1])
        >>> mask = PairMask.exclude(ids, ids) & PairMask.bias(torch.zeros(4))
        >>> mask.to_dense().int().tolist()
        [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
        >>> mask
        PairMask(4 x 4: keeps 8 of 16 pairs; drops equal ids; adds a bias per column)
    """

    n: int | None
    m: int | None
    self_offsets: tuple[int, ...] = ()
    excluded: tuple[IdPair, ...] = ()
    required: tuple[tuple[IdPair, ...], ...] = ()
    excluded_columns: tuple[Tensor, ...] = ()
    kept: tuple[Tensor, ...] = ()
    column_bias: Tensor | None = None
    equal_bias: tuple[tuple[IdPair, float], ...] = ()

    @classmethod
    def exclude_self(cls, n: int, m: int | None = None, *, offset: int = 0) -> PairMask:
        """Drop column ``i + offset`` of row i: a row's own place among the candidates.

        Example:
            >>> PairMask.exclude_self(2, 3, offset=1).to_dense().int().tolist()
            [[1, 0, 1], [1, 1, 0]]
        """
        return cls(n, n if m is None else m, self_offsets=(offset,))

    @classmethod
    def exclude(cls, row_ids: Int[Tensor, " n"], column_ids: Int[Tensor, " m"]) -> PairMask:
        """Drop pairs with equal ids: the row itself, its other views, its class."""
        return _from_ids(row_ids, column_ids, lambda pair: {"excluded": (pair,)})

    @classmethod
    def only(
        cls,
        row_ids: Int[Tensor, " n"],
        column_ids: Int[Tensor, " m"],
        *,
        or_ids: tuple[Int[Tensor, " n"], Int[Tensor, " m"]] | None = None,
    ) -> PairMask:
        """Keep only pairs with equal ids, in the first set or (where given) the second.

        Example:
            >>> labels, ids = torch.tensor([0, 0, -1, -1]), torch.tensor([5, 6, 7, 7])
            >>> PairMask.only(labels, labels, or_ids=(ids, ids)).to_dense().int().tolist()
            [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
        """
        mask = _from_ids(row_ids, column_ids, lambda pair: {"required": ((pair,),)})
        if or_ids is None:
            return mask
        other = cls.only(*or_ids)
        if (mask.n, mask.m) != (other.n, other.m):
            raise ValueError(
                f"or_ids must match the first set of ids: {mask.n} rows and {mask.m} columns, "
                f"found {other.n} and {other.m}."
            )
        return replace(mask, required=(mask.required[0] + other.required[0],))

    @classmethod
    def exclude_columns(cls, columns: Int[Tensor, "n k"], m: int) -> PairMask:
        """Drop a list of columns per row; -1 fills places that are not used.

        Example:
            >>> PairMask.exclude_columns(torch.tensor([[2, -1], [0, 1]]), 3).to_dense().int().tolist()
            [[1, 1, 0], [0, 0, 1]]
        """
        if columns.ndim != 2:
            raise ValueError(f"columns must be [n, k], one list per row, found shape {tuple(columns.shape)}.")
        flat = integer_ids(columns.reshape(-1), "columns")
        if not torch.compiler.is_compiling() and flat.numel() and (int(flat.max()) >= m or int(flat.min()) < -1):
            raise ValueError(f"columns must lie in [-1, {m - 1}], found {int(flat.min())} to {int(flat.max())}.")
        return cls(columns.shape[0], m, excluded_columns=(flat.reshape(columns.shape),))

    @classmethod
    def bias(cls, column_bias: Float[Tensor, " m"], n: int | None = None) -> PairMask:
        """Add a bias per column to the logits: class priors, sampling corrections, counts. Differentiable."""
        if column_bias.ndim != 1 or not column_bias.is_floating_point():
            raise ValueError(
                f"column_bias must be a float vector, found {column_bias.dtype} of shape {tuple(column_bias.shape)}."
            )
        return cls(n, column_bias.shape[0], column_bias=column_bias)

    @classmethod
    def bias_on_equal(cls, row_ids: Int[Tensor, " n"], column_ids: Int[Tensor, " m"], value: float) -> PairMask:
        """Add ``value`` to the logits of pairs with equal ids: a margin on positives."""
        if not math.isfinite(value):
            raise ValueError(f"a bias on equal ids must be finite, found {value}; to drop those pairs use exclude.")
        return _from_ids(row_ids, column_ids, lambda pair: {"equal_bias": ((pair, float(value)),)})

    @classmethod
    def from_dense(cls, keep: Bool[Tensor, "n m"]) -> PairMask:
        """Take an explicit matrix, True where the pair is kept."""
        if keep.dtype != torch.bool:
            raise TypeError(f"a mask must be bool (True = kept), found {keep.dtype}; compare it, e.g. weights > 0.")
        if keep.ndim != 2:
            raise ValueError(f"a mask must be [n, m], found shape {tuple(keep.shape)}.")
        n, m = keep.shape
        return cls(n, m, kept=(keep,))

    def __and__(self, other: PairMask) -> PairMask:
        """Keep what both keep; biases add up."""
        n = _same_size(self.n, other.n, "rows", self, other)
        m = _same_size(self.m, other.m, "columns", self, other)
        joined: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in _CONJUNCTIONS}
        biases = [b for b in (self.column_bias, other.column_bias) if b is not None]
        joined["column_bias"] = sum(biases[1:], biases[0]) if biases else None
        return PairMask(n, m, **joined)

    def for_shape(self, n: int, m: int) -> PairMask:
        """Fill in sizes that were left open, or say which shape was expected."""
        if (self.n or n, self.m or m) != (n, m):
            raise ValueError(f"the mask is {self.n} x {self.m} but there are {n} rows and {m} columns to compare.")
        return self if (self.n, self.m) == (n, m) else replace(self, n=n, m=m)

    def gathered(self, gather: Callable[[Tensor], Tensor], *, offset: int, total: int) -> PairMask:
        """Return this mask over the columns of all ranks, of which its own are some.

        What stands for one datum each is gathered: ids, biases and a row's own place. A matrix or listed columns name
        columns by number and cannot be.

        Args:
            gather: returns the entries of all ranks for those of this rank's columns.
            offset: columns of the ranks before this one.
            total: columns of all ranks.

        Example:
            >>> others = PairMask.exclude_self(2).gathered(lambda x: x, offset=1, total=3)
            >>> others.to_dense().int().tolist()
            [[1, 0, 1], [1, 1, 0]]
        """
        n, m = self._sizes() if self.self_offsets else (self.n, self.m)
        if self.excluded_columns or self.kept:
            raise ValueError(
                f"with several ranks an explicit mask must have one column per key of all ranks, {total}; found {m}."
            )
        inside = all(o >= 0 and (n or 0) + o <= (m or 0) for o in self.self_offsets)
        places = () if inside else tuple(_places(n or 0, m or 0, o, offset, total) for o in self.self_offsets)
        return PairMask(
            n,
            total,
            self_offsets=tuple(o + offset for o in self.self_offsets) if inside else (),
            excluded=tuple(p.gathered(gather) for p in self.excluded) + places,
            required=tuple(tuple(p.gathered(gather) for p in union) for union in self.required),
            column_bias=None if self.column_bias is None else gather(self.column_bias),
            equal_bias=tuple((p.gathered(gather), value) for p, value in self.equal_bias),
        )

    def column_slice(self, columns: Span) -> PairMask:
        """Return this mask over a range of its columns.

        Example:
            >>> PairMask.exclude_self(2, 4).column_slice((1, 4)).to_dense().int().tolist()
            [[1, 1, 1], [0, 1, 1]]
        """
        start, stop = columns
        part = slice(start, stop)
        listed = (i - start for i in self.excluded_columns)
        return replace(
            self,
            m=stop - start,
            self_offsets=tuple(o - start for o in self.self_offsets if -(self.n or 0) < o - start < stop - start),
            excluded=tuple(p.column_slice(part) for p in self.excluded),
            required=tuple(tuple(p.column_slice(part) for p in union) for union in self.required),
            excluded_columns=tuple(i.where((i >= 0) & (i < stop - start), -1) for i in listed),
            kept=tuple(keep[:, part] for keep in self.kept),
            column_bias=None if self.column_bias is None else self.column_bias[part],
            equal_bias=tuple((p.column_slice(part), value) for p, value in self.equal_bias),
        )

    def block(self, rows: Span, columns: Span) -> Bool[Tensor, "a b"] | None:
        """Return the kept pairs of a block as a bool matrix, or None where all of them are kept."""
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        drops = self._drops(rows, columns)
        for offset in self.self_offsets:
            local = rows[0] + offset - columns[0]
            if -height < local < width:
                drops.append(torch.zeros(height, width, dtype=torch.bool, device=self.device))
                drops[-1].diagonal(local).fill_(True)
        if not drops:
            return None
        dropped = drops[0]
        for drop in drops[1:]:
            dropped = dropped | drop
        return ~dropped

    def fill_(self, tile: Float[Tensor, "a b"], rows: Span, columns: Span, value: float) -> None:
        """Write ``value`` over the dropped pairs of a tile, in place; a diagonal costs no matrix of bools."""
        height, width = tile.shape
        for offset in self.self_offsets:
            local = rows[0] + offset - columns[0]
            if -height < local < width:
                tile.diagonal(local).fill_(value)
        for drop in self._drops(rows, columns):
            tile.masked_fill_(drop, value)

    def _drops(self, rows: Span, columns: Span) -> list[Bool[Tensor, "a b"]]:
        drops = [pair.equal(rows, columns) for pair in self.excluded]
        for union in self.required:
            drops.append(~torch.stack([pair.equal(rows, columns) for pair in union]).any(0))
        drops += [_listed(index[slice(*rows)] - columns[0], columns[1] - columns[0]) for index in self.excluded_columns]
        return drops + [~keep[slice(*rows), slice(*columns)] for keep in self.kept]

    def bias_block(self, rows: Span, columns: Span) -> Float[Tensor, "#a b"] | None:
        """Return the bias of a block, broadcastable to it, or None."""
        total = None if self.column_bias is None else self.column_bias[None, slice(*columns)]
        for pair, value in self.equal_bias:
            margin = pair.equal(rows, columns) * torch.tensor(value, dtype=torch.float64)
            total = margin if total is None else total + margin
        return total

    def keeps(self, rows: Int[Tensor, " e"], columns: Int[Tensor, " e"]) -> Bool[Tensor, " e"]:
        """Return which of the listed pairs are kept."""
        keep = torch.ones_like(rows, dtype=torch.bool)
        for offset in self.self_offsets:
            keep &= columns != rows + offset
        for pair in self.excluded:
            keep &= ~pair.equal_at(rows, columns)
        for union in self.required:
            keep &= torch.stack([pair.equal_at(rows, columns) for pair in union]).any(0)
        for index in self.excluded_columns:
            keep &= ~(index[rows] == columns[:, None]).any(1)
        for dense in self.kept:
            keep &= dense[rows, columns]
        return keep

    def to_dense(self) -> Bool[Tensor, "n m"]:
        """Return the kept pairs as an explicit bool matrix."""
        n, m = self._sizes()
        keep = self.block((0, n), (0, m))
        return torch.ones(n, m, dtype=torch.bool, device=self.device) if keep is None else keep

    def dense_bias(self) -> Float[Tensor, "n m"]:
        """Return the biases as an explicit matrix; 0 where there is none."""
        n, m = self._sizes()
        bias = self.bias_block((0, n), (0, m))
        return torch.zeros(n, m, device=self.device) if bias is None else bias.expand(n, m)

    @property
    def symmetric(self) -> bool:
        """Whether pairs (i, j) and (j, i) are kept and biased alike, so that half the work is enough."""
        pairs = [*self.excluded, *(p for union in self.required for p in union), *(p for p, _ in self.equal_bias)]
        return (
            self.n == self.m
            and len(self.excluded_columns) == len(self.kept) == 0
            and self.column_bias is None
            and not any(self.self_offsets)
            and all(pair.symmetric for pair in pairs)
        )

    @property
    def drops_pairs(self) -> bool:
        """Whether any pair can be dropped; a mask may be nothing but a bias."""
        return bool(self.self_offsets or self.excluded or self.required or self.excluded_columns or self.kept)

    @property
    def form(self) -> str:
        """Which parts it has, whatever their numbers: ranks that join must agree on it.

        Example:
            >>> (PairMask.exclude_self(2) & PairMask.bias(torch.zeros(2))).form
            '1 self_offsets, column_bias'
        """
        names = ("self_offsets", "excluded", "required", "excluded_columns", "kept", "equal_bias")
        parts = [f"{len(getattr(self, name))} {name}" for name in names if getattr(self, name)]
        return ", ".join(parts + ["column_bias"] * (self.column_bias is not None))

    def without_bias(self) -> PairMask:
        """Return what is kept, without the biases: targets ignore them."""
        return replace(self, column_bias=None, equal_bias=())

    @property
    def self_offset(self) -> int | None:
        """The offset of a mask that drops every row's own place and nothing else, otherwise None."""
        others = self.excluded or self.required or self.excluded_columns or self.kept
        return self.self_offsets[0] if len(self.self_offsets) == 1 and not others else None

    @property
    def device(self) -> torch.device:
        """Where the mask's tensors are; a diagonal is no tensor, and counts as the CPU's."""
        for item in (*self.excluded, *(u[0] for u in self.required), *(p for p, _ in self.equal_bias)):
            return item.rows.device
        for tensor in (*self.excluded_columns, *self.kept, self.column_bias):
            if tensor is not None:
                return tensor.device
        return torch.device("cpu")

    def _sizes(self) -> Span:
        if self.n is None or self.m is None:
            raise ValueError("this mask does not know its number of rows; join it with one that does, or pass n.")
        return self.n, self.m

    def __repr__(self) -> str:
        parts = [f"drops column i{o:+d} of row i" if o else "drops self" for o in self.self_offsets]
        parts += ["drops equal ids"] * len(self.excluded)
        parts += ["only equal ids" + " or equal second ids" * (len(u) > 1) for u in self.required]
        parts += [f"drops up to {index.shape[1]} listed columns a row" for index in self.excluded_columns]
        parts += ["an explicit matrix"] * len(self.kept)
        parts += ["adds a bias per column"] * (self.column_bias is not None)
        parts += [f"adds {value:g} on equal ids" for _, value in self.equal_bias]
        if self.n is None or self.m is None:
            return f"PairMask(any x {self.m}: {'; '.join(parts)})"
        total, known = self.n * self.m, self.n * self.m <= 1 << 22  # counting costs a dense mask
        count = f"keeps {int(self.to_dense().sum())} of {total} pairs" if known else f"{total} pairs"
        return f"PairMask({self.n} x {self.m}: {'; '.join([count, *parts])})"


def as_mask(mask: PairMask | Bool[Tensor, "n m"] | None, n: int, m: int) -> PairMask | None:
    """Take a mask in any form that users may pass and check it against the pairs at hand.

    Example:
        >>> as_mask(torch.tensor([[True, False]]), 1, 2)
        PairMask(1 x 2: keeps 1 of 2 pairs; an explicit matrix)
    """
    if mask is None:
        return None
    if isinstance(mask, Tensor):
        mask = PairMask.from_dense(mask)
    if not isinstance(mask, PairMask):
        raise TypeError(f"mask must be a PairMask or a bool tensor [n, m], found {type(mask).__name__}.")
    return mask.for_shape(n, m)


def _from_ids(row_ids: Tensor, column_ids: Tensor, part) -> PairMask:  # type: ignore[no-untyped-def]
    rows = integer_ids(row_ids, "row ids")
    columns = rows if column_ids is row_ids else integer_ids(column_ids, "column ids")
    return PairMask(rows.shape[0], columns.shape[0], **part(IdPair(rows, columns)))


def _places(n: int, m: int, offset: int, before: int, total: int) -> IdPair:
    """Ids that match a row with its own place, for rows whose place is among this rank's columns."""
    place = torch.arange(n) + offset
    return IdPair((place + before).where((place >= 0) & (place < m), -1), torch.arange(total))


def _same_size(a: int | None, b: int | None, what: str, left: PairMask, right: PairMask) -> int | None:
    if a is not None and b is not None and a != b:
        raise ValueError(f"cannot join masks with {a} and {b} {what}: {left.n} x {left.m} and {right.n} x {right.m}.")
    return b if a is None else a


def _listed(local: Int[Tensor, "a k"], width: int) -> Bool[Tensor, "a b"]:
    """Mark listed columns of a block; entries outside it (and the fill value) mark nothing."""
    inside = (local >= 0) & (local < width)
    drop = torch.zeros(local.shape[0], width + 1, dtype=torch.bool, device=local.device)
    return drop.scatter_(1, torch.where(inside, local, width), True)[:, :width]
