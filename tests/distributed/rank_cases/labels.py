"""Losses of rows with labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinfolk import losses
from rank_cases.case import Batch, Case, constants


def _sup_con(form: Any, labels: str = "labels", ids: str | None = None, views: int = 2, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        own = None if ids is None else batch[ids].repeat(views)
        loss = losses.SupConLoss(temperature=tau, form=form, **{**fixed, **options})
        return loss(torch.cat(z[:views]), batch[labels].repeat(views), ids=own)

    return Case(losses.SupConLoss, run, views=views)


def _uni_con(ids: bool = False) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        own = batch["ids"].repeat(2) if ids else None
        loss = losses.UniConLoss(temperature=tau, **options)
        return loss(torch.cat(z[:2]), torch.cat(z[1:]), batch["labels"].repeat(2), ids=own)

    return Case(losses.UniConLoss, run, views=2)


def _eps(build: type[losses.EpsSupInfoNCELoss | losses.EpsSupConLoss], form: Any, ids: bool = False) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        own = batch["ids"].repeat(2) if ids else None
        loss = build(temperature=tau, form=form, **options)
        return loss(torch.cat(z[:2]), batch["labels"].repeat(2), ids=own)

    return Case(build, run, views=2)


def _balanced_softmax() -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.BalancedSoftmaxLoss([50, 7, 0, 1], **options)
        return loss(z[0] / tau, batch["second_labels"])

    return Case(losses.BalancedSoftmaxLoss, run)


def _res_com(ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        own = batch["ids"].repeat(2) if ids else None
        queue, queue_labels = constants()["queue"], constants()["queue_labels"]
        loss = losses.ResComLoss([50, 20, 7, 3, 1], temperature=tau, beta=0.9, **fixed, **options)
        return loss(torch.cat(z[:2]), batch["labels"].repeat(2), queue, queue_labels, ids=own)

    return Case(losses.ResComLoss, run, views=2)


def _fair_kl(form: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.FairKLLoss(form=form, **options)
        return loss(torch.cat(z[:2]), batch["labels"].repeat(2), batch["second_labels"].repeat(2))

    return Case(losses.FairKLLoss, run, tempered=False, pooled=True)


CASES = {
    "SupCon out": _sup_con("out"),
    "SupCon in": _sup_con("in"),
    "SupCon out, one view": _sup_con("out", views=1),
    "SupCon out, ids": _sup_con("out", ids="ids"),
    "SupCon in, ids": _sup_con("in", ids="ids"),
    "SupCon out, no anchor": _sup_con("out", labels="no_pairs", views=1),
    "UniCon": _uni_con(),
    "UniCon, ids": _uni_con(ids=True),
    "EpsSupInfoNCE out": _eps(losses.EpsSupInfoNCELoss, "out"),
    "EpsSupInfoNCE out, ids": _eps(losses.EpsSupInfoNCELoss, "out", ids=True),
    "EpsSupInfoNCE in": _eps(losses.EpsSupInfoNCELoss, "in"),
    "EpsSupInfoNCE in, ids": _eps(losses.EpsSupInfoNCELoss, "in", ids=True),
    "EpsSupCon out": _eps(losses.EpsSupConLoss, "out"),
    "EpsSupCon out, ids": _eps(losses.EpsSupConLoss, "out", ids=True),
    "EpsSupCon in": _eps(losses.EpsSupConLoss, "in"),
    "BalancedSoftmax": _balanced_softmax(),
    "ResCom": _res_com(positives=1, negatives=3),
    "ResCom, ids": _res_com(ids=True, positives=2, negatives=20),
    "FairKL": _fair_kl("kl"),
    "FairKL, moments": _fair_kl("moments"),
}

RING = ["SupCon out", "SupCon out, one view", "SupCon out, no anchor", "SupCon in", "SupCon in, ids"]
RING += ["EpsSupInfoNCE in", "EpsSupInfoNCE in, ids", "EpsSupCon in"]
