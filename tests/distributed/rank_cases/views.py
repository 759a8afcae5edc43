"""Losses of any number of views."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kinfolk import losses
from rank_cases.case import Batch, Case


def _cacr(ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.CACRLoss(**fixed, **options)(z, ids=batch["ids"] if ids else None)

    return Case(losses.CACRLoss, run, tempered=False)


CASES = {
    "CACR": _cacr(),
    "CACR, ids": _cacr(ids=True),
    "CACR, detached": _cacr(detach_weights=True),
    "CACR, uniform": _cacr(attraction="uniform", repulsion="uniform"),
}
