"""The golden fixture: deterministic unit rows in float64, made without random numbers.

row(v, i, d)[k] = cos(1.7 (i+1) k) + 0.4 sin(2.3 (v+1)(i+1) + 0.9 k (v+2)),  k = 1..d,  then l2
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

N = 6


def row(view: int, index: int, dim: int = 5) -> list[float]:
    raw = [
        math.cos(1.7 * (index + 1) * k) + 0.4 * math.sin(2.3 * (view + 1) * (index + 1) + 0.9 * k * (view + 2))
        for k in range(1, dim + 1)
    ]
    length = math.sqrt(math.fsum(value * value for value in raw))
    return [value / length for value in raw]


def rows(view: int, n: int = N, *, offset: int = 0, dim: int = 5) -> Tensor:
    """Rows `offset .. offset + n - 1` of a view, float64 [n, dim]."""
    return torch.tensor([row(view, offset + i, dim) for i in range(n)], dtype=torch.float64)


def z(view: int) -> Tensor:
    """View 0, 1 or 2 of the six samples, float64 [6, 5]."""
    return rows(view)


def queue() -> Tensor:
    return rows(9, 8, offset=20)


def side_embeddings() -> Tensor:
    """One side embedding per sample, repeated for the two views, float64 [12, 3]."""
    return rows(11, 6, dim=3).repeat(2, 1)


def class_similarities() -> Tensor:
    """The gram matrix of three unit rows, float64 [3, 3]."""
    table = rows(15, 3, dim=3)
    return table @ table.T


def labels() -> Tensor:
    return torch.tensor([0, 0, 1, 1, 2, 2])


def queue_labels() -> Tensor:
    return torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def ids() -> Tensor:
    """Sample ids of the rows of two stacked views, int64 [12]."""
    return torch.arange(6).repeat(2)


FIRST_ROW_OF_Z0 = (-0.236372, -0.578472, 0.400682, 0.434930, -0.509694)
