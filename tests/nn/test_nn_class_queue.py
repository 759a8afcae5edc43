"""The ring of every class, against a list per class."""

from __future__ import annotations

import copy
import os

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kinfolk.nn import ClassQueue


def rows_for(ids: torch.Tensor, dim: int = 4) -> torch.Tensor:
    """Rows that their ids determine, of various lengths."""
    grid = torch.arange(1, dim + 1)
    return torch.cos(ids[:, None] * grid * 1.7 + grid) * (1 + ids[:, None] % 3)


@settings(deadline=None, max_examples=40)
@given(per_class=st.integers(1, 4), batches=st.lists(st.lists(st.integers(-1, 2), max_size=12), min_size=1, max_size=6))
def test_every_class_keeps_its_newest_rows_in_a_ring_of_its_own(per_class, batches):
    queue, streams, seen = ClassQueue(3, per_class, 4), {0: [], 1: [], 2: []}, 0
    for batch in batches:
        labels = torch.tensor(batch, dtype=torch.int64)
        ids = torch.arange(seen, seen + len(batch))
        queue.enqueue(rows_for(ids), ids, labels)
        for number, label in zip(ids.tolist(), batch, strict=True):
            if label >= 0:
                streams[label].append(number)
        seen += len(batch)
    features, ids, labels = queue.snapshot()
    for c, stream in streams.items():
        ring = slice(c * per_class, (c + 1) * per_class)
        expected = [-1] * per_class
        for place, number in enumerate(stream):  # sample number i of a class's stream stands at place i modulo the ring
            expected[place % per_class] = number
        assert ids[ring].tolist() == expected
        assert labels[ring].tolist() == [c if number >= 0 else -1 for number in expected]
    filled = labels >= 0
    torch.testing.assert_close(features[filled], F.normalize(rows_for(ids[filled]), dim=1))
    assert features[~filled].eq(0).all()
    assert queue.written.tolist() == [len(stream) for stream in streams.values()]
    assert queue.fill.item() == pytest.approx(filled.float().mean().item())


def test_a_class_with_more_rows_than_its_ring_keeps_the_last_of_the_batch_and_leaves_the_others_alone():
    queue = ClassQueue(2, 2, 4)
    queue.enqueue(rows_for(torch.tensor([90])), torch.tensor([90]), torch.tensor([1]))
    ids = torch.arange(5)
    queue.enqueue(rows_for(ids), ids, torch.zeros(5, dtype=torch.int64))
    assert sorted(queue.snapshot().ids[:2].tolist()) == [3, 4]
    assert queue.snapshot().ids[2:].tolist() == [90, -1]
    assert queue.snapshot().labels.tolist() == [0, 0, 1, -1]


def test_a_class_that_never_comes_stays_empty_and_unlabelled_rows_are_not_stored():
    queue = ClassQueue(3, 2, 4)
    before = copy.deepcopy(queue.state_dict())
    queue.enqueue(rows_for(torch.arange(3)), None, torch.full((3,), -1))
    queue.enqueue(torch.empty(0, 4), None, torch.empty(0, dtype=torch.int64))
    assert all(torch.equal(before[name], value) for name, value in queue.state_dict().items())
    queue.enqueue(rows_for(torch.arange(3)), None, torch.tensor([2, -1, 2]))
    assert queue.snapshot().labels.tolist() == [-1, -1, -1, -1, 2, 2]
    assert queue.snapshot().ids.eq(-1).all()  # ids may be left out


def test_state_goes_through_a_checkpoint():
    queue, fresh = ClassQueue(2, 3, 4), ClassQueue(2, 3, 4)
    ids = torch.arange(7)
    queue.enqueue(rows_for(ids), ids, ids % 2)
    fresh.load_state_dict(queue.state_dict())
    for each in (queue, fresh):
        each.enqueue(rows_for(ids[:3] + 50), ids[:3] + 50, torch.tensor([0, 0, 1]))
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in queue.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(queue.snapshot(), fresh.snapshot(), strict=True))


def test_eval_mode_and_passes_without_gradient_change_nothing_but_are_still_checked():
    queue = ClassQueue(2, 2, 4)
    before = copy.deepcopy(queue.state_dict())
    with torch.no_grad():
        queue.hold(rows_for(torch.arange(2)), None, torch.arange(2))
    assert not queue.flush()
    queue.eval()
    queue.hold(rows_for(torch.arange(2)), None, torch.arange(2))
    assert not queue.flush()
    queue.enqueue(rows_for(torch.arange(2)), None, torch.arange(2))
    assert all(torch.equal(before[name], value) for name, value in queue.state_dict().items())
    with pytest.raises(ValueError, match="takes features"):
        queue.enqueue(torch.rand(3, 5), None, torch.zeros(3, dtype=torch.int64))


def test_a_snapshot_is_a_copy_and_stored_rows_have_no_gradient():
    queue = ClassQueue(1, 1, 4)
    snapshot = queue.snapshot()
    queue.hold(torch.ones(1, 4, requires_grad=True), torch.tensor([3]), torch.tensor([0]))
    assert queue.snapshot().labels.tolist() == [-1]  # held, not written
    assert queue.flush()
    assert snapshot.features.eq(0).all()
    assert queue.snapshot().features.tolist() == [[0.5] * 4]
    assert not queue.rows.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_is_normalised_in_full_precision(dtype):
    queue = ClassQueue(1, 2, 4)
    queue.enqueue(torch.full((1, 4), 300.0, dtype=dtype), None, torch.tensor([0]))  # its square overflows half
    assert queue.snapshot().features.dtype == torch.float32
    torch.testing.assert_close(queue.snapshot().features[0], torch.full((4,), 0.5))


def test_ranks_enter_in_rank_order_whatever_their_shares(tmp_path):
    """Two processes with 3 and 1 rows give the queue of one with 4, on both of them."""
    ids, labels = torch.arange(4) + 10, torch.tensor([0, 1, 0, 0])
    alone = ClassQueue(2, 2, 4)
    alone.hold(rows_for(ids), ids, labels)
    alone.flush()
    parts, children = [slice(0, 3), slice(3, 4)], []
    for rank in range(2):
        if not (child := os.fork()):
            code = 1
            try:
                dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=2)
                queue = ClassQueue(2, 2, 4)
                queue.hold(rows_for(ids[parts[rank]]), ids[parts[rank]], labels[parts[rank]])
                queue.flush()
                torch.save(queue.state_dict(), tmp_path / f"{rank}.pt")
                dist.destroy_process_group()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(found[name], value) for name, value in alone.state_dict().items())
    assert alone.snapshot().ids.tolist() == [13, 12, 11, -1]  # 10, the oldest of its class, had to go


@pytest.mark.parametrize(
    ("features", "ids", "labels", "error", "message"),
    [
        (torch.rand(3, 5), None, torch.arange(3), ValueError, r"4-d rows takes features \[b, 4\], got \(3, 5\)"),
        (torch.rand(3, 4), None, torch.arange(2), ValueError, r"features \(3, 4\), labels \(2,\)"),
        (torch.rand(2, 4), torch.arange(3), torch.arange(2), ValueError, r"features \(2, 4\), ids \(3,\)"),
        (torch.rand(2, 4), None, torch.rand(2), TypeError, "labels must be integers, found torch.float32"),
        (torch.rand(2, 4), None, torch.tensor([0, 2]), ValueError, "one of 2 classes, 0 to 1, or -1; found 0 to 2"),
        (torch.rand(2, 4), None, torch.tensor([0, -2]), ValueError, "or -1; found -2 to 0"),
    ],
)
def test_wrong_input_is_explained_and_changes_nothing(features, ids, labels, error, message):
    queue = ClassQueue(2, 3, 4)
    with pytest.raises(error, match=message):
        queue.enqueue(features, ids, labels)
    assert queue.written.eq(0).all()


def test_a_queue_without_a_slot_is_refused():
    with pytest.raises(ValueError, match="found classes=2, per_class=0, dim=4"):
        ClassQueue(2, 0, 4)
