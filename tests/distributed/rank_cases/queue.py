"""Losses of queries, their keys and a queue."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kinfolk import losses
from rank_cases.case import Batch, Case, constants


def _queue(exclude: bool) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        fixed = constants()
        drop = (batch["labels"], fixed["queue_labels"]) if exclude else None
        return losses.InfoNCELoss(temperature=tau, **options)(z[0], z[1], fixed["queue"], exclude=drop)

    return Case(losses.InfoNCELoss, run)


CASES = {
    "InfoNCE": _queue(exclude=False),
    "InfoNCE, excluded labels": _queue(exclude=True),
}
