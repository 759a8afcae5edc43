"""Inputs that do not fit losses of views and queues: the error says so, and what is broken is not hidden."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fixture
import pytest
import torch
from closeness import close
from torch import Tensor

from kinfolk import losses
from kinfolk.losses.cacr import cacr
from kinfolk.losses.sup_con import sup_con

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1, Z2, QUEUE = fixture.z(0), fixture.z(1), fixture.z(2), fixture.queue()
BANK = (QUEUE, torch.arange(8).repeat(6, 1))


def infonce(exclude: Any) -> Callable[[], Tensor]:
    return lambda: losses.InfoNCELoss()(Z0, Z1, QUEUE, exclude=exclude)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "support in one tensor": (lambda: losses.FNCLoss()([Z0, Z1], Z2), r"support.*list.*\(6, 5\)"),
    "three label sets": (infonce((fixture.labels(),) * 3), r"\(6, 8\).*pair.*found a tuple"),
    "labels in a list": (infonce([fixture.labels(), fixture.queue_labels()]), r"pair.*int64 of shape \(6,\)"),
    "weights to exclude": (infonce(torch.zeros(6, 8)), r"bool.*\(6, 8\).*float32 of shape \(6, 8\)"),
    "queue of one row": (lambda: losses.InfoNCELoss()(Z0, Z1, QUEUE[0]), r"queries \(6, 5\), found queue \(5,\)"),
    "no negatives": (lambda: losses.InterCLRLoss()(Z0, Z1, None), r"negatives.*\[n, M, d\].*\(6, 5\).*NoneType"),
    "infinite strength": (lambda: losses.CACRLoss(t_pos=math.inf), r"t_pos.*finite.*inf"),
    "infinite concentration": (lambda: losses.HardNegativeInfoNCELoss(beta=math.inf), r"beta.*finite.*inf"),
    "form of the function": (lambda: sup_con(Z0, fixture.labels(), form="mean"), r"form.*out, in.*mean"),  # type: ignore[arg-type]
    "weighting of the function": (lambda: cacr([Z0, Z1], repulsion="even"), r"repulsion.*uniform.*even"),  # type: ignore[arg-type]
    "part of a row": (lambda: losses.MoCHiLoss(hardest=4.0), r"hardest.*whole number.*4\.0"),  # type: ignore[arg-type]
    "yes mixtures": (lambda: losses.MoCHiLoss(mixed=True), r"mixed.*whole number.*True"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_what_was_expected_and_found(what: str) -> None:
    call, message = REFUSED[what]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_index_of_negatives_is_of_integers(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"index.*integers"):
        losses.InterCLRLoss()(Z0, Z1, (QUEUE, BANK[1].to(dtype)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_index_of_negatives_of_any_integer_type(dtype: torch.dtype) -> None:
    loss = losses.InterCLRLoss()
    assert torch.equal(loss(Z0, Z1, (QUEUE, BANK[1].to(dtype))), loss(Z0, Z1, BANK))


QUEUED: dict[str, Callable[..., Tensor]] = {
    "InfoNCE": lambda q, k, queue, **o: losses.InfoNCELoss(**o)(q, k, queue),
    "MoCHi": lambda q, k, queue, **o: losses.MoCHiLoss(hardest=8, mixed=9, query_mixed=9, **o)(q, k, queue),
    "InterCLR": lambda q, k, queue, **o: losses.InterCLRLoss(**o)(q, k, queue),
    "InterCLR, listed": lambda q, k, queue, **o: losses.InterCLRLoss(**o)(q, k, (queue, BANK[1])),
    "SCE": lambda q, k, queue, **o: losses.SCELoss(**o)(q, k, queue),
    "NNCLR": lambda q, k, queue, **o: losses.NNCLRLoss(**o)(k, q, queue),
}


@EVERY_IMPL
@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("which", [1, 2], ids=["keys", "queue"])
@pytest.mark.parametrize("name", QUEUED)
def test_broken_keys_and_queues_are_not_hidden(name: str, which: int, broken: float, impl: str) -> None:
    call = [Z0, Z1.clone(), QUEUE.clone()]
    call[which][:, 1] = broken
    assert not torch.isfinite(QUEUED[name](*call, impl=impl))


@EVERY_IMPL
@pytest.mark.parametrize("mode", ["attract", "eliminate"])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_support_is_not_taken_for_one_that_resembles_nothing(broken: float, mode: Any, impl: str) -> None:
    support = Z2.clone()
    support[3, 1] = broken
    loss = losses.FNCLoss(threshold=0.2, mode=mode, reduction="none", impl=impl)
    found, sound = (loss([Z0, Z1], [Z2, one]) for one in (support, Z2))
    assert torch.isnan(found).tolist() == [i % 6 == 3 for i in range(12)]
    kept = ~torch.isnan(found)
    close(found[kept], sound[kept], atol=0)


def test_neighbours_of_long_rows_in_half_precision() -> None:
    """A product beyond 65504 is no sign of a broken projection."""
    long = (300 * Z0).half(), (Z1 / 300).half(), (300 * QUEUE).half()
    found = losses.NNCLRLoss(normalize=False, reduction="none")(*long)
    expected = losses.NNCLRLoss(normalize=False, reduction="none")(*(t.double() for t in long))
    assert torch.isfinite(found).all()
    close(found, expected, atol=1e-2, rtol=1e-2)


def test_weights_of_cacr_under_autocast() -> None:
    views = [z.float() for z in (Z0, Z1, Z2)]
    plain = losses.CACRLoss().weights(views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses.CACRLoss().weights(views)
    for a, b in zip(inside, plain, strict=True):
        assert torch.equal(a, b)
