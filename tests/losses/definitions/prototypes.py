"""Losses with prototypes, a classifier or several kinds of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from definitions.loops import (
    Ids,
    Loops,
    collect,
    dot,
    integers,
    lse,
    same_label_or_id,
    same_sample,
    total,
    unit_rows,
)

Parameters = dict[str, Tensor]


def esupcon(
    embeddings: Tensor,
    labels: Tensor,
    *,
    parameters: Parameters,
    temperature: float | Tensor,
    ids: Ids = None,
    num_classes: int | None = None,
    dim: int | None = None,
) -> Loops:
    """One value: the mean over sample and prototype anchors that have a positive."""
    samples, prototypes = esupcon_parts(embeddings, labels, parameters["weight"], temperature=temperature, ids=ids)
    anchors = [v for v in samples + prototypes if v is not None]
    return collect([total(anchors, embeddings) / max(1, len(anchors))], embeddings)


def esupcon_parts(
    embeddings: Tensor, labels: Tensor, weight: Tensor, *, temperature: float | Tensor, ids: Ids = None
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Values of the sample anchors and of the prototype anchors; None has no positive."""
    z, theta, y, m = unit_rows(embeddings), unit_rows(weight), integers(labels, len(labels)), len(embeddings)
    own = None if ids is None else integers(ids, m)
    samples: list[Tensor | None] = []
    for i in range(m):
        pulls = [dot(z[i], z[j]) / temperature for j in range(m) if j != i and same_label_or_id(y, own, i, j)]
        pulls += [dot(z[i], theta[k]) / temperature for k in range(len(theta)) if k == y[i]]
        candidates = [dot(z[i], z[j]) / temperature for j in range(m) if j != i]
        candidates += [dot(z[i], theta[k]) / temperature for k in range(len(theta))]
        samples.append(lse(candidates) - total(pulls, embeddings) / len(pulls) if pulls else None)
    prototypes: list[Tensor | None] = []
    for k in range(len(theta)):
        pulls = [dot(theta[k], z[j]) / temperature for j in range(m) if y[j] == k]
        candidates = [dot(theta[k], z[j]) / temperature for j in range(m)]
        prototypes.append(lse(candidates) - total(pulls, embeddings) / len(pulls) if pulls else None)
    return samples, prototypes


def paco(
    embeddings: Tensor,
    labels: Tensor,
    features: Tensor,
    queue: Tensor | None = None,
    queue_labels: Tensor | None = None,
    *,
    parameters: Parameters,
    alpha: float,
    temperature: float | Tensor,
    class_counts: Tensor | None = None,
    ids: Ids = None,
    queue_ids: Ids = None,
    num_classes: int | None = None,
    dim: int | None = None,
) -> Loops:
    z, y, m = unit_rows(embeddings), integers(labels, len(labels)), len(embeddings)
    h, w, b = (t.double().unbind() for t in (features, parameters["weight"], parameters["bias"]))
    bank = [] if queue is None else unit_rows(queue.detach())
    bank_labels = [] if queue_labels is None else integers(queue_labels, len(bank))
    own = None if ids is None else integers(ids, m)
    bank_ids = [-1] * len(bank) if queue_ids is None else integers(queue_ids, len(bank))
    counts = None if class_counts is None else [float(c) for c in class_counts]
    values: list[Tensor | None] = []
    for i in range(m):
        if y[i] < 0:
            values.append(None)
            continue
        logits = {}
        for k in range(len(w)):
            prior = 1.0 if counts is None else counts[k] / sum(counts)
            if prior > 0:
                logits[k] = dot(w[k], h[i]) + b[k] + torch.log(torch.tensor(prior, dtype=torch.float64))
        rows = {j: dot(z[i], z[j]) / temperature for j in range(m) if j != i}
        kept = [
            j
            for j in range(len(bank))
            if bank_labels[j] != -1 and not (own is not None and own[i] != -1 and own[i] == bank_ids[j])
        ]
        slots = {j: dot(z[i], bank[j]) / temperature for j in kept}
        pulls = [s for j, s in rows.items() if same_label_or_id(y, own, i, j)]
        pulls += [s for j, s in slots.items() if bank_labels[j] == y[i]]
        partition = lse([*logits.values(), *rows.values(), *slots.values()])
        pull = (logits[y[i]] + alpha * total(pulls, embeddings)) / (1 + alpha * len(pulls))
        values.append(partition - pull)
    return collect(values, embeddings)


def opencon(
    embeddings: Tensor,
    labels: Tensor,
    pseudo_labels: Tensor,
    novel_mask: Tensor,
    *,
    temperatures: Sequence[float | Tensor] = (0.1, 0.4, 0.7),
    weights: Sequence[float] = (0.2, 1.0, 0.1),
    ids: Ids = None,
) -> Loops:
    """One value: the weighted sum of three means."""
    terms = opencon_terms(embeddings, labels, pseudo_labels, novel_mask, temperatures=temperatures, ids=ids)
    return collect([total([w * t for w, t in zip(weights, terms, strict=True)], embeddings)], embeddings)


def opencon_terms(
    embeddings: Tensor,
    labels: Tensor,
    pseudo_labels: Tensor,
    novel_mask: Tensor,
    *,
    temperatures: Sequence[float | Tensor] = (0.1, 0.4, 0.7),
    ids: Ids = None,
) -> list[Tensor]:
    """Means over the labelled, the unlabelled and the novel anchors; each set is all that its anchors see."""
    z, y, m = unit_rows(embeddings), integers(labels, len(labels)), len(embeddings)
    own, guess = integers(ids, m), integers(pseudo_labels, m)
    sets = [
        [i for i in range(m) if y[i] >= 0],
        [i for i in range(m) if y[i] < 0],
        [i for i in range(m) if bool(novel_mask[i])],
    ]
    related = [
        lambda i, j: y[i] == y[j],
        lambda i, j: same_sample(own, i, j),
        lambda i, j: guess[i] != -1 and guess[i] == guess[j],
    ]
    terms = []
    for rows, alike, temperature in zip(sets, related, temperatures, strict=True):
        values = []
        for i in rows:
            scores = {j: dot(z[i], z[j]) / temperature for j in rows if j != i}
            pulls = [s for j, s in scores.items() if alike(i, j)]
            if pulls:
                values.append(lse(list(scores.values())) - total(pulls, embeddings) / len(pulls))
        terms.append(total(values, embeddings) / max(1, len(values)))
    return terms


def open_world_prior(logits: Tensor, known: Tensor, labelled_ratio: float) -> Tensor:
    n, classes = logits.shape
    mean = [total([torch.softmax(row.double(), 0)[k] for row in logits], logits) / n for k in range(classes)]
    mass = [1 - labelled_ratio if bool(known[k]) else 1.0 for k in range(classes)]
    return total([p * torch.log(p * sum(mass) / q) for p, q in zip(mean, mass, strict=True)], logits)
