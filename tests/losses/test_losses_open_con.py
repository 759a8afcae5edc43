"""Identities, traps and refusals of OpenCon and of its prior."""

from __future__ import annotations

import math

import definitions.prototypes as definitions
import fixture
import pytest
import torch
from closeness import close, slope
from torch import Tensor

from kinfolk import losses
from kinfolk.losses.open_con import open_con, open_world_prior

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
STACKED, LABELS = torch.cat([fixture.z(0), fixture.z(1)]), fixture.labels().repeat(2)
LOGITS = 10 * torch.cat([fixture.rows(12), fixture.rows(14)]) @ fixture.rows(13, 3).T
OPEN = torch.tensor([0, 0, 1, -1, -1, -1]).repeat(2)
GUESSES = torch.tensor([0, 0, 1, 2, 2, 1]).repeat(2)
NOVEL = torch.tensor([False, False, False, True, True, False]).repeat(2)
NOTHING = torch.zeros(12, dtype=torch.bool)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


@EVERY_IMPL
@pytest.mark.identity("OpenConLoss", "SupConLoss")
def test_opencon_of_labelled_rows_is_supcon(impl: str) -> None:
    x, y = leaf(STACKED), leaf(STACKED)
    ours = losses.OpenConLoss(weights=(0.2, 1.0, 0.1), impl=impl)(x, LABELS, GUESSES, NOTHING, fixture.ids())
    theirs = 0.2 * losses.SupConLoss(temperature=0.1, impl=impl)(y, LABELS)
    close(ours, theirs, atol=1e-12)
    close(slope(ours, x), slope(theirs, y), atol=1e-10)


@EVERY_IMPL
@pytest.mark.identity("OpenConLoss", "NTXentLoss")
def test_opencon_of_unlabelled_rows_is_ntxent(impl: str) -> None:
    x, y, unlabelled = leaf(STACKED), leaf(STACKED), torch.full((12,), -1)
    ours = losses.OpenConLoss(weights=(0.2, 0.7, 0.1), impl=impl)(x, unlabelled, GUESSES, NOTHING, fixture.ids())
    theirs = 0.7 * losses.NTXentLoss(temperature=0.4, impl=impl)(y[:6], y[6:])
    close(ours, theirs)
    close(slope(ours, x), slope(theirs, y), atol=1e-8)


@EVERY_IMPL
@pytest.mark.identity("OpenConLoss")
def test_opencon_does_not_see_the_names_of_classes(impl: str) -> None:
    renamed, guessed = torch.tensor([40, 7, -1])[OPEN], torch.tensor([9, 3, 0])[GUESSES]
    loss = losses.OpenConLoss(impl=impl)
    expected = loss(STACKED, OPEN, GUESSES, NOVEL, fixture.ids())
    close(loss(STACKED, renamed, guessed, NOVEL, fixture.ids()), expected, atol=1e-12)


@EVERY_IMPL
def test_opencon_s_sets_never_meet(impl: str) -> None:
    x = leaf(STACKED)
    sets = [OPEN >= 0, OPEN < 0, NOVEL]
    for (values, _), members in zip(open_con(x, OPEN, GUESSES, NOVEL, ids=fixture.ids(), impl=impl), sets, strict=True):
        moved = slope(values.sum(), x).abs().sum(1) > 0
        assert moved.tolist() == members.tolist()


@pytest.mark.filterwarnings("ignore:.*no anchor")
@EVERY_IMPL
def test_opencon_s_empty_sets_are_zero_with_a_graph(impl: str) -> None:
    x = leaf(STACKED[:6])
    value = losses.OpenConLoss(impl=impl)(x, torch.full((6,), -1), GUESSES[:6], NOTHING[:6])
    assert value.item() == 0
    assert not slope(value, x).any()


def test_opencon_s_weights_may_be_ramped() -> None:
    loss = losses.OpenConLoss(weights=(0.0, 0.0, 1.0))
    full = loss(STACKED, OPEN, GUESSES, NOVEL, fixture.ids())
    loss.weights = (0.0, 0.0, 0.25)
    close(loss(STACKED, OPEN, GUESSES, NOVEL, fixture.ids()), 0.25 * full)


def test_opencon_refuses_what_does_not_fit() -> None:
    loss = losses.OpenConLoss()
    with pytest.raises(ValueError, match="found 2 labelled rows that are novel"):
        loss(STACKED, OPEN, GUESSES, NOVEL | (torch.arange(12) % 6 == 0))
    with pytest.raises(TypeError, match="novel_mask must be bool"):
        loss(STACKED, OPEN, GUESSES, NOVEL.long())
    with pytest.raises(ValueError, match=r"pseudo_labels must have one entry per row.*\(12, 5\).*\(6,\)"):
        loss(STACKED, OPEN, GUESSES[:6], NOVEL)
    with pytest.raises(ValueError, match=r"novel_mask must have one entry per row.*\(12, 5\).*\(6,\)"):
        loss(STACKED, OPEN, GUESSES, NOVEL[:6])
    with pytest.raises(ValueError, match="temperatures must be three"):
        losses.OpenConLoss(temperatures=(0.1, 0.4))
    with pytest.raises(ValueError, match="weights must be at least 0"):
        losses.OpenConLoss(weights=(1.0, -1.0, 0.0))
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.OpenConLoss(temperatures=(0.1, 0.0, 0.7))


KNOWN = torch.tensor([True, True, False])


def test_prior_is_its_definition() -> None:
    x, y = leaf(LOGITS), leaf(LOGITS)
    ours, theirs = open_world_prior(x, KNOWN, 0.4), definitions.open_world_prior(y, KNOWN, 0.4)
    close(ours, theirs)
    close(slope(ours, x), slope(theirs, y), atol=1e-8)
    assert ours > 0


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
def test_prior_is_zero_where_shares_are_as_expected(ratio: float) -> None:
    mass = torch.tensor([1 - ratio, 1 - ratio, 1.0], dtype=torch.float64)
    logits = leaf(mass.log().repeat(4, 1) + torch.arange(4)[:, None])
    value = open_world_prior(logits, KNOWN, ratio)
    close(value, 0.0, atol=1e-12)
    assert slope(value, logits).abs().max() < 1e-12


def test_prior_of_extreme_and_of_no_predictions() -> None:
    certain = leaf(torch.tensor([[1e4, 0.0, -1e4]]))
    value = open_world_prior(certain, KNOWN, 0.0)
    close(value, math.log(3), atol=1e-6)
    assert torch.isfinite(slope(value, certain)).all()
    none = leaf(torch.zeros(0, 3))
    assert open_world_prior(none, KNOWN, 0.5).item() == 0
    assert slope(open_world_prior(none, KNOWN, 0.5), none).shape == (0, 3)


def test_prior_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"known must be bool.*\(4, 2\).*\(3,\)"):
        open_world_prior(torch.zeros(4, 2), KNOWN, 0.5)
    with pytest.raises(ValueError, match=r"labelled_ratio must be in \[0, 1\), found 1"):
        open_world_prior(torch.zeros(4, 3), KNOWN, 1.0)
