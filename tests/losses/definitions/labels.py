"""Rows with labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from definitions.loops import Ids, Loops, collect, dot, integers, lse, same_label_or_id, total, unit_rows


def supcon(
    embeddings: Tensor, labels: Tensor, *, temperature: float | Tensor, form: str = "out", ids: Ids = None
) -> Loops:
    rows, classes, m = unit_rows(embeddings), integers(labels, len(labels)), len(embeddings)
    own = None if ids is None else integers(ids, m)
    values: list[Tensor | None] = []
    for i in range(m):
        positives = [j for j in range(m) if j != i and same_label_or_id(classes, own, i, j)]
        if not positives:
            values.append(None)
            continue
        pulls = [dot(rows[i], rows[j]) / temperature for j in positives]
        partition = lse([dot(rows[i], rows[j]) / temperature for j in range(m) if j != i])
        count = torch.tensor(float(len(positives)), dtype=torch.float64)
        pull = total(pulls, embeddings) / count if form == "out" else lse(pulls) - torch.log(count)
        values.append(partition - pull)
    return collect(values, embeddings)


def unicon(
    embeddings: Tensor, universum: Tensor, labels: Tensor, *, temperature: float | Tensor, ids: Ids = None
) -> Loops:
    rows, mixed, classes, m = unit_rows(embeddings), unit_rows(universum), integers(labels, len(labels)), len(labels)
    own = None if ids is None else integers(ids, m)
    values: list[Tensor | None] = []
    for i in range(m):
        scores = {j: dot(rows[i], mixed[j]) / temperature for j in range(m) if j != i}
        positives = [j for j in scores if same_label_or_id(classes, own, i, j)]
        pull = total([scores[j] for j in positives], embeddings) / max(1, len(positives))
        values.append(lse(list(scores.values())) - pull if positives else None)
    return collect(values, embeddings)


def _positives_and_negatives(
    embeddings: Tensor, labels: Tensor, temperature: float | Tensor, ids: Ids
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Scores of every row's positives P(i), and of all other rows Q(i), unlabelled ones among them."""
    rows, classes, m = unit_rows(embeddings), integers(labels, len(labels)), len(embeddings)
    own = None if ids is None else integers(ids, m)
    found = []
    for i in range(m):
        scores = {j: dot(rows[i], rows[j]) / temperature for j in range(m) if j != i}
        positives = [j for j in scores if same_label_or_id(classes, own, i, j)]
        found.append(([scores[j] for j in positives], [scores[j] for j in scores if j not in positives]))
    return found


def eps_sup_info_nce(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor,
    epsilon: float,
    form: str = "out",
    ids: Ids = None,
) -> Loops:
    values: list[Tensor | None] = []
    for positives, negatives in _positives_and_negatives(embeddings, labels, temperature, ids):
        if not positives:
            values.append(None)
        elif form == "out":
            terms = [lse([s - epsilon, *negatives]) - s for s in positives]
            values.append(total(terms, embeddings) / len(terms))
        else:
            mean = lse([s - epsilon for s in positives]) - math.log(len(positives))
            values.append(lse([mean, *negatives]) - lse(positives))
    return collect(values, embeddings)


def eps_sup_con(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor,
    epsilon: float,
    form: str = "out",
    ids: Ids = None,
) -> Loops:
    values: list[Tensor | None] = []
    for positives, negatives in _positives_and_negatives(embeddings, labels, temperature, ids):
        if not positives:
            values.append(None)
            continue
        partition = lse([s - epsilon for s in positives] + negatives)
        if form == "out":
            values.append(partition - total(positives, embeddings) / len(positives))
        else:
            values.append(partition - lse(positives) + math.log(len(positives)))
    return collect(values, embeddings)


def balanced_softmax(logits: Tensor, labels: Tensor, *, class_counts: Sequence[int]) -> Loops:
    values: list[Tensor | None] = []
    for row, label in zip(logits.double().unbind(), integers(labels, len(labels)), strict=True):
        shares = [int(n) / sum(map(int, class_counts)) for n in class_counts]
        scores = [row[c] + math.log(share) if share else None for c, share in enumerate(shares)]
        own = scores[label] if label >= 0 else None
        values.append(None if own is None else lse([s for s in scores if s is not None]) - own)
    return collect(values, logits)


def rescom(
    embeddings: Tensor,
    labels: Tensor,
    queue: Tensor,
    queue_labels: Tensor,
    *,
    class_counts: Sequence[int],
    temperature: float | Tensor,
    beta: float,
    positives: int,
    negatives: int,
    ids: Ids = None,
) -> Loops:
    rows, bank, m = unit_rows(embeddings), unit_rows(queue.detach()), len(embeddings)
    classes, bank_classes = integers(labels, m), integers(queue_labels, len(queue_labels))
    own = None if ids is None else integers(ids, m)
    effective = [sum(beta**k for k in range(int(n))) for n in class_counts]  # (1 - beta^n) / (1 - beta)
    mean = sum(effective) / sum(1 for e in effective if e)
    values: list[Tensor | None] = []
    for i in range(m):
        kept = [j for j in range(m) if j != i]
        pulls = [dot(rows[i], rows[j]) / temperature for j in kept if same_label_or_id(classes, own, i, j)]
        mined = {
            j: dot(rows[i], bank[j]) / temperature for j, c in enumerate(bank_classes) if c >= 0 and classes[i] >= 0
        }
        nearest = sorted(mined, key=lambda j: -float(mined[j].detach()))
        same = [j for j in nearest if bank_classes[j] == classes[i]]
        far = same[len(same) - min(positives, len(same)) :]
        hard = [j for j in nearest if bank_classes[j] != classes[i]][:negatives]
        pulls += [mined[j] for j in far]
        if not pulls:
            values.append(None)
            continue
        partition = lse([dot(rows[i], rows[j]) / temperature for j in kept] + [mined[j] for j in far + hard])
        weight = mean / effective[classes[i]] if classes[i] >= 0 else 1.0
        values.append(weight * (partition - total(pulls, embeddings) / len(pulls)))
    return collect(values, embeddings)


def fair_kl(features: Tensor, labels: Tensor, bias_labels: Tensor, *, form: str = "kl") -> Loops:
    rows, m = unit_rows(features), len(features)
    classes, bias = integers(labels, m), integers(bias_labels, m)
    zero = features.double().sum() * 0.0
    value = zero
    for sign in (True, False):
        aligned, conflicting = [], []
        for i in range(m):
            for j in range(i + 1, m):
                known = min(classes[i], classes[j], bias[i], bias[j]) >= 0
                if known and (classes[i] == classes[j]) == sign:
                    (aligned if bias[i] == bias[j] else conflicting).append(dot(rows[i], rows[j]))
        if min(len(aligned), len(conflicting)) >= 2:
            value = value + _distance(_moments(aligned), _moments(conflicting), form)
    return collect([value], features)


def _moments(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    mean = sum(values[1:], values[0]) / len(values)
    squares = [(v - mean) * (v - mean) for v in values]
    return mean, sum(squares[1:], squares[0]) / len(values)


def _distance(a: tuple[Tensor, Tensor], c: tuple[Tensor, Tensor], form: str) -> Tensor:
    (mu_a, var_a), (mu_c, var_c) = a, c
    if form == "moments":
        return (mu_a - mu_c) ** 2 + (torch.sqrt(var_a) - torch.sqrt(var_c)) ** 2
    var_a, var_c = var_a + 1e-6, var_c + 1e-6
    return ((var_a + (mu_a - mu_c) ** 2) / var_c - torch.log(var_a / var_c) - 1) / 2
