"""Every mask form, twice: as the library builds it and as a predicate over one pair of indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pairwise_loops import Kept, both, everything, keep_where
from torch import Generator, Tensor

from kinfolk.ops import PairMask

Case = tuple[Any, Kept]  # a PairMask, a plain bool matrix or None, and what it means


def _ids(count: int, generator: Generator, kinds: int = 4) -> Tensor:
    """Random ids in -1 .. kinds - 2; -1 equals nothing."""
    return torch.randint(-1, kinds - 1, (count,), generator=generator)


def _equal(a: Tensor, b: Tensor) -> Callable[[int, int], bool]:
    rows, columns = a.tolist(), b.tolist()
    return lambda i, j: rows[i] >= 0 and rows[i] == columns[j]


def exclude(n: int, m: int, generator: Generator) -> Case:
    a, b = _ids(n, generator), _ids(m, generator)
    equal = _equal(a, b)
    return PairMask.exclude(a, b), keep_where(n, m, lambda i, j: not equal(i, j))


def only(n: int, m: int, generator: Generator) -> Case:
    a, b = _ids(n, generator, 3), _ids(m, generator, 3)
    return PairMask.only(a, b), keep_where(n, m, _equal(a, b))


def only_union(n: int, m: int, generator: Generator) -> Case:
    a, b, c, d = _ids(n, generator), _ids(m, generator), _ids(n, generator, 5), _ids(m, generator, 5)
    first, second = _equal(a, b), _equal(c, d)
    kept = keep_where(n, m, lambda i, j: first(i, j) or second(i, j))
    return PairMask.only(a, b, or_ids=(c, d)), kept


def exclude_self(n: int, m: int, generator: Generator) -> Case:
    return PairMask.exclude_self(n, m), keep_where(n, m, lambda i, j: i != j)


def exclude_self_shifted(n: int, m: int, generator: Generator) -> Case:
    return PairMask.exclude_self(n, m, offset=2), keep_where(n, m, lambda i, j: j != i + 2)


def exclude_columns(n: int, m: int, generator: Generator) -> Case:
    index = torch.randint(-1, m, (n, 3), generator=generator)
    dropped = index.tolist()
    return PairMask.exclude_columns(index, m), keep_where(n, m, lambda i, j: j not in dropped[i])


def dense(n: int, m: int, generator: Generator) -> Case:
    keep = torch.rand(n, m, generator=generator) < 0.6
    return PairMask.from_dense(keep), Kept(keep)


def plain_bool(n: int, m: int, generator: Generator) -> Case:
    keep = torch.rand(n, m, generator=generator) < 0.6
    return keep, Kept(keep)


def nothing_kept(n: int, m: int, generator: Generator) -> Case:
    keep = torch.zeros(n, m, dtype=torch.bool)
    return keep, Kept(keep)


def no_mask(n: int, m: int, generator: Generator) -> Case:
    return None, everything(n, m)


def column_bias(n: int, m: int, generator: Generator) -> Case:
    bias = torch.randn(m, generator=generator, dtype=torch.float64)
    return PairMask.bias(bias, n), Kept(everything(n, m).keep, bias.expand(n, m))


def bias_on_equal(n: int, m: int, generator: Generator) -> Case:
    a, b = _ids(n, generator), _ids(m, generator)
    equal = keep_where(n, m, _equal(a, b)).keep
    return PairMask.bias_on_equal(a, b, -1.25), Kept(everything(n, m).keep, -1.25 * equal.double())


def conjunction(*forms: Callable[[int, int, Generator], Case]) -> Callable[[int, int, Generator], Case]:
    def build(n: int, m: int, generator: Generator) -> Case:
        mask, kept = forms[0](n, m, generator)
        for form in forms[1:]:
            other, other_kept = form(n, m, generator)
            mask, kept = mask & other, both(kept, other_kept)
        return mask, kept

    return build


EXCLUSIONS: dict[str, Callable[[int, int, Generator], Case]] = {
    "no mask": no_mask,
    "exclude": exclude,
    "only": only,
    "only, union": only_union,
    "exclude_self": exclude_self,
    "exclude_self, offset": exclude_self_shifted,
    "exclude_columns": exclude_columns,
    "from_dense": dense,
    "plain bool": plain_bool,
    "nothing kept": nothing_kept,
    "exclude & exclude": conjunction(exclude, exclude),
    "only & exclude_self": conjunction(only, exclude_self),
    "union & exclude": conjunction(only_union, exclude),
    "exclude & exclude_columns & from_dense": conjunction(exclude, exclude_columns, dense),
}
BIASED: dict[str, Callable[[int, int, Generator], Case]] = {
    "bias": column_bias,
    "bias_on_equal": bias_on_equal,
    "exclude & bias": conjunction(exclude, column_bias),
    "only & bias_on_equal": conjunction(only, bias_on_equal),
    "bias & bias_on_equal": conjunction(column_bias, bias_on_equal),
    "from_dense & bias": conjunction(dense, column_bias),
}
MASKS = EXCLUSIONS | BIASED
