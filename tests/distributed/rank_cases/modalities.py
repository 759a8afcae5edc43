"""Losses of pairs from two modalities."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kinfolk import losses
from rank_cases.case import Batch, Case


def _clip(ids: bool) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.CLIPLoss(**options)(z[0], z[1], 1 / tau, ids=batch["ids"] if ids else None)

    return Case(losses.CLIPLoss, run)


CASES = {
    "CLIP": _clip(ids=False),
    "CLIP, ids": _clip(ids=True),
}

RING = list(CASES)
