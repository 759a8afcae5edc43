"""Identities, traps and refusals of ESupCon and PaCo."""

from __future__ import annotations

import math

import fixture
import pytest
import torch
import torch.nn.functional as F
from cases.prototypes import with_parameters
from closeness import close, slope, slopes
from torch import Tensor

from kinfolk import graphs, losses
from kinfolk.losses.e_sup_con import e_sup_con
from kinfolk.losses.pa_co import pa_co

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
STACKED = torch.cat([fixture.z(0), fixture.z(1)])
LABELS, PARTIAL = fixture.labels().repeat(2), torch.tensor([0, 0, 1, 1, -1, -1]).repeat(2)
W, FEATURES = fixture.rows(13, 3), torch.cat([fixture.rows(12), fixture.rows(14)])
BIAS = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
QUEUE, QUEUE_LABELS = fixture.queue(), fixture.queue_labels()


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def corners(classes: int) -> Tensor:
    """Unit rows with equal angles."""
    return F.normalize(torch.eye(classes, dtype=torch.float64) - 1 / classes, dim=1)


# ESupCon


@EVERY_IMPL
@pytest.mark.parametrize("labels", [LABELS, PARTIAL], ids=["all labelled", "one class absent, some unlabelled"])
@pytest.mark.identity("ESupConLoss", "GraphContrastiveLoss")
def test_esupcon_is_graph_contrast_of_rows_and_prototypes(labels: Tensor, impl: str) -> None:
    x, w, y, v = leaf(STACKED), leaf(W), leaf(STACKED), leaf(W)
    ours = with_parameters(losses.ESupConLoss(3, 5, impl=impl), weight=W)
    ours = torch.func.functional_call(ours, {"weight": w}, (x, labels))
    joined = torch.cat([y, v])
    kept = ~torch.eye(15, dtype=torch.bool)
    kept[12:, 12:] = False
    graph = graphs.LabelGraph(torch.cat([labels, torch.arange(3)]))
    theirs = losses.GraphContrastiveLoss(temperature=0.1, impl=impl)(joined, joined, graph, mask=kept)
    close(ours, theirs, atol=1e-12)
    for a, b in zip(slopes(ours, [x, w]), slopes(theirs, [y, v]), strict=True):
        close(a, b, atol=1e-10)


@EVERY_IMPL
@pytest.mark.identity("ESupConLoss")
def test_esupcon_does_not_see_the_lengths_of_its_prototypes(impl: str) -> None:
    w = leaf(W * torch.tensor([[0.2], [3.0], [70.0]]))
    values, valid = e_sup_con(STACKED, LABELS, w, impl=impl)
    close(values, e_sup_con(STACKED, LABELS, W, impl=impl)[0])
    assert valid.all()
    along = (slope(values.mean(), w) * w.detach()).sum(1)
    assert along.abs().max() < 1e-12


@EVERY_IMPL
@pytest.mark.identity("ESupConLoss")
def test_esupcon_of_one_row_is_the_cosine_classifier_s_cross_entropy(impl: str) -> None:
    x, label = leaf(STACKED[:1]), torch.tensor([2])
    values, valid = e_sup_con(x, label, W, temperature=0.2, impl=impl)
    logits = F.normalize(x, dim=1) @ W.T / 0.2
    close(values[0], F.cross_entropy(logits, label))
    close(slope(values[0], x), slope(F.cross_entropy(logits, label), x), atol=1e-8)
    assert valid.tolist() == [True, False, False, True]
    close(values[1:], torch.zeros(3))


@EVERY_IMPL
@pytest.mark.identity("ESupConLoss")
def test_esupcon_s_prototype_anchors_rest_at_their_class_means(impl: str) -> None:
    means = corners(4)
    rows, labels = means.repeat_interleave(3, 0), torch.arange(4).repeat_interleave(3)
    w = leaf(means)
    values, _ = e_sup_con(rows, labels, w, temperature=0.5, impl=impl)
    assert slope(values[12:].sum(), w).abs().max() < 1e-12
    w = leaf(F.normalize(fixture.rows(13, 4, dim=4), dim=1))
    for _ in range(150):
        values, _ = e_sup_con(rows, labels, w, temperature=0.5, impl=impl)
        w = leaf(F.normalize(w.detach() - 0.2 * slope(values[12:].sum(), w), dim=1))
    close((w * means).sum(1), torch.ones(4), atol=1e-6)


def test_esupcon_s_absent_classes_stay_in_the_partition() -> None:
    few, many = (e_sup_con(STACKED, LABELS, fixture.rows(13, k)) for k in (3, 7))
    more = many[0][:12] - few[0][:12]
    assert more.min() >= 0
    assert more.mean() > 0.1
    close(many[0][12:15], few[0][12:])
    assert many[1].tolist() == [True] * 15 + [False] * 4


@pytest.mark.filterwarnings("ignore:.*no anchor")
@EVERY_IMPL
def test_esupcon_without_labels_is_zero_with_a_graph(impl: str) -> None:
    x, loss = leaf(STACKED), losses.ESupConLoss(3, 5, impl=impl).double()
    value = loss(x, -torch.ones(12, dtype=torch.int64))
    assert value.item() == 0
    assert not any(g.any() for g in slopes(value, [x, loss.weight]))


def test_esupcon_s_sum_is_its_mean_times_the_anchors() -> None:
    mean, total = (
        with_parameters(losses.ESupConLoss(3, 5, reduction=r), weight=W)(STACKED, PARTIAL) for r in ("mean", "sum")
    )
    close(total, mean * (8 + 2))


def test_esupcon_classifies_by_its_prototypes() -> None:
    loss = with_parameters(losses.ESupConLoss(3, 5, temperature=0.2), weight=4 * W)
    close(loss.logits(3 * STACKED), STACKED @ W.T / 0.2)
    raw = with_parameters(losses.ESupConLoss(3, 5, temperature=0.2, normalize=False), weight=4 * W)
    close(raw.logits(3 * STACKED), 3 * STACKED @ W.T / 0.2)
    half = losses.ESupConLoss(3, 5).logits(STACKED.bfloat16())
    assert half.dtype == torch.float32


# PaCo


def target_of(labels: Tensor, keys: Tensor, alpha: float, classes: int) -> tuple[Tensor, Tensor]:
    """Soft targets over classes and keys, and which keys are there: not the row itself."""
    m = len(labels)
    positive = (labels[:, None] == keys[None, :]) & (labels[:, None] >= 0)
    kept = torch.ones_like(positive)
    kept[:, :m].fill_diagonal_(False)
    weights = torch.cat([F.one_hot(labels.clamp(min=0), classes), alpha * (positive & kept).double()], 1)
    return weights / weights.sum(1, keepdim=True), kept


@EVERY_IMPL
@pytest.mark.parametrize("alpha", [0.0, 0.05, 1.0])
@pytest.mark.identity("PaCoLoss")
def test_paco_is_a_soft_cross_entropy_over_all_logits(alpha: float, impl: str) -> None:
    keys, key_labels = torch.cat([STACKED, QUEUE]), torch.cat([PARTIAL, QUEUE_LABELS])
    ours, valid = pa_co(
        STACKED, PARTIAL, FEATURES, W, BIAS, QUEUE, QUEUE_LABELS, alpha=alpha, temperature=0.2, impl=impl
    )
    target, kept = target_of(PARTIAL, key_labels, alpha, 3)
    scores = (STACKED @ keys.T / 0.2).masked_fill(~kept, -1e300)
    logits = torch.cat([FEATURES @ W.T + BIAS, scores], 1)
    close(ours, F.cross_entropy(logits, target, reduction="none").where(PARTIAL >= 0, 0.0), atol=1e-12)
    assert valid.tolist() == (PARTIAL >= 0).tolist()


@EVERY_IMPL
@pytest.mark.identity("PaCoLoss")
def test_paco_s_best_free_scores_give_every_positive_its_share(impl: str) -> None:
    """One anchor, three positives in the queue: at log-shares for scores the value is the target's entropy, at rest."""
    alpha, labels = 0.3, torch.tensor([1, 1, 1, 0, 2])
    shares = torch.tensor([1.0, alpha, alpha, alpha], dtype=torch.float64) / (1 + 3 * alpha)
    anchor, bias = leaf(torch.tensor([[1.0, 0.0]])), leaf(torch.tensor([-200.0, math.log(shares[0]), -200.0]))
    slots = torch.tensor([[math.log(shares[1]), 0.0]] * 3 + [[-200.0, 0.0]] * 2, dtype=torch.float64)
    values, _ = pa_co(
        anchor.double(),
        torch.tensor([1]),
        torch.zeros(1, 2).double(),
        torch.zeros(3, 2).double(),
        bias.double(),
        slots,
        labels,
        alpha=alpha,
        temperature=1.0,
        normalize=False,
        impl=impl,
    )
    close(values[0], -(shares * shares.log()).sum(), atol=1e-6)
    for gradient in slopes(values[0], [anchor, bias]):
        assert gradient.abs().max() < 1e-6


@EVERY_IMPL
@pytest.mark.identity("PaCoLoss")
def test_paco_of_one_row_is_logit_adjusted_cross_entropy(impl: str) -> None:
    label, counts = torch.tensor([2]), torch.tensor([100, 10, 1])
    logits = FEATURES[:1] @ W.T + BIAS
    plain, _ = pa_co(STACKED[:1], label, FEATURES[:1], W, BIAS, impl=impl)
    close(plain[0], F.cross_entropy(logits, label))
    adjusted, _ = pa_co(STACKED[:1], label, FEATURES[:1], W, BIAS, class_counts=counts, impl=impl)
    close(adjusted[0], F.cross_entropy(logits + (counts / 111).log(), label), atol=1e-6)
    balanced = losses.BalancedSoftmaxLoss(counts)
    close(adjusted[0], balanced(logits, label))


@EVERY_IMPL
@pytest.mark.identity("PaCoLoss")
def test_paco_s_uniform_prior_shifts_the_logits(impl: str) -> None:
    with_counts, _ = pa_co(STACKED, LABELS, FEATURES, W, BIAS, class_counts=torch.tensor([7, 7, 7]), impl=impl)
    shifted, _ = pa_co(STACKED, LABELS, FEATURES, W, BIAS - math.log(3), impl=impl)
    plain, _ = pa_co(STACKED, LABELS, FEATURES, W, BIAS, impl=impl)
    close(with_counts, shifted)
    assert (with_counts - plain).abs().min() > 0.01


@EVERY_IMPL
def test_paco_without_alpha_is_more_than_cross_entropy(impl: str) -> None:
    values, _ = pa_co(STACKED, LABELS, FEATURES, W, BIAS, alpha=0.0, impl=impl)
    assert (values > F.cross_entropy(FEATURES @ W.T + BIAS, LABELS, reduction="none") + 0.01).all()


@EVERY_IMPL
def test_paco_s_empty_slots_are_not_there(impl: str) -> None:
    call, empty = (STACKED, LABELS, FEATURES, W, BIAS), torch.tensor([0, -1, 2, 0, -1, 2, 0, -1])
    some, _ = pa_co(*call, QUEUE, empty, impl=impl)
    close(some, pa_co(*call, QUEUE[empty >= 0], empty[empty >= 0], impl=impl)[0])
    none, x = pa_co(*call, impl=impl)[0], leaf(STACKED)
    for queue, labels in ((QUEUE, torch.full_like(empty, -1)), (QUEUE[:0], empty[:0])):
        values, _ = pa_co(x, *call[1:], queue, labels, impl=impl)
        close(values, none, atol=1e-12)
        assert torch.isfinite(slope(values.sum(), x)).all()
    order = torch.tensor([3, 1, 7, 0, 2, 5, 6, 4])
    close(pa_co(*call, QUEUE[order], empty[order], impl=impl)[0], some)


@EVERY_IMPL
def test_paco_s_stale_copies_leave_by_id(impl: str) -> None:
    ids, queue_ids = fixture.ids(), torch.tensor([0, 1, 2, 3, -1, 5, 0, 9])
    call = (STACKED, LABELS, FEATURES, W, BIAS)
    values, _ = pa_co(*call, QUEUE, QUEUE_LABELS, ids=ids, queue_ids=queue_ids, impl=impl)
    for i in range(12):
        kept = queue_ids != ids[i]
        alone, _ = pa_co(*call, QUEUE[kept], QUEUE_LABELS[kept], ids=ids, impl=impl)
        close(values[i], alone[i])


@EVERY_IMPL
def test_paco_s_classes_without_samples_are_no_candidates(impl: str) -> None:
    w, two = leaf(W), LABELS.clamp(max=1)
    values, _ = pa_co(STACKED, two, FEATURES, w, BIAS, class_counts=torch.tensor([5, 5, 0]), impl=impl)
    close(values, pa_co(STACKED, two, FEATURES, W[:2], BIAS[:2], class_counts=torch.tensor([5, 5]), impl=impl)[0])
    assert not slope(values.sum(), w)[2].any()
    with pytest.raises(ValueError, match="class_counts 0"):
        pa_co(STACKED, LABELS, FEATURES, W, BIAS, class_counts=torch.tensor([5, 5, 0]), impl=impl)


def test_paco_classifies_without_a_prior() -> None:
    counts = torch.tensor([100, 10, 1])
    loss = with_parameters(losses.PaCoLoss(3, 5, class_counts=counts), weight=W, bias=BIAS)
    close(loss.logits(FEATURES), FEATURES @ W.T + BIAS)
    assert set(loss.state_dict()) == {"weight", "bias", "class_counts"}
    assert loss.half().class_counts.tolist() == [100, 10, 1]


# what a classifier refuses


def test_classes_and_sizes_are_checked() -> None:
    esupcon, paco = losses.ESupConLoss(3, 5).double(), losses.PaCoLoss(3, 5).double()
    for call in (lambda y: esupcon(STACKED, y), lambda y: paco(STACKED, y, FEATURES)):
        with pytest.raises(ValueError, match=r"labels must be -1 \(unlabelled\) or one of 3 classes.*found 3"):
            call(LABELS + 1)
        with pytest.raises(TypeError, match="labels must be integers"):
            call(LABELS.double())
    with pytest.raises(ValueError, match=r"features must be \[m, 5\].*\(12, 5\).*\(12, 4\)"):
        paco(STACKED, LABELS, FEATURES[:, :4])
    with pytest.raises(ValueError, match="a queue needs queue_labels"):
        paco(STACKED, LABELS, FEATURES, QUEUE)
    with pytest.raises(ValueError, match="queue_labels must be -1"):
        paco(STACKED, LABELS, FEATURES, QUEUE, QUEUE_LABELS + 1)
    with pytest.raises(ValueError, match=r"queue must be \[K, d\]"):
        paco(STACKED, LABELS, FEATURES, QUEUE[:, :4], QUEUE_LABELS)
    with pytest.raises(ValueError, match=r"queue_ids.*need ids"):
        paco(STACKED, LABELS, FEATURES, QUEUE, QUEUE_LABELS, queue_ids=QUEUE_LABELS)
    with pytest.raises(ValueError, match="3 classes, 2 counts"):
        losses.PaCoLoss(3, 5, class_counts=[1, 2])
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        losses.PaCoLoss(3, 5, alpha=-0.1)
    for build in (losses.ESupConLoss, losses.PaCoLoss):
        with pytest.raises(ValueError, match="num_classes must be at least 1"):
            build(0, 5)
