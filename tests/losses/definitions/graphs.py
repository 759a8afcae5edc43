"""Soft targets, given or made from side embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from definitions.loops import Loops, collect, dot, lse, total, unit_rows


def graph_contrastive(
    queries: Tensor,
    keys: Tensor,
    weights: Tensor,
    *,
    temperature: float | Tensor,
    mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Loops:
    """`weights` dense [n, m] >= 0 and `mask` bool [n, m], True = the pair is kept in partition and target.

    With `target_mask` the target is over what that keeps instead.
    """
    x, y = unit_rows(queries), unit_rows(keys)
    values: list[Tensor | None] = []
    for i in range(len(x)):
        kept = [j for j in range(len(y)) if mask is None or bool(mask[i, j])]
        counted = kept if target_mask is None else [j for j in range(len(y)) if bool(target_mask[i, j])]
        mass = sum(float(weights[i, j]) for j in counted)
        if mass == 0 or not kept:
            values.append(None)
            continue
        scores = {j: dot(x[i], y[j]) / temperature for j in range(len(y))}
        pull = total([float(weights[i, j]) / mass * scores[j] for j in counted], queries)
        values.append(lse([scores[j] for j in kept]) - pull)
    return collect(values, queries)


def kernel_weights(side: Tensor, side_keys: Tensor | None, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Softmax over the kept keys of cosine / temperature, float64 [n, m]; dropped keys and empty rows are 0."""
    u = unit_rows(side.detach())
    v = u if side_keys is None else unit_rows(side_keys.detach())
    out = torch.zeros(len(u), len(v), dtype=torch.float64)
    for i in range(len(u)):
        kept = [j for j in range(len(v)) if mask is None or bool(mask[i, j])]
        if kept:
            r = torch.stack([dot(u[i], v[j]) / temperature for j in kept])
            out[i, kept] = torch.exp(r - torch.logsumexp(r, 0))
    return out


def xsample(embeddings: Tensor, side: Tensor, *, temperature: float | Tensor, graph_temperature: float = 0.1) -> Loops:
    not_self = ~torch.eye(len(embeddings), dtype=torch.bool)
    target = kernel_weights(side, None, graph_temperature, not_self)
    return graph_contrastive(embeddings, embeddings, target, temperature=temperature, mask=not_self)


def class_table_weights(labels: Tensor, similarities: Tensor, temperature: float) -> Tensor:
    """Weights exp(R[y_i, y_j] / temperature), float64 [m, m]; an unlabelled row or column (-1) relates to nothing."""
    y = [int(v) for v in labels]
    out = torch.zeros(len(y), len(y), dtype=torch.float64)
    for i, a in enumerate(y):
        for j, b in enumerate(y):
            if a >= 0 and b >= 0:
                out[i, j] = torch.exp(similarities[a, b].double() / temperature)
    return out
