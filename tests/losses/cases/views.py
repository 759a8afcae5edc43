"""Losses of any number of views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fixture
import torch
from definitions import views as definitions
from definitions.loops import Loops
from torch import Generator, Tensor

from cases.case import Call, Case, Golden
from cases.inputs import duplicate_ids, vectors, views, views_with_ids
from kinfolk import losses
from kinfolk.losses.fnc import fnc_given


def _cacr(
    views: list[Tensor], *, attraction: str = "contrastive", repulsion: str = "contrastive", **options: Any
) -> Loops:
    if attraction == "uniform":
        options["t_pos"] = None
    if repulsion == "uniform":
        options["t_neg"] = None
    return definitions.cacr(views, **options)


def _cacr_case(inputs: Callable[[int, int, Generator], Call], *, minimum: int = 2, **options: Any) -> Case:
    return Case(losses.CACRLoss, options, inputs, _cacr, (0,), minimum=minimum, scores_only=False)


def _views_and_support(n: int, d: int, generator: Generator) -> Call:
    return Call([[vectors(n, d, generator) for _ in range(3)], [vectors(n, d, generator) for _ in range(2)]])


def _fnc_case(inputs: Callable[[int, int, Generator], Call], count: int, *, minimum: int = 1, **options: Any) -> Case:
    options = {"temperature": 0.15, "top_k": 3, "threshold": 0.3, **options}
    support = (1,) if inputs is _views_and_support else ()
    return Case(
        losses.FNCLoss,
        options,
        inputs,
        definitions.fnc,
        (0,),
        anchors_per_sample=count,
        minimum=minimum,
        constant=support,
        unit=(0, *support),
        scores_only=False,
    )


CASES = {
    "CACR": _cacr_case(views(3)),
    "CACR, one positive": _cacr_case(views(2), t_pos=0.7, t_neg=0.9, alpha=0.5, beta=2.0),
    "CACR, detached": _cacr_case(views(4), detach_weights=True),
    "CACR, uniform attraction": _cacr_case(views(3), attraction="uniform"),
    "CACR, uniform repulsion": _cacr_case(views(3), repulsion="uniform"),
    "CACR, ids": _cacr_case(views_with_ids, minimum=3),
    "CMC": Case(losses.CMCLoss, {"temperature": 0.15}, views(3), definitions.cmc, (0,)),
    "CMC, core": Case(losses.CMCLoss, {"temperature": 0.15, "core": 1}, views(4), definitions.cmc, (0,)),
    "CMC, ids": Case(losses.CMCLoss, {"temperature": 0.15}, views_with_ids, definitions.cmc, (0,), minimum=3),
    "FNC": _fnc_case(views(2), 2),
    "FNC, eliminate with support": _fnc_case(_views_and_support, 3, mode="eliminate"),
    "FNC, ids": _fnc_case(views_with_ids, 3, minimum=3),
    "FNC, eliminate with ids": _fnc_case(views_with_ids, 3, minimum=3, mode="eliminate"),
}

_VIEWS = [fixture.z(0), fixture.z(1), fixture.z(2)]
_SAME_CLASS = [[j for j in range(12) if j % 6 != i and j % 6 // 2 == i // 2] for i in range(6)]


def _fnc_golden(expected: float, mode: Any) -> Golden:
    options = {"top_k": 3, "threshold": 0.5, "mode": mode}
    return Golden(
        expected,
        lambda **more: losses.FNCLoss(**options, **more)(_VIEWS[:2]),
        lambda: definitions.fnc(_VIEWS[:2], temperature=0.1, **options),
    )


def _fnc_oracle(expected: float, mode: Any) -> Golden:
    """Every row of the same class is known to be a false negative."""
    return Golden(
        expected,
        lambda **more: fnc_given(_VIEWS[:2], torch.tensor(_SAME_CLASS), mode=mode, **more)[0].mean(),
        lambda: definitions.fnc(_VIEWS[:2], temperature=0.1, mode=mode, found=_SAME_CLASS),
    )


GOLDEN = {
    "CACR": Golden(
        -1.1703538625,
        lambda **options: losses.CACRLoss(**options)(_VIEWS),
        lambda: definitions.cacr(_VIEWS),
    ),
    "CACR, attraction alone": Golden(
        0.2787751993,
        lambda **options: losses.CACRLoss(beta=0.0, **options)(_VIEWS),
        lambda: definitions.cacr(_VIEWS, beta=0.0),
    ),
    "CACR, repulsion alone": Golden(
        -1.4491290618,
        lambda **options: losses.CACRLoss(alpha=0.0, **options)(_VIEWS),
        lambda: definitions.cacr(_VIEWS, alpha=0.0),
    ),
    "CACR, uniform": Golden(
        -1.9747867907,
        lambda **options: losses.CACRLoss(attraction="uniform", repulsion="uniform", **options)(_VIEWS),
        lambda: definitions.cacr(_VIEWS, t_pos=None, t_neg=None),
    ),
    "CMC": Golden(
        1.8392631241,
        lambda **options: losses.CMCLoss(**options)(_VIEWS),
        lambda: definitions.cmc(_VIEWS, temperature=0.07),
    ),
    "CMC, core 0": Golden(
        1.6243113134,
        lambda **options: losses.CMCLoss(core=0, **options)(_VIEWS),
        lambda: definitions.cmc(_VIEWS, temperature=0.07, core=0),
    ),
    "FNC": _fnc_golden(0.5481555787, "attract"),
    "FNC, eliminate": _fnc_golden(0.0161443319, "eliminate"),
    "FNC, oracle attracts": _fnc_oracle(6.2600584823, "attract"),
    "FNC, oracle eliminates": _fnc_oracle(0.0161295805, "eliminate"),
}

MEMORY = {
    "CACRLoss": "losses.CACRLoss(impl=impl)([torch.cat([a, b]), torch.cat([b, a])])",
    "CMCLoss": "losses.CMCLoss(impl=impl)([torch.cat([a, b]), torch.cat([b, a])])",
    "FNCLoss": "losses.FNCLoss(impl=impl, threshold=0.2)([a, b], [b])",
}

TRACED = dict.fromkeys(["CACR", "CMC", "FNC", "FNC, eliminate with support"], "")

DEFAULTS = {
    losses.CACRLoss: {
        "t_pos": 1.0,
        "t_neg": 2.0,
        "alpha": 1.0,
        "beta": 1.0,
        "detach_weights": False,
        "attraction": "contrastive",
        "repulsion": "contrastive",
    },
    losses.CMCLoss: {"temperature": 0.07, "core": None},
    losses.FNCLoss: {"temperature": 0.1, "top_k": 10, "threshold": 0.7, "mode": "attract"},
}
