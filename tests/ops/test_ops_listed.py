"""Products with listed columns: values, gradients, repetitions, gaps, sizes beyond a block, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinfolk.ops import listed, listed_products


def loops(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    zero = x.sum() * 0
    return torch.stack(
        [torch.stack([torch.dot(a, y[j]) if j >= 0 else zero for j in row]) for a, row in zip(x, index, strict=True)]
    )


@pytest.mark.parametrize(("n", "m", "k", "d"), [(1, 1, 1, 1), (5, 3, 7, 4), (9, 20, 2, 3)])
@pytest.mark.parametrize("numbers", [1, 1 << 20])
def test_values_and_gradients_are_those_of_loops(
    n: int, m: int, k: int, d: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "_NUMBERS", numbers)
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(c, d, generator=generator, dtype=torch.float64).requires_grad_() for c in (n, m))
    index, weights = torch.randint(-1, m, (n, k), generator=generator), torch.randn(n, k, generator=generator)
    got, expected = listed_products(x, y, index), loops(x, y, index)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    ours = torch.autograd.grad((weights * got).sum(), [x, y])
    theirs = torch.autograd.grad((weights * expected).sum(), [x, y], allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, atol=1e-12, rtol=0)


def test_nothing_listed_and_nothing_to_list() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    empty = listed_products(x, torch.zeros(0, 2), torch.full((3, 2), -1))
    assert not empty.any()
    assert listed_products(x, x, torch.zeros(3, 0, dtype=torch.int64)).shape == (3, 0)
    (slope,) = torch.autograd.grad(empty.sum(), x)
    assert not slope.any()


def test_columns_that_do_not_exist_are_refused() -> None:
    x = torch.eye(2)
    with pytest.raises(ValueError, match=r"\[0, 1\].*0 to 2"):
        listed_products(x, x, torch.tensor([[0], [2]]))
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(3, 1\)"):
        listed_products(x, x, torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="int32"):
        listed_products(x, x, torch.zeros(2, 1, dtype=torch.int32))
