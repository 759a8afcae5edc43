"""Losses that spread samples by their distances or products, without a softmax."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kinfolk import losses
from rank_cases.case import Batch, Case


def _align_uniform(ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.AlignUniformLoss(**fixed, **options)(z[0], z[1], ids=batch["ids"] if ids else None)

    return Case(losses.AlignUniformLoss, run, tempered=False, pooled=True)


def _spectral(ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.SpectralContrastiveLoss(mu=3.0, **fixed, **options)
        return loss(z[0], z[1], ids=batch["ids"] if ids else None)

    return Case(losses.SpectralContrastiveLoss, run, tempered=False)


CASES = {
    "AlignUniform": _align_uniform(),
    "AlignUniform, rows as they are": _align_uniform(alpha=1.0, t=0.5, normalize=False),
    "AlignUniform, ids": _align_uniform(ids=True),
    "SpectralContrastive": _spectral(),
    "SpectralContrastive, rows as they are": _spectral(normalize=False),
    "SpectralContrastive, ids": _spectral(ids=True),
}

RING = ["SpectralContrastive", "SpectralContrastive, rows as they are", "SpectralContrastive, ids"]
