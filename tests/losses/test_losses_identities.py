"""Published golden values and the identities between losses: special case equals general case."""

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
Z0, Z1, Z2 = fixture.z(0), fixture.z(1), fixture.z(2)
STACKED = torch.cat([Z0, Z1])
LABELS = fixture.labels().repeat(2)
PARTIAL = torch.tensor([0, 0, 1, 1, -1, -1]).repeat(2)
NOT_SELF = ~torch.eye(12, dtype=torch.bool)


def simplex(n: int) -> Tensor:
    """n unit rows with equal angles, -1 / (n - 1) between any two."""
    return F.normalize(torch.eye(n, dtype=torch.float64) - 1 / n, dim=1)


@pytest.mark.identity("NTXentLoss")
@EVERY_IMPL
@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_ntxent_of_constant_features(n: int, impl: str) -> None:
    same = fixture.z(0)[:1].repeat(n, 1)
    close(losses.NTXentLoss(impl=impl)(same, same), math.log(2 * n - 1))


@pytest.mark.identity("NTXentLoss")
@EVERY_IMPL
@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5])
def test_ntxent_of_perfect_pairs(tau: float, impl: str) -> None:
    loss = losses.NTXentLoss(temperature=tau, impl=impl)
    orthonormal = torch.eye(5, dtype=torch.float64)
    close(loss(orthonormal, orthonormal), math.log1p(8 * math.exp(-1 / tau)))
    close(loss(simplex(5), simplex(5)), math.log1p(8 * math.exp(-1.25 / tau)))


@pytest.mark.identity("NTXentLoss")
def test_ntxent_is_smallest_on_the_simplex() -> None:
    loss = losses.NTXentLoss(temperature=0.5)
    corners = simplex(4).requires_grad_()
    smallest = loss(corners, corners)
    assert slope(smallest, corners).abs().max() < 1e-12
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        moved = corners.detach() + 0.1 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        assert loss(moved, moved).item() > smallest.item()


@pytest.mark.identity("NTXentLoss", "DCLLoss")
@EVERY_IMPL
def test_ntxent_is_softplus_of_dcl_per_anchor(impl: str) -> None:
    x = Z0.clone().requires_grad_()
    ntxent = losses.NTXentLoss(reduction="none", impl=impl)(x, Z1)
    dcl = losses.DCLLoss(reduction="none", impl=impl)(x, Z1)
    close(ntxent, F.softplus(dcl))
    for i in range(12):
        close(slope(ntxent[i], x), torch.sigmoid(dcl[i]) * slope(dcl[i], x), atol=1e-8)
    assert (ntxent > dcl).all()


@pytest.mark.identity("NTXentLoss", "SupConLoss")
@EVERY_IMPL
@pytest.mark.parametrize("form", ["out", "in"])
def test_ntxent_is_supcon_with_ids_as_labels(form: str, impl: str) -> None:
    x, y = (STACKED.clone().requires_grad_() for _ in range(2))
    ntxent = losses.NTXentLoss(reduction="none", impl=impl)(x[:6], x[6:])
    supcon = losses.SupConLoss(form=form, reduction="none", impl=impl)(y, fixture.ids())
    close(supcon, ntxent)
    close(slope(supcon.mean(), y), slope(ntxent.mean(), x), atol=1e-8)


@pytest.mark.identity("NTXentLoss", "XSampleLoss")
@EVERY_IMPL
def test_ntxent_is_xsample_with_one_hot_ids(impl: str) -> None:
    one_hot = torch.eye(6, dtype=torch.float64).repeat(2, 1)
    x, y = (STACKED.clone().requires_grad_() for _ in range(2))
    ntxent = losses.NTXentLoss(impl=impl)(x[:6], x[6:])
    xsample = losses.XSampleLoss(graph_temperature=1e-3, impl=impl)(y, one_hot)
    close(xsample, ntxent)
    close(slope(xsample, y), slope(ntxent, x), atol=1e-8)


@pytest.mark.identity("InfoNCELoss")
@EVERY_IMPL
def test_infonce_without_negatives_is_exactly_zero(impl: str) -> None:
    x = Z0.clone().requires_grad_()
    empty, queue = fixture.queue()[:0], fixture.queue()
    everything = torch.ones(6, 8, dtype=torch.bool)
    loss = losses.InfoNCELoss(reduction="none", impl=impl)
    for value in (loss(x, Z1, empty), loss(x, Z1, queue, exclude=everything)):
        assert value.tolist() == [0.0] * 6
        assert slope(value.sum(), x).abs().max() < 1e-12


@pytest.mark.identity("InfoNCELoss", "CLIPLoss")
@EVERY_IMPL
def test_infonce_over_the_batch_is_the_row_half_of_clip(impl: str) -> None:
    own = torch.eye(6, dtype=torch.bool)
    infonce = losses.InfoNCELoss(temperature=0.1, reduction="none", impl=impl)
    rows, columns = infonce(Z0, Z1, Z1, exclude=own), infonce(Z1, Z0, Z0, exclude=own)
    close((rows + columns) / 2, losses.CLIPLoss(reduction="none", impl=impl)(Z0, Z1, torch.tensor(10.0)))
    graph = losses.GraphContrastiveLoss(temperature=0.1, reduction="none", impl=impl)
    close(rows, graph(Z0, Z1, graphs.PairGraph(6)))


@pytest.mark.identity("InfoNCELoss")
@EVERY_IMPL
def test_infonce_queue_order_and_doubling(impl: str) -> None:
    queue, loss = fixture.queue(), losses.InfoNCELoss(reduction="none", impl=impl)
    once = loss(Z0, Z1, queue)
    close(loss(Z0, Z1, queue.flip(0)), once)
    negatives, twice = (torch.log(torch.expm1(v)) for v in (once, loss(Z0, Z1, torch.cat([queue, queue]))))
    close(twice - negatives, torch.full((6,), math.log(2), dtype=torch.float64))


@pytest.mark.identity("InfoNCELoss")
@EVERY_IMPL
def test_infonce_exclusion_forms(impl: str) -> None:
    queue, labels, queue_labels = fixture.queue(), fixture.labels(), fixture.queue_labels()
    loss = losses.InfoNCELoss(reduction="none", impl=impl)
    by_label = loss(Z0, Z1, queue, exclude=(labels, queue_labels))
    close(loss(Z0, Z1, queue, exclude=labels[:, None] == queue_labels[None, :]), by_label, atol=1e-12)
    plain = loss(Z0, Z1, queue)
    assert (by_label <= plain).all()
    close(loss(Z0, Z1, queue, exclude=(-torch.ones_like(labels), queue_labels)), plain, atol=1e-12)
    close(loss(Z0, Z1, queue, exclude=(-torch.ones_like(labels), -torch.ones_like(queue_labels))), plain, atol=1e-12)


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
def test_supcon_in_is_at_most_out_per_anchor(impl: str) -> None:
    out, inside = (losses.SupConLoss(form=f, reduction="none", impl=impl)(STACKED, LABELS) for f in ("out", "in"))
    assert (inside < out).all()
    single = fixture.ids()
    close(*(losses.SupConLoss(form=f, reduction="none", impl=impl)(STACKED, single) for f in ("out", "in")))


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
@pytest.mark.parametrize("form", ["out", "in"])
def test_supcon_of_constant_features(form: str, impl: str) -> None:
    same = Z0[:1].repeat(12, 1)
    close(losses.SupConLoss(form=form, impl=impl)(same, LABELS), math.log(11))


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
def test_supcon_of_one_class(impl: str) -> None:
    x = Z0.clone().requires_grad_()
    labels = torch.zeros(6, dtype=torch.int64)
    logits = (Z0 @ Z0.T / 0.1).masked_fill(torch.eye(6, dtype=torch.bool), -math.inf)
    off = ~torch.eye(6, dtype=torch.bool)
    close(losses.SupConLoss(impl=impl)(x, labels), -F.log_softmax(logits, 1)[off].mean())
    inside = losses.SupConLoss(form="in", impl=impl)(x, labels)
    close(inside, math.log(5))
    assert slope(inside, x).abs().max() < 1e-12


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
def test_supcon_pulls_with_class_sums(impl: str) -> None:
    sums = torch.stack([STACKED[c == LABELS].sum(0) for c in range(3)])
    counts = torch.bincount(LABELS)
    pull = (STACKED * (sums[LABELS] - STACKED)).sum(1) / (0.1 * (counts[LABELS] - 1).double())
    partition = torch.logsumexp((STACKED @ STACKED.T / 0.1).masked_fill(~NOT_SELF, -math.inf), 1)
    close(losses.SupConLoss(reduction="none", impl=impl)(STACKED, LABELS), partition - pull)


@pytest.mark.identity("SupConLoss", "XSampleLoss")
@EVERY_IMPL
@pytest.mark.parametrize(
    ("dtype", "graph_temperature", "atol"), [(torch.float64, 1e-3, 1e-9), (torch.float32, 1e-5, 1e-4)]
)
def test_supcon_is_xsample_with_one_hot_labels(
    dtype: torch.dtype, graph_temperature: float, atol: float, impl: str
) -> None:
    one_hot = F.one_hot(LABELS).to(dtype)
    x, y = (STACKED.to(dtype).requires_grad_() for _ in range(2))
    xsample = losses.XSampleLoss(graph_temperature=graph_temperature, impl=impl)(x, one_hot)
    supcon = losses.SupConLoss(impl=impl)(y, LABELS)
    close(xsample, supcon, atol=atol)
    close(slope(xsample, x), slope(supcon, y), atol=10 * atol)


@pytest.mark.identity("SupConLoss", "GraphContrastiveLoss")
@EVERY_IMPL
@pytest.mark.parametrize("labels", [LABELS, PARTIAL], ids=["all labelled", "some unlabelled"])
def test_supcon_is_graph_contrastive_with_the_label_graph(labels: Tensor, impl: str) -> None:
    graph_loss = losses.GraphContrastiveLoss(temperature=0.1, reduction="none", impl=impl)
    plain = graph_loss(STACKED, STACKED, graphs.LabelGraph(labels), mask=NOT_SELF)
    close(plain, losses.SupConLoss(reduction="none", impl=impl)(STACKED, labels))
    with_ids = graph_loss(STACKED, STACKED, graphs.LabelGraph(labels, fixture.ids()), mask=NOT_SELF)
    close(with_ids, losses.SupConLoss(reduction="none", impl=impl)(STACKED, labels, ids=fixture.ids()))


@pytest.mark.identity("SupConLoss")
def test_supcon_against_the_scaled_published_code() -> None:
    """The authors' code subtracts the row maximum, masks self by a factor, and multiplies by temperature / 0.07."""
    logits = STACKED @ STACKED.T / 0.1
    logits = logits - logits.max(1, keepdim=True).values
    log_prob = logits - torch.log((logits.exp() * NOT_SELF).sum(1, keepdim=True))
    positives = (LABELS[:, None] == LABELS[None, :]) & NOT_SELF
    theirs = -(0.1 / 0.07) * ((positives * log_prob).sum(1) / positives.sum(1)).mean()
    close(theirs / losses.SupConLoss()(STACKED, LABELS), 10 / 7)


@pytest.mark.identity("DCLLoss")
@EVERY_IMPL
def test_dclw_with_a_wide_kernel_is_dcl(impl: str) -> None:
    close(losses.DCLLoss(sigma=1e12, impl=impl)(Z0, Z1), losses.DCLLoss(impl=impl)(Z0, Z1))


@pytest.mark.identity("DCLLoss")
@EVERY_IMPL
def test_dclw_weights_average_to_one(impl: str) -> None:
    """DCL - DCLW = (w - 1) s gives the weights; both directions of a pair carry the same."""
    dcl, dclw = (losses.DCLLoss(sigma=s, reduction="none", impl=impl)(Z0, Z1) for s in (None, 0.2))
    pairs = ((Z0 * Z1).sum(1) / 0.1).repeat(2)
    weights = (dcl - dclw) / pairs + 1
    close(weights[:6], weights[6:])
    close(weights[:6].mean(), 1.0)
    close(weights[:6], 2 - 6 * torch.softmax((Z0 * Z1).sum(1) / 0.2, 0))


@pytest.mark.identity("DCLLoss")
def test_dcl_is_the_logsumexp_of_the_union_of_both_views() -> None:
    x, y = Z0[:2], Z1[:2]
    logits = torch.stack([x[0] @ x[1], x[0] @ y[1]]) / 0.1
    first = losses.DCLLoss(reduction="none")(x, y)[0]
    close(first, torch.logsumexp(logits, 0) - x[0] @ y[0] / 0.1)


@pytest.mark.identity("CLIPLoss")
@EVERY_IMPL
def test_clip_of_constant_features(impl: str) -> None:
    same = Z0[:1].repeat(7, 1)
    close(losses.CLIPLoss(impl=impl)(same, same, torch.tensor(14.3)), math.log(7))


@pytest.mark.identity("CLIPLoss")
@EVERY_IMPL
def test_clip_is_cross_entropy_both_ways(impl: str) -> None:
    logits, target = 10 * Z0 @ Z1.T, torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    close(losses.CLIPLoss(impl=impl)(Z0, Z1, torch.tensor(10.0)), expected)
    close(losses.CLIPLoss(impl=impl)(Z0.flip(0), Z1.flip(0), torch.tensor(10.0)), expected)
