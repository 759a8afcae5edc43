"""Random rows, labels and ids that the families share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from cases.case import Call


def vectors(n: int, d: int, generator: Generator) -> Tensor:
    """Rows of different lengths, so that a missing normalisation shows."""
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x * (0.5 + torch.rand(n, 1, generator=generator, dtype=torch.float64))


def some_labels(n: int, generator: Generator, *, low: int = -1) -> Tensor:
    return torch.randint(low, 3, (n,), generator=generator)


def duplicate_ids(n: int) -> Tensor:
    """Sample 1 is sample 0 again, the last two are not known (-1), all others are themselves."""
    ids = torch.arange(n).clamp_min(1) + 4
    ids[5:][-2:] = -1
    return ids


def two_views(n: int, d: int, generator: Generator) -> Call:
    return Call([vectors(n, d, generator), vectors(n, d, generator)])


def two_views_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(two_views(n, d, generator).args, {"ids": duplicate_ids(n)})


def views(count: int) -> Callable[[int, int, Generator], Call]:
    """A list of views as the one argument."""
    return lambda n, d, generator: Call([[vectors(n, d, generator) for _ in range(count)]])


def views_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(views(3)(n, d, generator).args, {"ids": duplicate_ids(n)})


def labelled(n: int, d: int, generator: Generator) -> Call:
    labels = some_labels(n, generator)
    labels[:2] = 1  # at least one pair of rows is an anchor
    return Call([vectors(n, d, generator), labels])


def labelled_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(labelled(n, d, generator).args, {"ids": torch.randint(0, max(1, n // 2), (n,), generator=generator)})
