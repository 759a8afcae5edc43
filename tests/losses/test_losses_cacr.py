"""CACR's weights, limits, bounds and the closed form of its gradient with respect to the costs."""

from __future__ import annotations

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close
from torch import Tensor

from kinfolk.losses import CACRLoss

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
VIEWS = [fixture.z(v) for v in range(4)]
PAIRS = [(v, u) for v in range(4) for u in range(v + 1, 4)]
NOT_SELF = ~torch.eye(6, dtype=torch.bool)


def costs(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None, :]).square().sum(-1)


def positive_costs(views: list[Tensor]) -> Tensor:
    """[V, n, V-1]: cost of view v to the other views in order."""
    others = [[u for u in range(len(views)) if u != v] for v in range(len(views))]
    return torch.stack(
        [torch.stack([(views[v] - views[u]).square().sum(1) for u in o], 1) for v, o in enumerate(others)]
    )


def negative_costs(views: list[Tensor]) -> Tensor:
    """[pairs, n, n]: cost of sample i of view v to sample j of view u, for v < u in order."""
    return torch.stack([costs(views[v], views[u]) for v, u in PAIRS])


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_weights_are_softmaxes_of_the_costs(impl: str) -> None:
    attraction, repulsion = CACRLoss(t_pos=1.5, t_neg=0.8, impl=impl).weights(VIEWS)
    assert attraction.shape == (4, 6, 3)
    assert repulsion.shape == (6, 6, 6)
    assert not attraction.requires_grad
    close(attraction, torch.softmax(1.5 * positive_costs(VIEWS), -1))
    close(repulsion, torch.softmax((-0.8 * negative_costs(VIEWS)).masked_fill(~NOT_SELF, -torch.inf), -1))
    close(torch.diagonal(repulsion, dim1=1, dim2=2), torch.zeros(6, 6))


@pytest.mark.identity("CACRLoss")
@pytest.mark.parametrize("half", ["attraction", "repulsion"])
def test_uniform_weights(half: str) -> None:
    attraction, repulsion = CACRLoss(**{half: "uniform"}).weights(VIEWS)
    if half == "attraction":
        close(attraction, torch.full((4, 6, 3), 1 / 3, dtype=torch.float64))
    else:
        close(repulsion, NOT_SELF.double().expand(6, 6, 6) / 5)


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_loss_is_rebuilt_from_its_weights(impl: str) -> None:
    loss = CACRLoss(t_pos=1.5, t_neg=0.8, alpha=0.7, beta=1.3, impl=impl)
    attraction, repulsion = loss.weights(VIEWS)
    pull = 0.7 * (attraction * positive_costs(VIEWS)).sum(-1).mean()
    push = -1.3 * (repulsion * negative_costs(VIEWS)).sum(-1).mean()
    close(loss(VIEWS), pull + push)


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_one_positive_is_the_mean_squared_distance(impl: str) -> None:
    expected = (VIEWS[0] - VIEWS[1]).square().sum(1).mean()
    for t_pos in (0.0, 1.0, 7.0):
        close(CACRLoss(t_pos=t_pos, beta=0.0, impl=impl)(VIEWS[:2]), expected)


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_zero_rates_are_uniform(impl: str) -> None:
    uniform = CACRLoss(attraction="uniform", repulsion="uniform", impl=impl)(VIEWS)
    close(CACRLoss(t_pos=0.0, t_neg=0.0, impl=impl)(VIEWS), uniform)


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_attraction_grows_and_repulsion_shrinks_with_its_rate_up_to_the_extremes(impl: str) -> None:
    rates = [0.0, 0.3, 1.0, 3.0, 10.0, 3000.0]
    pulls = [CACRLoss(t_pos=t, beta=0.0, impl=impl)(VIEWS).item() for t in rates]
    pushes = [-CACRLoss(t_neg=t, alpha=0.0, impl=impl)(VIEWS).item() for t in rates]
    assert pulls == sorted(pulls)
    assert pushes == sorted(pushes, reverse=True)
    close(pulls[-1], positive_costs(VIEWS).max(-1).values.mean(), atol=1e-3)
    close(pushes[-1], negative_costs(VIEWS).masked_fill(~NOT_SELF, torch.inf).min(-1).values.mean(), atol=1e-3)


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_bounds_are_reached(impl: str) -> None:
    up = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    close(CACRLoss(beta=0.0, alpha=1.5, impl=impl)([up, -up]), 4 * 1.5)
    close(CACRLoss(alpha=0.0, beta=1.5, impl=impl)([up, -up]), -4 * 1.5)
    close(CACRLoss(impl=impl)([up, up]), 0.0)


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_coincident_points_have_a_finite_gradient(impl: str) -> None:
    x = VIEWS[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(CACRLoss(impl=impl)([x, x, x]), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_weighted_cost_is_the_derivative_of_the_logsumexp(impl: str) -> None:
    step, t = 1e-4, 1.3
    kept = [(r * negative_costs(VIEWS)).masked_fill(~NOT_SELF, -torch.inf) for r in (-t - step, -t + step)]
    low, high = (torch.logsumexp(k, -1) for k in kept)
    close(CACRLoss(t_neg=t, alpha=0.0, impl=impl)(VIEWS), -((high - low) / (2 * step)).mean(), atol=1e-6)


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
@pytest.mark.parametrize("detach", [False, True])
def test_gradient_with_respect_to_the_costs(detach: bool, impl: str) -> None:
    """dCA/dc_k = w_k (1 + t_pos (c_k - mean)) and dCR/dc_j = -w_j (1 - t_neg (c_j - mean)); +w and -w when detached."""
    t_pos, t_neg = 1.5, 2.5
    views = [v.clone().requires_grad_() for v in VIEWS]
    loss = CACRLoss(t_pos=t_pos, t_neg=t_neg, detach_weights=detach, impl=impl)
    attraction, repulsion = loss.weights(views)
    copies = [v.clone().requires_grad_() for v in VIEWS]
    unit = [F.normalize(v, dim=1) for v in copies]
    near, far = positive_costs(unit), negative_costs(unit)
    pull, push = attraction, -repulsion
    if not detach:
        pull = pull * (1 + t_pos * (near - (attraction * near).sum(-1, keepdim=True)))
        push = push * (1 - t_neg * (far - (repulsion * far).sum(-1, keepdim=True)))
    upstream = [pull.detach() / near[..., 0].numel(), push.detach() / far[..., 0].numel()]
    expected = torch.autograd.grad([near, far], copies, grad_outputs=upstream)
    for got, wanted in zip(torch.autograd.grad(loss(views), views), expected, strict=True):
        close(got, wanted, atol=1e-8)


@pytest.mark.identity("CACRLoss")
def test_loss_is_not_the_reverse_direction() -> None:
    """Repulsion takes rows only (query v, keys u > v), so exchanging two views changes it."""
    loss = CACRLoss(alpha=0.0)
    assert abs(loss(VIEWS[:2]).item() - loss(VIEWS[1::-1]).item()) > 1e-4
