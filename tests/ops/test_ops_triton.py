"""The Triton kernels compute what the reference defines: every primitive, mask form, precision and shape."""

from __future__ import annotations

import pytest
import torch
import triton_cases as cases
from triton_cases import DEVICE, HALF, MASKS, PRIMITIVES, check, kernels, small_kernel_tiles, vectors

from kinfolk.ops import reference

__all__ = ["small_kernel_tiles"]  # a fixture
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter is numpy, which warns of NaN
    pytest.mark.usefixtures("small_kernel_tiles"),
]
FLOAT = torch.float32


def test_the_kernels_run_here() -> None:
    assert kernels.available(DEVICE)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["row_logsumexp", "two_way", "attraction", "mean", "sum_softplus"])
def test_mask_forms(name: str, mask: str) -> None:
    x, y = vectors(19, 23, 5, FLOAT)
    check(name, x, y, mask=MASKS[mask])


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("dtype", [FLOAT, *HALF], ids=str)
def test_precisions(name: str, dtype: torch.dtype) -> None:
    x, y = vectors(17, 21, 20, dtype)
    check(name, x, y, mask=MASKS["exclude"])


@pytest.mark.parametrize("name", PRIMITIVES)
def test_rows_as_they_are(name: str) -> None:
    x, y = vectors(17, 21, 20, torch.float16)
    check(name, x, y, mask=MASKS["self"], normalize=False)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 65, 3), (65, 1, 64), (33, 3, 96), (65, 70, 130)], ids=str)
@pytest.mark.parametrize("name", ["row_logsumexp", "two_way", "attraction", "mean", "sum_exp"])
def test_odd_shapes(name: str, shape: tuple[int, int, int]) -> None:
    x, y = vectors(*shape, torch.bfloat16)
    check(name, x, y, mask=MASKS["dense"])


@pytest.mark.parametrize("d", [384, 768, 1024])
def test_wide_vectors(d: int) -> None:
    x, y = vectors(5, 7, d, torch.bfloat16)
    check("two_way", x, y)
    check("row_logsumexp", x.float(), y.float())


def test_precisions_are_mixed() -> None:
    x, y = vectors(5, 7, 8, torch.bfloat16)
    check("row_logsumexp", x, y.float())


@pytest.mark.parametrize("scale", [5.0, 100.0], ids=["one shift", "running maximum"])
@pytest.mark.parametrize("mask", ["self", "same ids"])
@pytest.mark.parametrize("dtype", [FLOAT, torch.float16], ids=str)
def test_both_sides_the_same(dtype: torch.dtype, mask: str, scale: float) -> None:
    x, _ = vectors(70, 1, 8, dtype)
    labels, others = cases.ids(70, 9, 3), cases.ids(70, 5, 4)
    margin = cases.PairMask.bias_on_equal(others, others, 1.0)
    builders = {
        "self": lambda n, m, b: cases.PairMask.exclude_self(n),
        "same ids": lambda n, m, b: cases.PairMask.exclude(labels, labels) & margin,
    }
    check("row_logsumexp", x, x, mask=builders[mask], scale=scale)


def test_the_triangle_equals_the_square() -> None:
    x, _ = vectors(70, 1, 8, FLOAT)
    scale = torch.tensor(3.0, device=DEVICE)
    for mask in (None, cases.PairMask.exclude_self(70)):
        half = kernels.row_logsumexp(x, x, scale=scale, mask=mask, normalize=True)
        whole = kernels.row_logsumexp(x, x.clone(), scale=scale, mask=mask, normalize=True)
        torch.testing.assert_close(half, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("learnt", [False, True], ids=["constant", "learnt"])
def test_attraction_of_one_set(learnt: bool) -> None:
    x, _ = vectors(70, 1, 8, FLOAT)
    u = cases.normalised(cases.random(70, 5)).float().requires_grad_(learnt)
    x.requires_grad_()
    scale, mask = torch.tensor(3.0, device=DEVICE, requires_grad=True), cases.PairMask.exclude_self(70)
    leaves = [x, scale, u] if learnt else [x, scale]
    upstream = [cases.random(70, seed=s).float() for s in (1, 2)]
    options = {"scale": scale, "relation_scale": 3.0, "mask": mask, "target_mask": mask}
    got = torch.autograd.grad(
        kernels.logsumexp_and_kernel_attraction(x, x, u, u, normalize=True, **options), leaves, upstream
    )
    unit = cases.normalised(x)
    wanted = torch.autograd.grad(cases._define_attraction(unit, unit, u, u, **options), leaves, upstream)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ["row_logsumexp", "two_way", "attraction"])
def test_a_low_temperature(name: str, dtype: torch.dtype) -> None:
    x, y = vectors(19, 33, 64, dtype)
    check(name, x, y, scale=100.0)


@pytest.mark.parametrize("dtype", [FLOAT, *HALF], ids=str)
def test_far_apart_side_embeddings(dtype: torch.dtype) -> None:
    x, y = vectors(5, 9, 8, dtype)
    u, v = (cases.normalised(cases.random(k, 4, seed=k)).float() for k in (5, 9))
    call = {"scale": torch.tensor(3.0, device=DEVICE), "mask": None, "target_mask": None}
    _, pull = kernels.logsumexp_and_kernel_attraction(x, y, u, v, relation_scale=1e4, normalize=True, **call)
    scores = 3.0 * cases.normalised(x.double()) @ cases.normalised(y.double()).T
    nearest = scores.gather(1, (u @ v.T).argmax(1, keepdim=True)).squeeze(1)
    torch.testing.assert_close(pull.double(), nearest, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("k", [1, 4, 80])
@pytest.mark.parametrize("mask", ["none", "everything", "bias"])
def test_topk(k: int, largest: bool, mask: str) -> None:
    x, y = vectors(19, 70, 20, torch.bfloat16)
    keep = MASKS[mask](19, 70, cases.random(70, seed=8).float())
    values, indices = kernels.row_topk(x, y, k=k, largest=largest, mask=keep, normalize=True)
    rows, columns = cases.normalised(x.double()), cases.normalised(y.double())
    expected, places = reference.row_topk(rows, columns, k=k, largest=largest, mask=keep)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(indices, places)
