"""The Triton kernels where there is little, too much or nothing to compute, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import triton_cases as cases
from torch import Tensor
from triton_cases import DEVICE, MASKS, PRIMITIVES, check, kernels, small_kernel_tiles, vectors

from kinfolk.ops import PairMask, reference

__all__ = ["small_kernel_tiles"]  # a fixture
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter is numpy, which warns of NaN
    pytest.mark.usefixtures("small_kernel_tiles"),
]
FLOAT = torch.float32
ONE = torch.ones((), device=DEVICE)


def lse(x: Tensor, y: Tensor, mask: PairMask | None = None, *, scale: Tensor = ONE, normalize: bool = True) -> Tensor:
    return kernels.row_logsumexp(x, y, scale=scale, mask=mask, normalize=normalize)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_nothing_to_compare(name: str, shape: tuple[int, int]) -> None:
    x, y = (torch.randn(count, 4, device=DEVICE, requires_grad=True) for count in shape)
    primitive = PRIMITIVES[name]
    extra = {key: value.float() for key, value in primitive.extra(*shape).items()}
    value = cases.joined(primitive.kernel(x, y, scale=ONE, mask=None, normalize=True, **primitive.options, **extra))
    assert bool(((value == 0) | (value == -math.inf)).all())
    value.masked_fill(value == -math.inf, 0.0).sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert not x.grad.any()
    assert not y.grad.any()
    best, where = kernels.row_topk(x, y, k=2, largest=True, mask=None, normalize=True)
    assert best.shape == where.shape == (shape[0], 2)
    assert bool((where == -1).all())


@pytest.mark.parametrize("name", PRIMITIVES)
def test_empty_rows(name: str) -> None:
    x, y = (side.requires_grad_() for side in vectors(5, 19, 4, FLOAT))
    keep = torch.ones(5, 19, dtype=torch.bool, device=DEVICE)
    keep[2] = False
    primitive = PRIMITIVES[name]
    extra = {key: value.float() for key, value in primitive.extra(5, 19).items()}
    mask = PairMask.from_dense(keep)
    value = cases.joined(primitive.kernel(x, y, scale=ONE, mask=mask, normalize=True, **primitive.options, **extra))
    nothing = -math.inf if name in ("row_logsumexp", "two_way", "attraction") else 0.0
    assert float(value.detach()[2]) == nothing
    value.backward(torch.ones_like(value))  # the gradient that meets an empty row is not 0
    assert x.grad is not None
    assert y.grad is not None
    assert not x.grad[2].any()
    assert bool(x.grad.isfinite().all())
    assert bool(y.grad.isfinite().all())


def test_a_bias_of_minus_infinity_drops_its_column() -> None:
    x, y = vectors(3, 5, 4, FLOAT)
    bias = torch.tensor([0.0, -math.inf, 0.5, -math.inf, 1.0], device=DEVICE)
    finite = bias.masked_fill(bias == -math.inf, 0.0)
    kept = PairMask.from_dense(torch.isfinite(bias).expand(3, 5)) & PairMask.bias(finite, 3)
    torch.testing.assert_close(lse(x, y, PairMask.bias(bias, 3)), lse(x, y, kept))


def test_inputs_need_not_be_contiguous() -> None:
    x, y = vectors(9, 21, 6, FLOAT)
    for left, right in (
        (x[::2], y[:, ::2].repeat(1, 2)[:, :6]),
        (x.T.contiguous().T, y.T.contiguous().T),
        (x[:1].expand(9, 6), y),
        (x, y[3:4].expand(21, 6)),
        (x[:, 1:4], y[:, 2:5]),
    ):
        check("two_way", left, right)


def test_long_strides() -> None:
    """Rows more than 2^31 elements apart; on a CPU only the pages of the two rows are ever touched."""
    stride = (1 << 31) + 64
    storage = torch.empty(stride + 8, dtype=torch.float16, device=DEVICE)
    far = storage.as_strided((2, 8), (stride, 1))
    far.copy_(cases.random(2, 8))
    x, _ = vectors(3, 1, 8, torch.float16)
    torch.testing.assert_close(lse(x, far), lse(x, far.contiguous()))
    torch.testing.assert_close(lse(far, x), lse(far.contiguous(), x))


def test_zero_rows_are_zero_vectors() -> None:
    x, y = vectors(5, 7, 4, FLOAT)
    x[1], y[2] = 0.0, 0.0
    x[3] = 1e-7 * torch.tensor([1.0, -2.0, 3.0, 4.0], device=DEVICE)  # below the floor of the norm, but not zero
    check("row_logsumexp", x, y, scale=1.0)
    check("two_way", x, y, scale=100.0)


def test_a_zero_row_leaves_half_precision_gradients_alone() -> None:
    x, y = vectors(5, 7, 4, torch.float16)
    y[2] = 0.0
    x.requires_grad_()
    (got,) = torch.autograd.grad(lse(x, y).sum(), x)
    double = x.detach().double().requires_grad_()
    scores = cases.normalised(double) @ cases.normalised(y.double()).T
    (want,) = torch.autograd.grad(scores.logsumexp(1).sum(), double)
    assert float((got.double() - want).norm() / want.norm()) < 2e-3


@pytest.mark.parametrize("upstream", [1e-6, 1e4])
def test_float16_weights_stay_in_range(upstream: float) -> None:
    x, y = vectors(5, 64, 16, torch.float16)
    x = (x / x.double().norm(dim=1, keepdim=True)).half().requires_grad_()
    value = kernels.row_sum(x, y, fn="exp", scale=3 * ONE, row_shift=None, mask=None, normalize=True)
    (got,) = torch.autograd.grad(value, x, torch.full_like(value, upstream))
    double = x.detach().double().requires_grad_()
    wanted = (3 * cases.normalised(double) @ cases.normalised(y.double()).T).exp().sum(1)
    (want,) = torch.autograd.grad(wanted, double, torch.full_like(wanted, upstream))
    limit = 6e-8 * math.sqrt(want.numel())  # half of float16's smallest step, were every entry rounded to it
    inside = want.abs() < 6e4
    assert bool(inside.any())
    assert float((got.double() - want)[inside].norm()) <= 2e-3 * float(want[inside].norm()) + limit


def test_nan_propagates() -> None:
    x, y = vectors(3, 21, 4, FLOAT)
    x[1, 2] = math.nan
    value = lse(x, y)
    assert value.isnan().tolist() == [False, True, False]
    y[20, 0] = math.nan
    assert bool(lse(x, y).isnan().all())
    rows, columns = kernels.two_way_logsumexp(x, y, scale=ONE, mask=None, normalize=True)
    assert bool(rows.isnan().all())
    assert bool(columns.isnan().all())


def test_a_dropped_nan_stays_out() -> None:
    x, y = vectors(3, 21, 4, FLOAT)
    y[20] = math.nan
    keep = torch.ones(3, 21, dtype=torch.bool, device=DEVICE)
    keep[:, 20] = False
    assert bool(lse(x, y, PairMask.from_dense(keep)).isfinite().all())


@pytest.mark.parametrize("name", ["row_logsumexp", "two_way", "attraction", "mean", "sum_square"])
def test_twice_the_same_bits(name: str) -> None:
    x, y = (side.requires_grad_() for side in vectors(33, 70, 8, torch.bfloat16))
    primitive = PRIMITIVES[name]
    extra = {key: value.float() for key, value in primitive.extra(33, 70).items()}
    call: dict[str, Any] = {"scale": ONE, "mask": None, "normalize": True, **primitive.options, **extra}

    def run() -> list[Tensor]:
        value = cases.joined(primitive.kernel(x, y, **call))
        first = torch.autograd.grad(value.sum(), [x, y], retain_graph=True)
        again = torch.autograd.grad(value.sum(), [x, y])
        return [value.detach(), *first, *again]

    one, two = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(one[1], one[3])
    assert bool(one[1].any())


@pytest.mark.parametrize("wanted", ["x", "y", "scale", "bias"])
def test_gradients_where_they_are_wanted(wanted: str) -> None:
    x, y = vectors(5, 19, 4, FLOAT)
    inputs = {"x": x, "y": y, "scale": ONE.clone(), "bias": cases.random(19).float()}

    def run(names: list[str]) -> dict[str, Tensor]:
        leaves = {key: value.clone().requires_grad_(key in names) for key, value in inputs.items()}
        mask = PairMask.bias(leaves["bias"], 5)
        lse(leaves["x"], leaves["y"], mask, scale=leaves["scale"]).square().sum().backward()
        return {key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None}

    alone, together = run([wanted]), run(list(inputs))
    assert list(alone) == [wanted]
    torch.testing.assert_close(alone[wanted], together[wanted])


def test_no_graph_without_gradients() -> None:
    x, y = vectors(3, 5, 4, FLOAT)
    assert not lse(x, y).requires_grad


@pytest.mark.parametrize("name", PRIMITIVES)
def test_second_derivatives_are_refused(name: str) -> None:
    x, y = vectors(3, 5, 4, FLOAT)
    x.requires_grad_()
    primitive = PRIMITIVES[name]
    extra = {key: value.float() for key, value in primitive.extra(3, 5).items()}
    value = cases.joined(primitive.kernel(x, y, scale=ONE, mask=None, normalize=True, **primitive.options, **extra))
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="use impl='reference' for double backward"):
        gradient.sum().backward()


def test_float64_is_refused() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64, device=DEVICE)
    with pytest.raises(TypeError, match=r"found x in torch\.float64; use impl='chunked'"):
        lse(x, x)


def test_a_cpu_is_refused_outside_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    from kinfolk.ops.triton import rows

    monkeypatch.setattr(rows, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="found x on cpu; use impl='chunked'"):
        kernels.row_logsumexp(torch.zeros(2, 3), torch.zeros(2, 3), scale=torch.ones(()), mask=None, normalize=True)


def test_other_devices_are_not_available() -> None:
    assert not kernels.available("meta")
    assert kernels.HAS_TRITON


@pytest.mark.parametrize("key", ["scale", "mask"])
def test_a_planted_mistake_is_seen(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    def wrong(x: Tensor, y: Tensor, **kw: Any) -> Tensor:
        kw[key] = kw["scale"] * 1.001 if key == "scale" else None
        return reference.row_logsumexp(x, y, **kw)

    monkeypatch.setitem(PRIMITIVES, "wrong", cases.Primitive(kernels.row_logsumexp, wrong))
    x, y = vectors(5, 7, 4, FLOAT)
    with pytest.raises(AssertionError):
        check("wrong", x, y, mask=MASKS["self"])


@pytest.mark.parametrize("name", ["row_logsumexp", "mean"])
def test_many_chunks_and_panels(name: str) -> None:
    x, y = vectors(70, 140, 4, FLOAT)
    check(name, x, y, mask=MASKS["self"])
