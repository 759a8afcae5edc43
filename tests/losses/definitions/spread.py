"""Losses that spread samples by their distances or products, without a softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from definitions.loops import Ids, Loops, collect, dot, integers, same_sample, total, unit_rows


def align_uniform(
    z0: Tensor, z1: Tensor, *, alpha: float = 2.0, t: float = 2.0, weight: float = 1.0, ids: Ids = None
) -> Loops:
    alignment, kernels = align_uniform_parts(unit_rows(z0), unit_rows(z1), alpha=alpha, t=t, ids=ids)
    return collect([alignment + weight * (kernels[0] + kernels[1]) / 2], z0)


def align_uniform_parts(
    z0: list[Tensor], z1: list[Tensor], *, alpha: float, t: float, ids: Ids = None
) -> tuple[Tensor, list[Tensor]]:
    """The mean distance, and for each view the logarithm of the mean kernel; 0 without a pair."""
    n, own = len(z0), integers(ids, len(z0))
    squares = [dot(a - b, a - b) for a, b in zip(z0, z1, strict=True)]
    distances = [s ** (alpha / 2) if s > 0 else s for s in squares]  # a root has no slope at 0
    kernels = []
    for rows in (z0, z1):
        exponents = []
        for i in range(n):
            for j in range(i + 1, n):
                if not same_sample(own, i, j):
                    exponents.append(-t * dot(rows[i] - rows[j], rows[i] - rows[j]))
        count = torch.tensor(float(len(exponents)), dtype=torch.float64)
        kernel = torch.logsumexp(torch.stack(exponents), 0) - torch.log(count) if exponents else z0[0].sum() * 0
        kernels.append(kernel)
    return total(distances, z0[0]) / n, kernels


def spectral(z0: Tensor, z1: Tensor, *, mu: float = 1.0, ids: Ids = None) -> Loops:
    x, y, n = unit_rows(z0), unit_rows(z1), len(z0)
    own = integers(ids, n)
    values: list[Tensor | None] = []
    for i in range(n):
        others = [dot(x[i], y[j]) ** 2 for j in range(n) if j != i and not same_sample(own, i, j)]
        values.append(mu * total(others, z0) / len(others) - 2 * dot(x[i], y[i]) if others else None)
    return collect(values, z0)
