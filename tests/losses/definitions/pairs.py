"""Two views of the same samples."""

from __future__ import annotations

import torch
from torch import Tensor

from definitions.loops import Ids, Loops, collect, dot, integers, lse, same_sample, total, unit_rows


def two_views(z0: Tensor, z1: Tensor, ids: Ids) -> tuple[list[Tensor], list[int], list[int]]:
    n = len(z0)
    own = integers(ids, n)
    other_view = [(i + n) % (2 * n) for i in range(2 * n)]
    return unit_rows(z0) + unit_rows(z1), own + own, other_view


def ntxent(z0: Tensor, z1: Tensor, *, temperature: float | Tensor, ids: Ids = None) -> Loops:
    rows, own, partner = two_views(z0, z1, ids)
    values = []
    for i, anchor in enumerate(rows):
        kept = [j for j in range(len(rows)) if j == partner[i] or (j != i and not same_sample(own, i, j))]
        values.append(
            lse([dot(anchor, rows[j]) / temperature for j in kept]) - dot(anchor, rows[partner[i]]) / temperature
        )
    return collect(values, z0)


def dcl(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor,
    sigma: float | None = None,
    detach_weights: bool = True,
    ids: Ids = None,
) -> Loops:
    rows, own, partner = two_views(z0, z1, ids)
    n = len(z0)
    weights: list[Tensor] = [torch.ones((), dtype=torch.float64)] * n
    if sigma is not None:
        exps = [torch.exp(dot(rows[k], rows[k + n]) / sigma) for k in range(n)]
        norm = total(exps, z0)
        weights = [2 - n * e / norm for e in exps]
        weights = [w.detach() for w in weights] if detach_weights else weights
    values: list[Tensor | None] = []
    for i, anchor in enumerate(rows):
        negatives = [j for j in range(2 * n) if j not in (i, partner[i]) and not same_sample(own, i, j)]
        pull = weights[i % n] * dot(anchor, rows[partner[i]]) / temperature
        others = [dot(anchor, rows[j]) / temperature for j in negatives]
        values.append(lse(others) - pull if others else None)
    return collect(values, z0)
