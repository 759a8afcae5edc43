"""Identities of the soft-target losses: limits, bounds, and forms that must agree."""

from __future__ import annotations

import math

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slope
from torch import Tensor

from kinfolk import graphs, losses

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
STACKED = torch.cat([fixture.z(0), fixture.z(1)])
LABELS = fixture.labels().repeat(2)
NOT_SELF = ~torch.eye(12, dtype=torch.bool)


@pytest.mark.identity("XSampleLoss")
@EVERY_IMPL
def test_xsample_with_flat_relations_has_uniform_targets(impl: str) -> None:
    one_class = losses.SupConLoss(impl=impl)(STACKED, torch.zeros(12, dtype=torch.int64))
    close(losses.XSampleLoss(graph_temperature=1e12, impl=impl)(STACKED, fixture.side_embeddings()), one_class)


def row_entropies(side: Tensor, temperature: float) -> Tensor:
    unit = F.normalize(side, dim=1)
    target = torch.softmax((unit @ unit.T / temperature).masked_fill(~NOT_SELF, -math.inf), 1)
    return -torch.special.xlogy(target, target).sum(1)


@pytest.mark.identity("XSampleLoss")
@EVERY_IMPL
@pytest.mark.parametrize("graph_temperature", [0.05, 0.1, 0.5, 3.0])
def test_xsample_is_at_least_the_targets_entropy(graph_temperature: float, impl: str) -> None:
    side = fixture.side_embeddings()
    each = losses.XSampleLoss(graph_temperature=graph_temperature, reduction="none", impl=impl)(STACKED, side)
    assert (each >= row_entropies(side, graph_temperature) - 1e-12).all()


@pytest.mark.identity("XSampleLoss")
@EVERY_IMPL
def test_xsample_of_its_own_relations_is_the_entropy_without_gradient(impl: str) -> None:
    x = STACKED.clone().requires_grad_()
    each = losses.XSampleLoss(temperature=0.2, graph_temperature=0.2, reduction="none", impl=impl)(x, x.detach())
    close(each, row_entropies(STACKED, 0.2))
    assert slope(each.mean(), x).abs().max() < 1e-10


@pytest.mark.identity("XSampleLoss")
@EVERY_IMPL
def test_xsample_forms_agree(impl: str) -> None:
    """Side embeddings, kernel graph, dense graph, class table and attention are one loss, in value and gradient."""
    table, y = fixture.rows(15, 3, dim=3), LABELS
    side = table[y]
    kernel = graphs.KernelGraph(side, temperature=0.3)
    dense = graphs.DenseGraph(torch.exp(side @ side.T / 0.3))
    classes = graphs.ClassGraph.from_similarities(y, table @ table.T, 0.3)
    loss = losses.XSampleLoss(temperature=0.15, graph_temperature=0.3, impl=impl)
    general = losses.GraphContrastiveLoss(temperature=0.15, impl=impl)
    found = []
    for relation in (side, kernel, dense, classes):
        x = STACKED.clone().requires_grad_()
        value = loss(x, relation)
        found.append((value, slope(value, x)))
    for graph in (kernel, dense, classes):
        x = STACKED.clone().requires_grad_()
        value = general(x, x, graph, mask=NOT_SELF)
        found.append((value, slope(value, x)))
    x = STACKED.clone().requires_grad_()
    bias = torch.zeros(12, 12, dtype=torch.float64).masked_fill(~NOT_SELF, -math.inf)
    pooled = F.scaled_dot_product_attention(side[None], side[None], x[None], attn_mask=bias, scale=1 / 0.3)[0]
    partition = torch.logsumexp((x @ x.T / 0.15).masked_fill(~NOT_SELF, -math.inf), 1)
    attended = (partition - (x * pooled).sum(1) / 0.15).mean()
    # The library normalises inside; on unit rows that removes the radial part of the gradient.
    radial = slope(attended, x)
    found.append((attended, radial - (radial * STACKED).sum(1, keepdim=True) * STACKED))
    for value, gradient in found[1:]:
        close(value, found[0][0])
        close(gradient, found[0][1], atol=1e-8)


@pytest.mark.identity("XSampleLoss")
@EVERY_IMPL
def test_xsample_with_tiny_graph_temperature_does_not_cancel(impl: str) -> None:
    """Self carries all of the unmasked mass here; removing it after the softmax would leave 0 / 0."""
    side = fixture.rows(11, 12, dim=3)
    x = STACKED.clone().requires_grad_()
    value = losses.XSampleLoss(graph_temperature=1e-4, impl=impl)(x, side)
    nearest = (side @ side.T).masked_fill(~NOT_SELF, -math.inf).argmax(1)
    target = F.one_hot(nearest, 12)
    close(
        value, losses.GraphContrastiveLoss(temperature=0.1)(STACKED, STACKED, target.double(), mask=NOT_SELF), atol=1e-6
    )
    assert torch.isfinite(slope(value, x)).all()


@EVERY_IMPL
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_xsample_does_not_hide_a_broken_side_embedding(broken: float, impl: str) -> None:
    side = fixture.side_embeddings()
    side[3, 0] = broken
    assert not torch.isfinite(losses.XSampleLoss(impl=impl)(STACKED, side))
