"""Every graph kind, twice: as the library builds it and as explicit weights filled in pair by pair, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kinfolk.graphs import (
    ClassGraph,
    DenseGraph,
    KernelGraph,
    LabelGraph,
    MixtureGraph,
    PairGraph,
    SimilarityGraph,
    SparseGraph,
)

Target = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GraphCase:
    """A graph and its meaning: `target(keep)` gives T [n, m], the rows normalised over the kept candidates."""

    graph: SimilarityGraph
    target: Target


Build = Callable[[int, int, Generator], GraphCase]


def fill(n: int, m: int, weight: Callable[[int, int], float]) -> Tensor:
    return torch.tensor([[weight(i, j) for j in range(m)] for i in range(n)], dtype=torch.float64).reshape(n, m)


def normalised(weights: Tensor, keep: Tensor) -> Tensor:
    """Row by row: drop, sum, divide; a row whose kept weights are all 0 stays 0."""
    out = torch.zeros(weights.shape, dtype=torch.float64)
    for i in range(len(weights)):
        kept = [j for j in range(weights.shape[1]) if bool(keep[i, j])]
        mass = sum(float(weights[i, j]) for j in kept)
        for j in kept if mass > 0 else []:
            out[i, j] = float(weights[i, j]) / mass
    return out


def from_weights(graph: SimilarityGraph, weight: Callable[[int, int], float]) -> GraphCase:
    """A graph and the weight of one pair; the matrix is filled in only where a test asks for it."""
    n, m = graph.shape
    return GraphCase(graph, lambda keep: normalised(fill(n, m, weight), keep))


def _labels(count: int, generator: Generator, classes: int = 3) -> Tensor:
    return torch.randint(-1, classes, (count,), generator=generator)


def _equal(a: Tensor, b: Tensor, i: int, j: int) -> bool:
    return int(a[i]) >= 0 and int(a[i]) == int(b[j])


def pair(n: int, m: int, generator: Generator) -> GraphCase:
    return from_weights(PairGraph(n, m), lambda i, j: float(i == j))


def label(n: int, m: int, generator: Generator) -> GraphCase:
    a, b = _labels(n, generator), _labels(m, generator)
    graph = LabelGraph(a, key_labels=b)
    return from_weights(graph, lambda i, j: float(_equal(a, b, i, j)))


def label_or_id(n: int, m: int, generator: Generator) -> GraphCase:
    a, b = _labels(n, generator), _labels(m, generator)
    c, d = _labels(n, generator, 4), _labels(m, generator, 4)
    graph = LabelGraph(a, c, key_labels=b, key_ids=d)
    return from_weights(graph, lambda i, j: float(_equal(a, b, i, j) or _equal(c, d, i, j)))


def class_table(n: int, m: int, generator: Generator) -> GraphCase:
    table = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    table[0, 1], table[2] = 0, 0  # class 2 relates to nothing, not even to itself
    a, b = _labels(n, generator), _labels(m, generator)
    graph = ClassGraph(a, table, key_labels=b)
    return from_weights(graph, lambda i, j: float(table[a[i], b[j]]) if a[i] >= 0 and b[j] >= 0 else 0.0)


def class_similarities(n: int, m: int, generator: Generator) -> GraphCase:
    similarities = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    labels = _labels(max(n, m), generator, 4)
    a, b = labels[:n], labels[:m]
    graph = ClassGraph.from_similarities(a, similarities, 0.2)
    if n != m:
        graph = ClassGraph(a, torch.exp(similarities / 0.2), key_labels=b)
    weights = torch.exp(similarities / 0.2)
    return from_weights(graph, lambda i, j: float(weights[a[i], b[j]]) if a[i] >= 0 and b[j] >= 0 else 0.0)


def sparse(n: int, m: int, generator: Generator) -> GraphCase:
    return _sparse(n, m, generator, weighted=True)


def sparse_unweighted(n: int, m: int, generator: Generator) -> GraphCase:
    return _sparse(n, m, generator, weighted=False)


def _sparse(n: int, m: int, generator: Generator, *, weighted: bool) -> GraphCase:
    kept = (torch.rand(n, m, generator=generator) < 0.3).tolist()
    drawn = torch.rand(n, m, generator=generator, dtype=torch.float64)
    values = (drawn if weighted else torch.ones_like(drawn)).tolist()
    crow, columns, weights = [0], [], []
    for i in range(n):
        columns += [j for j in range(m) if kept[i][j]]
        weights += [values[i][j] for j in range(m) if kept[i][j]]
        crow.append(len(columns))
    given = torch.tensor(weights, dtype=torch.float64) if weighted else None
    graph = SparseGraph(torch.tensor(crow), torch.tensor(columns, dtype=torch.int64), given, m=m)
    return from_weights(graph, lambda i, j: values[i][j] * kept[i][j])


def dense(n: int, m: int, generator: Generator) -> GraphCase:
    weights = torch.rand(n, m, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(n, m, generator=generator) < 0.5)
    return from_weights(DenseGraph(weights), lambda i, j: float(weights[i, j]))


def kernel(n: int, m: int, generator: Generator) -> GraphCase:
    """Different keys, of any length: the embeddings are l2-normalised inside."""
    queries = 3 * torch.randn(n, 4, generator=generator, dtype=torch.float64)
    keys = torch.randn(m, 4, generator=generator, dtype=torch.float64)
    return GraphCase(KernelGraph(queries, keys, temperature=0.4), lambda keep: kernel_target(queries, keys, 0.4, keep))


def kernel_of_itself(n: int, m: int, generator: Generator) -> GraphCase:
    side = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    if n != m:
        return kernel(n, m, generator)
    return GraphCase(KernelGraph(side, temperature=0.3), lambda keep: kernel_target(side, side, 0.3, keep))


def kernel_target(queries: Tensor, keys: Tensor, temperature: float, keep: Tensor) -> Tensor:
    """Softmax over the kept keys of cosine / temperature; differentiable in the embeddings."""
    u = [q / torch.linalg.vector_norm(q).clamp_min(1e-6) for q in queries.double()]
    v = [k / torch.linalg.vector_norm(k).clamp_min(1e-6) for k in keys.double()]
    rows = []
    for i in range(len(u)):
        kept = [j for j in range(len(v)) if bool(keep[i, j])]
        row = torch.zeros(len(v), dtype=torch.float64)
        if kept:
            soft = torch.softmax(torch.stack([torch.dot(u[i], v[j]) / temperature for j in kept]), 0)
            row = row.scatter(0, torch.tensor(kept), soft)
        rows.append(row)
    return torch.stack(rows)


def mixture_of(parts: list[GraphCase], weights: list[float]) -> GraphCase:
    """Each part normalised over the kept candidates first; a part's empty row gives its share to the others."""

    def target(keep: Tensor) -> Tensor:
        each = [part.target(keep) for part in parts]
        out = torch.zeros_like(each[0])
        for i in range(len(out)):
            share = sum(w for w, t in zip(weights, each, strict=True) if bool((t[i] > 0).any()))
            if share > 0:
                out[i] = sum(w / share * t[i] for w, t in zip(weights, each, strict=True))
        return out

    return GraphCase(MixtureGraph([part.graph for part in parts], weights), target)


def mixture(n: int, m: int, generator: Generator) -> GraphCase:
    return mixture_of([form(n, m, generator) for form in (label, kernel, sparse)], [0.2, 0.5, 1.3])


def mixture_with_empty_parts(n: int, m: int, generator: Generator) -> GraphCase:
    nothing = from_weights(DenseGraph(torch.zeros(n, m)), lambda i, j: 0.0)
    return mixture_of([label(n, m, generator), nothing, pair(n, m, generator)], [1.0, 2.0, 0.5])


GRAPHS: dict[str, Build] = {
    "pair": pair,
    "label": label,
    "label or id": label_or_id,
    "class table": class_table,
    "class similarities": class_similarities,
    "sparse": sparse,
    "sparse, unweighted": sparse_unweighted,
    "dense": dense,
    "kernel": kernel,
    "kernel of itself": kernel_of_itself,
    "mixture": mixture,
    "mixture, empty parts": mixture_with_empty_parts,
}
