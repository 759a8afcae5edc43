"""Any number of views of the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from definitions.loops import Ids, Loops, collect, dot, integers, lse, same_sample, total, unit_rows
from definitions.pairs import ntxent


def _weighted_mean(values: list[Tensor], rate: float | None, detach: bool) -> Tensor:
    """Mean of the values under softmax(rate * values); None is the plain mean."""
    stacked = torch.stack(values)
    if rate is None:
        return stacked.mean()
    weights = torch.softmax(rate * stacked, 0)
    return ((weights.detach() if detach else weights) * stacked).sum()


def cacr(
    views: Sequence[Tensor],
    *,
    t_pos: float | None = 1.0,
    t_neg: float | None = 2.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    detach_weights: bool = False,
    ids: Ids = None,
) -> Loops:
    """`t_pos` or `t_neg` None is the uniform form of that half."""
    attraction, repulsion = cacr_halves(
        views, t_pos=t_pos, t_neg=t_neg, alpha=alpha, beta=beta, detach_weights=detach_weights, ids=ids
    )
    return collect([a + r for a, r in zip(attraction, repulsion, strict=True)], views[0])


def cacr_halves(
    views: Sequence[Tensor],
    *,
    t_pos: float | None = 1.0,
    t_neg: float | None = 2.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    detach_weights: bool = False,
    ids: Ids = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The terms CA_i and CR_i of every sample."""
    rows = [unit_rows(view) for view in views]
    v_count, n = len(rows), len(rows[0])
    own = integers(ids, n)
    pairs = [(v, u) for v in range(v_count) for u in range(v + 1, v_count)]

    def cost(a: Tensor, b: Tensor) -> Tensor:
        difference = a - b
        return torch.dot(difference, difference)

    attraction, repulsion = [], []
    for i in range(n):
        pulls = []
        for v in range(v_count):
            costs = [cost(rows[v][i], rows[u][i]) for u in range(v_count) if u != v]
            pulls.append(alpha * _weighted_mean(costs, t_pos, detach_weights))
        pushes = []
        for v, u in pairs:
            costs = [cost(rows[v][i], rows[u][j]) for j in range(n) if j != i and not same_sample(own, i, j)]
            rate = None if t_neg is None else -t_neg
            pushes.append(-beta * _weighted_mean(costs, rate, detach_weights))
        attraction.append(total(pulls, views[0]) / v_count)
        repulsion.append(total(pushes, views[0]) / len(pairs))
    return attraction, repulsion


def cmc(views: Sequence[Tensor], *, temperature: float | Tensor, core: int | None = None, ids: Ids = None) -> Loops:
    rows = [unit_rows(view) for view in views]
    n = len(rows[0])
    own = integers(ids, n)
    values: list[Tensor] = []
    for i in range(n):
        terms = []
        for a in range(len(rows)):
            for b in range(len(rows)):
                if a == b or (core is not None and core not in (a, b)):
                    continue
                kept = [j for j in range(n) if j == i or not same_sample(own, i, j)]
                partition = lse([dot(rows[a][i], rows[b][j]) / temperature for j in kept])
                terms.append(partition - dot(rows[a][i], rows[b][i]) / temperature)
        values.append(total(terms, views[0]))
    return collect(values, views[0])


def fnc_found(
    views: Sequence[Tensor], support: Sequence[Tensor] | None, *, top_k: int, threshold: float, ids: Ids = None
) -> list[list[int]]:
    """The false negatives of every sample, as numbers v n + j of view v of sample j."""
    n = len(views[0])
    own = integers(ids, n)
    rows = [row for view in views for row in unit_rows(view.detach())]
    seen_as = [unit_rows(view.detach()) for view in [*views, *(support or [])]]
    found = []
    for i in range(n):
        scores = []
        for m, row in enumerate(rows):
            if m % n != i and not same_sample(own, i, m % n):
                scores.append((max(min(1.0, float(dot(view[i], row))) for view in seen_as), m))
        best = sorted(scores, reverse=True)[:top_k]
        found.append([m for score, m in best if score > threshold])
    return found


def fnc(
    views: Sequence[Tensor],
    support: Sequence[Tensor] | None = None,
    *,
    temperature: float | Tensor,
    top_k: int = 10,
    threshold: float = 0.7,
    mode: str = "attract",
    ids: Ids = None,
    found: list[list[int]] | None = None,
) -> Loops:
    """`found` replaces the detection."""
    n = len(views[0])
    own = integers(ids, n)
    rows = [row for view in views for row in unit_rows(view)]
    if found is None:
        found = fnc_found(views, support, top_k=top_k, threshold=threshold, ids=ids)
    values: list[Tensor] = []
    for a, anchor in enumerate(rows):
        i = a % n
        scores = [dot(anchor, row) / temperature for row in rows]
        partners = [b for b in range(len(rows)) if b != a and b % n == i]
        others = [b for b in range(len(rows)) if b % n != i and not same_sample(own, i, b % n)]
        positives = partners
        if mode == "attract":
            positives = partners + found[i]
        else:
            others = [b for b in others if b not in found[i]]
        pull = total([scores[b] for b in positives], views[0]) / len(positives)
        values.append(lse([scores[b] for b in partners + others]) - pull)
    return collect(values, views[0])


def relic(
    online: Sequence[Tensor],
    target: Sequence[Tensor],
    *,
    temperature: float | Tensor,
    alpha: float = 1.0,
    beta: float = 1.0,
    ids: Ids = None,
) -> Loops:
    x, y = [unit_rows(view) for view in online], [unit_rows(view.detach()) for view in target]
    n = len(x[0])
    own = integers(ids, n)
    pairs = [(a, b) for a in range(len(x)) for b in range(len(y)) if a != b]

    def log_softmax(a: int, b: int, i: int, kept: list[int]) -> dict[int, Tensor]:
        scores = {j: dot(x[a][i], y[b][j]) / temperature for j in kept}
        partition = lse(list(scores.values()))
        return {j: score - partition for j, score in scores.items()}

    values: list[Tensor] = []
    for i in range(n):
        kept = [j for j in range(n) if j == i or not same_sample(own, i, j)]
        terms = []
        for a, b in pairs:
            log_p = log_softmax(a, b, i, kept)
            if a < len(y):
                log_r = log_softmax(b, a, i, kept)
            else:
                log_r = log_softmax(next(c for c in range(len(y)) if c != b), b, i, kept)
            divergence = total([torch.exp(log_p[j]) * (log_p[j] - log_r[j].detach()) for j in kept], online[0])
            terms.append(-alpha * log_p[i] + beta * divergence)
        values.append(total(terms, online[0]) / len(pairs))
    return collect(values, online[0])


def renyi_cl_targets(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    *,
    temperature: float | Tensor,
    gamma: float = 2.0,
    alpha: float = 1 / 65536,
    ids: Ids = None,
) -> list[Tensor]:
    """L_t of every target."""
    x, y = [unit_rows(view) for view in queries], [unit_rows(view.detach()) for view in keys]
    n = len(x[0])
    own = integers(ids, n)

    def mean_exp(scores: list[Tensor], rate: float) -> Tensor:
        return total([torch.exp(rate * score) for score in scores], queries[0]) / len(scores)

    values = []
    for t, key in enumerate(y):
        positives, negatives = [], []
        for v, query in enumerate(x):
            for i in range(n):
                for j in range(n):
                    if v == t or (i != j and same_sample(own, i, j)):
                        continue
                    (positives if i == j else negatives).append(dot(query[i], key[j]) / temperature)
        pull = total(positives, queries[0]) / len(positives)
        if gamma > 1:
            pull = torch.log(mean_exp(positives, gamma - 1)) / (gamma - 1)
        mixed = alpha * mean_exp(positives, gamma) + (1 - alpha) * mean_exp(negatives, gamma)
        values.append(torch.log(mixed) / gamma - pull)
    return values


def renyi_cl(queries: Sequence[Tensor], keys: Sequence[Tensor], **options: Any) -> Loops:
    values = renyi_cl_targets(queries, keys, **options)
    return collect([total(values, queries[0]) / len(values)], queries[0])


def networks(rows: list[Tensor], parameters: dict[str, Tensor]) -> list[list[Tensor]]:
    """Values of K small perceptrons with one hidden layer at every row."""
    p = {name: value.double() for name, value in parameters.items()}
    return [
        [
            total(
                [
                    p["weight"][k, h] * torch.relu(dot(p["hidden_weight"][k, h], row) + p["hidden_bias"][k, h])
                    for h in range(p["weight"].shape[1])
                ],
                row,
            )
            + p["bias"][k]
            for k in range(len(p["bias"]))
        ]
        for row in rows
    ]


def bregman_term(
    values: list[list[Tensor]], *, temperature: float | Tensor, sigma: float = 0.9, ids: Ids = None
) -> list[Tensor]:
    """L_B of every row of two views, given the values of all networks at all rows."""
    m = len(values)
    own = integers(ids, m // 2) * 2
    winner = [max(range(len(f)), key=lambda k, f=f: float(f[k].detach())) for f in values]
    terms = []
    for i in range(m):
        partner = (i + m // 2) % m
        logits = {}
        for j in range(m):
            if j == partner or (j != i and not same_sample(own, i, j)):
                distance = values[i][winner[i]] - values[i][winner[j]]
                logits[j] = torch.exp(-distance / (2 * sigma**2)) / temperature
        terms.append(lse(list(logits.values())) - logits[partner])
    return terms


def bregman(
    z0: Tensor,
    z1: Tensor,
    *,
    parameters: dict[str, Tensor],
    temperature: float | Tensor,
    sigma: float = 0.9,
    weight: float = 1.0,
    ids: Ids = None,
    **_: Any,
) -> Loops:
    simclr, _valid = ntxent(z0, z1, temperature=temperature, ids=ids)
    values = networks(unit_rows(z0) + unit_rows(z1), parameters)
    terms = bregman_term(values, temperature=temperature, sigma=sigma, ids=ids)
    return collect([a + weight * b for a, b in zip(simclr, terms, strict=True)], z0)
