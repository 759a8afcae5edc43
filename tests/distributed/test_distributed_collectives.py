"""Gathering with gradient, sums and visiting rows; what ranks are told when they do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rank_cases import CASES, PARTITIONS
from rank_jobs import SIZES, rows_of

from kinfolk.distributed import Ranks, all_gather, all_reduce, rank, require_equal, world_size
from kinfolk.ops import PairMask

Answers = Callable[[int], list[dict[str, Any]]]
WORLDS = pytest.mark.parametrize("world", list(PARTITIONS), ids=lambda world: f"{world}ranks")
SEVERAL = pytest.mark.parametrize("world", [w for w in PARTITIONS if w > 1], ids=lambda world: f"{world}ranks")
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INTEGERS = [torch.int64, torch.int32, torch.bool, torch.uint8]


def all_rows(world: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.cat([rows_of(r, world, dtype) for r in range(world)])


@WORLDS
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gathered_rows_and_their_gradient(world: int, dtype: torch.dtype, answers: Answers) -> None:
    """Every rank weights the sum of squares by 1 + rank: the gradient is 2 x times the sum of the weights, exactly."""
    for own, found in enumerate(answers(world)):
        rows, gradient = found["primitives"][str(dtype)]
        assert rows.dtype == gradient.dtype == dtype
        assert torch.equal(rows, all_rows(world, dtype))
        expected = 2 * rows_of(own, world, torch.float64) * sum(range(1, world + 1))
        assert torch.equal(gradient, expected.to(dtype))


@WORLDS
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_gathered_integers(world: int, dtype: torch.dtype, answers: Answers) -> None:
    for found in answers(world):
        assert torch.equal(found["primitives"][str(dtype)], all_rows(world, dtype))


@WORLDS
def test_rows_of_any_shape_and_none_at_all(world: int, answers: Answers) -> None:
    for found in answers(world):
        total = sum(SIZES[world])
        assert found["primitives"]["shapes"] == ((total, 2, 3), (total,))
        assert found["primitives"]["nothing"] == (0, 3)


@WORLDS
def test_sums_over_ranks(world: int, answers: Answers) -> None:
    weights = sum(range(1, world + 1))
    for found in answers(world):
        total, gradient = found["primitives"]["all_reduce"]
        assert total.tolist() == [weights, weights]
        assert gradient.tolist() == [2 * weights * weights] * 2
        assert found["primitives"]["count"] == weights


@WORLDS
def test_ranks_and_visiting_rows(world: int, answers: Answers) -> None:
    for own, found in enumerate(answers(world)):
        ranks, visiting = found["primitives"]["ranks"]
        assert (ranks.sizes, ranks.rank, ranks.world) == (SIZES[world], own, world)
        assert (ranks.offset, ranks.total) == (sum(SIZES[world][:own]), sum(SIZES[world]))
        assert torch.equal(visiting, rows_of((own - 1) % world, world, torch.float64))


@SEVERAL
def test_a_rank_that_learns_nothing_joins_the_backward_pass(world: int, answers: Answers) -> None:
    for own, found in enumerate(answers(world)):
        assert found["join backward"]["requires_grad"]
        assert (own == 0) == (found["join backward"]["gradient"] is not None)
    assert torch.equal(answers(world)[0]["join backward"]["gradient"], torch.full((2, 2), float(world)))


@SEVERAL
def test_second_derivatives_are_refused(world: int, answers: Answers) -> None:
    for found in answers(world):
        assert found["second derivative"].startswith("RuntimeError: rows gathered from other ranks")


@WORLDS
@pytest.mark.parametrize("name", list(CASES))
def test_no_rows_on_any_rank_is_an_error_on_all(world: int, name: str, answers: Answers) -> None:
    for found in answers(world):
        assert found["empty"][name].startswith(f"ValueError: {CASES[name].build.__name__} needs at least one row")


@WORLDS
def test_minimum_sizes_count_the_samples_of_all_ranks(world: int, answers: Answers) -> None:
    for found in answers(world):
        assert "DCLLoss needs at least 2" in found["too few"]["DCL of one"]
        assert "CACRLoss needs at least 2" in found["too few"]["CACR of one"]
        if world > 1:
            assert found["too few"]["DCL of two"] == found["too few"]["CACR of two"] == ""


DISAGREEMENTS = {
    "width": "[6] | ",
    "precision": "float32",
    "loss": "NTXentLoss",
    "form": "SupConLoss: in",
    "ids": "SupConLoss: out, ids",
    "graph": "PairGraph",
    "mask": "self_offsets",
    "views": "3 views",
    "side embeddings": "width 2",
    "all_gather": "all_gather",
}


@SEVERAL
@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_ranks_that_disagree_are_all_told(world: int, what: str, answers: Answers) -> None:
    texts = {found["disagreements"][what] for found in answers(world)}
    assert len(texts) == 1
    (text,) = texts
    assert text.startswith("ValueError: all ranks must compute the same thing")
    assert DISAGREEMENTS[what] in text
    assert f"rank {world - 1}: " in text


@SEVERAL
@pytest.mark.parametrize("what", ["local matrix", "local bool mask", "listed columns", "numbered edges"])
def test_what_names_columns_by_number_must_name_those_of_all_ranks(world: int, what: str, answers: Answers) -> None:
    for found in answers(world):
        text = found["disagreements"][what]
        assert text.startswith("ValueError")
        assert f"{4 * world} keys" in text
        assert "4 columns" in text


@SEVERAL
def test_no_grad_on_one_rank_is_an_error_on_all(world: int, answers: Answers) -> None:
    for found in answers(world):
        assert f"rank {world - 1} computes under no_grad" in found["disagreements"]["no_grad"]


@SEVERAL
def test_replicas_that_differ_are_found(world: int, answers: Answers) -> None:
    for found in answers(world):
        assert f"that of rank {world - 1} differs" in found["disagreements"]["replicas"]
        assert f"queue float32 [{3}]" in found["disagreements"]["shapes of replicas"]
        assert found["disagreements"]["equal replicas"] == ""
        assert "queue must be the same on all ranks" in found["queue in debug"]


@SEVERAL
def test_a_mask_over_all_keys_serves_where_one_rank_holds_them(world: int, answers: Answers) -> None:
    for own, found in enumerate(answers(world)):
        value, gradient = found["mask over all keys"]
        assert value > 0
        assert bool(gradient.any()) == (own == 0)


def test_without_a_process_group_tensors_come_back_themselves() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    assert (world_size(), rank()) == (1, 0)
    assert all_gather(x) is x
    assert all_reduce(x) is x
    require_equal(x, "x")
    ranks, (same,) = Ranks.of([x])
    assert same is x
    assert ranks.gather(x) is ranks.sum(x) is ranks.rotate(x, 0) is x


class Others:
    """Stands in for other ranks: gathers by laying the same entries beside themselves."""

    def __init__(self, before: int, after: int) -> None:
        self.before, self.after = before, after

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.new_full((self.before,), -1), x, x.new_full((self.after,), -1)])


@pytest.mark.parametrize("offset", [0, 1, -1, 2])
def test_a_gathered_mask_drops_what_it_dropped_and_nothing_of_others(offset: int) -> None:
    """Also where a row's own place lies outside this rank's columns: it is then no other rank's either."""
    ids = torch.tensor([4, 5, 4, -1])
    mask = PairMask.exclude_self(4, 4, offset=offset) & PairMask.exclude(ids, ids)
    dense = mask.gathered(Others(3, 2), offset=3, total=9).to_dense()
    assert torch.equal(dense[:, 3:7], mask.to_dense())
    assert dense[:, :3].all()
    assert dense[:, 7:].all()


@pytest.mark.parametrize("columns", [(0, 5), (0, 2), (2, 4), (4, 5), (3, 3)])
def test_a_slice_of_a_masks_columns(columns: tuple[int, int]) -> None:
    ids, key_ids = torch.tensor([1, 2, -1]), torch.tensor([2, 1, 1, -1, 2])
    mask = (
        PairMask.exclude_self(3, 5, offset=1)
        & PairMask.exclude_columns(torch.tensor([[0, -1], [4, 2], [-1, -1]]), 5)
        & PairMask.from_dense(torch.tensor([[True, True, False, True, True]] * 3))
        & PairMask.bias(torch.arange(5.0))
        & PairMask.bias_on_equal(ids, key_ids, 2.0)
    )
    for whole in (mask, mask & PairMask.only(ids, key_ids), mask & PairMask.exclude(ids, key_ids)):
        part = whole.column_slice(columns)
        assert torch.equal(part.to_dense(), whole.to_dense()[:, slice(*columns)])
        assert torch.equal(part.dense_bias(), whole.dense_bias()[:, slice(*columns)])
