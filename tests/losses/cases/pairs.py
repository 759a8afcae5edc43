"""Losses of two views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fixture
from definitions import pairs as definitions
from definitions.loops import Loops
from torch import nn

from cases.case import Case, Golden
from cases.inputs import two_views, two_views_with_ids
from kinfolk import losses


def two_view_case(build: type[nn.Module], define: Callable[..., Loops], *, ids: bool = False, **options: Any) -> Case:
    n = 3 if ids else 2 if build is losses.DCLLoss else 1
    inputs = two_views_with_ids if ids else two_views
    return Case(build, options, inputs, define, (0, 1), anchors_per_sample=2, minimum=n, swappable=(0, 1))


CASES = {
    "NTXent": two_view_case(losses.NTXentLoss, definitions.ntxent, temperature=0.15),
    "NTXent, ids": two_view_case(losses.NTXentLoss, definitions.ntxent, ids=True, temperature=0.15),
    "DCL": two_view_case(losses.DCLLoss, definitions.dcl, temperature=0.15),
    "DCL, ids": two_view_case(losses.DCLLoss, definitions.dcl, ids=True, temperature=0.15),
    "DCLW": two_view_case(losses.DCLLoss, definitions.dcl, temperature=0.15, sigma=0.4),
    "DCLW, attached": two_view_case(losses.DCLLoss, definitions.dcl, temperature=0.15, sigma=0.4, detach_weights=False),
}

_Z0, _Z1 = fixture.z(0), fixture.z(1)

GOLDEN = {
    "NTXent": Golden(
        0.5794143908,
        lambda **options: losses.NTXentLoss(**options)(_Z0, _Z1),
        lambda: definitions.ntxent(_Z0, _Z1, temperature=0.1),
    ),
    "DCL": Golden(
        -3.3613792724,
        lambda **options: losses.DCLLoss(**options)(_Z0, _Z1),
        lambda: definitions.dcl(_Z0, _Z1, temperature=0.1),
    ),
    "DCL, weighted": Golden(
        -3.2355668766,
        lambda **options: losses.DCLLoss(sigma=0.5, **options)(_Z0, _Z1),
        lambda: definitions.dcl(_Z0, _Z1, temperature=0.1, sigma=0.5),
    ),
}

MEMORY = {
    "NTXentLoss": "losses.NTXentLoss(impl=impl)(a, b)",
    "DCLLoss": "losses.DCLLoss(impl=impl)(a, b)",
}

TRACED = dict.fromkeys(["NTXent", "DCLW"], "")

DEFAULTS = {
    losses.NTXentLoss: {"temperature": 0.1},
    losses.DCLLoss: {"temperature": 0.1, "sigma": None, "detach_weights": True},
}
