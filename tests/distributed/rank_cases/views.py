"""Losses of any number of views, and of two views with networks of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from kinfolk import losses
from rank_cases.case import Batch, Case


def _cacr(ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.CACRLoss(**fixed, **options)(z, ids=batch["ids"] if ids else None)

    return Case(losses.CACRLoss, run, tempered=False)


def _cmc(ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.CMCLoss(temperature=tau, **fixed, **options)(z, ids=batch["ids"] if ids else None)

    return Case(losses.CMCLoss, run)


def _fnc(mode: Any, *, support: bool = False, ids: bool = False) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.FNCLoss(temperature=tau, top_k=4, threshold=0.3, mode=mode, **options)
        return loss(z[:2], z[2:] if support else None, ids=batch["ids"] if ids else None)

    return Case(losses.FNCLoss, run, views=2)


def _relic(online: int, *, ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        target = [view.detach() + 0.3 for view in z[:2]]
        loss = losses.ReLICLoss(temperature=tau, **fixed, **options)
        return loss(z[:online], target, ids=batch["ids"] if ids else None)

    return Case(losses.ReLICLoss, run)


def _renyi_cl(online: int, *, ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        target = [view.detach() + 0.3 for view in z[:2]]
        loss = losses.RenyiCLLoss(temperature=tau, alpha=0.05, **fixed, **options)
        return loss(z[:online], target, ids=batch["ids"] if ids else None)

    return Case(losses.RenyiCLLoss, run, pooled=True)


def _perceptrons(generator: Generator) -> dict[str, Tensor]:
    shapes = {"hidden_weight": (5, 3, 4), "hidden_bias": (5, 3), "weight": (5, 3), "bias": (5,)}
    return {
        f"networks.{name}": torch.randn(*shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def _bregman(ids: bool = False) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, *, own: dict[str, Tensor], **options: Any) -> Tensor:
        loss = losses.BregmanLoss(4, networks=5, hidden=3, temperature=tau, **options).eval()
        args = (z[0], z[1], batch["ids"] if ids else None)
        return torch.func.functional_call(loss, own, args)

    return Case(losses.BregmanLoss, run, views=2, parameters=_perceptrons)


CASES = {
    "CACR": _cacr(),
    "CACR, ids": _cacr(ids=True),
    "CACR, detached": _cacr(detach_weights=True),
    "CACR, uniform": _cacr(attraction="uniform", repulsion="uniform"),
    "CMC": _cmc(),
    "CMC, core and ids": _cmc(ids=True, core=1),
    "FNC": _fnc("attract"),
    "FNC, support and ids": _fnc("attract", support=True, ids=True),
    "FNC, eliminate": _fnc("eliminate", support=True),
    "FNC, eliminate with ids": _fnc("eliminate", ids=True),
    "ReLIC": _relic(2),
    "ReLIC, small crops and ids": _relic(3, ids=True, beta=0.7),
    "RenyiCL": _renyi_cl(2),
    "RenyiCL, small crops and ids": _renyi_cl(3, ids=True, gamma=1.5),
    "RenyiCL, gamma 1": _renyi_cl(2, gamma=1.0),
    "Bregman": _bregman(),
    "Bregman, ids": _bregman(ids=True),
}

RING = ["CMC", "CMC, core and ids", "Bregman", "Bregman, ids"]
