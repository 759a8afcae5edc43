"""Every loss as its definition reads: double loops over pairs of rows, one value per anchor, in float64.

The scalars are float64 tensors, so that autograd gives the definition's own gradient; nothing here is vectorised over
pairs and nothing is shared with the library. Each function returns (values [anchors], valid): `valid` says which
anchors have a target; an anchor without one has the value 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loops = tuple[Tensor, list[bool]]
Ids = Sequence[int] | Tensor | None


def unit_rows(x: Tensor) -> list[Tensor]:
    """The rows divided by their norm, floored at 1e-6, in float64."""
    return [row / torch.linalg.vector_norm(row).clamp_min(1e-6) for row in x.double().unbind()]


def dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b)


def lse(terms: Sequence[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(list(terms)), 0)


def total(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(terms)).sum() if terms else like.double().sum() * 0.0


def integers(values: Ids, n: int) -> list[int]:
    """Ids as Python integers; None is row k = sample k."""
    if values is None:
        return list(range(n))
    return [int(v) for v in values]


def same_sample(ids: list[int], i: int, j: int) -> bool:
    """Whether two rows are one sample by id; -1 equals nothing, not even another -1."""
    return ids[i] != -1 and ids[i] == ids[j]


def collect(values: Sequence[Tensor | None], like: Tensor) -> Loops:
    """Stack one value per anchor; None marks an anchor without a target."""
    zero = like.double().sum() * 0.0
    return torch.stack([zero if v is None else v for v in values]), [v is not None for v in values]


def mean(loops: Loops) -> Tensor:
    """Mean over the anchors that have a target; 0 without any."""
    values, valid = loops
    return values.sum() / max(1, sum(valid))


def _same_label_or_id(labels: list[int], ids: list[int] | None, i: int, j: int) -> bool:
    return (labels[i] >= 0 and labels[i] == labels[j]) or (ids is not None and same_sample(ids, i, j))


# two views


def _two_views(z0: Tensor, z1: Tensor, ids: Ids) -> tuple[list[Tensor], list[int], list[int]]:
    n = len(z0)
    own = integers(ids, n)
    other_view = [(i + n) % (2 * n) for i in range(2 * n)]
    return unit_rows(z0) + unit_rows(z1), own + own, other_view


def ntxent(z0: Tensor, z1: Tensor, *, temperature: float | Tensor, ids: Ids = None) -> Loops:
    rows, own, partner = _two_views(z0, z1, ids)
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
    rows, own, partner = _two_views(z0, z1, ids)
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


# queue


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


# labels


def supcon(
    embeddings: Tensor, labels: Tensor, *, temperature: float | Tensor, form: str = "out", ids: Ids = None
) -> Loops:
    rows, classes, m = unit_rows(embeddings), integers(labels, len(labels)), len(embeddings)
    own = None if ids is None else integers(ids, m)
    values: list[Tensor | None] = []
    for i in range(m):
        positives = [j for j in range(m) if j != i and _same_label_or_id(classes, own, i, j)]
        if not positives:
            values.append(None)
            continue
        pulls = [dot(rows[i], rows[j]) / temperature for j in positives]
        partition = lse([dot(rows[i], rows[j]) / temperature for j in range(m) if j != i])
        count = torch.tensor(float(len(positives)), dtype=torch.float64)
        pull = total(pulls, embeddings) / count if form == "out" else lse(pulls) - torch.log(count)
        values.append(partition - pull)
    return collect(values, embeddings)


# soft targets


def graph_contrastive(
    queries: Tensor, keys: Tensor, weights: Tensor, *, temperature: float | Tensor, mask: Tensor | None = None
) -> Loops:
    """`weights` dense [n, m] >= 0 and `mask` bool [n, m], True = the pair is kept in partition and target."""
    x, y = unit_rows(queries), unit_rows(keys)
    values: list[Tensor | None] = []
    for i in range(len(x)):
        kept = [j for j in range(len(y)) if mask is None or bool(mask[i, j])]
        mass = sum(float(weights[i, j]) for j in kept)
        if mass == 0:
            values.append(None)
            continue
        scores = {j: dot(x[i], y[j]) / temperature for j in kept}
        pull = total([float(weights[i, j]) / mass * scores[j] for j in kept], queries)
        values.append(lse(list(scores.values())) - pull)
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


# many views


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


# two modalities


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


# derivative of a definition


def finite_difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of a scalar function, entry by entry, in float64: they judge the gradients above."""
    point, out = at.detach().double().clone(), torch.zeros_like(at, dtype=torch.float64)
    flat, slope = point.view(-1), out.view(-1)
    for k in range(flat.numel()):
        value = flat[k].item()
        flat[k] = value + step
        up = float(function(point))
        flat[k] = value - step
        slope[k] = (up - float(function(point))) / (2 * step)
        flat[k] = value
    return out
