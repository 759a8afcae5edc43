"""Losses that spread samples by their distances or products, without a softmax."""

from __future__ import annotations

from typing import Any

import fixture
from definitions import spread as definitions

from cases.case import Case, Golden
from cases.inputs import two_views, two_views_with_ids
from kinfolk import losses


def _align_uniform_case(*, ids: bool = False, **options: Any) -> Case:
    return Case(
        losses.AlignUniformLoss,
        options,
        two_views_with_ids if ids else two_views,
        definitions.align_uniform,
        (0, 1),
        minimum=3 if ids else 2,
        swappable=(0, 1),
        pooled=True,
    )


CASES = {
    "AlignUniform": _align_uniform_case(),
    "AlignUniform, options": _align_uniform_case(alpha=1.5, t=3.0, weight=0.7),
    "AlignUniform, ids": _align_uniform_case(ids=True),
    "SpectralContrastive": Case(
        losses.SpectralContrastiveLoss, {"mu": 3.0}, two_views, definitions.spectral, (0, 1), minimum=2
    ),
    "SpectralContrastive, ids": Case(
        losses.SpectralContrastiveLoss, {"mu": 1.0}, two_views_with_ids, definitions.spectral, (0, 1), minimum=3
    ),
}

GOLDEN = {
    "AlignUniform": Golden(
        -3.0252962262,
        lambda **options: losses.AlignUniformLoss(**options)(fixture.z(0), fixture.z(1)),
        lambda: definitions.align_uniform(fixture.z(0), fixture.z(1)),
    ),
}

MEMORY = {
    "AlignUniformLoss": "losses.AlignUniformLoss(impl=impl)(torch.cat([a, b]), torch.cat([b, a]))",
    "SpectralContrastiveLoss": "losses.SpectralContrastiveLoss(impl=impl)(torch.cat([a, b]), torch.cat([b, a]))",
}

TRACED = dict.fromkeys(["AlignUniform", "SpectralContrastive"], "")

DEFAULTS = {
    losses.AlignUniformLoss: {"alpha": 2.0, "t": 2.0, "weight": 1.0},
    losses.SpectralContrastiveLoss: {"mu": 1.0},
}
