"""Queues: identities between the losses, degenerate queues, refusals, and what only one of the losses can do."""

from __future__ import annotations

import math
from typing import Any

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slope
from torch import Tensor

from kinfolk import graphs, losses

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1, QUEUE = fixture.z(0), fixture.z(1), fixture.queue()


def values_and_slopes(loss: torch.nn.Module, *args: Any) -> tuple[Tensor, Tensor]:
    """Values per anchor of queries Z0, and the gradient of a weighted sum of them."""
    x = Z0.clone().requires_grad_()
    values = loss(x, *args)
    return values.detach(), slope((values * torch.arange(1, 7)).sum(), x)


# InfoNCE with eliminated negatives


@pytest.mark.identity("InfoNCELoss")
@EVERY_IMPL
def test_elimination_without_labels_is_plain_and_with_them_never_more(impl: str) -> None:
    loss = losses.InfoNCELoss(reduction="none", impl=impl)
    plain, unknown = loss(Z0, Z1, QUEUE), torch.full((6,), -1)
    close(loss(Z0, Z1, QUEUE, exclude=(unknown, fixture.queue_labels())), plain, atol=0)
    some = loss(Z0, Z1, QUEUE, exclude=(fixture.labels(), fixture.queue_labels()))
    assert (some <= plain).all()
    assert (some < plain).any()


@pytest.mark.identity("InfoNCELoss")
@EVERY_IMPL
def test_hierarchy_is_the_mean_over_label_sets(impl: str) -> None:
    loss = losses.InfoNCELoss(reduction="none", impl=impl)
    labels, coarse = (fixture.labels(), fixture.queue_labels()), (fixture.labels() // 2, fixture.queue_labels() // 2)
    found = values_and_slopes(lambda *args: loss(*args, exclude=[labels, coarse, None]), Z1, QUEUE)  # type: ignore[arg-type]
    each = [
        values_and_slopes(lambda *args, e=e: loss(*args, exclude=e), Z1, QUEUE)  # type: ignore[arg-type,misc]
        for e in (labels, coarse, None)
    ]
    for k in (0, 1):
        close(found[k], torch.stack([one[k] for one in each]).mean(0), atol=1e-12)
    with pytest.raises(ValueError, match="empty list"):
        loss(Z0, Z1, QUEUE, exclude=[])


# InterCLR


@pytest.mark.identity("InterCLRLoss", "InfoNCELoss")
@EVERY_IMPL
def test_interclr_without_a_margin_is_infonce(impl: str) -> None:
    inter = values_and_slopes(losses.InterCLRLoss(margin=0.0, reduction="none", impl=impl), Z1, QUEUE)
    plain = values_and_slopes(losses.InfoNCELoss(reduction="none", impl=impl), Z1, QUEUE)
    for a, b in zip(inter, plain, strict=True):
        close(a, b, atol=1e-12)


@pytest.mark.identity("InterCLRLoss")
@EVERY_IMPL
@pytest.mark.parametrize("margin", [-0.5, 0.3])
def test_interclr_margin_multiplies_the_positive(margin: float, impl: str) -> None:
    """``e^loss - 1`` is the negatives' sum over the positive's exponential."""
    plain, moved = (losses.InterCLRLoss(margin=m, reduction="none", impl=impl)(Z0, Z1, QUEUE) for m in (0.0, margin))
    close(torch.expm1(moved), torch.expm1(plain) * math.exp(margin / 0.2))
    assert (moved >= 0).all()
    assert ((moved < plain) == (margin < 0)).all()


@pytest.mark.identity("InterCLRLoss")
@EVERY_IMPL
@pytest.mark.parametrize("normalize", [True, False])
def test_forms_of_negatives_agree(normalize: bool, impl: str) -> None:
    """Rows for all, rows per query, rows looked up in a bank: of any length, and with no row among those listed."""
    bank = QUEUE * torch.linspace(0.2, 3, 8, dtype=torch.float64)[:, None]
    loss = losses.InterCLRLoss(reduction="none", normalize=normalize, impl=impl)
    shared = values_and_slopes(loss, Z1, bank)
    listed = torch.cat([torch.arange(8).repeat(6, 1).flip(1), torch.full((6, 2), -1)], 1)
    for negatives in (bank.repeat(6, 1, 1), (bank, listed), (bank.repeat(2, 1), listed + 8 * (listed >= 0))):
        for a, b in zip(values_and_slopes(loss, Z1, negatives), shared, strict=True):
            close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_listed_negatives_of_half_precision(dtype: torch.dtype) -> None:
    x, y, bank = Z0.to(dtype).requires_grad_(), Z1.to(dtype), QUEUE.to(dtype)
    loss, index = losses.InterCLRLoss(temperature=0.01), torch.arange(8).repeat(6, 1)
    got, expected = loss(x, y, (bank, index)), loss(x, y, bank)
    assert got.dtype == torch.float32
    close(got, expected, rtol=1e-5)
    close(slope(got, x), slope(expected, x), atol=1e-2 * float(slope(expected, x).abs().max()))


@EVERY_IMPL
def test_interclr_without_negatives_is_zero(impl: str) -> None:
    x, loss = Z0.clone().requires_grad_(), losses.InterCLRLoss(reduction="none", impl=impl)
    nothing = torch.full((6, 3), -1)
    for negatives in (QUEUE[:0], QUEUE[:0].expand(6, 0, 5), (QUEUE, nothing), (QUEUE[:0], nothing)):
        value = loss(x, Z1, negatives)
        assert value.tolist() == [0.0] * 6
        assert slope(value.sum(), x).abs().max() < 1e-12
    nothing[2, 1] = 4
    value = loss(x, Z1, (QUEUE, nothing))
    assert (value > 0).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("negatives", "found"),
    [
        (QUEUE[:, :4], r"\(8, 4\)"),
        (QUEUE.expand(4, -1, -1), r"\(4, 8, 5\)"),
        ((QUEUE, torch.zeros(4, 3, dtype=torch.int64)), r"\(8, 5\), \(4, 3\)"),
    ],
)
def test_interclr_names_shapes_that_do_not_fit(negatives: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)\(6, 5\).*{found}"):
        losses.InterCLRLoss()(Z0, Z1, negatives)


@pytest.mark.parametrize("column", [8, -2])
def test_interclr_refuses_columns_outside_the_bank(column: int) -> None:
    with pytest.raises(ValueError, match=rf"\[0, 7\].*{column}"):
        losses.InterCLRLoss()(Z0, Z1, (QUEUE, torch.full((6, 1), column)))


# SCE


@pytest.mark.identity("SCELoss", "InfoNCELoss")
@EVERY_IMPL
def test_sce_of_the_own_pair_alone_is_infonce(impl: str) -> None:
    plain = values_and_slopes(losses.InfoNCELoss(temperature=0.1, reduction="none", impl=impl), Z1, QUEUE)
    for coefficient, atol in ((1.0, 0.0), (1 - 1e-13, 1e-11)):
        found = values_and_slopes(losses.SCELoss(coefficient=coefficient, reduction="none", impl=impl), Z1, QUEUE)
        for a, b in zip(found, plain, strict=True):
            close(a, b, atol=atol)


def _relations(target_temperature: float = 0.05) -> Tensor:
    return torch.softmax(Z1 @ QUEUE.T / target_temperature, 1)


@pytest.mark.identity("SCELoss", "InfoNCELoss")
@EVERY_IMPL
@pytest.mark.parametrize("coefficient", [0.0, 0.3, 0.5])
def test_sce_is_infonce_and_relations_and_a_ceiling(coefficient: float, impl: str) -> None:
    scores, own = Z0 @ QUEUE.T / 0.1, (Z0 * Z1).sum(1) / 0.1
    ressl = -(_relations() * torch.log_softmax(scores, 1)).sum(1)
    ceiling = F.softplus(own - torch.logsumexp(scores, 1))
    infonce = losses.InfoNCELoss(temperature=0.1, reduction="none", impl=impl)(Z0, Z1, QUEUE)
    found = losses.SCELoss(coefficient=coefficient, reduction="none", impl=impl)(Z0, Z1, QUEUE)
    close(found, coefficient * infonce + (1 - coefficient) * (ressl + ceiling))
    assert (ceiling > 1e-4).all()  # so that relations alone are not ReSSL


@pytest.mark.identity("SCELoss", "GraphContrastiveLoss")
@EVERY_IMPL
def test_sce_is_the_graph_loss_of_its_mixed_target(impl: str) -> None:
    x = Z0.clone().requires_grad_()
    found = losses.SCELoss(coefficient=0.3, reduction="none", impl=impl)(x, Z1, QUEUE)
    general = losses.GraphContrastiveLoss(temperature=0.1, impl=impl)
    for i in range(6):
        weights = torch.cat([torch.full((1, 1), 0.3, dtype=torch.float64), 0.7 * _relations()[[i]]], 1)
        value = general(x[[i]], torch.cat([Z1[[i]], QUEUE]), graphs.DenseGraph(weights))
        close(found[i], value)
        close(slope(found[i], x), slope(value, x), atol=1e-8)


@pytest.mark.identity("SCELoss")
def test_sce_is_at_least_the_entropy_of_its_target() -> None:
    entropy = -(0.5 * _relations() * torch.log(0.5 * _relations())).sum(1) - 0.5 * math.log(0.5)
    for z in (Z0, Z1, fixture.z(2)):
        assert (losses.SCELoss(reduction="none")(z, Z1, QUEUE) > entropy).all()


@pytest.mark.identity("SCELoss")
@EVERY_IMPL
def test_sce_of_sharp_relations_wants_the_nearest_key(impl: str) -> None:
    nearest = (Z1 @ QUEUE.T).argmax(1)
    scores = torch.cat([(Z0 * Z1).sum(1, keepdim=True), Z0 @ QUEUE.T], 1) / 0.1
    sharp = losses.SCELoss(target_temperature=1e-4, coefficient=0.4, reduction="none", impl=impl)
    hard = 0.4 * scores[:, 0] + 0.6 * scores.gather(1, 1 + nearest[:, None])[:, 0]
    close(sharp(Z0, Z1, QUEUE), torch.logsumexp(scores, 1) - hard)


@EVERY_IMPL
@pytest.mark.parametrize("coefficient", [0.0, 0.5, 1.0])
def test_sce_of_an_empty_queue_is_zero(coefficient: float, impl: str) -> None:
    x = Z0.clone().requires_grad_()
    value = losses.SCELoss(coefficient=coefficient, reduction="none", impl=impl)(x, Z1, QUEUE[:0])
    assert value.tolist() == [0.0] * 6
    assert slope(value.sum(), x).abs().max() < 1e-12


def test_sce_refuses_other_options() -> None:
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="coefficient"):
            losses.SCELoss(coefficient=bad)
    with pytest.raises(ValueError, match="target_temperature"):
        losses.SCELoss(target_temperature=0.0)


# NNCLR


@pytest.mark.identity("NNCLRLoss", "CLIPLoss")
@EVERY_IMPL
def test_nnclr_whose_queue_holds_the_batch_is_clip(impl: str) -> None:
    """Every projection is its own neighbour then; searching after enqueueing would do that."""
    pair = [Z0, Z1]
    found = losses.NNCLRLoss(reduction="none", impl=impl)(pair, pair, torch.cat([QUEUE, *pair]))
    close(found, losses.CLIPLoss(reduction="none", impl=impl)(Z0, Z1, 10.0))


@pytest.mark.identity("NNCLRLoss")
@EVERY_IMPL
@pytest.mark.parametrize("ids", [None, torch.tensor([3, 3, 4, 5, -1, -1])])
def test_nnclr_is_softplus_of_its_decoupled_form(ids: Tensor | None, impl: str) -> None:
    p = Z1.clone().requires_grad_()
    plain = losses.NNCLRLoss(reduction="none", impl=impl)(Z0, p, QUEUE, ids=ids)
    decoupled = losses.NNCLRLoss(decoupled=True, reduction="none", impl=impl)(Z0, p, QUEUE, ids=ids)
    close(plain, F.softplus(decoupled))
    for i in range(6):
        close(slope(plain[i], p), torch.sigmoid(decoupled[i]) * slope(decoupled[i], p), atol=1e-8)


@pytest.mark.identity("NNCLRLoss")
@EVERY_IMPL
def test_nnclr_of_pairs_is_the_mean_of_two_directions(impl: str) -> None:
    p0, p1 = fixture.rows(3), fixture.rows(4)
    loss = losses.NNCLRLoss(reduction="none", impl=impl)
    both = loss((Z0, Z1), (p0, p1), QUEUE)
    assert both.shape == (6,)
    close(both, (loss(Z0, p1, QUEUE) + loss(Z1, p0, QUEUE)) / 2, atol=1e-12)


@EVERY_IMPL
def test_nnclr_of_one_sample(impl: str) -> None:
    p = Z1[:1].clone().requires_grad_()
    value = losses.NNCLRLoss(impl=impl)(Z0[:1], p, QUEUE)
    close(value, 0, atol=1e-12)
    assert slope(value, p).abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"(?s)NNCLRLoss.*n = 1"):
        losses.NNCLRLoss(decoupled=True, impl=impl)(Z0[:1], p, QUEUE)


@pytest.mark.filterwarnings("ignore:.*no anchor")
@EVERY_IMPL
def test_decoupled_nnclr_of_one_sample_many_times_has_no_anchor(impl: str) -> None:
    p, ids = Z1.clone().requires_grad_(), torch.tensor([7, 7, 7, 7, 7, 7])
    value = losses.NNCLRLoss(decoupled=True, impl=impl)(Z0, p, QUEUE, ids=ids)
    assert value.item() == 0
    assert not slope(value, p).any()


def test_broken_projection_is_not_hidden() -> None:
    for broken in (float("nan"), float("inf")):
        z = Z0.clone()
        z[2, 1] = broken
        found = losses.NNCLRLoss(reduction="none")(z, Z1, QUEUE)
        assert torch.isfinite(found).tolist() == [True, True, False, True, True, True]


def test_nnclr_needs_a_queue_and_equal_sides() -> None:
    with pytest.raises(ValueError, match=r"queue.*\(0, 5\)"):
        losses.NNCLRLoss()(Z0, Z1, QUEUE[:0])
    with pytest.raises(ValueError, match="2 and 1 tensors"):
        losses.NNCLRLoss()((Z0, Z1), Z1, QUEUE)
    with pytest.raises(ValueError, match=r"predictions\[1\].*\(4, 5\)"):
        losses.NNCLRLoss()((Z0, Z1), (Z0, Z1[:4]), QUEUE)


# What all of them refuse


def made(name: str) -> torch.nn.Module:
    return losses.MoCHiLoss(hardest=4) if name == "MoCHiLoss" else getattr(losses, name)()


@pytest.mark.parametrize("name", ["InfoNCELoss", "MoCHiLoss", "SCELoss", "NNCLRLoss"])
def test_a_queue_of_another_width_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)queue.*\(6, 5\).*\(8, 3\)"):
        made(name)(Z0, Z1, torch.zeros(8, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["InfoNCELoss", "MoCHiLoss", "InterCLRLoss", "SCELoss", "NNCLRLoss"])
def test_keys_of_another_shape_are_named_and_ids_are_integers(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(6, 5\), \(4, 5\)"):
        made(name)(Z0, Z1[:4], QUEUE)
    with pytest.raises(TypeError, match="int"):
        made(name)(Z0, Z1, QUEUE, ids=torch.zeros(6))
