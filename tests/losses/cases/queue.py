"""Losses of queries, their keys and a queue."""

from __future__ import annotations

from collections.abc import Callable

import fixture
import torch
from definitions import queue as definitions
from torch import Generator, Tensor

from cases.case import Call, Case, Golden
from cases.inputs import some_labels, vectors
from kinfolk import losses


def _queue(n: int, d: int, generator: Generator) -> Call:
    return Call([vectors(n, d, generator), vectors(n, d, generator), vectors(11, d, generator)])


def _queue_excluding_labels(n: int, d: int, generator: Generator) -> Call:
    return Call(_queue(n, d, generator).args, {"exclude": (some_labels(n, generator), some_labels(11, generator))})


def _queue_excluding_pairs(n: int, d: int, generator: Generator) -> Call:
    return Call(_queue(n, d, generator).args, {"exclude": torch.rand(n, 11, generator=generator) < 0.5})


def permute_queue_call(call: Call, order: Tensor) -> Call:
    """Queries and keys move, the queue stays."""
    queries, keys, queue = call.args
    exclude = call.kwargs.get("exclude")
    if isinstance(exclude, tuple):
        exclude = (exclude[0][order], exclude[1])
    elif exclude is not None:
        exclude = exclude[order]
    return Call([queries[order], keys[order], queue], {} if exclude is None else {"exclude": exclude})


def _infonce_case(inputs: Callable[[int, int, Generator], Call]) -> Case:
    return Case(
        losses.InfoNCELoss,
        {"temperature": 0.2},
        inputs,
        definitions.infonce,
        (0,),
        constant=(1, 2),
        permute=permute_queue_call,
        unit=(0, 1, 2),
    )


CASES = {
    "InfoNCE": _infonce_case(_queue),
    "InfoNCE, excluded labels": _infonce_case(_queue_excluding_labels),
    "InfoNCE, excluded pairs": _infonce_case(_queue_excluding_pairs),
}

_Z0, _Z1, _QUEUE = fixture.z(0), fixture.z(1), fixture.queue()
_SAME_LABEL = (fixture.labels(), fixture.queue_labels())

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
}

MEMORY = {
    "InfoNCELoss": "losses.InfoNCELoss(impl=impl)(torch.cat([a, b]), torch.cat([b, a]), torch.cat([a, b]).detach())",
}

TRACED = dict.fromkeys(["InfoNCE"], "")

DEFAULTS = {losses.InfoNCELoss: {"temperature": 0.2}}
