"""Two views whose negatives are weighed or corrected; plain exponentials, which float64 holds down to 0.01."""

from __future__ import annotations

import torch
from torch import Tensor

from definitions.loops import Ids, Loops, collect, dot, integers, same_sample, unit_rows


def hard_negative(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor,
    beta: float,
    tau_plus: float,
    ids: Ids = None,
) -> Loops:
    n = len(z0)
    rows, own = unit_rows(z0) + unit_rows(z1), integers(ids, n) * 2
    values = []
    for i, anchor in enumerate(rows):
        partner = (i + n) % (2 * n)
        positive = torch.exp(dot(anchor, rows[partner]) / temperature)
        negatives = [j for j in range(2 * n) if j not in (i, partner) and not same_sample(own, i, j)]
        scores = [dot(anchor, rows[j]) / temperature for j in negatives]
        mean = sum((torch.exp(beta * s) for s in scores), torch.zeros_like(positive)) / max(1, len(scores))
        estimate = torch.zeros_like(positive)
        for s in scores:
            estimate = estimate + torch.exp(beta * s) / mean * torch.exp(s)
        if tau_plus > 0:
            estimate = (estimate - len(scores) * tau_plus * positive) / (1 - tau_plus)
            floor = len(scores) * torch.exp(-1 / torch.as_tensor(temperature, dtype=torch.float64))
            estimate = estimate if estimate > floor else floor
        values.append(torch.log(positive + estimate) - torch.log(positive))
    return collect(values, z0)


def debiased(z0: Tensor, z1: Tensor, *, temperature: float | Tensor, tau_plus: float, ids: Ids = None) -> Loops:
    """All negatives weigh the same."""
    return hard_negative(z0, z1, temperature=temperature, beta=0.0, tau_plus=tau_plus, ids=ids)
