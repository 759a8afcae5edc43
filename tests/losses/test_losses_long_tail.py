"""ResCom and balanced softmax: mined pairs, class weights, priors, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slope
from torch import Tensor

from kinfolk import losses
from kinfolk.losses.res_com import class_balanced_weights

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, STACKED = fixture.z(0), torch.cat([fixture.z(0), fixture.z(1)])
LABELS, IDS = fixture.labels().repeat(2), fixture.ids()
PARTIAL = torch.tensor([0, 0, 1, 1, -1, -1]).repeat(2)
QUEUE, QUEUE_LABELS = fixture.queue(), fixture.queue_labels()
COUNTS = [100, 10, 1]
LOGITS = 3 * fixture.rows(12)[:, :3]
IDS_OR_NONE = pytest.mark.parametrize("ids", [None, IDS], ids=["no ids", "ids"])


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def same_value_and_gradient(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> None:
    """Two losses with a value per row agree in all of them, and their weighted sum in its gradient."""
    x, y = leaf(STACKED), leaf(STACKED)
    a, b = one(x), other(y)
    close(a, b)
    weights = torch.linspace(-1, 2, len(a), dtype=torch.float64)
    close(slope((weights * a).sum(), x), slope((weights * b).sum(), y), atol=1e-8)


def rescom(impl: str = "auto", counts: list[int] | None = None, **options: Any) -> losses.ResComLoss:
    return losses.ResComLoss(counts or COUNTS, reduction="none", impl=impl, **options)


@pytest.mark.identity("ResComLoss", "SupConLoss")
@EVERY_IMPL
@IDS_OR_NONE
def test_rescom_without_mined_pairs_and_weights_is_supcon(ids: Tensor | None, impl: str) -> None:
    loss = rescom(impl, beta=0.0, positives=0, negatives=0)
    supcon = losses.SupConLoss(reduction="none", impl=impl)
    same_value_and_gradient(
        lambda x: loss(x, PARTIAL, QUEUE, QUEUE_LABELS, ids=ids), lambda x: supcon(x, PARTIAL, ids=ids)
    )


@pytest.mark.identity("ResComLoss", "SupConLoss")
@EVERY_IMPL
@pytest.mark.parametrize("queue", ["no slots", "empty slots"])
def test_rescom_with_an_empty_queue_is_supcon(queue: str, impl: str) -> None:
    rows, of_rows = (QUEUE[:0], QUEUE_LABELS[:0]) if queue == "no slots" else (QUEUE, torch.full((8,), -1))
    supcon = losses.SupConLoss(reduction="none", impl=impl)
    loss = rescom(impl, positives=2, negatives=3)
    same_value_and_gradient(lambda x: loss(x, LABELS, rows, of_rows), lambda x: supcon(x, LABELS))


@pytest.mark.identity("ResComLoss")
@EVERY_IMPL
def test_rescom_is_supcon_of_each_anchor_with_its_mined_rows(impl: str) -> None:
    """Mined rows join the batch as constants: hard positives with the anchor's label, hard negatives with none."""
    supcon = losses.SupConLoss(reduction="none", impl=impl)
    values = rescom(impl, positives=2, negatives=3)(STACKED, LABELS, QUEUE, QUEUE_LABELS)
    cosines = F.normalize(STACKED, dim=1) @ F.normalize(QUEUE, dim=1).T
    for i in (0, 4, 11):
        own = LABELS[i] == QUEUE_LABELS
        far = cosines[i].masked_fill(~own, 9).argsort()[:2]
        near = cosines[i].masked_fill(own, -9).argsort(descending=True)[:3]
        far = far[own[far]]
        labels = torch.cat([LABELS, QUEUE_LABELS[far], torch.full((3,), -1)])
        close(values[i], supcon(torch.cat([STACKED, QUEUE[far], QUEUE[near]]), labels)[i])


@pytest.mark.identity("ResComLoss")
def test_rescom_s_class_weights() -> None:
    counts = torch.tensor(COUNTS)
    close(class_balanced_weights(counts, 0.0), torch.ones(3))
    for beta in (0.5, 0.9, 0.999):
        effective = (1 - beta ** counts.double()) / (1 - beta)
        close(class_balanced_weights(counts, beta), effective.mean() / effective)
        close(class_balanced_weights(torch.tensor([7, 7, 7]), beta), torch.ones(3))
    close(class_balanced_weights(counts, 1 - 1e-12), 37 / counts.double(), atol=1e-8)
    close(class_balanced_weights(torch.tensor([100, 0, 10, 1]), 0.9)[[0, 2, 3]], class_balanced_weights(counts, 0.9))
    assert class_balanced_weights(torch.tensor([5, 0]), 0.0).tolist() == [1, 0]


@pytest.mark.identity("ResComLoss")
def test_rescom_weighs_anchors_and_does_not_rescale_to_the_batch() -> None:
    call = (STACKED, LABELS, QUEUE, QUEUE_LABELS)
    weights = class_balanced_weights(torch.tensor(COUNTS), 0.9)[LABELS]
    close(rescom(beta=0.9)(*call), weights * rescom()(*call))
    close(losses.ResComLoss(COUNTS, beta=0.9)(*call), (weights * rescom()(*call)).sum() / 12)
    close(rescom(counts=[5, 5, 5], beta=0.9)(*call), rescom()(*call))
    ids_only = rescom(beta=0.9)(STACKED, torch.full((12,), -1), QUEUE, QUEUE_LABELS, ids=IDS)
    close(ids_only, losses.SupConLoss(reduction="none")(STACKED, IDS))


@EVERY_IMPL
def test_rescom_takes_what_the_queue_has(impl: str) -> None:
    """Class 2 has two slots, three other classes' six: asking for more changes nothing."""
    call = (STACKED[4:6], torch.tensor([2, 2]), QUEUE, QUEUE_LABELS)
    close(rescom(impl, positives=50, negatives=50)(*call), rescom(impl, positives=2, negatives=6)(*call))


@EVERY_IMPL
def test_a_single_row_of_a_class_is_an_anchor_through_the_queue(impl: str) -> None:
    x = leaf(Z0[:1])
    value = rescom(impl)(x, torch.tensor([2]), QUEUE, QUEUE_LABELS)
    far = QUEUE[QUEUE_LABELS == 2] @ Z0[0]
    near = QUEUE[QUEUE_LABELS != 2] @ Z0[0]
    close(value, F.softplus((near.max() - far.min()) / 0.1)[None])
    assert slope(value.sum(), x).isfinite().all()
    alone = rescom(impl)(x, torch.tensor([2]), QUEUE[:0], QUEUE_LABELS[:0])
    assert alone.tolist() == [0]
    assert not slope(alone.sum(), x).any()


def test_rescom_mines_anew_and_keeps_no_gradient_of_the_queue() -> None:
    queue = leaf(QUEUE)
    rescom()(leaf(STACKED), LABELS, queue, QUEUE_LABELS).sum().backward()
    assert queue.grad is None


BAD_RESCOM = {
    "queue of another width": (lambda: rescom()(Z0, LABELS[:6], QUEUE[:, :3], QUEUE_LABELS), r"(?s)queue.*6, 5.*8, 3"),
    "queue labels": (lambda: rescom()(Z0, LABELS[:6], QUEUE, QUEUE_LABELS[:5]), r"(?s)queue_labels.*8, 5.*5,"),
    "label beyond the counts": (lambda: rescom()(Z0, LABELS[:6] + 1, QUEUE, QUEUE_LABELS), r"(?s)labels.*3.*3"),
    "label of an absent class": (lambda: rescom(counts=[9, 0, 1])(Z0, LABELS[:6], QUEUE, QUEUE_LABELS), "label 1 "),
    "beta of 1": (lambda: rescom(beta=1.0), "beta"),
    "negative beta": (lambda: rescom(beta=-0.1), "beta"),
    "positives": (lambda: rescom(positives=-1), "positives"),
    "negatives": (lambda: rescom(negatives=-1), "negatives"),
}


@pytest.mark.parametrize("name", BAD_RESCOM)
def test_what_rescom_refuses(name: str) -> None:
    call, message = BAD_RESCOM[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.identity("BalancedSoftmaxLoss")
def test_balanced_softmax_of_equal_counts_is_cross_entropy() -> None:
    x, y = leaf(LOGITS), leaf(LOGITS)
    balanced, plain = losses.BalancedSoftmaxLoss([7, 7, 7])(x, LABELS[:6]), F.cross_entropy(y, LABELS[:6])
    close(balanced, plain)
    close(slope(balanced, x), slope(plain, y))


@pytest.mark.identity("BalancedSoftmaxLoss")
def test_balanced_softmax_depends_on_the_counts_ratios() -> None:
    each = losses.BalancedSoftmaxLoss(COUNTS, reduction="none")(LOGITS, LABELS[:6])
    close(losses.BalancedSoftmaxLoss([700, 70, 7], reduction="none")(LOGITS, LABELS[:6]), each)
    prior = torch.log(torch.tensor(COUNTS, dtype=torch.float64))
    close(each, F.cross_entropy(LOGITS + prior - 5.0, LABELS[:6], reduction="none"))
    flat = losses.BalancedSoftmaxLoss(COUNTS, reduction="none")(torch.zeros(3, 3).double(), torch.arange(3))
    close(flat, -torch.log(torch.tensor(COUNTS, dtype=torch.float64) / 111))


@pytest.mark.identity("BalancedSoftmaxLoss")
def test_class_without_samples_is_masked_out() -> None:
    x = leaf(LOGITS)
    x.data[:, 1] = math.inf
    value = losses.BalancedSoftmaxLoss([100, 0, 1])(x, torch.tensor([0, 0, 2, 2, 2, 0]))
    fewer = losses.BalancedSoftmaxLoss([100, 1])(LOGITS[:, ::2], torch.tensor([0, 0, 1, 1, 1, 0]))
    close(value, fewer)
    assert not slope(value, x)[:, 1].any()
    assert slope(value, x).isfinite().all()
    with pytest.raises(ValueError, match=r"label 1 .*class_counts 0"):
        losses.BalancedSoftmaxLoss([100, 0, 1])(LOGITS, torch.tensor([0, 1, 2, 2, 2, 0]))


def test_unlabelled_rows_of_balanced_softmax_are_not_counted() -> None:
    loss, labels = losses.BalancedSoftmaxLoss(COUNTS), torch.tensor([0, -1, 1, -1, 2, -1])
    close(loss(LOGITS, labels), loss(LOGITS[::2], labels[::2]))
    each = losses.BalancedSoftmaxLoss(COUNTS, reduction="none")(LOGITS, labels)
    assert each[1::2].tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore:.*no anchor")
def test_balanced_softmax_without_any_label_is_zero_with_a_graph() -> None:
    x = leaf(LOGITS)
    value = losses.BalancedSoftmaxLoss(COUNTS)(x, torch.full((6,), -1))
    assert value.item() == 0
    assert not slope(value, x).any()


@pytest.mark.parametrize("make", [losses.BalancedSoftmaxLoss, losses.ResComLoss], ids=lambda make: make.__name__)
def test_class_counts_are_saved_and_not_rounded(make: type) -> None:
    loss = make(torch.tensor([70_001, 3], dtype=torch.int32)).half()
    assert loss.state_dict()["class_counts"].tolist() == [70_001, 3]
    assert "class_counts=[70001, 3]" in repr(loss)
    assert "..." in repr(make(list(range(1, 101))))
    for bad in ([], [0, 0], [3, -1]):
        with pytest.raises(ValueError, match="class_counts"):
            make(torch.tensor(bad, dtype=torch.int64))
    with pytest.raises(TypeError, match="class_counts"):
        make([0.5, 0.5])


def test_what_balanced_softmax_refuses() -> None:
    loss = losses.BalancedSoftmaxLoss(COUNTS)
    with pytest.raises(ValueError, match=r"(?s)logits.*6, 2.*3"):
        loss(LOGITS[:, :2], LABELS[:6])
    with pytest.raises(ValueError, match=r"(?s)3.*found 4"):
        loss(LOGITS, torch.tensor([0, 1, 2, 4, 0, 0]))
    with pytest.raises(ValueError, match="normalize"):
        losses.BalancedSoftmaxLoss(COUNTS, normalize=True)
