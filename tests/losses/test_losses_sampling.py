"""Negatives that are weighed or corrected: special cases, the floor, extremes, refusals."""

from __future__ import annotations

import math

import fixture
import pytest
import torch
from closeness import close, slope, slopes
from definitions import sampling as definitions
from torch import Tensor

from kinfolk import losses

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1 = fixture.z(0), fixture.z(1)
DUPLICATES = torch.tensor([3, 3, 4, 5, -1, -1])
IDS_OR_NONE = pytest.mark.parametrize("ids", [None, DUPLICATES], ids=["no ids", "ids"])
OPTIONS = {
    losses.HardNegativeInfoNCELoss: {"beta": 0.0, "tau_plus": 0.0},
    losses.DebiasedInfoNCELoss: {"tau_plus": 0.0},
}
EVERY_CLASS = pytest.mark.parametrize("build", OPTIONS, ids=lambda build: build.__name__)


@pytest.mark.identity("HardNegativeInfoNCELoss", "DebiasedInfoNCELoss", "NTXentLoss")
@EVERY_IMPL
@EVERY_CLASS
@IDS_OR_NONE
@pytest.mark.parametrize("normalize", [True, False])
def test_without_weights_and_correction_it_is_ntxent(
    build: type, ids: Tensor | None, normalize: bool, impl: str
) -> None:
    """Also for vectors of any length, where a floor made for unit vectors would show."""
    x, y = (3 * Z0).requires_grad_(), (3 * Z1).requires_grad_()
    common = {"temperature": 0.2, "reduction": "none", "normalize": normalize, "impl": impl}
    plain = losses.NTXentLoss(**common)(x, y, ids=ids)  # type: ignore[arg-type]
    found = build(**OPTIONS[build], **common)(x, y, ids=ids)
    close(found, plain)
    weights = torch.linspace(-1, 2, 12, dtype=torch.float64)
    for a, b in zip(slopes((weights * found).sum(), [x, y]), slopes((weights * plain).sum(), [x, y]), strict=True):
        close(a, b, atol=1e-8)


@pytest.mark.identity("HardNegativeInfoNCELoss", "DebiasedInfoNCELoss")
@EVERY_IMPL
@pytest.mark.parametrize("tau_plus", [0.1, 0.6])
def test_hard_negatives_of_equal_weight_are_debiased(tau_plus: float, impl: str) -> None:
    x = Z0.clone().requires_grad_()
    hard = losses.HardNegativeInfoNCELoss(beta=0.0, tau_plus=tau_plus, reduction="none", impl=impl)(x, Z1)
    debiased = losses.DebiasedInfoNCELoss(tau_plus=tau_plus, reduction="none", impl=impl)(x, Z1)
    close(hard, debiased, atol=0)
    close(slope(hard.sum(), x), slope(debiased.sum(), x), atol=0)


@pytest.mark.identity("HardNegativeInfoNCELoss", "NTXentLoss")
@EVERY_IMPL
def test_weights_grow_the_loss_towards_that_of_the_hardest_negative(impl: str) -> None:
    """As beta grows all weight goes to the nearest: the sum becomes N times its exponential."""
    found = torch.stack(
        [
            losses.HardNegativeInfoNCELoss(beta=beta, reduction="none", impl=impl)(Z0, Z1)
            for beta in (0.0, 0.5, 1.0, 4.0, 4000.0)
        ]
    )
    assert (found.diff(dim=0) > 0).all()
    rows = torch.cat([Z0, Z1])
    scores = rows @ rows.T / 0.5
    same = torch.eye(6, dtype=torch.bool).repeat(2, 2)
    own = scores.diagonal(6).repeat(2)
    hardest = scores.masked_fill(same, -torch.inf).max(1).values
    close(found[-1], torch.log(own.exp() + 10 * hardest.exp()) - own)


@pytest.mark.identity("DebiasedInfoNCELoss", "HardNegativeInfoNCELoss")
@EVERY_IMPL
def test_correction_of_constant_features_changes_nothing(impl: str) -> None:
    """The false negatives' part is what it is taken for, so that the rest counts as N again."""
    same = Z0[:1].repeat(5, 1)
    for tau_plus in (0.0, 0.1, 0.5):
        close(losses.DebiasedInfoNCELoss(tau_plus=tau_plus, impl=impl)(same, same), math.log(9))
        close(losses.HardNegativeInfoNCELoss(beta=2.0, tau_plus=tau_plus, impl=impl)(same, same), math.log(9))


@pytest.mark.identity("DebiasedInfoNCELoss", "NTXentLoss")
@EVERY_IMPL
def test_at_the_floor_negatives_give_no_gradient(impl: str) -> None:
    """Perfect pairs on orthonormal samples, a large share: of 1 per negative 0.5 e^4 is taken, to the floor e^-4."""
    x, y = (torch.eye(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = losses.DebiasedInfoNCELoss(temperature=0.25, tau_plus=0.5, reduction="none", impl=impl)(x, y)
    close(found, torch.full((8,), math.log1p(6 * math.exp(-8)), dtype=torch.float64))
    for gradient in slopes(found[0], [x, y]):
        assert gradient.abs().max() < 1e-12  # the own pair is perfect, and no negative is felt
    plain = losses.NTXentLoss(temperature=0.25, reduction="none", impl=impl)(x, y)
    assert slope(plain[0], y).abs().max() > 1e-3


@pytest.mark.identity("DebiasedInfoNCELoss", "HardNegativeInfoNCELoss")
@EVERY_IMPL
@EVERY_CLASS
def test_a_positive_rest_below_the_floor_is_raised_to_it(build: type, impl: str) -> None:
    """Two samples at a cosine that leaves 0.2 per negative, where unit vectors cannot have less than 1 / e."""
    cosine = math.log(0.5 * math.e + 0.5 * 0.2)
    x = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64, requires_grad=True)
    options = {"tau_plus": 0.5} | ({"beta": 0.0} if build is losses.HardNegativeInfoNCELoss else {})
    found = build(temperature=1.0, reduction="none", impl=impl, **options)(x, x.detach())
    close(found, torch.full((4,), math.log(math.e + 2 / math.e) - 1, dtype=torch.float64))
    assert slope(found.sum(), x).abs().max() < 1e-12


@EVERY_IMPL
@EVERY_CLASS
@pytest.mark.parametrize("temperature", [0.01, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_overflows_at_low_temperature(build: type, temperature: float, dtype: torch.dtype, impl: str) -> None:
    options = {"tau_plus": 0.3} | ({"beta": 2.0} if build is losses.HardNegativeInfoNCELoss else {})
    x, y = Z0.to(dtype).requires_grad_(), Z1.to(dtype).requires_grad_()
    a, b = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    found = build(temperature=temperature, impl=impl, **options)(x, y)
    values, valid = definitions.hard_negative(a, b, temperature=temperature, **{"beta": 0.0, **options})
    close(found, values.sum() / sum(valid), rtol=1e-4)
    for ours, theirs in zip(slopes(found, [x, y]), slopes(values.mean(), [a, b]), strict=True):
        assert torch.isfinite(ours).all()
        close(ours, theirs, atol=2e-2 * float(theirs.abs().max()))


@EVERY_IMPL
@EVERY_CLASS
def test_without_another_sample_the_loss_is_zero(build: type, impl: str) -> None:
    for options in ({}, {"tau_plus": 0.3}):
        loss = build(reduction="none", impl=impl, **options)
        x, y, same = Z0.clone().requires_grad_(), Z1.clone().requires_grad_(), torch.full((6,), 9)
        for value in (loss(x[:1], y[:1]), loss(x, y, ids=same)):
            assert not value.any()
            assert all(gradient.abs().max() < 1e-12 for gradient in slopes(value.sum(), [x, y]))


@EVERY_CLASS
@pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan")])
def test_share_of_positives_is_checked(build: type, bad: float) -> None:
    with pytest.raises(ValueError, match="tau_plus"):
        build(tau_plus=bad)


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_beta_is_checked(bad: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        losses.HardNegativeInfoNCELoss(beta=bad)


@EVERY_CLASS
def test_views_and_ids_are_checked(build: type) -> None:
    with pytest.raises(ValueError, match=r"\(6, 5\), \(4, 5\)"):
        build()(Z0, Z1[:4])
    with pytest.raises(TypeError, match="int"):
        build()(Z0, Z1, ids=torch.zeros(6))
    with pytest.raises(ValueError, match=f"{build.__name__}.*none"):
        build()(Z0[:0], Z1[:0])
