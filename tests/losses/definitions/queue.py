"""Queries, their keys and a queue."""

from __future__ import annotations

from torch import Tensor

from definitions.loops import Loops, collect, dot, lse, unit_rows


def infonce(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor,
    exclude: tuple[Tensor, Tensor] | Tensor | None = None,
) -> Loops:
    """`exclude`: bool [n, K] (True = dropped) or (query labels, queue labels): equal labels >= 0 are dropped."""
    q, k, bank = unit_rows(queries), unit_rows(keys.detach()), unit_rows(queue.detach())

    def dropped(i: int, j: int) -> bool:
        if exclude is None:
            return False
        if isinstance(exclude, Tensor):
            return bool(exclude[i, j])
        return int(exclude[0][i]) >= 0 and int(exclude[0][i]) == int(exclude[1][j])

    values = []
    for i in range(len(q)):
        positive = dot(q[i], k[i]) / temperature
        negatives = [dot(q[i], bank[j]) / temperature for j in range(len(bank)) if not dropped(i, j)]
        values.append(lse([positive, *negatives]) - positive)
    return collect(values, queries)
