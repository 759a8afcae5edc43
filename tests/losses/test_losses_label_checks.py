"""What every loss of labelled rows asks of labels and ids, and gives without any anchor."""

from __future__ import annotations

from collections.abc import Callable

import fixture
import pytest
import torch
from closeness import slope
from torch import Tensor

from kinfolk import losses

Z0, Z1 = fixture.z(0), fixture.z(1)
QUEUE, QUEUE_LABELS = fixture.queue(), fixture.queue_labels()
COUNTS = [100, 10, 1]
LOGITS = 3 * fixture.rows(12)[:, :3]
BIAS = torch.tensor([0, 1, 0, 1, 0, 1])


CALLS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "UniCon": lambda y, ids: losses.UniConLoss(reduction="none")(Z0, Z1, y, ids=ids),
    "EpsSupInfoNCE": lambda y, ids: losses.EpsSupInfoNCELoss(reduction="none")(Z0, y, ids=ids),
    "EpsSupCon": lambda y, ids: losses.EpsSupConLoss(reduction="none")(Z0, y, ids=ids),
    "ResCom": lambda y, ids: losses.ResComLoss(COUNTS, reduction="none")(Z0, y, QUEUE[:0], QUEUE_LABELS[:0], ids=ids),
    "BalancedSoftmax": lambda y, ids: losses.BalancedSoftmaxLoss(COUNTS, reduction="none")(LOGITS, y, ids=ids),
    "FairKL": lambda y, ids: losses.FairKLLoss()(Z0, y, BIAS, ids=ids),
}
EVERY_CALL = pytest.mark.parametrize("name", CALLS)
BY_ID = pytest.mark.parametrize("name", ["UniCon", "EpsSupInfoNCE", "EpsSupCon", "ResCom"])


@EVERY_CALL
def test_labels_of_labelled_losses_are_checked(name: str) -> None:
    call, labels = CALLS[name], fixture.labels()
    for bad in (labels.double(), labels > 0):
        with pytest.raises(TypeError, match=r"(?s)labels.*int|int.*labels"):
            call(bad, None)
        with pytest.raises(TypeError, match=r"(?s)ids.*int|int.*ids"):
            call(labels, bad)
    with pytest.raises(ValueError, match="-2"):
        call(torch.tensor([0, 0, 1, 1, -2, 0]), None)
    with pytest.raises(ValueError, match=r"(?s)labels.*6.*4"):
        call(labels[:4], None)
    for dtype in (torch.uint8, torch.int8, torch.int32):
        assert torch.equal(call(labels.to(dtype), None), call(labels, None))


@BY_ID
@pytest.mark.filterwarnings("ignore:.*no anchor")
def test_ids_of_labelled_losses_are_exact_and_make_positives(name: str) -> None:
    """Rows 0 and 1 share an id, rows 2 and 3 differ beyond single precision; an id of -1 is nobody."""
    ids, unlabelled = torch.tensor([7, 7, 2**24, 2**24 + 1, -1, -1]), torch.full((6,), -1)
    assert [bool(v) for v in CALLS[name](unlabelled, ids)] == [True, True] + [False] * 4
    assert CALLS[name](torch.tensor([0, 1, 2, -1, -1, -1]), ids)[:3].bool().tolist() == [True, True, False]


@BY_ID
@pytest.mark.filterwarnings("ignore:.*no anchor")
def test_labelled_losses_without_any_anchor_are_zero_with_a_graph(name: str) -> None:
    assert CALLS[name](torch.tensor([0, 1, 2, -1, -1, -1]), None).tolist() == [0] * 6
    x, different = Z0.clone().requires_grad_(), torch.tensor([0, 1, 2, -1, -1, -1])
    loss = {
        "UniCon": lambda: losses.UniConLoss()(x, Z1, different),
        "EpsSupInfoNCE": lambda: (
            losses.EpsSupInfoNCELoss()(x, different) + losses.EpsSupInfoNCELoss(form="in")(x, different)
        ),
        "EpsSupCon": lambda: losses.EpsSupConLoss()(x, different) + losses.EpsSupConLoss(form="in")(x, different),
        "ResCom": lambda: losses.ResComLoss(COUNTS)(x, different, QUEUE[:0], QUEUE_LABELS[:0]),
    }[name]()
    assert loss.item() == 0
    assert not slope(loss, x).any()
