"""Descent on linear encoders: the steps are those of automatic gradients, and where they lead is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinfolk.losses import MMCLLoss
from kinfolk.theory import SpikedModel, descend, sin_theta, svd_solution

FORMS: dict[str, dict[str, Any]] = {
    "linear": {"phi": "identity", "psi": "identity", "epsilon": 0.0},
    "clip": {"phi": "log", "psi": "exp", "epsilon": 1.0, "temperature": 0.7},
    "exponential": {"phi": "identity", "psi": "exp", "epsilon": 0.0},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_step_is_one_of_the_loss_and_its_penalty(form: str) -> None:
    pairs = SpikedModel(dims=(7, 6), rank=2).draw(25, seed=3)
    settings = FORMS[form]
    one = descend(pairs.x, pairs.y, 2, steps=1, rho=0.3, seed=4, **settings)
    two = descend(pairs.x, pairs.y, 2, steps=2, rho=0.3, seed=4, **settings)
    x, y = pairs.x - pairs.x.mean(0), pairs.y - pairs.y.mean(0)
    g1, g2 = (g.clone().requires_grad_() for g in (one.g1, one.g2))
    loss = MMCLLoss(**settings)(x @ g1.T, y @ g2.T) + 0.3 / 2 * (g1.T @ g2).square().sum()
    steps = [-g for g in torch.autograd.grad(loss, [g1, g2])]
    taken = [two.g1 - one.g1, two.g2 - one.g2]
    rate = float((taken[0] * steps[0]).sum() / steps[0].square().sum())
    assert rate > 0
    for step, change in zip(steps, taken, strict=True):
        torch.testing.assert_close(change, rate * step, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_the_linear_loss_ends_at_the_closed_form(eta: float) -> None:
    pairs = SpikedModel(dims=(12, 11), rank=3).draw(300, eta=eta, seed=1)
    found = descend(pairs.x, pairs.y, 3, steps=400, learning_rate=0.3, **FORMS["linear"])
    g1, g2 = svd_solution(pairs.x, pairs.y, 3)
    assert sin_theta(found.g1.T, g1.T) < 1e-6
    torch.testing.assert_close(found.g1.T @ found.g2, g1.T @ g2, rtol=1e-4, atol=1e-3 * float((g1.T @ g2).norm()))
    assert found.alignment[:100].min() > 0  # never away from it; later steps are rounding
    assert len(found.spectrum) == 4


def test_a_strong_penalty_keeps_clip_near_the_closed_form_and_a_weak_one_does_not() -> None:
    pairs = SpikedModel(dims=(20, 19), rank=4).draw(300, seed=2)
    errors = [
        float(sin_theta(descend(pairs.x, pairs.y, 4, steps=150, learning_rate=0.2, rho=rho).g1.T, pairs.left))
        for rho in (1.0, 0.05)
    ]
    closed = float(sin_theta(svd_solution(pairs.x, pairs.y, 4)[0].T, pairs.left))
    assert closed <= errors[0] < 1.5 * closed
    assert errors[1] > 2 * closed


def test_two_runs_of_a_seed_are_one() -> None:
    pairs = SpikedModel(dims=(6, 5), rank=2).draw(30)
    a, b = (descend(pairs.x, pairs.y, 2, steps=5, seed=7) for _ in range(2))
    assert torch.equal(a.g1, b.g1)
    assert torch.equal(a.alignment, b.alignment)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must lie"),
        ({"rank": 6}, "rank must lie"),
        ({"rank": 2, "rho": 0.0}, "must be positive"),
        ({"rank": 2, "steps": 0}, "must be positive"),
        ({"rank": 2, "phi": "log", "psi": "identity"}, 'needs psi="exp"'),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str) -> None:
    pairs = SpikedModel(dims=(6, 5), rank=2).draw(10)
    with pytest.raises(ValueError, match=message):
        descend(pairs.x, pairs.y, **settings)


def test_maps_that_diverge_are_an_error_with_a_remedy() -> None:
    pairs = SpikedModel(dims=(6, 5), rank=2).draw(50)
    with pytest.raises(FloatingPointError, match="take a smaller one"):
        descend(pairs.x, pairs.y, 2, steps=200, learning_rate=1000.0, **FORMS["linear"])
