"""Identities, traps and refusals of AlignUniform and of the spectral contrastive loss."""

from __future__ import annotations

import itertools
import math

import definitions.spread as definitions
import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slope, slopes
from torch import Tensor

from kinfolk import losses
from kinfolk.losses.align_uniform import align_uniform
from kinfolk.losses.spectral import spectral_contrastive

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1 = fixture.z(0), fixture.z(1)
ONE_SAMPLE = torch.full((6,), 9)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def uniformity(x: Tensor, t: float, impl: str) -> Tensor:
    return losses.AlignUniformLoss(t=t, impl=impl)(x, x)


# AlignUniform


@EVERY_IMPL
@pytest.mark.parametrize("t", [0.5, 2.0, 200.0])
@pytest.mark.identity("AlignUniformLoss")
def test_uniformity_of_two_rows(t: float, impl: str) -> None:
    antipodal = torch.tensor([[0.6, 0.8], [-0.6, -0.8]], dtype=torch.float64)
    close(uniformity(antipodal, t, impl), -4 * t)
    close(uniformity(torch.eye(2, dtype=torch.float64), t, impl), -2 * t)
    close(uniformity(Z0[:1].repeat(2, 1), t, impl), 0.0)


@EVERY_IMPL
@pytest.mark.identity("AlignUniformLoss")
def test_uniformity_bounds_and_best_of_equal_angles(impl: str) -> None:
    corners = leaf(F.normalize(torch.eye(4, dtype=torch.float64) - 1 / 4, dim=1))
    best = uniformity(corners, 2.0, impl)
    close(best, -2.0 * 8 / 3)
    assert slope(best, corners).abs().max() < 1e-12
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        moved = corners.detach() + 0.3 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        assert best.item() < uniformity(moved, 2.0, impl).item() <= 0


@EVERY_IMPL
@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
@pytest.mark.identity("AlignUniformLoss")
def test_alignment_is_a_power_of_the_distance(alpha: float, impl: str) -> None:
    x, y = leaf(Z0), leaf(Z0)
    ours = losses.AlignUniformLoss(alpha=alpha, weight=0.0, impl=impl)(x, Z1)
    theirs = (F.normalize(y, dim=1) - Z1).norm(dim=1).pow(alpha).mean()
    close(ours, theirs)
    close(slope(ours, x), slope(theirs, y), atol=1e-8)
    close(losses.AlignUniformLoss(weight=0.0, impl=impl)(Z0, Z1), (2 - 2 * (Z0 * Z1).sum(1)).mean())
    z = leaf(Z0)
    equal = losses.AlignUniformLoss(alpha=alpha, weight=0.0, impl=impl)(z, z)
    assert equal.item() == 0
    assert not slope(equal, z).any()


@EVERY_IMPL
@pytest.mark.identity("AlignUniformLoss")
def test_alignment_and_uniformity_add_up(impl: str) -> None:
    alignment = losses.AlignUniformLoss(weight=0.0, impl=impl)(Z0, Z1)
    both = [uniformity(z, 2.0, impl) for z in (Z0, Z1)]
    close(losses.AlignUniformLoss(weight=0.3, impl=impl)(Z0, Z1), alignment + 0.3 * (both[0] + both[1]) / 2)


@EVERY_IMPL
def test_align_uniform_takes_true_distances_of_rows_as_they_are(impl: str) -> None:
    """Rows of any length far from the origin: distances do not depend on it."""
    lengths = torch.linspace(0.1, 2, 6, dtype=torch.float64)[:, None]
    x, y = leaf(lengths * Z0), leaf(lengths * Z1)
    value = losses.AlignUniformLoss(alpha=1.0, t=0.5, normalize=False, impl=impl)(x, y)
    u, v = leaf(lengths * Z0), leaf(lengths * Z1)
    alignment, kernels = definitions.align_uniform_parts(list(u), list(v), alpha=1.0, t=0.5)
    expected = alignment + (kernels[0] + kernels[1]) / 2
    close(value, expected)
    for a, b in zip(slopes(value, [x, y]), slopes(expected, [u, v]), strict=True):
        close(a, b, atol=1e-8)
    far = [(z.detach() + 64).float() for z in (x, y)]
    near = [(z.double() - 64) for z in far]
    loss = losses.AlignUniformLoss(t=0.5, normalize=False, impl=impl)
    close(loss(*far), loss(*near), atol=1e-5)


@EVERY_IMPL
def test_uniformity_counts_no_pair_of_one_sample(impl: str) -> None:
    """A duplicated row would add its kernel of 1 to the mean."""
    ids = torch.tensor([3, 4, 5, 6, 7, 3])
    rows = torch.cat([Z0[:5], Z0[:1]])
    known, unknown = align_uniform(rows, rows, ids=ids, impl=impl), align_uniform(rows, rows, impl=impl)
    assert known.item() < unknown.item() - 0.1
    (kernel, _) = definitions.align_uniform_parts(list(rows), list(rows), alpha=2.0, t=2.0, ids=ids)[1]
    close(known, kernel)


@EVERY_IMPL
def test_align_uniform_of_one_sample(impl: str) -> None:
    x, y = leaf(Z0), leaf(Z1)
    value = align_uniform(x, y, ids=ONE_SAMPLE, impl=impl)
    close(value, (Z0 - Z1).square().sum(1).mean())
    assert all(torch.isfinite(g).all() for g in slopes(value, [x, y]))
    with pytest.raises(ValueError, match=r"AlignUniformLoss.*n = 1"):
        align_uniform(Z0[:1], Z1[:1], impl=impl)


def test_align_uniform_s_mean_is_its_sum() -> None:
    assert torch.equal(losses.AlignUniformLoss()(Z0, Z1), losses.AlignUniformLoss(reduction="sum")(Z0, Z1))


@pytest.mark.parametrize(("option", "value"), [("alpha", 0.0), ("t", -1.0), ("weight", -0.5)])
def test_align_uniform_refuses_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{option} must be .*found {value}"):
        losses.AlignUniformLoss(**{option: value})


# spectral


def toy_graph() -> tuple[Tensor, Tensor]:
    """A symmetric table of probabilities of positive pairs of four augmentations, and features of width 3."""
    weights = torch.tensor([[4.0, 2, 0, 1], [2, 3, 1, 0], [0, 1, 5, 2], [1, 0, 2, 2]], dtype=torch.float64)
    return weights / weights.sum(), fixture.rows(3, 4, dim=3) * torch.linspace(0.5, 1.5, 4)[:, None]


@EVERY_IMPL
@pytest.mark.identity("SpectralContrastiveLoss")
def test_spectral_loss_is_a_matrix_factorisation_on_average(impl: str) -> None:
    """Over all draws of two independent positive pairs: |A - F F^T|^2 - |A|^2, value and gradient."""
    weights, features = toy_graph()
    f, g = leaf(features), leaf(features)
    loss = losses.SpectralContrastiveLoss(normalize=False, impl=impl)
    drawn = [(i, j) for i, j in itertools.product(range(4), range(4)) if weights[i, j] > 0]
    value = torch.zeros((), dtype=torch.float64)
    for (i, j), (k, m) in itertools.product(drawn, drawn):
        value = value + weights[i, j] * weights[k, m] * loss(f[[i, k]], f[[j, m]])
    degree = weights.sum(1)
    adjacency = weights / torch.sqrt(degree[:, None] * degree[None, :])
    rows = degree.sqrt()[:, None] * g
    factorised = (adjacency - rows @ rows.T).square().sum() - adjacency.square().sum()
    close(value, factorised)
    close(slope(value, f), slope(factorised, g), atol=1e-8)


@EVERY_IMPL
@pytest.mark.identity("SpectralContrastiveLoss")
def test_spectral_loss_of_perfect_and_of_constant_features(impl: str) -> None:
    loss = losses.SpectralContrastiveLoss(mu=3.0, reduction="none", impl=impl)
    corners = leaf(torch.eye(5, dtype=torch.float64))
    perfect = loss(corners, corners)
    close(perfect, torch.full((5,), -2.0))
    assert slope(perfect.mean(), corners).abs().max() < 1e-12
    same = Z0[:1].repeat(5, 1)
    close(loss(same, same), torch.full((5,), 1.0))
    assert (loss(Z0, Z1) >= -2).all()


@EVERY_IMPL
@pytest.mark.identity("SpectralContrastiveLoss")
def test_spectral_loss_is_the_same_in_both_directions(impl: str) -> None:
    x, y, u, v = leaf(Z0), leaf(Z1), leaf(Z0), leaf(Z1)
    loss = losses.SpectralContrastiveLoss(impl=impl)
    one, other = loss(x, y), loss(v, u)
    close(one, other)
    for a, b in zip(slopes(one, [x, y]), slopes(other, [u, v]), strict=True):
        close(a, b, atol=1e-8)


@EVERY_IMPL
@pytest.mark.parametrize("mu", [0.5, 1.0, 10.0])
@pytest.mark.identity("SpectralContrastiveLoss")
def test_mu_is_the_squared_length_of_the_rows(mu: float, impl: str) -> None:
    """The authors' form: rows no longer than sqrt(mu), the population loss divided by mu."""
    raw = [z * torch.linspace(0.2, 6, 6, dtype=torch.float64)[:, None] for z in (Z0, Z1)]
    short = [z * (math.sqrt(mu) / z.norm(dim=1, keepdim=True)).clamp(max=1) for z in raw]
    scores = short[0] @ short[1].T
    theirs = (-2 * scores.diagonal().mean() + (scores.square().sum() - scores.diagonal().square().sum()) / 30) / mu
    ours = losses.SpectralContrastiveLoss(mu=mu, normalize=False, impl=impl)
    close(ours(*(z / math.sqrt(mu) for z in short)), theirs)
    long = losses.SpectralContrastiveLoss(normalize=False, impl=impl)(math.sqrt(mu) * Z0, math.sqrt(mu) * Z1) / mu
    close(losses.SpectralContrastiveLoss(mu=mu, impl=impl)(raw[0], raw[1]), long)


@EVERY_IMPL
def test_spectral_loss_drops_duplicates_by_id(impl: str) -> None:
    ids = torch.tensor([3, 4, 3, -1, -1, 5])
    values, valid = spectral_contrastive(Z0, Z1, ids=ids, impl=impl)
    for i in range(6):
        kept = [j for j in range(6) if j != i and (ids[i] == -1 or ids[j] != ids[i])]
        close(values[i], (Z0[i] @ Z1[kept].T).square().mean() - 2 * Z0[i] @ Z1[i])
    assert valid.all()


@EVERY_IMPL
@pytest.mark.filterwarnings("ignore:.*no anchor")
def test_spectral_loss_of_one_sample(impl: str) -> None:
    x = leaf(Z0)
    value = losses.SpectralContrastiveLoss(impl=impl)(x, Z1, ids=ONE_SAMPLE)
    assert value.item() == 0
    assert not slope(value, x).any()
    with pytest.raises(ValueError, match=r"SpectralContrastiveLoss.*n = 1"):
        losses.SpectralContrastiveLoss(impl=impl)(Z0[:1], Z1[:1])
    with pytest.raises(ValueError, match="mu must be positive, found 0"):
        losses.SpectralContrastiveLoss(mu=0.0)
