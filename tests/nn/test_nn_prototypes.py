"""Prototypes against a loop over rows, and what they must not do."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kinfolk.nn import Prototypes
from kinfolk.nn.prototypes import standardised


def rows_for(n: int, dim: int = 4, *, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_by_one(prototypes: torch.Tensor, rows: torch.Tensor, labels: list[int], momentum: float) -> torch.Tensor:
    found = prototypes.clone()
    for row, label in zip(rows, labels, strict=True):
        if label >= 0:
            moved = momentum * found[label] + (1 - momentum) * row / row.norm()
            found[label] = moved / moved.norm()
    return found


@settings(deadline=None, max_examples=60)
@given(labels=st.lists(st.integers(-1, 4), max_size=25), momentum=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_an_update_is_that_of_one_row_after_the_other(labels, momentum):
    prototypes, rows = Prototypes(5, 4, momentum=momentum).double(), rows_for(len(labels))
    expected = one_by_one(prototypes.rows, rows, labels, momentum)
    prototypes.update(rows, torch.tensor(labels, dtype=torch.int64))
    torch.testing.assert_close(prototypes.rows, expected, rtol=0, atol=1e-12)


def test_the_order_of_a_class_s_rows_counts_and_that_of_classes_does_not():
    rows, labels = rows_for(4), torch.tensor([0, 0, 1, 1])
    found = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [1, 0, 2, 3]):
        prototypes = Prototypes(2, 4, momentum=0.5).double()
        prototypes.update(rows[order], labels[order])
        found.append(prototypes.rows)
    assert torch.equal(found[0], found[1])
    assert (found[0][0] - found[2][0]).norm() > 1e-3
    assert torch.equal(found[0][1], found[2][1])


def test_they_begin_as_unit_vectors_of_their_own_seed():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second, other = Prototypes(6, 3), Prototypes(6, 3), Prototypes(6, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.rows, second.rows)
    assert not torch.equal(first.rows, other.rows)
    torch.testing.assert_close(first.rows.norm(dim=1), torch.ones(6))


def test_similarities_are_cosines_whose_gradient_reaches_the_rows_alone():
    prototypes, rows = Prototypes(3, 4).double(), rows_for(5).requires_grad_()
    found = prototypes.similarities(rows)
    torch.testing.assert_close(found, F.cosine_similarity(rows[:, None], prototypes.rows[None], dim=2))
    assert torch.equal(prototypes.nearest(rows), found.argmax(1))
    prototypes.update(rows.detach(), torch.tensor([0, 1, 2, 0, 1]))  # between a loss and its backward pass
    found.sum().backward()
    assert rows.grad.abs().sum() > 0
    assert not prototypes.rows.requires_grad
    assert list(prototypes.parameters()) == []


def test_half_precision_rows_are_compared_in_single_precision():
    prototypes, rows = Prototypes(3, 4), rows_for(5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prototypes.similarities(rows)
    assert found.dtype == torch.float32
    assert torch.equal(found, prototypes.similarities(rows))
    prototypes.hold(rows, torch.tensor([0, 1, 2, 0, -1]))
    assert prototypes.flush()
    assert prototypes.rows.dtype == torch.float32
    torch.testing.assert_close(prototypes.rows.norm(dim=1), torch.ones(3))


def test_what_is_held_moves_them_at_flush_once():
    prototypes, rows, labels = Prototypes(3, 4).double(), rows_for(6), torch.tensor([0, 1, -1, 2, 0, 0])
    expected = one_by_one(prototypes.rows, rows, labels.tolist(), 0.9)
    before = prototypes.rows.clone()
    prototypes.hold(rows, labels)
    assert torch.equal(prototypes.rows, before)
    assert prototypes.flush()
    torch.testing.assert_close(prototypes.rows, expected, rtol=0, atol=1e-12)
    moved = prototypes.rows.clone()
    assert not prototypes.flush()
    assert torch.equal(prototypes.rows, moved)


def test_evaluation_and_passes_without_gradient_leave_them_alone():
    prototypes = Prototypes(3, 4).double()
    before = copy.deepcopy(prototypes.state_dict())
    with torch.no_grad():
        prototypes.hold(rows_for(2), torch.tensor([0, 1]))
    prototypes.eval()
    prototypes.hold(rows_for(2), torch.tensor([0, 1]))
    prototypes.update(rows_for(2), torch.tensor([0, 1]))
    assert not prototypes.train().flush()
    assert torch.equal(prototypes.rows, before["rows"])
    assert list(before) == ["rows"]


def test_a_zero_row_shrinks_nothing_and_no_row_changes_nothing():
    prototypes = Prototypes(2, 3)
    before = prototypes.rows.clone()
    prototypes.update(torch.zeros(1, 3), torch.tensor([0]))
    prototypes.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    torch.testing.assert_close(prototypes.rows, before)


@given(st.integers(1, 6))
@settings(deadline=None, max_examples=10)
def test_z_scores_keep_the_order_within_a_row(classes):
    similarities = F.normalize(rows_for(9, classes), dim=1)
    found = standardised(similarities)
    assert torch.equal(found.argsort(1), similarities.argsort(1))
    if classes > 1:
        torch.testing.assert_close(found.mean(1), torch.zeros(9).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(found.std(1, unbiased=False), torch.ones(9).double())
    assert standardised(torch.full((2, 3), 0.3)).eq(0).all()


def test_errors_say_what_fits():
    prototypes = Prototypes(3, 4)
    with pytest.raises(ValueError, match=r"prototypes of 4 dimensions take rows \[n, 4\], found \(2, 5\)"):
        prototypes.similarities(torch.rand(2, 5))
    with pytest.raises(ValueError, match=r"one entry per row: features \(2, 4\), labels \(3,\)"):
        prototypes.hold(torch.rand(2, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="labels must be classes 0 to 2, or -1 for none; found 0 to 3"):
        prototypes.update(torch.rand(2, 4), torch.tensor([0, 3]))
    with pytest.raises(TypeError, match="labels must be integers"):
        prototypes.hold(torch.rand(2, 4), torch.rand(2))
    with pytest.raises(ValueError, match="at least one class and one dimension, found classes=0, dim=4"):
        Prototypes(0, 4)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\], found 1.1"):
        Prototypes(3, 4, momentum=1.1)
