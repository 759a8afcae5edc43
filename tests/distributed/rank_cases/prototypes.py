"""Losses with prototypes, a classifier or several kinds of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import functional_call

from kinfolk import losses
from kinfolk.losses.open_con import open_world_prior
from rank_cases.case import Batch, Case, constants

Own = dict[str, Tensor]


def _prototypes(generator: Generator) -> Own:
    return {"weight": torch.randn(5, 4, generator=generator, dtype=torch.float64)}


def _classifier(generator: Generator) -> Own:
    return {**_prototypes(generator), "bias": torch.randn(5, generator=generator, dtype=torch.float64)}


def _esupcon(labels: str = "labels", ids: bool = False) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, own: Own, **options: Any) -> Tensor:
        loss = losses.ESupConLoss(5, 4, temperature=tau, **options)
        samples = batch["ids"].repeat(2) if ids else None
        return functional_call(loss, own, (torch.cat(z[:2]), batch[labels].repeat(2), samples))

    return Case(losses.ESupConLoss, run, pooled=True, parameters=_prototypes)


def _paco(queue: bool = False, ids: bool = False) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, own: Own, **options: Any) -> Tensor:
        counts = [50, 20, 7, 3, 1] if queue else None
        loss = losses.PaCoLoss(5, 4, temperature=tau, alpha=0.3, class_counts=counts, **options)
        slots = [constants()["queue"], constants()["queue_labels"]] if queue else []
        samples = {"ids": batch["ids"].repeat(2)} if ids else {}
        if queue and ids:
            samples["queue_ids"] = torch.tensor([40, 41, -1, 48, 45, 40, 40, 46, 47])
        arguments = (torch.cat(z[:2]), batch["labels"].repeat(2), torch.cat(z[1:]), *slots)
        return functional_call(loss, own, arguments, samples)

    return Case(losses.PaCoLoss, run, views=2, parameters=_classifier)


def _opencon(novel: bool = True, labels: bool = True) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.OpenConLoss(temperatures=(tau, 2 * tau, 3 * tau), weights=(0.7, 1.0, 0.4), **options)
        known, guesses, new = batch["labels"], batch["pseudo_labels"], batch["novel"] & novel
        known = known if labels else torch.full_like(known, -1)
        return loss(torch.cat(z[:2]), known.repeat(2), guesses.repeat(2), new.repeat(2), batch["own_ids"].repeat(2))

    return Case(losses.OpenConLoss, run, pooled=True)


def _with_prior() -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        rows = z[0][batch["labels"] < 0]
        known = torch.tensor([True, True, True, False, False])
        prior = open_world_prior(
            rows @ constants()["prototypes"].T / tau, known, 0.5, gather=options.get("gather", True)
        )
        return _opencon().run(z, batch, tau, **options) + 0.05 * prior

    return Case(losses.OpenConLoss, run, pooled=True)


CASES = {
    "ESupCon": _esupcon(),
    "ESupCon, ids": _esupcon(ids=True),
    "PaCo": _paco(),
    "PaCo, ids": _paco(ids=True),
    "PaCo, queue and counts": _paco(queue=True),
    "PaCo, queue, counts and ids": _paco(queue=True, ids=True),
    "OpenCon": _opencon(),
    "OpenCon, nothing novel": _opencon(novel=False),
    "OpenCon, nothing labelled": _opencon(labels=False),
    "OpenCon and its prior": _with_prior(),
}
