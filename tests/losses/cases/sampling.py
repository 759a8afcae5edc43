"""Losses of two views whose negatives are weighed or corrected."""

from __future__ import annotations

from definitions import sampling as definitions

from cases.case import Case
from cases.inputs import two_views, two_views_with_ids
from kinfolk import losses


def _hard(*, ids: bool = False, **options: float) -> Case:
    inputs, n = (two_views_with_ids, 3) if ids else (two_views, 1)
    return Case(
        losses.HardNegativeInfoNCELoss,
        {"temperature": 0.3, **options},
        inputs,
        definitions.hard_negative,
        (0, 1),
        anchors_per_sample=2,
        minimum=n,
        swappable=(0, 1),
        scores_only=options["tau_plus"] == 0,
    )


def _debiased(tau_plus: float, *, ids: bool = False) -> Case:
    inputs, n = (two_views_with_ids, 3) if ids else (two_views, 1)
    return Case(
        losses.DebiasedInfoNCELoss,
        {"temperature": 0.3, "tau_plus": tau_plus},
        inputs,
        definitions.debiased,
        (0, 1),
        anchors_per_sample=2,
        minimum=n,
        swappable=(0, 1),
        scores_only=False,
    )


CASES = {
    "HardNegativeInfoNCE": _hard(beta=1.0, tau_plus=0.0),
    "HardNegativeInfoNCE, corrected": _hard(beta=0.5, tau_plus=0.05),
    "HardNegativeInfoNCE, ids": _hard(beta=2.0, tau_plus=0.1, ids=True),
    "DebiasedInfoNCE": _debiased(0.1),
    "DebiasedInfoNCE, at the floor": _debiased(0.7),
    "DebiasedInfoNCE, ids": _debiased(0.2, ids=True),
}

MEMORY = {
    "HardNegativeInfoNCELoss": "losses.HardNegativeInfoNCELoss(impl=impl)(a, b)",
    "DebiasedInfoNCELoss": "losses.DebiasedInfoNCELoss(impl=impl)(a, b)",
}

TRACED = dict.fromkeys(["HardNegativeInfoNCE, corrected", "DebiasedInfoNCE"], "")

DEFAULTS = {
    losses.HardNegativeInfoNCELoss: {"temperature": 0.5, "beta": 1.0, "tau_plus": 0.0},
    losses.DebiasedInfoNCELoss: {"temperature": 0.5, "tau_plus": 0.1},
}
