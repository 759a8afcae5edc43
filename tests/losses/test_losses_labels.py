"""Losses of rows with labels: what they become in special cases, their bounds, traps and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slope, slopes
from torch import Tensor

from kinfolk import losses

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
EVERY_FORM = pytest.mark.parametrize("form", ["out", "in"])
EPS_LOSSES = [losses.EpsSupInfoNCELoss, losses.EpsSupConLoss]
EVERY_EPS = pytest.mark.parametrize("build", EPS_LOSSES, ids=lambda build: build.__name__)
Z0, Z1 = fixture.z(0), fixture.z(1)
STACKED, UNIVERSUM = torch.cat([Z0, Z1]), torch.cat([fixture.rows(5), fixture.rows(6)])
LABELS, IDS = fixture.labels().repeat(2), fixture.ids()
PARTIAL = torch.tensor([0, 0, 1, 1, -1, -1]).repeat(2)
IDS_OR_NONE = pytest.mark.parametrize("ids", [None, IDS], ids=["no ids", "ids"])


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def same_value_and_gradient(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> None:
    """Two losses with a value per row agree in all of them, and their weighted sum in its gradient."""
    x, y = leaf(STACKED), leaf(STACKED)
    a, b = one(x), other(y)
    close(a, b)
    weights = torch.linspace(-1, 2, len(a), dtype=torch.float64)
    close(slope((weights * a).sum(), x), slope((weights * b).sum(), y), atol=1e-8)


# UniCon


@pytest.mark.identity("UniConLoss", "SupConLoss")
@EVERY_IMPL
@IDS_OR_NONE
def test_unicon_over_the_embeddings_is_supcon(ids: Tensor | None, impl: str) -> None:
    unicon = losses.UniConLoss(reduction="none", impl=impl)
    supcon = losses.SupConLoss(reduction="none", impl=impl)
    same_value_and_gradient(lambda x: unicon(x, x, PARTIAL, ids=ids), lambda x: supcon(x, PARTIAL, ids=ids))


@pytest.mark.identity("UniConLoss")
@EVERY_IMPL
def test_unicon_of_constant_features(impl: str) -> None:
    same = Z0[:1].repeat(12, 1)
    close(losses.UniConLoss(impl=impl)(same, same, LABELS), math.log(11))


@pytest.mark.identity("UniConLoss")
@EVERY_IMPL
def test_unicon_compares_a_row_with_the_other_universum_rows_only(impl: str) -> None:
    x, u = leaf(STACKED), leaf(UNIVERSUM)
    values = losses.UniConLoss(reduction="none", impl=impl)(x, u, LABELS)
    for i in (0, 7):
        dx, du = slopes(values[i], [x, u])
        assert [k for k in range(12) if dx[k].any()] == [i]
        assert [k for k in range(12) if not du[k].any()] == [i]


def test_unicon_wants_one_universum_row_per_row() -> None:
    with pytest.raises(ValueError, match=r"(?s)embeddings.*universum.*12.*6"):
        losses.UniConLoss()(STACKED, UNIVERSUM[:6], LABELS)


# losses with a margin


@pytest.mark.identity("EpsSupInfoNCELoss", "NTXentLoss")
@EVERY_IMPL
@EVERY_FORM
def test_eps_sup_info_nce_without_margin_and_with_ids_as_labels_is_ntxent(form: str, impl: str) -> None:
    eps = losses.EpsSupInfoNCELoss(epsilon=0.0, form=form, reduction="none", impl=impl)
    ntxent = losses.NTXentLoss(reduction="none", impl=impl)
    same_value_and_gradient(lambda x: eps(x, IDS), lambda x: ntxent(x[:6], x[6:]))
    unlabelled = torch.full((12,), -1)
    same_value_and_gradient(lambda x: eps(x, unlabelled, ids=IDS), lambda x: ntxent(x[:6], x[6:]))


@pytest.mark.identity("EpsSupInfoNCELoss", "DCLLoss")
@EVERY_IMPL
@EVERY_FORM
def test_eps_sup_info_nce_with_a_large_margin_is_dcl(form: str, impl: str) -> None:
    eps = losses.EpsSupInfoNCELoss(epsilon=200.0, form=form, reduction="none", impl=impl)
    dcl = losses.DCLLoss(reduction="none", impl=impl)
    same_value_and_gradient(lambda x: eps(x, IDS), lambda x: dcl(x[:6], x[6:]))
    x = leaf(STACKED.float())
    single = eps(x, IDS)
    close(single, dcl(Z0, Z1), atol=1e-4)
    assert torch.isfinite(slope(single.sum(), x)).all()


@pytest.mark.identity("EpsSupInfoNCELoss", "NTXentLoss", "DCLLoss")
def test_margin_leads_from_ntxent_to_dcl() -> None:
    """NT-Xent_i = softplus(DCL_i) is the case of epsilon 0 of softplus(DCL_i + epsilon) - epsilon."""
    dcl = losses.DCLLoss(reduction="none")(Z0, Z1)
    for epsilon in (0.0, 0.3, 2.0, 9.0):
        eps = losses.EpsSupInfoNCELoss(epsilon=epsilon, reduction="none")(STACKED, IDS)
        close(eps, F.softplus(dcl + epsilon) - epsilon)


@pytest.mark.identity("EpsSupInfoNCELoss")
@EVERY_IMPL
def test_eps_sup_info_nce_without_negatives_is_minus_epsilon(impl: str) -> None:
    x, one_class = leaf(Z0), torch.zeros(6, dtype=torch.int64)
    value = losses.EpsSupInfoNCELoss(epsilon=0.25, reduction="none", impl=impl)(x, one_class)
    assert value.tolist() == [-0.25] * 6
    assert not slope(value.sum(), x).any()
    inside = losses.EpsSupInfoNCELoss(epsilon=0.25, form="in", reduction="none", impl=impl)(x, one_class)
    close(inside, torch.full((6,), -0.25 - math.log(5), dtype=torch.float64), atol=1e-12)
    assert slope(inside.sum(), x).abs().max() < 1e-12


@pytest.mark.identity("EpsSupInfoNCELoss")
@EVERY_IMPL
def test_eps_sup_info_nce_is_at_least_minus_epsilon(impl: str) -> None:
    tight = F.one_hot(LABELS).double() + 1e-3 * STACKED[:, :3]
    for rows, temperature in ((STACKED, 0.1), (tight, 0.02)):
        each = losses.EpsSupInfoNCELoss(temperature=temperature, epsilon=0.25, reduction="none", impl=impl)
        assert (each(rows, LABELS) >= -0.25).all()
    close(each(tight, LABELS), torch.full((12,), -0.25, dtype=torch.float64), atol=1e-6)


@pytest.mark.identity("EpsSupInfoNCELoss")
@EVERY_IMPL
def test_positives_of_eps_sup_info_nce_do_not_meet(impl: str) -> None:
    """The value of an anchor is the mean over its positives of what it is with that positive alone."""
    loss = losses.EpsSupInfoNCELoss(reduction="none", impl=impl)
    positives, others = [1, 6, 7], [2, 3, 4, 5, 8, 9, 10, 11]
    alone = [loss(STACKED[[0, p, *others]], LABELS[[0, p, *others]])[0] for p in positives]
    close(loss(STACKED, LABELS)[0], torch.stack(alone).mean())


@pytest.mark.identity("EpsSupInfoNCELoss", "EpsSupConLoss")
@EVERY_IMPL
@EVERY_EPS
def test_forms_agree_for_one_positive(build: type, impl: str) -> None:
    outside, inside = (build(form=form, reduction="none", impl=impl) for form in ("out", "in"))
    same_value_and_gradient(lambda x: outside(x, IDS), lambda x: inside(x, IDS))


@pytest.mark.identity("EpsSupConLoss", "SupConLoss")
@EVERY_IMPL
@EVERY_FORM
@IDS_OR_NONE
def test_eps_sup_con_without_margin_is_supcon(ids: Tensor | None, form: str, impl: str) -> None:
    eps = losses.EpsSupConLoss(epsilon=0.0, form=form, reduction="none", impl=impl)
    supcon = losses.SupConLoss(form=form, reduction="none", impl=impl)
    same_value_and_gradient(lambda x: eps(x, PARTIAL, ids=ids), lambda x: supcon(x, PARTIAL, ids=ids))


@pytest.mark.identity("EpsSupInfoNCELoss", "EpsSupConLoss")
@EVERY_FORM
@EVERY_EPS
def test_values_fall_as_the_margin_grows(build: type, form: str) -> None:
    values = [build(epsilon=e, form=form, reduction="none")(STACKED, LABELS) for e in (0.0, 0.1, 0.5, 2.0, 30.0)]
    for small, large in pairwise(values):
        assert (large < small).all()


@EVERY_IMPL
@EVERY_FORM
@EVERY_EPS
def test_unlabelled_rows_are_negatives_and_no_anchors(build: type, form: str, impl: str) -> None:
    loss = build(form=form, reduction="none", impl=impl)
    rows, labels = torch.cat([STACKED, UNIVERSUM[:2]]), torch.cat([LABELS, torch.tensor([-1, -1])])
    each = loss(rows, labels)
    assert each[12:].tolist() == [0, 0]
    assert (each[:12] > loss(STACKED, LABELS)).all()
    close(build(form=form, impl=impl)(rows, labels), each[:12].mean())


@EVERY_EPS
@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan])
def test_margin_is_checked(build: type, bad: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        build(epsilon=bad)


@EVERY_EPS
def test_form_of_a_loss_with_a_margin_is_checked(build: type) -> None:
    with pytest.raises(ValueError, match=r"(?s)form.*outside"):
        build(form="outside")
    with pytest.raises(ValueError, match=r"(?s)out.*gather=True"):
        build(gather="ring")
    assert build(form="in", gather="ring")(STACKED, LABELS).isfinite()


# ExCon: background rows of SupCon


def with_background(count: int) -> tuple[Tensor, Tensor]:
    return torch.cat([STACKED, UNIVERSUM[:count]]), torch.cat([LABELS, torch.full((count,), -1)])


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
@EVERY_FORM
def test_background_rows_raise_the_value_of_every_anchor(form: str, impl: str) -> None:
    each = losses.SupConLoss(form=form, reduction="none", impl=impl)
    values = [each(*with_background(count)) for count in (0, 1, 3, 6)]
    for fewer, more in pairwise(values):
        assert (more[:12] > fewer[:12]).all()
    rows, labels = with_background(3)
    twice = each(torch.cat([rows, rows[12:]]), torch.cat([labels, labels[12:]]))  # as the authors count them
    assert (twice[:12] > values[2][:12]).all()


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
def test_background_rows_are_no_anchors_and_the_mean_is_over_real_ones(impl: str) -> None:
    rows, labels = with_background(4)
    each = losses.SupConLoss(reduction="none", impl=impl)(rows, labels)
    assert each[12:].tolist() == [0] * 4
    assert (each[:12] != 0).all()
    close(losses.SupConLoss(impl=impl)(rows, labels), each[:12].mean())
    assert losses.SupConLoss(impl=impl)(rows, labels) > losses.SupConLoss(impl=impl)(STACKED, LABELS)


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
def test_background_rows_change_the_partition_only(impl: str) -> None:
    """The value grows by log(1 + e^(background) / e^(partition)), and unique ids say what no ids say."""
    rows, labels = with_background(4)
    loss = losses.SupConLoss(reduction="none", impl=impl)
    scores = F.normalize(STACKED, dim=1) @ F.normalize(rows, dim=1).T / 0.1
    not_self = ~torch.eye(12, dtype=torch.bool)
    partition = scores[:, :12].masked_fill(~not_self, -math.inf).logsumexp(1)
    growth = F.softplus(scores[:, 12:].logsumexp(1) - partition)
    close(loss(rows, labels)[:12], loss(STACKED, LABELS) + growth)
    close(loss(rows, labels, ids=torch.arange(16)), loss(rows, labels))
