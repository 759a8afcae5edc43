"""PairMask: every form densifies to its predicate, conjoins, prints itself and refuses what it cannot mean."""

from __future__ import annotations

import mask_cases
import pytest
import torch

from kinfolk.ops import PairMask

SHAPES = [(1, 1), (3, 2), (7, 9), (9, 7)]


@pytest.mark.parametrize(
    "name", [name for name in mask_cases.MASKS if name not in ("no mask", "plain bool", "nothing kept")]
)
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_dense_form_is_the_predicate(name: str, n: int, m: int) -> None:
    mask, kept = mask_cases.MASKS[name](n, m, torch.Generator().manual_seed(n * m))
    assert torch.equal(mask.to_dense(), kept.keep)
    if kept.bias is not None:
        assert torch.allclose(mask.dense_bias().double(), kept.bias, atol=1e-6)


def test_conjunction_does_not_depend_on_order() -> None:
    generator = torch.Generator().manual_seed(0)
    (a, _), (b, _), (c, _) = (mask_cases.MASKS[f](5, 6, generator) for f in ("exclude", "only, union", "bias"))
    for other in (a & c & b, c & b & a, b & (a & c)):
        assert torch.equal((a & b & c).to_dense(), other.to_dense())
        assert torch.equal((a & b & c).dense_bias(), other.dense_bias())


def test_unknown_ids_equal_nothing() -> None:
    ids = torch.tensor([-1, -1, 3])
    assert PairMask.exclude(ids, ids).to_dense().tolist() == [[True] * 3, [True] * 3, [True, True, False]]
    assert PairMask.only(ids, ids).to_dense().tolist() == [[False] * 3, [False] * 3, [False, False, True]]
    assert PairMask.only(ids, ids, or_ids=(ids, ids)).to_dense().sum() == 1
    assert PairMask.bias_on_equal(ids, ids, 2.0).dense_bias().tolist() == [[0] * 3, [0] * 3, [0, 0, 2.0]]


def test_large_ids_are_not_rounded() -> None:
    ids = torch.tensor([2**24, 2**24 + 1, 2**53, 2**53 + 1])
    assert torch.equal(PairMask.exclude(ids, ids).to_dense(), ~torch.eye(4, dtype=torch.bool))
    assert torch.equal(PairMask.only(ids, ids).to_dense(), torch.eye(4, dtype=torch.bool))


def test_ids_of_any_integer_width() -> None:
    wide, narrow = torch.tensor([0, 1, 2]), torch.tensor([2, 1], dtype=torch.int32)
    assert PairMask.exclude(wide, narrow).to_dense().tolist() == [[True, True], [True, False], [False, True]]


def test_exclude_self_is_square_by_default_and_ignores_columns_outside() -> None:
    assert torch.equal(PairMask.exclude_self(4).to_dense(), ~torch.eye(4, dtype=torch.bool))
    assert PairMask.exclude_self(2, 3, offset=5).to_dense().all()


def test_repr_says_what_is_kept() -> None:
    mask = PairMask.exclude(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    assert "PairMask" in repr(mask)
    assert "2" in repr(mask)
    assert "3" in repr(mask)


def test_repr_tells_masks_apart() -> None:
    ids = torch.tensor([0, 1, 1])
    masks = [
        PairMask.exclude(ids, ids),
        PairMask.only(ids, ids),
        PairMask.exclude_self(3),
        PairMask.bias(torch.zeros(3), 3),
        PairMask.bias_on_equal(ids, ids, 1.0),
    ]
    assert len({repr(mask) for mask in masks}) == len(masks)


@pytest.mark.parametrize("bad", [torch.tensor([0.0, 1.0]), torch.tensor([True, False])])
def test_float_or_bool_ids_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="int"):
        PairMask.exclude(bad, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="int"):
        PairMask.only(torch.tensor([0, 1]), bad)


def test_conjunction_of_different_shapes_names_both() -> None:
    with pytest.raises(ValueError, match=r"3.*4|4.*3"):
        PairMask.exclude_self(3) & PairMask.exclude_self(4)


def test_from_dense_wants_bool() -> None:
    with pytest.raises((TypeError, ValueError), match="bool"):
        PairMask.from_dense(torch.ones(2, 2))


def test_column_index_outside_the_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="3"):
        PairMask.exclude_columns(torch.tensor([[0], [3]]), 3)


def test_bad_shapes_are_refused() -> None:
    ids = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        PairMask.exclude(ids[:, None], ids)
    with pytest.raises(TypeError, match="tensor"):
        PairMask.exclude([0, 1], ids)
    with pytest.raises(ValueError, match=r"(?s)2.*3"):
        PairMask.only(ids, ids, or_ids=(torch.arange(3), ids))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        PairMask.exclude_columns(ids, 3)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        PairMask.bias(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        PairMask.from_dense(torch.ones(2, dtype=torch.bool))


def test_bias_without_a_number_of_rows_fits_any_and_says_so() -> None:
    mask = PairMask.bias(torch.zeros(3))
    assert "any x 3" in repr(mask)
    assert (mask & PairMask.exclude_self(2, 3)).to_dense().shape == (2, 3)
    with pytest.raises(ValueError, match="rows"):
        mask.to_dense()
