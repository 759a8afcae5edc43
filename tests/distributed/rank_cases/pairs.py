"""Losses of two views."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kinfolk import losses
from rank_cases.case import Batch, Case


def two_views(build: type[nn.Module], **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, *, ids: str | None = None, **options: Any) -> Tensor:
        return build(temperature=tau, **fixed, **options)(z[0], z[1])

    return Case(build, run, views=2)


def two_views_with_ids(build: type[nn.Module], **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return build(temperature=tau, **fixed, **options)(z[0], z[1], ids=batch["ids"])

    return Case(build, run, views=2)


CASES = {
    "NTXent": two_views(losses.NTXentLoss),
    "NTXent, ids": two_views_with_ids(losses.NTXentLoss),
    "DCL": two_views(losses.DCLLoss),
    "DCL, ids": two_views_with_ids(losses.DCLLoss),
    "DCLW": two_views(losses.DCLLoss, sigma=0.4),
    "DCLW, attached": two_views(losses.DCLLoss, sigma=0.4, detach_weights=False),
}

RING = list(CASES)
