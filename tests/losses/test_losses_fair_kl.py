"""FairKL: the divergence it states, where it is 0, rare pairs, and digits in single precision."""

from __future__ import annotations

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slope
from torch import Tensor

from kinfolk import losses

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1 = fixture.z(0), fixture.z(1)
STACKED, LABELS = torch.cat([Z0, Z1]), fixture.labels().repeat(2)
BIAS = torch.tensor([0, 1, 0, 1, 0, 1])


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def similarities(rows: Tensor, labels: Tensor, bias: Tensor, *, same: bool, aligned: bool) -> Tensor:
    """Products of the pairs i < j of one group."""
    i, j = torch.triu_indices(len(rows), len(rows), 1)
    group = ((labels[i] == labels[j]) == same) & ((bias[i] == bias[j]) == aligned)
    return (F.normalize(rows, dim=1)[i] * F.normalize(rows, dim=1)[j]).sum(1)[group]


@pytest.mark.identity("FairKLLoss")
@EVERY_IMPL
def test_fairkl_is_the_divergence_of_two_normals(impl: str) -> None:
    bias = torch.tensor([0, 1, 1, 0, 1, 1]).repeat(2)
    expected = torch.zeros((), dtype=torch.float64)
    for same in (True, False):
        a, c = (similarities(STACKED, LABELS, bias, same=same, aligned=aligned) for aligned in (True, False))
        p, q = (torch.distributions.Normal(v.mean(), (v.var(unbiased=False) + 1e-6).sqrt()) for v in (a, c))
        expected += torch.distributions.kl_divergence(p, q)
    close(losses.FairKLLoss(impl=impl)(STACKED, LABELS, bias), expected)
    assert expected > 1e-3


@pytest.mark.identity("FairKLLoss")
@EVERY_IMPL
@pytest.mark.parametrize("form", ["kl", "moments"])
def test_fairkl_is_zero_where_bias_does_not_show(form: str, impl: str) -> None:
    """Rows of a class are alike whatever their bias, so that pairs have the same moments."""
    labels, bias = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 1, 1]).repeat(2)
    x = leaf(Z0[labels])
    value = losses.FairKLLoss(form=form, impl=impl)(x, labels, bias)
    close(value, 0.0, atol=1e-12)
    assert slope(value, x).abs().max() < 1e-6


@pytest.mark.identity("FairKLLoss")
@pytest.mark.parametrize("form", ["kl", "moments"])
def test_fairkl_is_at_least_zero(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels, bias = torch.arange(16) % 2, torch.arange(16) // 2 % 2
    for _ in range(20):
        rows = torch.randn(16, 3, generator=generator, dtype=torch.float64)
        assert losses.FairKLLoss(form=form)(rows, labels, bias) > 0
        blind = losses.FairKLLoss(form=form)(rows, labels, torch.arange(16))
        assert blind.item() == 0  # no two rows share a bias


@EVERY_IMPL
def test_rows_without_label_or_bias_are_in_no_pair_of_fairkl(impl: str) -> None:
    loss = losses.FairKLLoss(impl=impl)
    rows = torch.cat([Z0, Z1[:2]])
    for more_labels, more_bias in (([-1, -1], [0, 1]), ([0, 1], [-1, -1]), ([-1, 2], [0, -1])):
        labels = torch.cat([LABELS[:6], torch.tensor(more_labels)])
        bias = torch.cat([BIAS, torch.tensor(more_bias)])
        close(loss(rows, labels, bias), loss(Z0, LABELS[:6], BIAS))


@EVERY_IMPL
@pytest.mark.parametrize("form", ["kl", "moments"])
def test_rare_conflicting_pairs_set_no_target(form: str, impl: str) -> None:
    """One pair has no variance: its sign adds nothing, rather than a target at 0; two pairs do."""
    labels = torch.zeros(4, dtype=torch.int64)
    loss = losses.FairKLLoss(form=form, impl=impl)
    x = leaf(Z0[:4])
    for bias, counts in (([0, 0, 1, 1], True), ([0, 0, 0, 0], False), ([0, 1, 2, 3], False), ([0, 0, 0, 1], True)):
        value = loss(x, labels, torch.tensor(bias))
        assert (value.item() > 0) == counts
        assert slope(value, x).isfinite().all()
        assert bool(slope(value, x).any()) == counts
    three = loss(x[:3], labels[:3], torch.tensor([0, 0, 1]))  # one aligned pair, two conflicting ones
    assert three.item() == 0


@EVERY_IMPL
@pytest.mark.parametrize("form", ["kl", "moments"])
def test_fairkl_of_rows_that_are_almost_alike_keeps_its_digits(form: str, impl: str) -> None:
    """All products are near 1: a difference of second moments leaves nothing of the variance in float32."""
    labels, bias = torch.arange(64) % 2, torch.arange(64) // 2 % 2
    rows = Z0[0] + 0.01 * (fixture.rows(3, 64) + Z1[bias])
    single, double = leaf(rows.float()), leaf(rows)
    loss = losses.FairKLLoss(form=form, impl=impl)
    got, expected = loss(single, labels, bias), loss(double, labels, bias)
    close(got, expected, rtol=2e-3)
    wanted = slope(expected, double)
    close(slope(got, single), wanted, atol=2e-3 * wanted.abs().max().item())
    exact = similarities(rows, labels, bias, same=True, aligned=True)
    products = exact.float()
    naive = products.square().mean() - products.mean().square()
    assert (naive - exact.var(unbiased=False)).abs() > 0.5 * exact.var()


def test_sum_of_fairkl_is_its_value() -> None:
    call = (Z0, LABELS[:6], BIAS)
    assert torch.equal(losses.FairKLLoss(reduction="sum")(*call), losses.FairKLLoss()(*call))
    assert torch.equal(losses.FairKLLoss()(*call, ids=torch.zeros(6, dtype=torch.int64)), losses.FairKLLoss()(*call))


def test_what_fairkl_refuses() -> None:
    with pytest.raises(ValueError, match=r"(?s)bias_labels.*6, 5.*4"):
        losses.FairKLLoss()(Z0, LABELS[:6], BIAS[:4])
    with pytest.raises(TypeError, match="bias_labels"):
        losses.FairKLLoss()(Z0, LABELS[:6], BIAS.float())
    with pytest.raises(ValueError, match=r"(?s)form.*moments.*wasserstein"):
        losses.FairKLLoss(form="wasserstein")
