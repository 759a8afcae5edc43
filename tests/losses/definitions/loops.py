"""What every definition is written with: unit rows, products of two rows, logsumexp of a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loops = tuple[Tensor, list[bool]]
Ids = Sequence[int] | Tensor | None


def unit_rows(x: Tensor) -> list[Tensor]:
    """The rows divided by their norm, floored at 1e-6, in float64."""
    return [row / torch.linalg.vector_norm(row).clamp_min(1e-6) for row in x.double().unbind()]


def dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b)


def lse(terms: Sequence[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(list(terms)), 0)


def total(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(terms)).sum() if terms else like.double().sum() * 0.0


def integers(values: Ids, n: int) -> list[int]:
    """Ids as Python integers; None is row k = sample k."""
    if values is None:
        return list(range(n))
    return [int(v) for v in values]


def same_sample(ids: list[int], i: int, j: int) -> bool:
    """Whether two rows are one sample by id; -1 equals nothing, not even another -1."""
    return ids[i] != -1 and ids[i] == ids[j]


def collect(values: Sequence[Tensor | None], like: Tensor) -> Loops:
    """Stack one value per anchor; None marks an anchor without a target."""
    zero = like.double().sum() * 0.0
    return torch.stack([zero if v is None else v for v in values]), [v is not None for v in values]


def mean(loops: Loops) -> Tensor:
    """Mean over the anchors that have a target; 0 without any."""
    values, valid = loops
    return values.sum() / max(1, sum(valid))


def same_label_or_id(labels: list[int], ids: list[int] | None, i: int, j: int) -> bool:
    return (labels[i] >= 0 and labels[i] == labels[j]) or (ids is not None and same_sample(ids, i, j))


def finite_difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of a scalar function, entry by entry, in float64: they judge the gradients above."""
    point, out = at.detach().double().clone(), torch.zeros_like(at, dtype=torch.float64)
    flat, slope = point.view(-1), out.view(-1)
    for k in range(flat.numel()):
        value = flat[k].item()
        flat[k] = value + step
        up = float(function(point))
        flat[k] = value - step
        slope[k] = (up - float(function(point))) / (2 * step)
        flat[k] = value
    return out
