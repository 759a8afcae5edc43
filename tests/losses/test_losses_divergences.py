"""Divergences in place of cross-entropy, RenyiCL and Bregman, beyond their loops: identities, limits, their parts."""

from __future__ import annotations

import math
import warnings
from typing import Any

import fixture
import pytest
import torch
import torch.nn.functional as F
from cases.views import linear_networks
from closeness import close, slopes
from torch import Tensor

from kinfolk import losses
from kinfolk.losses.bregman import bregman

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1, Z2 = fixture.z(0), fixture.z(1), fixture.z(2)
P0, P1 = fixture.rows(3), fixture.rows(4)


# RenyiCL.


def shifted(x: Tensor, by: float) -> Tensor:
    return torch.cat([x, torch.full_like(x[:, :1], by)], 1)


@pytest.mark.identity("RenyiCLLoss")
@EVERY_IMPL
@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_renyi_does_not_see_a_common_shift_of_the_scores(gamma: float, impl: str) -> None:
    loss = losses.RenyiCLLoss(gamma=gamma, normalize=False, impl=impl)
    queries = [shifted(P0, 1.7), shifted(P1, 1.7)]
    close(loss(queries, [shifted(Z0, 1.0), shifted(Z1, 1.0)]), loss([P0, P1], [Z0, Z1]))


@pytest.mark.identity("RenyiCLLoss")
@EVERY_IMPL
def test_renyi_is_continuous_at_gamma_one(impl: str) -> None:
    at_one, near = (losses.RenyiCLLoss(gamma=g, impl=impl)([P0, P1], [Z0, Z1]) for g in (1.0, 1 + 1e-6))
    close(near, at_one, atol=1e-6)
    assert near.item() != at_one.item()


@EVERY_IMPL
@pytest.mark.parametrize("gamma", [1 + 1e-6, 1.001, 1.1, 2.0])
def test_renyi_keeps_single_precision_near_gamma_one(gamma: float, impl: str) -> None:
    """A logarithm of a mean near 1, over gamma - 1, would lose all digits."""
    loss = losses.RenyiCLLoss(gamma=gamma, temperature=0.05, impl=impl)
    single = loss([P0.float(), P1.float()], [Z0.float(), Z1.float()])
    double = loss([P0.float().double(), P1.float().double()], [Z0.float().double(), Z1.float().double()])
    close(single, double, atol=1e-5, rtol=1e-5)


def divergence(p: Tensor, q: Tensor, gamma: float, alpha: float) -> Tensor:
    """R_gamma(P || alpha P + (1 - alpha) Q) of two discrete distributions."""
    m = alpha * p + (1 - alpha) * q
    if gamma == 1:
        return (p * (p / m).log()).sum()
    return (m * (p / m) ** gamma).sum().log() / (gamma * (gamma - 1))


@pytest.mark.identity("RenyiCLLoss")
@EVERY_IMPL
@pytest.mark.parametrize(("gamma", "alpha"), [(1.0, 0.1), (1.5, 0.02), (2.0, 0.1), (3.0, 0.5)])
def test_renyi_is_a_bound_that_the_best_critic_reaches(gamma: float, alpha: float, impl: str) -> None:
    """Five samples whose pairs fall into three classes; a critic gives every class a score."""
    kind = (torch.arange(5)[:, None] * 3 + torch.arange(5) * 5) % 7 % 3
    on, off = kind.diagonal(), kind[~torch.eye(5, dtype=torch.bool)]
    p, q = (torch.bincount(k, minlength=3).double() / len(k) for k in (on, off))
    assert (p > 0).all()
    assert (q > 0).all()
    loss = losses.RenyiCLLoss(gamma=gamma, alpha=alpha, temperature=1.0, normalize=False, impl=impl)

    def bound(critic: Tensor) -> float:
        scores = critic[kind]
        return -loss([scores, torch.eye(5, dtype=torch.float64)], [scores.T]).item()

    best, limit = torch.log(p / (alpha * p + (1 - alpha) * q)), divergence(p, q, gamma, alpha).item()
    assert bound(best) == pytest.approx(limit, abs=1e-9)
    for seed in range(5):
        noise = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert bound(best + noise) < limit - 1e-6


@pytest.mark.identity("RenyiCLLoss")
@EVERY_IMPL
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_renyi_has_the_gradient_of_its_surrogate(gamma: float, impl: str) -> None:
    """Positives weigh as sg e^((gamma - 1) f) over its mean, candidates as sg e^(gamma f) over theirs."""
    p0, p1 = P0.clone().requires_grad_(), P1.clone().requires_grad_()
    alpha, surrogate = 0.05, torch.zeros((), dtype=torch.float64)
    for query, key in ((p1, Z0), (p0, Z1)):
        f = F.normalize(query, dim=1) @ key.T / 0.5
        near, far = f.diagonal(), f[~torch.eye(6, dtype=torch.bool)]
        easy, (a, b) = ((gamma - 1) * near.detach()).exp(), ((gamma * s.detach()).exp() for s in (near, far))
        pulled = (easy * near).mean() / easy.mean()
        pushed = alpha * (a * near).mean() + (1 - alpha) * (b * far).mean()
        surrogate = surrogate - pulled + pushed / (alpha * a.mean() + (1 - alpha) * b.mean())
    loss = losses.RenyiCLLoss(gamma=gamma, alpha=alpha, reduction="sum", impl=impl)([p0, p1], [Z0, Z1])
    for ours, theirs in zip(slopes(loss, [p0, p1]), slopes(surrogate, [p0, p1]), strict=True):
        close(ours, theirs, atol=1e-8)


def test_renyi_sums_over_targets() -> None:
    mean = losses.RenyiCLLoss()([P0, P1, Z2], [Z0, Z1])
    close(losses.RenyiCLLoss(reduction="sum")([P0, P1, Z2], [Z0, Z1]), 2 * mean)


@EVERY_IMPL
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_renyi_without_any_negative_is_zero_with_a_graph(reduction: Any, impl: str) -> None:
    p0, p1 = P0.clone().requires_grad_(), P1.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = losses.RenyiCLLoss(reduction=reduction, impl=impl)([p0, p1], [Z0, Z1], ids=torch.zeros(6).long())
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, [p0, p1]):
        assert not gradient.any()


# Deep Bregman divergence.


def networks_term(loss: losses.BregmanLoss, z0: Tensor, z1: Tensor) -> Tensor:
    return loss(z0, z1) - losses.NTXentLoss(temperature=loss.temperature, reduction=loss.reduction)(z0, z1)


@pytest.mark.identity("BregmanLoss", "NTXentLoss")
@EVERY_IMPL
def test_bregman_without_weight_is_ntxent(impl: str) -> None:
    loss = linear_networks(weight=0.0, reduction="none", impl=impl)
    close(loss(Z0, Z1), losses.NTXentLoss(reduction="none", impl=impl)(Z0, Z1))
    for gradient in slopes(loss(Z0, Z1).sum(), list(loss.parameters())):
        assert not gradient.any()


@pytest.mark.identity("BregmanLoss")
@EVERY_IMPL
@pytest.mark.parametrize("networks", [1, 4])
def test_one_winner_leaves_nothing_to_learn(networks: int, impl: str) -> None:
    loss = losses.BregmanLoss(5, networks=networks, hidden=3, reduction="none", impl=impl).double().eval()
    with torch.no_grad():
        loss.networks.bias[0] += 100
    assert loss.active(Z0, Z1) == 1
    term = networks_term(loss, Z0, Z1)
    close(term, torch.full((12,), math.log(11), dtype=torch.float64))
    for gradient in slopes(term.sum(), list(loss.parameters())):
        close(gradient, torch.zeros_like(gradient), atol=1e-12)


@pytest.mark.identity("BregmanLoss")
@EVERY_IMPL
def test_bregman_does_not_see_a_shift_per_row(impl: str) -> None:
    rows = fixture.rows(13, 4)
    plain, valid = bregman(Z0, Z1, lambda z: z @ rows.T, impl=impl)
    shifted_values, _ = bregman(Z0, Z1, lambda z: z @ rows.T + 3 * z.sum(1, keepdim=True), impl=impl)
    assert valid.all()
    close(shifted_values, plain)


@pytest.mark.identity("BregmanLoss")
def test_divergence_is_zero_for_the_same_winner_positive_otherwise_and_asymmetric() -> None:
    """Three samples whose views coincide: with n = 2 the loss of a row tells its divergence from the other sample."""
    values = torch.tensor([[3.0, 0.0, 1.0], [2.5, 2.0, 0.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
    sigma, tau = 0.9, 0.1

    def between(i: int, j: int) -> float:
        """D(i, j) from lse(S_ii / tau, 2 S_ij / tau) - S_ii / tau, the value of row i of samples i and j."""
        pair = torch.eye(2, dtype=torch.float64)
        each, _ = bregman(pair, pair, lambda z: values[[i, j, i, j]], temperature=tau, sigma=sigma)
        ntxent = losses.NTXentLoss(temperature=tau, reduction="none")(pair, pair)
        similarity = 1 + tau * math.log(math.expm1((each - ntxent)[0].item()) / 2)
        return -2 * sigma**2 * math.log(similarity)

    assert between(0, 1) == pytest.approx(0, abs=1e-9)  # both are won by the first network
    assert between(0, 2) == pytest.approx(3.0, abs=1e-5)
    assert between(2, 0) == pytest.approx(1.0, abs=1e-9)
    assert between(1, 2) == pytest.approx(0.5, abs=1e-9)


def test_active_networks_are_counted_without_dropout() -> None:
    loss = linear_networks().train()
    winners = (torch.cat([Z0, Z1]) @ fixture.rows(13, 4).T).argmax(1)
    assert loss.active(Z0, Z1) == len(winners.unique()) > 1
    assert loss.networks.training


def test_dropout_acts_in_training_only() -> None:
    loss = losses.BregmanLoss(5, networks=6, hidden=8, dropout=0.5).double()
    torch.manual_seed(0)
    assert loss(Z0, Z1).item() != loss(Z0, Z1).item()
    loss.eval()
    assert loss(Z0, Z1).item() == loss(Z0, Z1).item()


def test_networks_begin_as_linear_layers_do() -> None:
    torch.manual_seed(0)
    networks = losses.BregmanLoss(20, networks=30, hidden=50).networks
    for layer, bound in (("hidden_weight", 20**-0.5), ("hidden_bias", 20**-0.5), ("weight", 50**-0.5)):
        drawn = getattr(networks, layer)
        assert 0.97 * bound < drawn.abs().max() <= bound
        assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert {name for name, _ in networks.named_parameters()} == {"hidden_weight", "hidden_bias", "weight", "bias"}
