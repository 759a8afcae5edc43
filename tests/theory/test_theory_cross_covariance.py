"""The contrastive cross-covariance against its definition in loops; its gradient identity stands with the losses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kinfolk.theory import contrastive_cross_covariance

FORMS: dict[str, dict[str, Any]] = {
    "log": {"temperature": 0.6},
    "log, epsilon 0": {"temperature": 0.6, "epsilon": 0.0},
    "exponentials": {"phi": "identity", "temperature": 1.3, "epsilon": 2.0},
    "linear": {"phi": "identity", "psi": "identity"},
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(
    x: Tensor,
    y: Tensor,
    s: Tensor,
    *,
    phi: str = "log",
    psi: str = "exp",
    epsilon: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    n = len(x)

    def slope(scores: Tensor, i: int, j: int) -> float:
        """phi'(A_i) psi'(s_ij - s_ii)."""
        if psi == "identity":
            return 1.0
        sums = epsilon + sum(math.exp(float(scores[i, k] - scores[i, i]) / temperature) for k in range(n) if k != i)
        outer = temperature / sums if phi == "log" else 1.0
        return outer * math.exp(float(scores[i, j] - scores[i, i]) / temperature) / temperature

    out = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            if j != i:
                out += (slope(s, i, j) + slope(s.T, i, j)) / 2 * torch.outer(x[i], y[i]) / n
                out -= (slope(s, i, j) + slope(s.T, j, i)) / 2 * torch.outer(x[i], y[j]) / n
    return out


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("form", FORMS)
def test_it_is_its_definition(form: str, n: int) -> None:
    x, y, s = noise(n, 4), noise(n, 3, seed=1), noise(n, n, seed=2)
    got = contrastive_cross_covariance(x, y, s, **FORMS[form])
    torch.testing.assert_close(got, by_loops(x, y, s, **FORMS[form]), atol=1e-13, rtol=0)


def test_the_linear_form_is_the_centred_cross_covariance() -> None:
    x, y = noise(9, 4) + 5, noise(9, 3, seed=1) - 2
    got = contrastive_cross_covariance(x, y, noise(9, 9, seed=2), phi="identity", psi="identity")
    torch.testing.assert_close(got, 8 * torch.cov(torch.cat([x, y], 1).T)[:4, 4:], atol=1e-12, rtol=0)


def test_scores_far_apart_overflow_nothing() -> None:
    x, y = noise(5, 3).float(), noise(5, 3, seed=1).float()
    s = 1000 * noise(5, 5, seed=2).float()
    for epsilon in (0.0, 1.0):
        got = contrastive_cross_covariance(x, y, s, epsilon=epsilon, temperature=0.01)
        assert got.dtype == torch.float32
        assert torch.isfinite(got).all()
        assert got.any()


def test_half_precision_is_computed_in_single() -> None:
    x = noise(5, 3).bfloat16()
    assert contrastive_cross_covariance(x, x, x @ x.T).dtype == torch.float32


@pytest.mark.parametrize("shapes", [((5, 3), (4, 3), (5, 5)), ((5, 3), (5, 3), (5, 4)), ((0, 3), (0, 3), (0, 0))])
def test_shapes_that_do_not_fit_are_named(shapes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"(?s)found.*\(" + str(shapes[1][0])):
        contrastive_cross_covariance(*(torch.zeros(shape) for shape in shapes))


def test_forms_that_are_none_are_refused() -> None:
    x = torch.ones(2, 1)
    with pytest.raises(ValueError, match="negative"):
        contrastive_cross_covariance(x, x, x @ x.T, psi="identity")
    with pytest.raises(ValueError, match=r"temperature.*0"):
        contrastive_cross_covariance(x, x, x @ x.T, temperature=0.0)
