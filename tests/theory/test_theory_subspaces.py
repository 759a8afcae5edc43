"""Distances of subspaces, the SVD solution, and how its error falls with the number of pairs."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from kinfolk.theory import SpikedModel, sin_theta, svd_solution

DRAWS = 5

TABLE = {
    (1.0, 300): (0.316, 0.014),
    (1.0, 1000): (0.172, 0.006),
    (1.0, 5000): (0.077, 0.003),
    (0.5, 300): (0.677, 0.035),
    (0.5, 1000): (0.349, 0.018),
    (0.5, 5000): (0.154, 0.006),
    (0.2, 300): (1.381, 0.135),
    (0.2, 1000): (0.878, 0.088),
    (0.2, 5000): (0.387, 0.020),
}
"""Mean and standard deviation of the error over draws, by the fraction of true pairs and their number."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_error(eta: float, n: int, seed: int) -> float:
    """Error of the left subspace for n pairs of two noisy modalities, of which the fraction eta belongs together."""
    pairs = SpikedModel().draw(n, eta=eta, seed=seed)
    return float(sin_theta(svd_solution(pairs.x, pairs.y, rank=10)[0].T, pairs.left))


@functools.cache
def mean_error(eta: float, n: int) -> float:
    return sum(one_error(eta, n, seed) for seed in range(DRAWS)) / DRAWS


def in_band(error: float, cell: tuple[float, int]) -> bool:
    expected, deviation = TABLE[cell]
    return abs(error - expected) < 3 * deviation / math.sqrt(DRAWS)


@pytest.mark.parametrize(("eta", "n"), list(TABLE))
def test_error_of_the_closed_form_is_the_known_one(eta: float, n: int) -> None:
    assert in_band(mean_error(eta, n), (eta, n)), f"found {mean_error(eta, n):.3f}"


def test_an_error_of_another_cell_is_noticed() -> None:
    assert not any(in_band(mean_error(*one), other) for one in TABLE for other in TABLE if one != other)


def test_error_falls_with_the_root_of_the_number_of_pairs() -> None:
    counts = torch.tensor([300.0, 1000.0, 5000.0]).log()
    errors = torch.tensor([mean_error(1.0, n) for n in (300, 1000, 5000)]).log()
    slope = ((counts - counts.mean()) * (errors - errors.mean())).sum() / (counts - counts.mean()).square().sum()
    assert -0.65 < slope < -0.4


def test_half_of_the_pairs_wrong_is_about_twice_the_error() -> None:
    for n in (300, 1000, 5000):
        assert 1.7 < mean_error(0.5, n) / mean_error(1.0, n) < 2.4


def test_sin_theta_is_the_norm_of_the_sines_of_the_principal_angles() -> None:
    angles = torch.tensor([0.0, 0.3, 1.2], dtype=torch.float64)
    a = torch.eye(6, 3, dtype=torch.float64)
    b = torch.cat([torch.diag(angles.cos()), torch.diag(angles.sin())])
    turned = b @ torch.linalg.qr(noise(3, 3)).Q @ torch.diag(torch.tensor([1.0, 5.0, 0.1]).double())
    expected = angles.sin().square().sum().sqrt()
    for left, right in ((a, b), (b, a), (a, turned), (turned, a)):
        assert abs(sin_theta(left, right) - expected) < 1e-14
    q, p = (torch.linalg.qr(t).Q for t in (a, turned))
    assert abs(sin_theta(a, turned) - (3 - (q.T @ p).square().sum()).sqrt()) < 1e-14


def test_ends_of_the_range() -> None:
    a = noise(7, 3)
    assert sin_theta(a, a @ noise(3, 3, seed=1)) < 1e-14
    assert sin_theta(torch.eye(4)[:, :2], torch.eye(4)[:, 2:]) == math.sqrt(2)
    close = a + 1e-9 * noise(7, 3, seed=2)
    assert 1e-11 < sin_theta(a, close) < 1e-8  # sqrt(r - ||A^T B||^2) would be rounding
    assert sin_theta(a.bfloat16(), a.bfloat16()).dtype == torch.float32


def test_svd_solution_is_the_best_map_of_its_rank() -> None:
    x, y = noise(20, 5) + 3, noise(20, 4, seed=1)
    s = (x - x.mean(0)).T @ (y - y.mean(0))
    u, strength, vt = torch.linalg.svd(s)
    g1, g2 = svd_solution(x, y, rank=3, rho=0.5)
    torch.testing.assert_close(g1.T @ g2, (u[:, :3] * strength[:3]) @ vt[:3] / 0.5, atol=1e-12, rtol=0)
    torch.testing.assert_close(g1 @ g1.T, torch.diag(strength[:3] / 0.5), atol=1e-12, rtol=0)
    torch.testing.assert_close(g2 @ g2.T, torch.diag(strength[:3] / 0.5), atol=1e-12, rtol=0)
    g1, g2 = g1.requires_grad_(), g2.requires_grad_()
    value = -torch.trace(g1 @ s @ g2.T) + 0.25 * (g1.T @ g2).square().sum()
    for slope in torch.autograd.grad(value, [g1, g2]):
        assert slope.abs().max() < 1e-14 * strength[0]
    assert abs(value + strength[:3].square().sum()) < 1e-14 * strength[0] ** 2


def test_rho_scales_the_maps_and_leaves_their_subspaces() -> None:
    x, y = noise(20, 5), noise(20, 4, seed=1)
    (a1, a2), (b1, b2) = (svd_solution(x, y, rank=2, rho=rho) for rho in (1.0, 4.0))
    torch.testing.assert_close(a1, 2 * b1)
    torch.testing.assert_close(a2, 2 * b2)


def test_directions_without_correlation_are_zero_rows() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    g1, g2 = svd_solution(x, x, rank=2)
    assert g1[0].any()
    assert not g1[1].any()
    assert not g2[1].any()
    assert g1.dtype == torch.float32


def test_what_cannot_be_solved_is_refused() -> None:
    x, y = torch.zeros(5, 4), torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"(?s)\(5, 4\).*\(4, 3\)"):
        svd_solution(x, y[:4], rank=1)
    for rank in (0, 4):
        with pytest.raises(ValueError, match=rf"(?s)rank.*{rank}"):
            svd_solution(x, y, rank=rank)
    with pytest.raises(ValueError, match=r"(?s)rho.*0.*no minimum"):
        svd_solution(x, y, rank=1, rho=0.0)
    for a, b in ((torch.zeros(4, 2), torch.zeros(4, 3)), (torch.zeros(2, 3), torch.zeros(2, 3))):
        with pytest.raises(ValueError, match=r"(?s)r <= d.*found"):
            sin_theta(a, b)
