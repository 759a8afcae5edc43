from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kinfolk.nn import FeatureQueue


def rows_for(ids: torch.Tensor, dim: int = 4) -> torch.Tensor:
    """Rows that their ids determine, of various lengths."""
    grid = torch.arange(1, dim + 1)
    return torch.cos(ids[:, None] * grid * 1.7 + grid) * (1 + ids[:, None] % 3)


def test_the_start_is_random_unit_rows_without_names():
    queue = FeatureQueue(64, 8)
    features, ids, labels = queue.snapshot()
    torch.testing.assert_close(features.norm(dim=1), torch.ones(64))
    assert features.norm(dim=0).std() > 1e-3  # normalised along a row, not along the columns
    assert ids.eq(-1).all()
    assert labels.eq(-1).all()
    assert int(queue.filled) == 0


def test_the_start_follows_a_generator_or_the_global_seed():
    def rows(**kwargs):
        return FeatureQueue(5, 3, **kwargs).snapshot().features

    a, b = (rows(generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    torch.manual_seed(2)
    c = rows()
    torch.manual_seed(2)
    assert torch.equal(c, rows())
    assert not torch.equal(a, c)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(0, 24), max_size=6))
def test_it_holds_the_newest_rows_in_order_with_their_names(size, batches):
    queue, written = FeatureQueue(size, 4), 0
    for n in batches:
        ids = torch.arange(written, written + n)
        queue.enqueue(rows_for(ids), ids=ids, labels=ids % 5)
        written += n
    features, ids, labels = queue.snapshot()
    held = range(max(0, written - size), written)
    assert sorted(ids[ids >= 0].tolist()) == list(held)
    # sample number i of the stream stands at place i modulo the size
    assert all(int(ids[i % size]) == i for i in held)
    assert torch.equal(labels[ids >= 0], ids[ids >= 0] % 5)
    torch.testing.assert_close(features[ids >= 0], F.normalize(rows_for(ids[ids >= 0]), dim=1))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(size))
    assert int(queue.filled) == min(size, written)
    assert int(queue.pointer) == written % size


def test_ids_and_labels_may_be_left_out():
    queue = FeatureQueue(4, 4)
    queue.enqueue(rows_for(torch.arange(3)), ids=torch.arange(3), labels=torch.arange(3))
    queue.enqueue(rows_for(torch.arange(2)))
    assert queue.snapshot().ids.tolist() == [-1, 1, 2, -1]
    assert queue.snapshot().labels.tolist() == [-1, 1, 2, -1]


def test_eval_mode_changes_nothing_but_still_checks():
    queue = FeatureQueue(4, 4).eval()
    before = copy.deepcopy(queue.state_dict())
    queue.enqueue(rows_for(torch.arange(3)), ids=torch.arange(3))
    assert all(torch.equal(before[name], value) for name, value in queue.state_dict().items())
    with pytest.raises(ValueError, match="takes features"):
        queue.enqueue(torch.rand(3, 5))


def test_state_goes_through_a_checkpoint():
    queue = FeatureQueue(5, 4)
    ids = torch.arange(7)
    queue.enqueue(rows_for(ids), ids=ids, labels=ids % 2)
    fresh = FeatureQueue(5, 4)
    fresh.load_state_dict(queue.state_dict())
    copies = [queue, fresh, pickle.loads(pickle.dumps(queue))]
    for each in copies:
        each.enqueue(rows_for(ids[:3]), ids=ids[:3])
    for each in copies[1:]:
        assert all(torch.equal(value, each.state_dict()[name]) for name, value in queue.state_dict().items())


def test_writing_between_loss_and_backward_leaves_the_gradient_alone():
    def gradient(write: bool):
        queue = FeatureQueue(6, 4, generator=torch.Generator().manual_seed(0))
        x = torch.linspace(0, 1, 8).view(2, 4).requires_grad_()
        loss = (x @ queue.snapshot().features.T).logsumexp(1).sum()
        if write:
            queue.enqueue(rows_for(torch.arange(6)))
        loss.backward()
        return x.grad

    assert torch.equal(gradient(True), gradient(False))


def test_stored_rows_have_no_gradient_and_a_zero_row_stays_finite():
    queue = FeatureQueue(3, 4)
    queue.enqueue(torch.zeros(1, 4, requires_grad=True))
    features = queue.snapshot().features
    assert not features.requires_grad
    assert features[0].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_is_normalised_in_full_precision(dtype):
    queue = FeatureQueue(3, 4)
    queue.enqueue(torch.full((1, 4), 300.0, dtype=dtype))  # the square overflows half precision
    assert queue.snapshot().features.dtype == torch.float32
    torch.testing.assert_close(queue.snapshot().features[0], torch.full((4,), 0.5))


@pytest.mark.parametrize(
    ("features", "names", "error", "message"),
    [
        (torch.rand(3, 5), {}, ValueError, r"takes features \[b, 4\], got \(3, 5\)"),
        (torch.rand(4), {}, ValueError, r"got \(4,\)"),
        (torch.rand(3, 4), {"ids": torch.arange(2)}, ValueError, r"features \(3, 4\), ids \(2,\)"),
        (torch.rand(3, 4), {"labels": torch.arange(6).view(3, 2)}, ValueError, r"labels \(3, 2\)"),
        (torch.rand(3, 4), {"labels": torch.rand(3)}, TypeError, "labels must be integers, found torch.float32"),
        (
            torch.rand(3, 4),
            {"ids": torch.ones(3, dtype=torch.bool)},
            TypeError,
            "ids must be integers, found torch.bool",
        ),
    ],
)
def test_wrong_input_is_explained_and_changes_nothing(features, names, error, message):
    queue = FeatureQueue(4, 4)
    before = copy.deepcopy(queue.state_dict())
    with pytest.raises(error, match=message):
        queue.enqueue(features, **names)
    assert all(torch.equal(before[name], value) for name, value in queue.state_dict().items())


@pytest.mark.parametrize(("size", "dim"), [(0, 4), (4, 0)])
def test_an_empty_queue_is_refused(size, dim):
    with pytest.raises(ValueError, match=f"found size={size}, dim={dim}"):
        FeatureQueue(size, dim)
