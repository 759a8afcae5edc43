"""Two modalities: CLIP, SigLIP, the general family and its unpaired form; what is true of them beyond their loops."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slopes
from definitions import modalities as definitions
from definitions.loops import mean
from torch import Tensor

from kinfolk import losses, theory

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1, Z2 = fixture.z(0), fixture.z(1), fixture.z(2)
LINEAR: dict[str, Any] = {"phi": "identity", "psi": "identity"}
FORMS: dict[str, dict[str, Any]] = {
    "log": {"temperature": 0.6},
    "log, epsilon 0.3": {"temperature": 0.6, "epsilon": 0.3},
    "log, epsilon 0": {"temperature": 0.6, "epsilon": 0.0},
    "exponentials": {"phi": "identity", "temperature": 1.3, "epsilon": 2.0},
    "linear": LINEAR,
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


@pytest.mark.identity("CLIPLoss", "CMCLoss")
@EVERY_IMPL
def test_clip_is_half_of_cmc_with_two_views(impl: str) -> None:
    cmc = losses.CMCLoss(temperature=0.1, reduction="none", impl=impl)([Z0, Z1])
    close(losses.CLIPLoss(reduction="none", impl=impl)(Z0, Z1, 10.0), cmc / 2)


@pytest.mark.identity("SigLIPLoss")
@EVERY_IMPL
@pytest.mark.parametrize("bias", [-10.0, 0.0, 3.0])
def test_siglip_of_zero_features(bias: float, impl: str) -> None:
    zero, b = torch.zeros(7, 4, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)
    expected = F.softplus(-b) + 6 * F.softplus(b)
    close(losses.SigLIPLoss(impl=impl)(zero, zero, 10.0, b), expected)
    close(losses.SigLIPLoss(reduction="none", impl=impl)(zero, zero, 10.0, b), expected.expand(7))


@pytest.mark.identity("SigLIPLoss")
@EVERY_IMPL
def test_siglip_is_binary_cross_entropy_over_n(impl: str) -> None:
    """Divided by n, not by n^2; duplicates are positives wherever they are, unknown samples (-1) only of themselves."""
    ids = torch.tensor([3, 4, 3, 5, -1, -1])
    logits = 10 * Z0 @ Z1.T - 2
    same = (ids[:, None] == ids) & (ids != -1) | torch.eye(6, dtype=torch.bool)
    for known, pairs in ((None, torch.eye(6)), (ids, same)):
        each = F.binary_cross_entropy_with_logits(logits, pairs.double(), reduction="none").sum(1)
        close(losses.SigLIPLoss(reduction="none", impl=impl)(Z0, Z1, 10.0, -2.0, ids=known), each)
        close(losses.SigLIPLoss(impl=impl)(Z0, Z1, 10.0, -2.0, ids=known), each.sum() / 6)


@pytest.mark.identity("SigLIPLoss")
@EVERY_IMPL
def test_siglip_is_indifferent_to_order_and_direction(impl: str) -> None:
    loss = losses.SigLIPLoss(impl=impl)
    expected = loss(Z0, Z1, 10.0, -10.0)
    close(loss(Z1, Z0, 10.0, -10.0), expected)
    close(loss(Z0.flip(0), Z1.flip(0), 10.0, -10.0), expected)


@EVERY_IMPL
def test_siglip_keeps_the_digits_of_a_confident_pair(impl: str) -> None:
    """A logit of 90: log(1 + e^90) - 90 would leave nothing of e^-90 in float32, and a sum over a row less."""
    x = torch.tensor([[1.0]])
    value = losses.SigLIPLoss(impl=impl)(x, x, 100.0, -10.0)
    assert value.item() == pytest.approx(math.exp(-90), rel=1e-4)


@EVERY_IMPL
def test_siglip_duplicates_leave_no_floor_with_ids(impl: str) -> None:
    perfect = eye(5)
    perfect[1] = perfect[0]
    loss, ids = losses.SigLIPLoss(impl=impl), torch.tensor([7, 7, 8, 9, 10])
    assert loss(perfect, perfect, 100.0, -50.0).item() > 2 * 50 / 5 - 1e-9
    assert loss(perfect, perfect, 100.0, -50.0, ids=ids).item() < 1e-15


@pytest.mark.identity("MMCLLoss", "CLIPLoss")
@EVERY_IMPL
@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_mmcl_is_clip_times_the_temperature(tau: float, impl: str) -> None:
    x, y = noise(7, 4), noise(7, 4, seed=1)
    ours = losses.MMCLLoss(temperature=tau, reduction="none", impl=impl)(x, y)
    close(ours, tau * losses.CLIPLoss(reduction="none", normalize=False, impl=impl)(x, y, 1 / tau))
    unit = losses.MMCLLoss(temperature=tau, normalize=True, impl=impl)(x, y)
    close(unit, tau * losses.CLIPLoss(impl=impl)(x, y, 1 / tau))


@pytest.mark.identity("MMCLLoss")
@EVERY_IMPL
def test_mmcl_without_its_own_pair_is_decoupled(impl: str) -> None:
    tau, s = 0.5, Z0 @ Z1.T / 0.5
    others = s.masked_fill(torch.eye(6, dtype=torch.bool), -math.inf)
    across = [torch.logsumexp(others, dim) - s.diagonal() for dim in (1, 0)]
    ours = losses.MMCLLoss(temperature=tau, epsilon=0.0, reduction="none", impl=impl)(Z0, Z1)
    close(ours, tau * (across[0] + across[1]) / 2)


@pytest.mark.identity("MMCLLoss")
def test_linear_mmcl_is_the_trace_of_the_cross_covariance() -> None:
    x, y, g1, g2 = noise(9, 5), noise(9, 4, seed=1), noise(3, 5, seed=2), noise(3, 4, seed=3)
    covariance = torch.cov(torch.cat([x, y], 1).T)[:5, 5:]
    close(losses.MMCLLoss(**LINEAR)(x @ g1.T, y @ g2.T), -8 * torch.trace(g1 @ covariance @ g2.T), atol=1e-13)


def test_linear_mmcl_of_many_rows_looks_at_no_pair() -> None:
    """A hundred thousand rows: their pairs would take minutes."""
    x, y = noise(100_000, 3), noise(100_000, 3, seed=1)
    expected = -((x - x.mean(0)) * (y - y.mean(0))).sum()
    close(losses.MMCLLoss(**LINEAR)(x, y), expected, rtol=1e-10)


@pytest.mark.identity("MMCLLoss")
@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_mmcl_is_the_contrastive_cross_covariance(form: str) -> None:
    x, y, options = noise(8, 5), noise(8, 4, seed=1), FORMS[form]
    g1, g2 = (0.5 * noise(3, d, seed=s) for d, s in ((5, 2), (4, 3)))
    maps = [g.requires_grad_() for g in (g1, g2)]
    found = slopes(losses.MMCLLoss(**options)(x @ g1.T, y @ g2.T), maps)
    a, b = (g.detach() for g in maps)
    s = theory.contrastive_cross_covariance(x, y, (x @ a.T) @ (y @ b.T).T, **options)
    size = float(s.abs().max())
    close(found[0], -b @ s.T, atol=1e-14 * size)
    close(found[1], -a @ s, atol=1e-14 * size)


@pytest.mark.identity("MMCLLoss")
def test_svd_solution_is_the_minimum_of_the_linear_loss() -> None:
    rank, rho = 2, 0.7
    x, y = noise(30, 5), noise(30, 4, seed=1)
    y[:, :3] += x[:, :3]

    def objective(a: Tensor, b: Tensor) -> Tensor:
        return losses.MMCLLoss(**LINEAR)(x @ a.T, y @ b.T) + rho / 2 * (a.T @ b).square().sum()

    maps = [g.requires_grad_() for g in theory.svd_solution(x, y, rank=rank, rho=rho)]
    value = objective(*maps)
    strength = torch.linalg.svdvals((x - x.mean(0)).T @ (y - y.mean(0)))
    close(value, -strength[:rank].square().sum() / (2 * rho), rtol=1e-13)
    for slope in slopes(value, maps):
        assert slope.abs().max() < 1e-14 * strength[0]
    for seed in range(5):
        moved = [g.detach() + 0.1 * noise(*g.shape, seed=seed) for g in maps]
        assert objective(*moved) > value


@pytest.mark.identity("MMCLLoss")
def test_gradient_descent_reaches_the_subspace_of_the_svd() -> None:
    x, y = noise(50, 5), noise(50, 4, seed=1)
    y[:, :2] += 2 * x[:, :2]
    expected = theory.svd_solution(x, y, rank=2)
    maps = [(0.1 * noise(2, d, seed=9 + d)).requires_grad_() for d in (5, 4)]
    loss, rate = losses.MMCLLoss(**LINEAR), 0.3 / float(expected[0].square().sum())
    for _ in range(300):
        value = loss(x @ maps[0].T, y @ maps[1].T) + (maps[0].T @ maps[1]).square().sum() / 2
        with torch.no_grad():
            for g, step in zip(maps, slopes(value, maps), strict=True):
                g -= rate * step
    for got, wanted in zip(maps, expected, strict=True):
        assert theory.sin_theta(got.detach().T, wanted.T) < 1e-6


def test_linear_mmcl_without_a_penalty_has_no_minimum() -> None:
    x, y = noise(9, 4), noise(9, 4)
    values = [losses.MMCLLoss(**LINEAR)(c * x, c * y).item() for c in (1, 10, 100)]
    close(values[1] / values[0], 100.0)
    close(values[2] / values[0], 10_000.0)
    assert values[0] < 0


@EVERY_IMPL
@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_mmcl_never_takes_an_exponential_of_a_score(epsilon: float, impl: str) -> None:
    x, y = noise(6, 4).float(), noise(6, 4, seed=1).float()
    loss = losses.MMCLLoss(temperature=1e-3, epsilon=epsilon, impl=impl)(x, y)
    close(loss, mean(definitions.mmcl(x, y, temperature=1e-3, epsilon=epsilon)), rtol=1e-5)


@EVERY_IMPL
@pytest.mark.filterwarnings("ignore:.*no anchor")
def test_mmcl_rows_without_a_negative_leave_no_trace(impl: str) -> None:
    """-inf stands in the partition of a row whose every other row is a duplicate; nothing may be multiplied by it."""
    x, y = noise(3, 4).requires_grad_(), noise(3, 4, seed=1)
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    loss = losses.MMCLLoss(temperature=tau, epsilon=0.0, impl=impl)(x, y, ids=torch.tensor([5, 5, 5]))
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, [x, tau]):
        assert not gradient.any()
    alone = losses.MMCLLoss(epsilon=2.0, impl=impl)(x, y, ids=torch.tensor([5, 5, 5]))
    close(alone, math.log(2))


def test_mmcl_refuses_what_is_no_loss() -> None:
    with pytest.raises(ValueError, match=r'(?s)phi="log".*psi="identity".*negative'):
        losses.MMCLLoss(psi="identity")
    with pytest.raises(ValueError, match=r"(?s)epsilon.*-1"):
        losses.MMCLLoss(epsilon=-1.0)
    with pytest.raises(ValueError, match=r"(?s)epsilon.*nan"):
        losses.MMCLLoss(epsilon=math.nan)
    with pytest.raises(ValueError, match=r"(?s)phi.*identity.*root"):
        losses.MMCLLoss(phi="root")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"(?s)psi.*exp.*square"):
        losses.MMCLLoss(psi="square")  # type: ignore[arg-type]


@pytest.mark.identity("UnpairedMMCLLoss", "CLIPLoss")
@EVERY_IMPL
@pytest.mark.parametrize("matching", ["top", "argmax", "assignment"])
def test_unpaired_mmcl_with_the_true_pairs_is_clip(matching: Any, impl: str) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    teacher = eye(6)[:, order]  # row i belongs to the row of y that was i before
    for reduction in ("mean", "sum"):
        unpaired = losses.UnpairedMMCLLoss(temperature=0.1, matching=matching, reduction=reduction, impl=impl)
        clip = losses.CLIPLoss(reduction=reduction, impl=impl)(Z0, Z1, 10.0)
        close(unpaired(Z0, Z1[order], teacher), clip)


@pytest.mark.identity("UnpairedMMCLLoss")
@EVERY_IMPL
@pytest.mark.parametrize("matching", ["top", "argmax", "assignment"])
def test_unpaired_mmcl_does_not_know_the_order_of_its_rows(matching: Any, impl: str) -> None:
    x, y = noise(12, 4).requires_grad_(), noise(12, 4, seed=1)
    loss = losses.UnpairedMMCLLoss(temperature=0.2, matching=matching, impl=impl)
    expected = loss(x, y)
    for seed in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        got = loss(x, y[order])
        close(got, expected, atol=1e-14)
        close(slopes(got, [x])[0], slopes(expected, [x])[0], atol=1e-14)


@pytest.mark.identity("UnpairedMMCLLoss")
@EVERY_IMPL
def test_assigned_pairs_have_the_largest_sum_of_all_orders(impl: str) -> None:
    s = Z0 @ Z1.T
    best = max(itertools.permutations(range(6)), key=lambda order: sum(float(s[i, j]) for i, j in enumerate(order)))
    expected = definitions.unpaired_mmcl(Z0, Z1, temperature=0.5, pairs=list(enumerate(best)))
    close(losses.UnpairedMMCLLoss(temperature=0.5, matching="assignment", impl=impl)(Z0, Z1), mean(expected))


@EVERY_IMPL
def test_argmax_matches_serve_the_direction_they_were_made_for(impl: str) -> None:
    """Rows and columns disagree here; the published code gathers the column's match transposed."""
    teacher = torch.tensor([[0.0, 2.0, 0.0], [0.0, 3.0, 4.0], [1.0, 0.0, 5.0]], dtype=torch.float64)
    x, y = noise(3, 4), noise(3, 4, seed=1)
    s = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
    rows, columns = torch.tensor([1, 2, 2]), torch.tensor([2, 1, 2])
    expected = (F.cross_entropy(s, rows) + F.cross_entropy(s.T, columns)) / 2
    close(losses.UnpairedMMCLLoss(matching="argmax", impl=impl)(x, y, teacher), expected)


@EVERY_IMPL
def test_scores_of_minus_infinity_are_no_pairs(impl: str) -> None:
    teacher = torch.full((6, 6), -math.inf)
    teacher[2, 3], teacher[5, 0] = 1.0, 0.5
    expected = definitions.unpaired_mmcl(Z0, Z1, temperature=0.5, pairs=[(2, 3), (5, 0)])
    close(losses.UnpairedMMCLLoss(temperature=0.5, impl=impl)(Z0, Z1, teacher), mean(expected))


def test_unpaired_mmcl_takes_ids_and_reads_none() -> None:
    loss = losses.UnpairedMMCLLoss()
    assert torch.equal(loss(Z0, Z1, ids=torch.zeros(6, dtype=torch.int64)), loss(Z0, Z1))


def test_unpaired_mmcl_refuses() -> None:
    with pytest.raises(ValueError, match=r"(?s)matching.*assignment.*nearest"):
        losses.UnpairedMMCLLoss(matching="nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"(?s)\[6, 6\].*\(6, 5\)"):
        losses.UnpairedMMCLLoss()(Z0, Z1, torch.zeros(6, 5))
    with pytest.raises(TypeError, match=r"(?s)scores.*int64"):
        losses.UnpairedMMCLLoss()(Z0, Z1, torch.zeros(6, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"(?s)\(6, 5\).*\(4, 5\)"):
        losses.UnpairedMMCLLoss()(Z0, Z1[:4])


@pytest.mark.parametrize("build", [losses.SigLIPLoss, losses.MMCLLoss])
def test_float_ids_are_refused(build: type) -> None:
    scale = (10.0, -10.0) if build is losses.SigLIPLoss else ()
    with warnings.catch_warnings(), pytest.raises(TypeError, match=r"(?s)ids.*int|int.*ids"):
        build()(Z0, Z1, *scale, ids=torch.zeros(6))
