"""Losses with prototypes, a classifier or several kinds of rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fixture
import torch
from definitions import prototypes as definitions
from torch import Generator, Tensor

from cases.case import Call, Case, Golden
from cases.inputs import labelled, labelled_with_ids, vectors
from kinfolk import losses


def _prototypes(d: int, generator: Generator) -> dict[str, Tensor]:
    return {"weight": vectors(3, d, generator)}


def _sized(call: Call) -> dict[str, Any]:
    return {"num_classes": 3, "dim": call.args[0].shape[1]}


def _esupcon_case(inputs: Any) -> Case:
    return Case(
        losses.ESupConLoss,
        {"temperature": 0.15},
        inputs,
        definitions.esupcon,
        (0,),
        pooled=True,
        sized=_sized,
        parameters=_prototypes,
        space_parameters=("weight",),
        scores_only=False,
    )


def _classifier(d: int, generator: Generator) -> dict[str, Tensor]:
    return {"weight": vectors(3, d + 1, generator), "bias": vectors(3, 1, generator)[:, 0]}


def _with_features(n: int, d: int, generator: Generator) -> Call:
    return Call([*labelled(n, d, generator).args, vectors(n, d + 1, generator)])


def _with_queue(n: int, d: int, generator: Generator) -> Call:
    queue_labels = torch.tensor([0, 1, 2, -1, 1, 1, 2, 0, -1, 1, 0])
    return Call([*_with_features(n, d, generator).args, vectors(11, d, generator), queue_labels])


def _with_queue_and_ids(n: int, d: int, generator: Generator) -> Call:
    ids = torch.randint(0, max(1, n // 2), (n,), generator=generator)
    queue_ids = torch.randint(-1, max(1, n // 2), (11,), generator=generator)
    return Call(_with_queue(n, d, generator).args, {"ids": ids, "queue_ids": queue_ids})


def _permute_batch(call: Call, order: Tensor) -> Call:
    kwargs = {k: v[order] if k == "ids" else v for k, v in call.kwargs.items()}
    return replace(call.map(lambda t: t[order], (0, 1, 2)), kwargs=kwargs)


def _paco_case(inputs: Any, *, queue: bool = True, **options: Any) -> Case:
    return Case(
        losses.PaCoLoss,
        {"temperature": 0.15, "alpha": 0.3, **options},
        inputs,
        definitions.paco,
        (0, 2),
        constant=(3,) if queue else (),
        permute=_permute_batch,
        sized=lambda call: {"num_classes": 3, "dim": call.args[2].shape[1]},
        parameters=_classifier,
        unit=(0, 3) if queue else (0,),
        scores_only=False,
    )


def _open_world(n: int, d: int, generator: Generator) -> Call:
    """Two of three rows are unlabelled, some of them novel; every set has an anchor from n = 7 on."""
    kinds = torch.arange(n) % 3
    labels = torch.randint(0, 2, (n,), generator=generator).where(kinds == 0, -1)
    novel = (kinds == 1) | ((kinds == 2) & (torch.rand(n, generator=generator) < 0.3))
    guesses = torch.randint(-1, 2, (n,), generator=generator)
    labels[:7:3], guesses[1:5:3] = 1, 1
    ids = (torch.arange(n) // 3 + 20).where(torch.arange(n) % 7 != 5, -1)
    return Call([vectors(n, d, generator), labels, guesses, novel], {"ids": ids})


def _opencon_case(inputs: Any, **options: Any) -> Case:
    return Case(losses.OpenConLoss, options, inputs, definitions.opencon, (0,), pooled=True)


CASES = {
    "ESupCon": _esupcon_case(labelled),
    "ESupCon, ids": _esupcon_case(labelled_with_ids),
    "PaCo": _paco_case(_with_features, queue=False),
    "PaCo, queue and counts": _paco_case(_with_queue, class_counts=torch.tensor([3, 10, 1])),
    "PaCo, ids": _paco_case(_with_queue_and_ids),
    "OpenCon": _opencon_case(_open_world, temperatures=(0.15, 0.4, 0.7), weights=(0.2, 1.0, 0.1)),
    "OpenCon, no ids": _opencon_case(lambda *size: replace(_open_world(*size), kwargs={}), weights=(1.0, 2.0, 0.5)),
}

_STACKED, _LABELS, _W = torch.cat([fixture.z(0), fixture.z(1)]), fixture.labels().repeat(2), fixture.rows(13, 3)
_FEATURES, _COUNTS = torch.cat([fixture.rows(12), fixture.rows(14)]), torch.tensor([100, 10, 1])
_LINEAR, _QUEUE = {"weight": _W, "bias": torch.zeros(3).double()}, (fixture.queue(), fixture.queue_labels())
_OPEN = (
    _STACKED,
    torch.tensor([0, 0, 1, -1, -1, -1]).repeat(2),
    torch.tensor([0, 0, 1, 2, 2, 1]).repeat(2),
    torch.tensor([False, False, False, True, True, False]).repeat(2),
)


def with_parameters(loss: torch.nn.Module, **parameters: Tensor) -> torch.nn.Module:
    """The loss with these values in place of its random ones."""
    loss = loss.double()
    loss.load_state_dict({**loss.state_dict(), **parameters})
    return loss


GOLDEN = {
    "ESupCon": Golden(
        8.0083870459,
        lambda **options: with_parameters(losses.ESupConLoss(3, 5, **options), weight=_W)(_STACKED, _LABELS),
        lambda: definitions.esupcon(_STACKED, _LABELS, parameters={"weight": _W}, temperature=0.1),
    ),
    "PaCo": Golden(
        4.4853871427,
        lambda **options: with_parameters(losses.PaCoLoss(3, 5, **options), **_LINEAR)(_STACKED, _LABELS, _FEATURES),
        lambda: definitions.paco(_STACKED, _LABELS, _FEATURES, parameters=_LINEAR, alpha=0.05, temperature=0.2),
    ),
    "PaCo, queue and counts": Golden(
        6.8785768285,
        lambda **options: with_parameters(losses.PaCoLoss(3, 5, class_counts=_COUNTS, **options), **_LINEAR)(
            _STACKED, _LABELS, _FEATURES, *_QUEUE
        ),
        lambda: definitions.paco(
            _STACKED,
            _LABELS,
            _FEATURES,
            *_QUEUE,
            parameters=_LINEAR,
            alpha=0.05,
            temperature=0.2,
            class_counts=_COUNTS,
        ),
    ),
    **{
        f"OpenCon, {name}": Golden(
            expected,
            lambda weights=weights, **options: losses.OpenConLoss(weights=weights, **options)(*_OPEN, fixture.ids()),
            lambda weights=weights: definitions.opencon(*_OPEN, weights=weights, ids=fixture.ids()),
        )
        for name, expected, weights in (
            ("labelled", 5.5316608247, (1.0, 0.0, 0.0)),
            ("unlabelled", 1.0165661123, (0.0, 1.0, 0.0)),
            ("novel", 1.1784199720, (0.0, 0.0, 1.0)),
            ("total", 2.2407402745, (0.2, 1.0, 0.1)),
        )
    },
}

MEMORY = {
    "ESupConLoss": "losses.ESupConLoss(10, 64, impl=impl)(torch.cat([a, b]), torch.arange(len(a)).repeat(2) % 10)",
    "PaCoLoss": "losses.PaCoLoss(10, 64, impl=impl)(torch.cat([a, b]), torch.arange(len(a)).repeat(2) % 10, "
    "torch.cat([b, a]), torch.cat([b, a]).detach(), torch.arange(len(a)).repeat(2) % 10)",
    "OpenConLoss": "losses.OpenConLoss(impl=impl)(torch.cat([a, b]), torch.arange(len(a)).repeat(2) % 4 - 1, "
    "torch.arange(len(a)).repeat(2) % 5, torch.arange(len(a)).repeat(2) % 8 == 0, torch.arange(len(a)).repeat(2))",
}

TRACED = dict.fromkeys(["ESupCon", "PaCo", "PaCo, queue and counts"], "")
TRACED["OpenCon"] = "the sizes of its three sets are read off the labels"

DEFAULTS = {
    losses.ESupConLoss: {"temperature": 0.1},
    losses.PaCoLoss: {"alpha": 0.05, "temperature": 0.2, "class_counts": None},
    losses.OpenConLoss: {"temperatures": (0.1, 0.4, 0.7), "weights": (0.2, 1.0, 0.1)},
}
