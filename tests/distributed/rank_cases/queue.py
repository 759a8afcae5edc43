"""Losses of queries, their keys and a queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kinfolk import losses
from rank_cases.case import Batch, Case, constants


def _queue(build: type[nn.Module], **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return build(temperature=tau, **fixed, **options)(z[0], z[1], constants()["queue"])

    return Case(build, run)


def _excluding(build: type[nn.Module], exclude: Callable[[Batch], Any], **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = build(temperature=tau, **fixed, **options)
        return loss(z[0], z[1], constants()["queue"], exclude=exclude(batch))

    return Case(build, run)


def _same_label(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch["labels"], constants()["queue_labels"]


def _everything_for_some(batch: Batch) -> Tensor:
    """Rows of some labels have nothing left, so that ranks count their anchors apart."""
    return (batch["labels"] % 2 == 0)[:, None].expand(-1, len(constants()["queue"]))


def _interclr_listed() -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        bank = constants()["queue"]
        listed = (bank, batch["columns"] % len(bank))
        return losses.InterCLRLoss(temperature=tau, **options)(z[0], z[1], listed)

    return Case(losses.InterCLRLoss, run)


def _nnclr(*, pairs: bool = False, ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        projections, predictions = (z[:2], [z[1], z[2]]) if pairs else (z[0], z[1])
        loss = losses.NNCLRLoss(temperature=tau, **fixed, **options)
        return loss(projections, predictions, constants()["queue"], ids=batch["ids"] if ids else None)

    return Case(losses.NNCLRLoss, run)


CASES = {
    "InfoNCE": _queue(losses.InfoNCELoss),
    "InfoNCE, excluded labels": _excluding(losses.InfoNCELoss, _same_label),
    "InfoNCE, several clusterings": _excluding(losses.InfoNCELoss, lambda batch: [_same_label(batch), None]),
    "MoCHi": _queue(losses.MoCHiLoss, hardest=1, mixed=2, query_mixed=0),
    "InfoNCE decoupled, all excluded for some": _excluding(losses.InfoNCELoss, _everything_for_some, decoupled=True),
    "MoCHi decoupled, excluded labels": _excluding(
        losses.MoCHiLoss, _same_label, hardest=1, mixed=2, query_mixed=0, decoupled=True
    ),
    "SCE decoupled, excluded labels": _excluding(losses.SCELoss, _same_label, decoupled=True),
    "InterCLR": _queue(losses.InterCLRLoss),
    "InterCLR, listed": _interclr_listed(),
    "SCE": _queue(losses.SCELoss, target_temperature=0.2, coefficient=0.3),
    "NNCLR": _nnclr(),
    "NNCLR, pairs, ids": _nnclr(pairs=True, ids=True),
    "NNCLR decoupled": _nnclr(decoupled=True),
    "NNCLR decoupled, pairs, ids": _nnclr(pairs=True, ids=True, decoupled=True),
}

RING = [name for name in CASES if name.startswith("NNCLR")]
