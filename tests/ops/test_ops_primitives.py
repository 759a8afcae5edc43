"""Every primitive with every mask form and implementation against double loops, in value and gradient."""

from __future__ import annotations

from typing import Any

import mask_cases
import pairwise_loops as loops
import pytest
import torch
from primitive_cases import CASES, IMPLS, PRIMITIVES, random_pair

from kinfolk import ops

SHAPES = [(1, 1, 1), (2, 3, 64), (7, 4, 3)]


def check_against_loops(
    name: str, mask_name: str, impl: str, n: int, m: int, d: int, *, normalize: bool = False
) -> None:
    primitive = PRIMITIVES[name]
    mask, kept = mask_cases.MASKS[mask_name](n, m, torch.Generator().manual_seed(n + 7 * m))
    inputs = [*random_pair(n, m, d), torch.tensor(1.7, dtype=torch.float64)]
    x, y, scale = (t.clone().requires_grad_() for t in inputs)
    xs, ys, scales = (t.clone().requires_grad_() for t in inputs)
    got = primitive.call(x, y, scale=scale, mask=mask, normalize=normalize, impl=impl)
    expected = primitive.define(xs, ys, scale=scales, kept=kept, normalize=normalize)
    loops.assert_close(got, expected, atol=1e-9, what="value")
    upstream = torch.randn(len(expected), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ours = loops.gradients(got, upstream, [x, y, scale])
    theirs = loops.gradients(expected, upstream, [xs, ys, scales])
    for what, a, b in zip(("d/dx", "d/dy", "d/dscale"), ours, theirs, strict=True):
        loops.assert_close(a, b, atol=1e-8, what=what)


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("name", "mask"), CASES)
def test_primitive_is_its_definition(name: str, mask: str, impl: str, n: int, m: int, d: int) -> None:
    check_against_loops(name, mask, impl, n, m, d)


@pytest.mark.usefixtures("small_tiles", "both_backward_ways")
@pytest.mark.parametrize(("name", "mask"), CASES)
def test_many_ragged_tiles_are_one_definition(name: str, mask: str) -> None:
    check_against_loops(name, mask, "chunked", 11, 10, 2)


@pytest.mark.usefixtures("small_tiles", "both_backward_ways")
@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("mask", ["no mask", "exclude_self", "ids", "exclude_self & bias_on_equal"])
@pytest.mark.parametrize("name", ["row_logsumexp", "two_way_logsumexp", "row_softmax_mean"])
def test_many_tiles_of_one_tensor_with_itself(name: str, mask: str, scale: float) -> None:
    """Symmetric masks on equal tensors may be swept over the upper triangle; 300 is beyond any fixed softmax shift."""
    ids = torch.tensor([0, 1, 2, 0, 1, -1, -1, 3, 4, 0, 5])
    equal = loops.keep_where(11, 11, lambda i, j: bool(ids[i] >= 0 and ids[i] == ids[j])).keep
    off, every = ~torch.eye(11, dtype=torch.bool), torch.ones(11, 11, dtype=torch.bool)
    own = ops.PairMask.exclude_self(11)
    built, kept = {
        "no mask": (None, loops.Kept(every)),
        "exclude_self": (own, loops.Kept(off)),
        "ids": (ops.PairMask.exclude(ids, ids), loops.Kept(~equal)),
        "exclude_self & bias_on_equal": (
            own & ops.PairMask.bias_on_equal(ids, ids, 0.7),
            loops.Kept(off, 0.7 * equal.double()),
        ),
    }[mask]
    x = random_pair(11, 11, 4)[0].requires_grad_()
    a, b = (x.detach().clone().requires_grad_() for _ in range(2))
    own_scale, their_scale = (torch.tensor(scale, dtype=torch.float64, requires_grad=True) for _ in range(2))
    got = PRIMITIVES[name].call(x, x, scale=own_scale, mask=built, normalize=True, impl="chunked")
    expected = PRIMITIVES[name].define(a, b, scale=their_scale, kept=kept, normalize=True)
    loops.assert_close(got, expected, atol=1e-9)
    upstream = torch.linspace(-1, 2, len(expected), dtype=torch.float64)
    ours = loops.gradients(got, upstream, [x, own_scale])
    theirs = loops.gradients(expected, upstream, [a, b, their_scale])
    loops.assert_close(ours[0], theirs[0] + theirs[1], atol=1e-8, what="d/dx")
    loops.assert_close(ours[1], theirs[2], atol=1e-8, what="d/dscale")


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("mask", ["no mask", "exclude", "nothing kept"])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_normalised_primitive_is_its_definition(name: str, mask: str, impl: str) -> None:
    check_against_loops(name, mask, impl, 5, 7, 3, normalize=True)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("mask", ["exclude_self, offset", "only & exclude_self", "plain bool", "bias"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_same_tensor_on_both_sides_is_two_equal_tensors(name: str, mask: str, impl: str, normalize: bool) -> None:
    primitive = PRIMITIVES[name]
    n = 9
    built, kept = mask_cases.MASKS[mask](n, n, torch.Generator().manual_seed(1))
    x = random_pair(n, n, 4)[0].requires_grad_()
    a, b = (x.detach().clone().requires_grad_() for _ in range(2))
    got = primitive.call(x, x, scale=1.3, mask=built, normalize=normalize, impl=impl)
    expected = primitive.define(a, b, scale=1.3, kept=kept, normalize=normalize)
    loops.assert_close(got, expected, atol=1e-9, what="value")
    upstream = torch.linspace(-1, 2, len(expected), dtype=torch.float64)
    (ours,) = loops.gradients(got, upstream, [x])
    loops.assert_close(ours, sum(loops.gradients(expected, upstream, [a, b])), atol=1e-8, what="d/dx")  # type: ignore[arg-type]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_symmetric_ids_mask_on_equal_tensors(name: str, impl: str) -> None:
    """A mask of equal ids on both sides is what an implementation may take as symmetric."""
    ids = torch.tensor([0, 1, 2, 0, 1, 2, -1, -1, 5])
    mask, kept = (
        ops.PairMask.exclude(ids, ids),
        loops.keep_where(9, 9, lambda i, j: bool(ids[i] < 0 or ids[i] != ids[j])),
    )
    x = random_pair(9, 9, 4)[0].requires_grad_()
    a, b = (x.detach().clone().requires_grad_() for _ in range(2))
    got = PRIMITIVES[name].call(x, x, scale=2.0, mask=mask, normalize=True, impl=impl)
    expected = PRIMITIVES[name].define(a, b, scale=2.0, kept=kept, normalize=True)
    loops.assert_close(got, expected, atol=1e-9, what="value")
    upstream = torch.linspace(-1, 2, len(expected), dtype=torch.float64)
    (ours,) = loops.gradients(got, upstream, [x])
    loops.assert_close(ours, sum(loops.gradients(expected, upstream, [a, b])), atol=1e-8, what="d/dx")  # type: ignore[arg-type]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("fn", loops.FUNCTIONS)
def test_row_shift_enters_and_receives_gradient(fn: Any, impl: str, normalize: bool) -> None:
    mask, kept = mask_cases.MASKS["exclude"](6, 5, torch.Generator().manual_seed(3))
    start = [*random_pair(6, 5, 3), torch.linspace(-1, 1, 6, dtype=torch.float64)]
    x, y, shift = (t.clone().requires_grad_() for t in start)
    xs, ys, shifts = (t.clone().requires_grad_() for t in start)
    more: dict[str, Any] = {"fn": fn, "scale": 0.8, "normalize": normalize}
    got = ops.row_sum(x, y, row_shift=shift, mask=mask, impl=impl, **more)
    expected = loops.row_sum(xs, ys, row_shift=shifts, kept=kept, **more)
    loops.assert_close(got, expected, atol=1e-9)
    upstream = torch.linspace(1, 2, 6, dtype=torch.float64)
    pairs = zip(
        loops.gradients(got, upstream, [x, y, shift]),
        loops.gradients(expected, upstream, [xs, ys, shifts]),
        strict=True,
    )
    for a, b in pairs:
        loops.assert_close(a, b, atol=1e-8)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_column_bias_receives_its_gradient(name: str, impl: str) -> None:
    x, y = random_pair(4, 6, 3)
    bias, same = (torch.linspace(-2, 2, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    mask, kept = mask_cases.MASKS["exclude"](4, 6, torch.Generator().manual_seed(3))
    got = PRIMITIVES[name].call(x, y, scale=1.5, mask=mask & ops.PairMask.bias(bias, 4), impl=impl)
    expected = PRIMITIVES[name].define(x, y, scale=1.5, kept=loops.Kept(kept.keep, same.expand(4, 6)))
    loops.assert_close(got, expected, atol=1e-9)
    upstream = torch.linspace(-1, 2, len(expected), dtype=torch.float64)
    loops.assert_close(
        loops.gradients(got, upstream, [bias])[0],
        loops.gradients(expected, upstream, [same])[0],
        atol=1e-8,
        what="d/dbias",
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("mask", mask_cases.MASKS)
def test_topk_is_its_definition(mask: str, largest: bool, normalize: bool, impl: str) -> None:
    check_topk(mask, largest, normalize, impl)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("mask", mask_cases.MASKS)
def test_topk_over_many_tiles(mask: str, largest: bool) -> None:
    check_topk(mask, largest, True, "chunked")


def check_topk(mask: str, largest: bool, normalize: bool, impl: str) -> None:
    built, kept = mask_cases.MASKS[mask](6, 9, torch.Generator().manual_seed(2))
    x, y = random_pair(6, 9, 4)
    values, indices = ops.row_topk(x, y, k=4, largest=largest, mask=built, normalize=normalize, impl=impl)
    expected, places = loops.row_topk(x, y, k=4, largest=largest, kept=kept, normalize=normalize)
    loops.assert_close(values, expected, atol=1e-12)
    assert torch.equal(indices, places)
    assert indices.dtype == torch.int64


def test_topk_has_no_gradient_and_wants_a_feasible_k() -> None:
    x, y = random_pair(3, 4, 2)
    values, _ = ops.row_topk(x.requires_grad_(), y, k=1)
    assert not values.requires_grad
    with pytest.raises(ValueError, match="k"):
        ops.row_topk(x, y, k=0)
