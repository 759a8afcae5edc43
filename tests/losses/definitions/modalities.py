"""Pairs from two modalities."""

from __future__ import annotations

import torch
from torch import Tensor

from definitions.loops import Ids, Loops, collect, dot, integers, lse, same_sample, total, unit_rows


def clip(image: Tensor, text: Tensor, *, logit_scale: float | Tensor, ids: Ids = None) -> Loops:
    x, y, n = unit_rows(image), unit_rows(text), len(image)
    own = integers(ids, n)
    values = []
    for i in range(n):
        kept = [j for j in range(n) if j == i or not same_sample(own, i, j)]
        to_text = lse([logit_scale * dot(x[i], y[j]) for j in kept])
        to_image = lse([logit_scale * dot(x[j], y[i]) for j in kept])
        values.append((to_text + to_image) / 2 - logit_scale * dot(x[i], y[i]))
    return collect(values, image)


def sig_lip(
    image: Tensor, text: Tensor, *, logit_scale: float | Tensor, logit_bias: float | Tensor, ids: Ids = None
) -> Loops:
    x, y, n = unit_rows(image), unit_rows(text), len(image)
    own = integers(ids, n)
    values = []
    for i in range(n):
        questions = []
        for j in range(n):
            logit = logit_scale * dot(x[i], y[j]) + logit_bias
            is_pair = i == j or same_sample(own, i, j)
            questions.append(lse([torch.zeros_like(logit), -logit if is_pair else logit]))
        values.append(total(questions, image))
    return collect(values, image)


def mmcl(
    x: Tensor,
    y: Tensor,
    *,
    phi: str = "log",
    psi: str = "exp",
    epsilon: float = 1.0,
    temperature: float | Tensor = 1.0,
    ids: Ids = None,
    normalize: bool = False,
) -> Loops:
    a, b = (unit_rows(t) if normalize else list(t.double().unbind()) for t in (x, y))
    n, own, nothing = len(x), integers(ids, len(x)), total([], x)

    def penalty(above: list[Tensor]) -> Tensor | None:
        """phi(epsilon psi(0) + the sum of psi over scores above the own pair's)."""
        if psi == "identity":
            return total(above, x)
        exponents = [s / temperature for s in above]
        if epsilon:
            exponents.append(torch.log(torch.tensor(epsilon, dtype=torch.float64)))
        if not exponents:
            return None if phi == "log" else nothing
        return nothing + (temperature * lse(exponents) if phi == "log" else torch.exp(lse(exponents)))

    values = []
    for i in range(n):
        others = [j for j in range(n) if j != i and not same_sample(own, i, j)]
        rows = penalty([dot(a[i], b[j]) - dot(a[i], b[i]) for j in others])
        columns = penalty([dot(a[j], b[i]) - dot(a[i], b[i]) for j in others])
        values.append(None if rows is None or columns is None else (rows + columns) / 2)
    return collect(values, x)


def unpaired_mmcl(
    x: Tensor,
    y: Tensor,
    scores: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    matching: str = "top",
    pairs: list[tuple[int, int]] | None = None,
    normalize: bool = True,
) -> Loops:
    """`pairs` in place of what the scores suggest."""
    a, b = (unit_rows(t) if normalize else list(t.double().unbind()) for t in (x, y))
    n = len(x)
    places = [(i, j) for i in range(n) for j in range(n)]
    suggested = {(i, j): float(dot(a[i], b[j]).detach() if scores is None else scores[i, j]) for i, j in places}
    s = {(i, j): dot(a[i], b[j]) / temperature for i, j in places}
    terms = [lse([s[i, j] for j in range(n)]) for i in range(n)] + [lse([s[i, j] for i in range(n)]) for j in range(n)]
    if matching == "argmax" and pairs is None:
        terms += [-s[i, max(range(n), key=lambda j: suggested[i, j])] for i in range(n)]
        terms += [-s[max(range(n), key=lambda i: suggested[i, j]), j] for j in range(n)]
    else:
        best = sorted((p for p in places if suggested[p] > -torch.inf), key=lambda p: -suggested[p])[:n]
        chosen = best if pairs is None else pairs
        terms += [-2 * n / len(chosen) * s[p] for p in chosen]
    return (total(terms, x) / (2 * n)).unsqueeze(0), [True]
