"""Losses of pairs from two modalities, and of two modalities without pairs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kinfolk import losses
from kinfolk.distributed import all_gather
from rank_cases.case import Batch, Case


def _clip(ids: bool) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.CLIPLoss(**options)(z[0], z[1], 1 / tau, ids=batch["ids"] if ids else None)

    return Case(losses.CLIPLoss, run)


def _sig_lip(ids: bool) -> Case:
    """The bias is learnt too, as a function of the temperature."""

    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.SigLIPLoss(**options)(z[0], z[1], 1 / tau, -5 * tau, ids=batch["ids"] if ids else None)

    return Case(losses.SigLIPLoss, run)


def _mmcl(ids: bool = False, linear: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        form = {"phi": "identity", "psi": "identity"} if linear else {"temperature": 10 * tau}
        loss = losses.MMCLLoss(**form, **fixed, **options)  # type: ignore[arg-type]
        return loss(z[0], z[1], ids=batch["ids"] if ids else None)

    return Case(losses.MMCLLoss, run, tempered=not linear)


def _unpaired(matching: Any, taught: bool = False) -> Case:
    """A teacher's scores have a column per row of all ranks, or without gathering per own row."""

    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.UnpairedMMCLLoss(temperature=tau, matching=matching, **options)
        if not taught:
            return loss(z[0], z[1])
        columns = batch["other"] if options.get("gather") is False else all_gather(batch["other"])
        return loss(z[0], z[1], batch["side"] @ columns[:, :3].T)

    return Case(losses.UnpairedMMCLLoss, run, pooled=True)


RING_CASES = {
    "CLIP": _clip(ids=False),
    "CLIP, ids": _clip(ids=True),
    "SigLIP": _sig_lip(ids=False),
    "SigLIP, ids": _sig_lip(ids=True),
    "MMCL": _mmcl(),
    "MMCL, ids": _mmcl(ids=True, epsilon=0.3),
    "MMCL, decoupled": _mmcl(epsilon=0.0),
    "MMCL, exponentials": _mmcl(phi="identity", normalize=True),
    "MMCL, linear": _mmcl(linear=True),
    "MMCL, linear, ids": _mmcl(linear=True, ids=True),
}

CASES = RING_CASES | {
    "UnpairedMMCL": _unpaired("top"),
    "UnpairedMMCL, taught": _unpaired("top", taught=True),
    "UnpairedMMCL, argmax": _unpaired("argmax"),
    "UnpairedMMCL, argmax, taught": _unpaired("argmax", taught=True),
    "UnpairedMMCL, assignment": _unpaired("assignment"),
    "UnpairedMMCL, assignment, taught": _unpaired("assignment", taught=True),
}

RING = list(RING_CASES)
