"""Queries, their keys and a queue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from definitions.loops import Ids, Loops, collect, dot, integers, lse, same_sample, total, unit_rows

Exclusion = tuple[Tensor, Tensor] | Tensor | None


def infonce(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor,
    exclude: Exclusion | list[Exclusion] = None,
    decoupled: bool = False,
) -> Loops:
    """`exclude`: bool [n, K] (True = dropped) or (query labels, queue labels), or a list of them to average over."""
    q, k, bank = unit_rows(queries), unit_rows(keys.detach()), unit_rows(queue.detach())
    several = exclude if isinstance(exclude, list) else [exclude]
    values: list[Tensor | None] = []
    for i in range(len(q)):
        positive = dot(q[i], k[i]) / temperature
        terms = []
        for one in several:
            negatives = [dot(q[i], bank[j]) / temperature for j in range(len(bank)) if not _dropped(one, i, j)]
            terms.append(_against(positive, negatives, decoupled))
        counted = [term for term in terms if term is not None]
        values.append(total(counted, queries) / len(terms) if counted else None)
    return collect(values, queries)


def _against(positive: Tensor, negatives: list[Tensor], decoupled: bool) -> Tensor | None:
    """None: decoupled, and nothing to tell the positive from."""
    if decoupled:
        return lse(negatives) - positive if negatives else None
    return lse([positive, *negatives]) - positive


def _dropped(exclude: Exclusion, i: int, j: int) -> bool:
    """Equal labels >= 0 are dropped."""
    if exclude is None:
        return False
    if isinstance(exclude, Tensor):
        return bool(exclude[i, j])
    return int(exclude[0][i]) >= 0 and int(exclude[0][i]) == int(exclude[1][j])


def _unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x).clamp_min(1e-6)


Draws = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Places of n1 and n2 and the share a of n1, [n, s] each; places of n3 and the share b of the query, [n, t] each."""


def mochi(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor,
    hardest: int,
    mixed: int,
    query_mixed: int,
    generator: Generator | None = None,
    exclude: Exclusion = None,
    decoupled: bool = False,
) -> Loops:
    """Draws as the loss documents them, then forms every mixture."""
    n = len(queries)
    first = torch.randint(hardest, (n, mixed), generator=generator)
    second = torch.randint(hardest, (n, mixed), generator=generator)
    share = torch.rand(n, mixed, generator=generator)
    third = torch.randint(hardest, (n, query_mixed), generator=generator)
    query_share = torch.rand(n, query_mixed, generator=generator) / 2
    draws = (first, second, share, third, query_share)
    options = {"hardest": hardest, "exclude": exclude, "decoupled": decoupled}
    return mochi_drawn(queries, keys, queue, draws, temperature=temperature, **options)


def mochi_drawn(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    draws: Draws,
    *,
    temperature: float | Tensor,
    hardest: int,
    exclude: Exclusion = None,
    decoupled: bool = False,
) -> Loops:
    """A mixture of which a part is not there, since fewer than `hardest` rows are left, is not there either."""
    q, k, bank = unit_rows(queries), unit_rows(keys.detach()), unit_rows(queue.detach())
    first, second, share, third, query_share = draws
    values: list[Tensor | None] = []
    for i in range(len(q)):
        positive = dot(q[i], k[i]) / temperature
        rows = [row for j, row in enumerate(bank) if not _dropped(exclude, i, j)]
        nearest = sorted(rows, key=lambda row, i=i: -float(dot(q[i].detach(), row)))[:hardest]  # type: ignore[misc]
        negatives = list(rows)
        for one, other, a in zip(first[i], second[i], share[i].double(), strict=True):
            if max(one, other) < len(nearest):
                negatives.append(_unit(a * nearest[int(one)] + (1 - a) * nearest[int(other)]))
        for one, b in zip(third[i], query_share[i].double(), strict=True):
            if one < len(nearest):
                negatives.append(_unit(b * q[i].detach() + (1 - b) * nearest[int(one)]))
        values.append(_against(positive, [dot(q[i], row) / temperature for row in negatives], decoupled))
    return collect(values, queries)


def interclr(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor | tuple[Tensor, Tensor],
    *,
    temperature: float | Tensor,
    margin: float,
) -> Loops:
    """`negatives`: rows for all queries [M, d], rows per query [n, M, d], or a bank and the rows per query."""
    q, p = unit_rows(queries), unit_rows(positives.detach())
    values = []
    for i in range(len(q)):
        if isinstance(negatives, tuple):
            own = [negatives[0][int(j)] for j in negatives[1][i] if int(j) >= 0]
        else:
            own = list(negatives[i] if negatives.ndim == 3 else negatives)
        logit = (dot(q[i], p[i]) - margin) / temperature
        others = [dot(q[i], _unit(row.detach().double())) / temperature for row in own]
        values.append(lse([logit, *others]) - logit)
    return collect(values, queries)


def sce(
    online: Tensor,
    target: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor,
    target_temperature: float,
    coefficient: float,
    exclude: Exclusion = None,
    decoupled: bool = False,
) -> Loops:
    """Where no row of the queue is left, all of the target is on the own pair."""
    o, t, bank = unit_rows(online), unit_rows(target.detach()), unit_rows(queue.detach())
    values: list[Tensor | None] = []
    for i in range(len(o)):
        kept = [row for j, row in enumerate(bank) if not _dropped(exclude, i, j)]
        scores = [dot(o[i], row) / temperature for row in (t[i], *kept)]
        if not kept:
            values.append(None if decoupled else 0 * scores[0])
            continue
        partition = lse(scores[1:] if decoupled else scores)
        relations = [torch.exp(dot(t[i], row) / target_temperature) for row in kept]
        value = -coefficient * (scores[0] - partition)
        for relation, score in zip(relations, scores[1:], strict=True):
            value = value - (1 - coefficient) * relation / sum(relations) * (score - partition)
        values.append(value)
    return collect(values, online)


def nnclr(
    projections: Tensor | Sequence[Tensor],
    predictions: Tensor | Sequence[Tensor],
    queue: Tensor,
    *,
    temperature: float | Tensor,
    decoupled: bool = False,
    ids: Ids = None,
) -> Loops:
    """Single sides are one direction; pairs of views give the mean of view 0 to 1 and view 1 to 0."""
    if isinstance(projections, Tensor):
        directions = [(projections, predictions)]
    else:
        directions = [(projections[0], predictions[1]), (projections[1], predictions[0])]
    bank = unit_rows(queue.detach())
    values: list[Tensor | None] = []
    n = len(directions[0][0])
    own = integers(ids, n)
    for i in range(n):
        terms = []
        for projected, predicted in directions:
            z, p = unit_rows(projected.detach()), unit_rows(predicted)
            anchor = max(bank, key=lambda row, z=z, i=i: float(dot(z[i], row)))  # type: ignore[misc]
            kept = [j for j in range(n) if j != i and not same_sample(own, i, j)] + ([] if decoupled else [i])
            if kept:
                partition = lse([dot(anchor, p[j]) / temperature for j in kept])
                terms.append(partition - dot(anchor, p[i]) / temperature)
        values.append(torch.stack(terms).mean() if terms else None)
    like = predictions if isinstance(predictions, Tensor) else predictions[0]
    return collect(values, like)
