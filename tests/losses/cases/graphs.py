"""Losses of a given or side-embedded similarity graph."""

from __future__ import annotations

from collections.abc import Callable

import fixture
import torch
from definitions import graphs as definitions
from torch import Generator, Tensor

from cases.case import Call, Case, Golden
from cases.inputs import vectors
from kinfolk import graphs, losses


def _with_side(n: int, d: int, generator: Generator) -> Call:
    return Call([vectors(n, d, generator), vectors(n, 4, generator)])


def _rectangular_graph(n: int, d: int, generator: Generator) -> Call:
    m = n + 2
    weights = torch.rand(n, m, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(n, m, generator=generator) < 0.5)
    return Call([vectors(n, d, generator), vectors(m, d, generator), weights])


def _masked_graph(n: int, d: int, generator: Generator) -> Call:
    call = _rectangular_graph(n, d, generator)
    return Call(call.args, {"mask": torch.rand(n, n + 2, generator=generator) < 0.7})


def _two_masks(n: int, d: int, generator: Generator) -> Call:
    """A partition that leaves out part of what the target keeps, as a decoupled denominator does."""
    call = _masked_graph(n, d, generator)
    return Call(call.args, {**call.kwargs, "target_mask": torch.rand(n, n + 2, generator=generator) < 0.7})


def _permute_graph_call(call: Call, order: Tensor) -> Call:
    queries, keys, weights = call.args
    return Call([queries[order], keys, weights[order]], {k: v[order] for k, v in call.kwargs.items()})


def _graph_case(inputs: Callable[[int, int, Generator], Call]) -> Case:
    return Case(
        losses.GraphContrastiveLoss,
        {"temperature": 0.25},
        inputs,
        definitions.graph_contrastive,
        (0, 1),
        constant=(2,),
        permute=_permute_graph_call,
        ids_of=1,
    )


CASES = {
    "XSample": Case(
        losses.XSampleLoss,
        {"temperature": 0.15, "graph_temperature": 0.3},
        _with_side,
        definitions.xsample,
        (0,),
        constant=(1,),
    ),
    "GraphContrastive": _graph_case(_rectangular_graph),
    "GraphContrastive, masked": _graph_case(_masked_graph),
    "GraphContrastive, another mask for the target": _graph_case(_two_masks),
}

_STACKED, _LABELS = torch.cat([fixture.z(0), fixture.z(1)]), fixture.labels().repeat(2)
_OTHERS = ~torch.eye(12, dtype=torch.bool)


def _class_table() -> graphs.ClassGraph:
    return graphs.ClassGraph.from_similarities(_LABELS, fixture.class_similarities(), 0.1)


def _class_table_loops() -> definitions.Loops:
    weights = definitions.class_table_weights(_LABELS, fixture.class_similarities(), 0.1)
    return definitions.graph_contrastive(_STACKED, _STACKED, weights, temperature=0.1, mask=_OTHERS)


GOLDEN = {
    "XSample": Golden(
        0.6041962526,
        lambda **options: losses.XSampleLoss(**options)(_STACKED, fixture.side_embeddings()),
        lambda: definitions.xsample(_STACKED, fixture.side_embeddings(), temperature=0.1),
    ),
    "XSample, class table": Golden(
        6.2608208912,
        lambda **options: losses.XSampleLoss(**options)(_STACKED, _class_table()),
        _class_table_loops,
    ),
    "GraphContrastive, class table": Golden(
        6.2608208912,
        lambda **options: losses.GraphContrastiveLoss(**options)(_STACKED, _STACKED, _class_table(), mask=_OTHERS),
        _class_table_loops,
    ),
}

MEMORY = {
    "XSampleLoss": "losses.XSampleLoss(impl=impl)(torch.cat([a, b]), torch.cat([a, a]).detach()[:, :8])",
    "GraphContrastiveLoss": "losses.GraphContrastiveLoss(impl=impl)"
    "(torch.cat([a, b]), torch.cat([b, a]), graphs.PairGraph(2 * len(a)))",
}

TRACED = {
    "XSample": "",
    "GraphContrastive": "explicit weights are turned into a graph in the call; one made before is traced, see below",
}

DEFAULTS = {
    losses.XSampleLoss: {"temperature": 0.1, "graph_temperature": 0.1},
    losses.GraphContrastiveLoss: {"temperature": 0.1},
}
