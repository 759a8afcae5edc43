"""The spiked model: what is drawn, and what the experiments on it say."""

from __future__ import annotations

import pytest
import torch

from kinfolk.theory import SpikedModel, masked_solution, sin_theta


def test_a_clean_pair_shares_its_code_and_a_wrong_one_does_not() -> None:
    pairs = SpikedModel(dims=(8, 7), rank=3, noise=0.0).draw(400, eta=0.6, seed=5)
    left, right = pairs.x @ pairs.left, pairs.y @ pairs.right
    same = (left - right).abs().amax(1) < 1e-12
    assert torch.equal(same, pairs.clean)
    assert 0.5 < float(same.double().mean()) < 0.7


@pytest.mark.parametrize("private", [0, 2])
def test_bases_are_orthonormal_and_variances_are_those_of_the_model(private: int) -> None:
    model = SpikedModel(dims=(9, 8), rank=3, noise=0.5, private=private, private_strength=3.0)
    pairs = model.draw(20_000, seed=1)
    for basis, rows in ((pairs.left, pairs.x), (pairs.right, pairs.y)):
        torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(
            (rows @ basis).var(0), torch.full((3,), 1.25, dtype=torch.float64), rtol=0.05, atol=0
        )
        total = 3 + private * 9.0 + basis.shape[0] * 0.25
        assert float(rows.var(0).sum()) == pytest.approx(total, rel=0.03)


def test_private_codes_of_the_modalities_have_nothing_to_do_with_one_another() -> None:
    pairs = SpikedModel(dims=(12, 12), rank=2, noise=0.0, private=3).draw(50_000)
    beside = [rows - (rows @ basis) @ basis.T for rows, basis in ((pairs.x, pairs.left), (pairs.y, pairs.right))]
    covariance = beside[0].T @ beside[1] / len(pairs.x)
    assert float(covariance.abs().max()) < 0.1 < 3.0 < float(beside[0].T.cov().trace())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"dims": (10, 4), "rank": 4, "private": 1}, "rank \\+ private = 5 directions"),
        ({"noise": -0.1}, "noise must be at least 0"),
    ],
)
def test_a_model_that_cannot_be_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikedModel(**settings)


@pytest.mark.parametrize(("n", "eta", "message"), [(0, 1.0, "at least one pair"), (5, 1.5, "between 0 and 1")])
def test_draws_that_cannot_be_are_refused(n: int, eta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikedModel().draw(n, eta=eta)


def test_masked_views_overlook_noise_that_differs_between_coordinates() -> None:
    """Principal components follow the loud coordinates, contrast of masked views what varies together."""
    model = SpikedModel(dims=(60, 60), rank=3, noise=0.1)
    pairs = model.draw(4000)
    loud = torch.linspace(0.0, 2.0, 60, dtype=torch.float64)
    x = pairs.x + loud * torch.randn(4000, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    components = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:3]
    assert 2 * sin_theta(masked_solution(x, 3).T, pairs.left) < sin_theta(components.T, pairs.left)


def test_masked_views_are_the_expected_linear_loss_over_masks() -> None:
    """The mean over all masks of the two views' cross-covariance is a quarter of the covariance off its diagonal."""
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = x - x.mean(0)
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4)
    mean = sum((x * mask).T @ (x * (1 - mask)) for mask in masks) / len(masks)
    vectors = torch.linalg.eigh((mean + mean.T) / 2).eigenvectors.flip(1)[:, :2]
    assert sin_theta(masked_solution(x, 2).T, vectors) < 1e-7


@pytest.mark.parametrize(("shape", "rank"), [((1, 3), 1), ((5, 3), 0), ((5, 3), 4), ((5,), 1)])
def test_masked_views_refuse_what_does_not_fit(shape: tuple[int, ...], rank: int) -> None:
    with pytest.raises(ValueError, match=r"expected x|rank must lie"):
        masked_solution(torch.zeros(shape), rank)
