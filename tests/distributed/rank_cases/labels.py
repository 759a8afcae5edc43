"""Losses of rows with labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinfolk import losses
from rank_cases.case import Batch, Case


def _sup_con(form: Any, labels: str = "labels", ids: str | None = None, views: int = 2, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        own = None if ids is None else batch[ids].repeat(views)
        loss = losses.SupConLoss(temperature=tau, form=form, **{**fixed, **options})
        return loss(torch.cat(z[:views]), batch[labels].repeat(views), ids=own)

    return Case(losses.SupConLoss, run, views=views)


CASES = {
    "SupCon out": _sup_con("out"),
    "SupCon in": _sup_con("in"),
    "SupCon out, one view": _sup_con("out", views=1),
    "SupCon out, ids": _sup_con("out", ids="ids"),
    "SupCon in, ids": _sup_con("in", ids="ids"),
    "SupCon out, no anchor": _sup_con("out", labels="no_pairs", views=1),
}

RING = ["SupCon out", "SupCon out, one view", "SupCon out, no anchor", "SupCon in", "SupCon in, ids"]
