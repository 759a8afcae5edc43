"""What the primitives say: bad input, the choice of an implementation, dtypes, zero and broken rows."""

from __future__ import annotations

import pairwise_loops as loops
import pytest
import torch
from primitive_cases import IMPLS, PRIMITIVES, random_pair

from kinfolk import ops


@pytest.mark.parametrize("name", PRIMITIVES)
def test_different_widths_name_both_shapes(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(5, 6\)"):
        PRIMITIVES[name].call(torch.randn(3, 4), torch.randn(5, 6), scale=1.0)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_vectors_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(4,\)"):
        PRIMITIVES[name].call(torch.randn(4), torch.randn(5, 4), scale=1.0)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_integer_vectors_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="float"):
        PRIMITIVES[name].call(torch.ones(3, 4, dtype=torch.int64), torch.randn(5, 4), scale=1.0)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_scale_of_several_numbers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)scale.*\(3,\)"):
        PRIMITIVES[name].call(torch.randn(3, 4), torch.randn(5, 4), scale=torch.ones(3))


def test_row_shift_of_another_length_names_both() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(5,\)"):
        ops.row_sum(torch.randn(3, 4), torch.randn(5, 4), fn="exp", scale=1.0, row_shift=torch.zeros(5))


@pytest.mark.parametrize("name", PRIMITIVES)
def test_mask_of_another_shape_names_both(name: str) -> None:
    x, y = random_pair(3, 4, 2)
    for mask in (torch.ones(4, 3, dtype=torch.bool), ops.PairMask.exclude_self(5)):
        with pytest.raises(ValueError, match=r"(4\D+3|5\D+5)\D+3\D+4"):
            PRIMITIVES[name].call(x, y, scale=1.0, mask=mask)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_unknown_implementation_lists_the_known_ones(name: str) -> None:
    x, y = random_pair(3, 4, 2)
    with pytest.raises(ValueError, match=r"fastest(?s:.)*reference|reference(?s:.)*fastest"):
        PRIMITIVES[name].call(x, y, scale=1.0, impl="fastest")


def test_unknown_function_lists_the_known_ones() -> None:
    x, y = random_pair(3, 4, 2)
    with pytest.raises(ValueError, match=r"softplus"):
        ops.row_sum(x, y, fn="cube", scale=1.0)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_auto_gives_the_value_of_an_implementation(name: str) -> None:
    x, y = random_pair(5, 4, 3)
    expected = PRIMITIVES[name].define(x, y, scale=1.0, kept=loops.everything(5, 4))
    loops.assert_close(PRIMITIVES[name].call(x, y, scale=1.0), expected, atol=1e-9)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_zero_rows_are_normalised_to_zero(name: str, impl: str) -> None:
    x, y = random_pair(4, 5, 3)
    x[1], y[2] = 0, 0
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    got = PRIMITIVES[name].call(a, b, scale=2.0, normalize=True, impl=impl)
    expected = PRIMITIVES[name].define(x, y, scale=2.0, kept=loops.everything(4, 5), normalize=True)
    loops.assert_close(got, expected, atol=1e-9)
    for gradient in torch.autograd.grad(got.sum(), [a, b]):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_are_floored_at_one_millionth(dtype: torch.dtype, impl: str) -> None:
    """Shorter rows than that keep their direction and shrink towards 0; longer ones become unit rows."""
    x = torch.tensor([[3e-5, 4e-5], [3e-6, 4e-6], [3e-8, 4e-8]], dtype=dtype)
    lengths = ops.row_sum(
        x, torch.tensor([[6.0, 8.0]], dtype=dtype), fn="identity", scale=1.0, normalize=True, impl=impl
    )
    assert lengths.tolist() == pytest.approx([1.0, 1.0, 0.05], rel=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["row_logsumexp", "row_softmax_mean", "row_sum, identity"])
def test_nan_in_a_row_is_not_hidden(name: str, impl: str) -> None:
    x, y = random_pair(4, 5, 3)
    x[1, 0] = torch.nan
    got = PRIMITIVES[name].call(x, y, scale=2.0, impl=impl)
    assert got.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", ["row_logsumexp", "row_softmax_mean", "row_sum, exp"])
def test_scale_as_tensor_is_the_scale_as_number(name: str) -> None:
    x, y = random_pair(4, 5, 3)
    number = PRIMITIVES[name].call(x, y, scale=2.5)
    assert torch.equal(PRIMITIVES[name].call(x, y, scale=torch.tensor(2.5, dtype=torch.float64)), number)


def test_explain_names_the_choice() -> None:
    x, y = random_pair(4, 5, 3)
    assert "chunked" in ops.explain(x, y)
    assert "reference" in ops.explain(x, y, impl="reference")
    assert "4 x 5" in ops.explain(x, y)


def test_explain_says_when_half_the_work_is_enough() -> None:
    x = torch.zeros(20_000, 8)
    assert "triangle" in ops.explain(x, mask=ops.PairMask.exclude_self(20_000))
    assert "triangle" not in ops.explain(x, x.clone())
    assert "triangle" not in ops.explain(x, mask=ops.PairMask.bias(torch.zeros(20_000)))
