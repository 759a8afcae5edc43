"""Losses of queries, their keys and a queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fixture
import torch
from definitions import queue as definitions
from torch import Generator, Tensor

from cases.case import Call, Case, Golden
from cases.inputs import duplicate_ids, some_labels, vectors
from kinfolk import losses
from kinfolk.losses.mochi import Mixing, mochi


def _queue(n: int, d: int, generator: Generator) -> Call:
    return Call([vectors(n, d, generator), vectors(n, d, generator), vectors(11, d, generator)])


def _queue_excluding_labels(n: int, d: int, generator: Generator) -> Call:
    return Call(_queue(n, d, generator).args, {"exclude": (some_labels(n, generator), some_labels(11, generator))})


def _queue_excluding_pairs(n: int, d: int, generator: Generator) -> Call:
    return Call(_queue(n, d, generator).args, {"exclude": torch.rand(n, 11, generator=generator) < 0.5})


def _queue_of_clusterings(n: int, d: int, generator: Generator) -> Call:
    labels = [(some_labels(n, generator), some_labels(11, generator)) for _ in range(2)]
    return Call(_queue(n, d, generator).args, {"exclude": [*labels, None]})


def _queue_excluding_and_drawing(n: int, d: int, generator: Generator) -> Call:
    call = _queue_excluding_pairs(n, d, generator)
    return Call(call.args, {**call.kwargs, **_queue_with_a_seed(n, d, generator).kwargs})


def _queue_with_a_generator(n: int, d: int, generator: Generator) -> Call:
    return Call(_queue(n, d, generator).args, {"generator": lambda: torch.Generator().manual_seed(n)})


def _queue_with_a_seed(n: int, d: int, generator: Generator) -> Call:
    """No generator: the global one, in a known state."""

    def seeded() -> None:
        torch.manual_seed(n)

    return Call(_queue(n, d, generator).args, {"generator": seeded})


def _pairs(n: int, d: int, generator: Generator) -> Call:
    sides = [[vectors(n, d, generator), vectors(n, d, generator)] for _ in range(2)]
    return Call([*sides, vectors(11, d, generator)])


def _pairs_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(_pairs(n, d, generator).args, {"ids": duplicate_ids(n)})


def _private_negatives(n: int, d: int, generator: Generator) -> Call:
    """Unit rows: the battery lengthens and normalises matrices only."""
    negatives = torch.randn(n, 4, d, generator=generator, dtype=torch.float64)
    return Call([*_queue(n, d, generator).args[:2], torch.nn.functional.normalize(negatives, dim=2)])


def permute_queue_call(call: Call, order: Tensor) -> Call:
    """Queries and keys move, the queue stays."""
    kwargs = {k: _moved(v, order) for k, v in call.kwargs.items()}
    return replace(call.map(lambda t: t[order], (0, 1)), kwargs=kwargs)


def _moved(value: Any, order: Tensor) -> Any:
    if isinstance(value, list):
        return [_moved(v, order) for v in value]
    if isinstance(value, tuple):
        return value[0][order], value[1]
    return value[order] if isinstance(value, Tensor) else value


def _queue_case(
    build: type[torch.nn.Module],
    define: Callable[..., Any],
    options: dict[str, Any],
    inputs: Callable[[int, int, Generator], Call] = _queue,
    **fields: Any,
) -> Case:
    usual = {"learnt": (0,), "constant": (1, 2), "permute": permute_queue_call, "unit": (0, 1, 2)}
    return Case(build, options, inputs, define, **{**usual, **fields})


def _infonce(inputs: Callable[[int, int, Generator], Call], **options: Any) -> Case:
    return _queue_case(losses.InfoNCELoss, definitions.infonce, {"temperature": 0.2, **options}, inputs)


def _mochi(inputs: Callable[[int, int, Generator], Call], hardest: int, mixed: int, other: int, **fields: Any) -> Case:
    options = {"temperature": 0.25, "hardest": hardest, "mixed": mixed, "query_mixed": other}
    return _queue_case(losses.MoCHiLoss, definitions.mochi, options, inputs, scores_only=False, **fields)


def _interclr(inputs: Callable[[int, int, Generator], Call], margin: float, **fields: Any) -> Case:
    options = {"temperature": 0.2, "margin": margin}
    return _queue_case(losses.InterCLRLoss, definitions.interclr, options, inputs, scores_only=margin == 0, **fields)


def _decoupled_mochi() -> Case:
    options = {"temperature": 0.25, "hardest": 6, "mixed": 3, "query_mixed": 2, "decoupled": True}
    return _queue_case(
        losses.MoCHiLoss, definitions.mochi, options, _queue_excluding_and_drawing, scores_only=False, permutable=False
    )


def _sce(coefficient: float, inputs: Callable[[int, int, Generator], Call] = _queue, **options: Any) -> Case:
    options = {"temperature": 0.15, "target_temperature": 0.1, "coefficient": coefficient, **options}
    return _queue_case(losses.SCELoss, definitions.sce, options, inputs)


def _nnclr(inputs: Callable[[int, int, Generator], Call], *, minimum: int = 1, **options: Any) -> Case:
    options = {"temperature": 0.2, **options}
    fields = {"learnt": (1,), "constant": (0, 2), "minimum": minimum}
    return _queue_case(losses.NNCLRLoss, definitions.nnclr, options, inputs, **fields)


CASES = {
    "InfoNCE": _infonce(_queue),
    "InfoNCE, excluded labels": _infonce(_queue_excluding_labels),
    "InfoNCE, excluded pairs": _infonce(_queue_excluding_pairs),
    "InfoNCE, several clusterings": _infonce(_queue_of_clusterings),
    "InfoNCE decoupled, excluded pairs": _infonce(_queue_excluding_pairs, decoupled=True),
    "InfoNCE decoupled, several clusterings": _infonce(_queue_of_clusterings, decoupled=True),
    "MoCHi": _mochi(_queue_with_a_generator, 4, 3, 2, permutable=False),
    "MoCHi, hardest alone": _mochi(_queue_with_a_seed, 1, 2, 0),
    "MoCHi decoupled, excluded pairs": _decoupled_mochi(),
    "InterCLR": _interclr(_queue, -0.5),
    "InterCLR, positive margin": _interclr(_queue, 0.3),
    "InterCLR, private negatives": _interclr(_private_negatives, -0.2, permute=None, space=()),
    "SCE": _sce(0.4),
    "SCE, relations alone": _sce(0.0),
    "SCE, excluded labels": _sce(0.4, _queue_excluding_labels),
    "SCE decoupled, excluded pairs": _sce(0.4, _queue_excluding_pairs, decoupled=True),
    "NNCLR": _nnclr(_queue),
    "NNCLR, pairs": _nnclr(_pairs),
    "NNCLR, pairs, ids": _nnclr(_pairs_with_ids, minimum=3),
    "NNCLR decoupled": _nnclr(_queue, minimum=2, decoupled=True),
    "NNCLR decoupled, pairs, ids": _nnclr(_pairs_with_ids, minimum=3, decoupled=True),
}

_Z0, _Z1, _QUEUE = fixture.z(0), fixture.z(1), fixture.queue()
_SAME_LABEL = (fixture.labels(), fixture.queue_labels())
_VIEWS, _PREDICTIONS = [_Z0, _Z1], [fixture.rows(3), fixture.rows(4)]
_PLACES = [torch.tensor([row] * 6) for row in ([0, 2], [1, 3], [0, 3])]
_SHARES = [torch.tensor([row] * 6, dtype=torch.float64) for row in ([0.25, 0.75], [0.1, 0.4])]
_DRAWN = (_PLACES[0], _PLACES[1], _SHARES[0], _PLACES[2], _SHARES[1])


GOLDEN = {
    "InfoNCE": Golden(
        0.7693933201,
        lambda **options: losses.InfoNCELoss(**options)(_Z0, _Z1, _QUEUE),
        lambda: definitions.infonce(_Z0, _Z1, _QUEUE, temperature=0.2),
    ),
    "InfoNCE, excluding same labels": Golden(
        0.4838186745,
        lambda **options: losses.InfoNCELoss(**options)(_Z0, _Z1, _QUEUE, exclude=_SAME_LABEL),
        lambda: definitions.infonce(_Z0, _Z1, _QUEUE, temperature=0.2, exclude=_SAME_LABEL),
    ),
    "MoCHi, fixed draws": Golden(
        1.3299921337,
        lambda **options: mochi(_Z0, _Z1, _QUEUE, Mixing(*_DRAWN), hardest=4, **options)[0].mean(),
        lambda: definitions.mochi_drawn(_Z0, _Z1, _QUEUE, _DRAWN, temperature=0.2, hardest=4),
    ),
    "InterCLR": Golden(
        0.0985483126,
        lambda **options: losses.InterCLRLoss(**options)(_Z0, _Z1, _QUEUE),
        lambda: definitions.interclr(_Z0, _Z1, _QUEUE, temperature=0.2, margin=-0.5),
    ),
    "SCE": Golden(
        2.0128639693,
        lambda **options: losses.SCELoss(**options)(_Z0, _Z1, _QUEUE),
        lambda: definitions.sce(_Z0, _Z1, _QUEUE, temperature=0.1, target_temperature=0.05, coefficient=0.5),
    ),
    "NNCLR": Golden(
        0.7670324637,
        lambda **options: losses.NNCLRLoss(**options)(_VIEWS, _PREDICTIONS, _QUEUE),
        lambda: definitions.nnclr(_VIEWS, _PREDICTIONS, _QUEUE, temperature=0.1),
    ),
    "NNCLR, decoupled": Golden(
        -2.3853419618,
        lambda **options: losses.NNCLRLoss(decoupled=True, **options)(_VIEWS, _PREDICTIONS, _QUEUE),
        lambda: definitions.nnclr(_VIEWS, _PREDICTIONS, _QUEUE, temperature=0.1, decoupled=True),
    ),
}

_QUERIES_AND_QUEUE = "(torch.cat([a, b]), torch.cat([b, a]), torch.cat([a, b]).detach())"

MEMORY = {
    "InfoNCELoss": f"losses.InfoNCELoss(impl=impl){_QUERIES_AND_QUEUE}",
    "MoCHiLoss": f"losses.MoCHiLoss(hardest=64, mixed=64, query_mixed=32, impl=impl){_QUERIES_AND_QUEUE}",
    "InterCLRLoss": "losses.InterCLRLoss(impl=impl)(a, b, (b, torch.randint(len(b), (len(a), 256))))",
    "SCELoss": f"losses.SCELoss(impl=impl){_QUERIES_AND_QUEUE}",
    "NNCLRLoss": f"losses.NNCLRLoss(impl=impl){_QUERIES_AND_QUEUE}",
}

TRACED = dict.fromkeys(
    ["InfoNCE", "MoCHi, hardest alone", "InterCLR", "InterCLR, private negatives", "SCE", "NNCLR, pairs"], ""
)

DEFAULTS = {
    losses.InfoNCELoss: {"temperature": 0.2, "decoupled": False},
    losses.MoCHiLoss: {"temperature": 0.2, "hardest": 1024, "mixed": 512, "query_mixed": 256, "decoupled": False},
    losses.InterCLRLoss: {"temperature": 0.2, "margin": -0.5},
    losses.SCELoss: {"temperature": 0.1, "target_temperature": 0.05, "coefficient": 0.5, "decoupled": False},
    losses.NNCLRLoss: {"temperature": 0.1, "decoupled": False},
}
