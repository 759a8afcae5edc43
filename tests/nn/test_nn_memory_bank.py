"""The memory bank: rows by id, the moving average, and what leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from kinfolk.nn import MemoryBank

IDS = torch.tensor([30, 10, 20, 40])


def held(bank: MemoryBank, rows: torch.Tensor, ids: list[int]) -> None:
    bank.hold(rows, torch.tensor(ids))
    assert bank.flush().tolist() == bank.places(torch.tensor(ids).unique()).tolist()


def test_rows_are_found_by_id_whatever_the_order() -> None:
    bank = MemoryBank(IDS, 3)
    rows = torch.randn(4, 3)
    held(bank, rows, [40, 10, 30, 20])
    torch.testing.assert_close(bank.rows_of(torch.tensor([20, 40])), F.normalize(rows[[3, 0]]))
    assert bank.places(torch.tensor([10, 20, 30, 40])).tolist() == [0, 1, 2, 3]


def test_an_update_is_a_moving_average_of_unit_vectors_from_the_second_on() -> None:
    bank = MemoryBank(IDS, 2, momentum=0.5).double()
    first, second = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[0.0, 9.0]]).double()
    held(bank, first, [20])
    assert bank.rows_of(torch.tensor([20])).tolist() == [[1.0, 0.0]]  # nothing is left of the random start
    held(bank, second, [20])
    expected = F.normalize(torch.tensor([[0.5, 0.5]]).double())
    torch.testing.assert_close(bank.rows_of(torch.tensor([20])), expected, rtol=0, atol=1e-15)
    assert bank.seen.tolist() == [False, True, False, False]


def test_an_id_twice_in_an_update_counts_once_with_the_mean() -> None:
    bank = MemoryBank(IDS, 2)
    held(bank, torch.tensor([[1.0, 0.0], [0.0, 5.0], [1.0, 1.0]]), [10, 10, 40])
    torch.testing.assert_close(bank.rows_of(torch.tensor([10])), F.normalize(torch.ones(1, 2)))


def test_the_start_is_random_unit_vectors_that_the_seed_decides() -> None:
    first, again, other = MemoryBank(IDS, 5), MemoryBank(IDS, 5), MemoryBank(IDS, 5, seed=1)
    torch.testing.assert_close(first.rows.norm(dim=1), torch.ones(4))
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.rows, other.rows)


def test_eval_and_passes_without_gradient_leave_no_trace() -> None:
    bank = MemoryBank(IDS, 2)
    before = copy.deepcopy(bank.state_dict())
    with torch.no_grad():
        bank.hold(torch.ones(1, 2), torch.tensor([10]))
    assert len(bank.flush()) == 0
    bank.eval().hold(torch.ones(1, 2), torch.tensor([10]))
    assert len(bank.flush()) == 0
    assert all(torch.equal(before[name], value) for name, value in bank.state_dict().items())


def test_a_snapshot_does_not_change_and_state_comes_back() -> None:
    bank = MemoryBank(IDS, 2)
    snapshot, before = bank.snapshot(), bank.rows.clone()
    held(bank, torch.ones(1, 2), [10])
    assert torch.equal(snapshot, before)
    other = MemoryBank(IDS, 2, seed=5)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.rows, bank.rows)
    assert torch.equal(other.seen, bank.seen)


def test_half_precision_rows_become_unit_vectors_in_float32() -> None:
    bank = MemoryBank(IDS, 64)
    held(bank, torch.randn(4, 64).bfloat16(), IDS.tolist())
    torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(4))


def test_errors_say_what_is_wrong() -> None:
    bank = MemoryBank(IDS, 2)
    with pytest.raises(ValueError, match="1 of 2 samples have no row in the bank, the first has id 11"):
        bank.rows_of(torch.tensor([10, 11]))
    with pytest.raises(ValueError, match=r"takes rows \[n, 2\] and ids \[n\], found \(1, 3\) and \(1,\)"):
        bank.hold(torch.ones(1, 3), torch.tensor([10]))
    with pytest.raises(ValueError, match="ids must be unique"):
        MemoryBank(torch.tensor([1, 1]), 2)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), found 1"):
        MemoryBank(IDS, 2, momentum=1)
    with pytest.raises(ValueError, match="at least one sample and one dimension, found 0 ids"):
        MemoryBank(IDS[:0], 2)
