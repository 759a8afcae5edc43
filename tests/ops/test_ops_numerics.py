"""Empty rows, large scales, precision, layout and repeated use: what a pairwise primitive must survive."""

from __future__ import annotations

import math

import mask_cases
import pairwise_loops as loops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from primitive_cases import IMPLS, PRIMITIVES, random_pair
from torch import Tensor

from kinfolk import ops

ROW_FUNCTIONS = [name for name in PRIMITIVES if name != "two_way_logsumexp"]


def drop_rows(n: int, m: int, rows: list[int]) -> Tensor:
    keep = torch.ones(n, m, dtype=torch.bool)
    keep[rows] = False
    return keep


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_row_that_keeps_nothing_sends_no_gradient(name: str, impl: str) -> None:
    x, y = (t.requires_grad_() for t in random_pair(4, 5, 3))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    keep = drop_rows(4, 5, [0, 2])
    value = PRIMITIVES[name].call(x, y, scale=scale, mask=keep, impl=impl)
    empty = -math.inf if name == "row_logsumexp" else 0.0
    assert value[[0, 2]].tolist() == [empty, empty]
    # The upstream gradient of the empty rows is not zero: they must ignore it.
    gx, gy, gs = torch.autograd.grad(
        value, [x, y, scale], grad_outputs=torch.ones(4, dtype=torch.float64), allow_unused=True
    )
    assert gx[[0, 2]].abs().max() == 0
    assert gx[[1, 3]].abs().min() > 0
    xs, ys = (t.detach()[i].clone().requires_grad_() for t, i in ((x, [1, 3]), (y, slice(None))))
    alone = PRIMITIVES[name].define(xs, ys, scale=2.0, kept=loops.everything(2, 5))
    loops.assert_close(gy, torch.autograd.grad(alone.sum(), ys)[0], atol=1e-8)
    assert math.isfinite(float(gs))


@pytest.mark.parametrize("impl", IMPLS)
def test_two_way_empty_row_and_empty_column(impl: str) -> None:
    keep = drop_rows(3, 4, [1])
    keep[:, 2] = False
    x, y = (t.requires_grad_() for t in random_pair(3, 4, 2))
    rows, columns = ops.two_way_logsumexp(x, y, scale=1.0, mask=keep, impl=impl)
    assert [i for i in range(3) if rows[i] == -math.inf] == [1]
    assert [j for j in range(4) if columns[j] == -math.inf] == [2]
    gx, gy = torch.autograd.grad(rows.sum() + columns.sum(), [x, y])
    assert torch.isfinite(gx).all()
    assert torch.isfinite(gy).all()
    assert gx[1].abs().max() == 0
    assert gy[2].abs().max() == 0


@pytest.mark.parametrize("impl", IMPLS)
def test_logaddexp_of_an_empty_block_is_the_other_block(impl: str) -> None:
    x, y = (t.requires_grad_() for t in random_pair(3, 4, 2))
    empty = ops.row_logsumexp(x, y, scale=1.0, mask=drop_rows(3, 4, [0, 1, 2]), impl=impl)
    full = ops.row_logsumexp(x, y, scale=1.0, impl=impl)
    joined = torch.logaddexp(empty, full)
    loops.assert_close(joined, full, atol=1e-12)
    gx, gy = torch.autograd.grad(joined.sum(), [x, y])
    assert torch.isfinite(gx).all()
    assert torch.isfinite(gy).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_large_scales_do_not_overflow(scale: float, dtype: torch.dtype, impl: str) -> None:
    x, y = random_pair(6, 8, 4, dtype=dtype)
    x, y = (t.mul(3).requires_grad_() for t in (x, y))
    mask, kept = mask_cases.MASKS["exclude"](6, 8, torch.Generator().manual_seed(0))
    got = ops.row_logsumexp(x, y, scale=scale, mask=mask, impl=impl)
    xs, ys = (t.detach().double().requires_grad_() for t in (x, y))
    expected = loops.row_logsumexp(xs, ys, scale=scale, kept=kept)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    loops.assert_close(got, expected, atol=1e-9, rtol=tolerance)
    upstream = torch.ones(6, dtype=torch.float64)
    for a, b in zip(loops.gradients(got, upstream, [x, y]), loops.gradients(expected, upstream, [xs, ys]), strict=True):
        assert torch.isfinite(a).all()
        size = float(b.abs().max())
        # An exponent of size `scale` rounds by scale * eps, which is the relative error of a probability.
        loops.assert_close(a, b, atol=size * scale * (1e-6 if dtype == torch.float32 else 1e-13))


@pytest.mark.parametrize("impl", IMPLS)
def test_shift_is_the_maximum_of_the_kept_scores(impl: str) -> None:
    """A dropped pair of score 1000 must not push the kept ones, of score -1000, below underflow."""
    x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    y = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.001]], requires_grad=True)
    got = ops.row_logsumexp(x, y, scale=1000.0, mask=torch.tensor([[False, True, True]]), impl=impl)
    assert got.item() == pytest.approx(-1000 + math.log(2), abs=1e-3)
    gx, _ = torch.autograd.grad(got.sum(), [x, y])
    # float32 holds an exponent of 1000 to 6e-5, which is the relative error of a probability.
    assert gx[0, 0].item() == pytest.approx(-1000, rel=1e-4)


@pytest.mark.parametrize("impl", IMPLS)
def test_large_biases_shift_the_maximum_too(impl: str) -> None:
    x, y = random_pair(3, 4, 2, dtype=torch.float32)
    bias = torch.tensor([-500.0, 300.0, 0.0, 299.0])
    got = ops.row_logsumexp(x, y, scale=10.0, mask=ops.PairMask.bias(bias, 3), normalize=True, impl=impl)
    kept = loops.Kept(torch.ones(3, 4, dtype=torch.bool), bias.double().expand(3, 4))
    loops.assert_close(got, loops.row_logsumexp(x, y, scale=10.0, kept=kept, normalize=True), atol=0, rtol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["row_logsumexp", "two_way_logsumexp", "row_softmax_mean"])
def test_bias_of_minus_infinity_drops_a_column(name: str, impl: str) -> None:
    """The logarithm of a prior of 0."""
    x, y = (t.requires_grad_() for t in random_pair(3, 4, 2))
    bias = torch.tensor([0.0, -math.inf, 0.0, 0.0], dtype=torch.float64)
    got = PRIMITIVES[name].call(x, y, scale=1.0, mask=ops.PairMask.bias(bias, 3), impl=impl)
    keep = torch.tensor([[True, False, True, True]]).expand(3, 4)
    expected = PRIMITIVES[name].define(x.detach(), y.detach(), scale=1.0, kept=loops.Kept(keep))
    loops.assert_close(got, expected, atol=1e-9)
    for gradient in torch.autograd.grad(got[:3].sum(), [x, y]):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_no_rows_and_no_columns(name: str, n: int, m: int, impl: str) -> None:
    x, y = (t.requires_grad_() for t in random_pair(n, m, 2))
    got = PRIMITIVES[name].call(x, y, scale=1.0, normalize=True, impl=impl)
    empty = -math.inf if "logsumexp" in name else 0.0
    rows = n + m if name == "two_way_logsumexp" else n
    assert got.tolist() == [empty] * rows
    for gradient in torch.autograd.grad(got.sum(), [x, y], allow_unused=True):
        assert gradient is None or not gradient.any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_single_precision_is_close_to_the_definition(name: str, impl: str) -> None:
    mask, kept = mask_cases.MASKS["exclude"](17, 13, torch.Generator().manual_seed(0))
    x, y = (t.requires_grad_() for t in random_pair(17, 13, 32, dtype=torch.float32))
    xs, ys = (t.detach().double().requires_grad_() for t in (x, y))
    got = PRIMITIVES[name].call(x, y, scale=3.0, mask=mask, normalize=True, impl=impl)
    expected = PRIMITIVES[name].define(xs, ys, scale=3.0, kept=kept, normalize=True)
    assert got.dtype == torch.float32
    loops.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.ones(len(expected), dtype=torch.float64)
    for a, b in zip(loops.gradients(got, upstream, [x, y]), loops.gradients(expected, upstream, [xs, ys]), strict=True):
        assert a.dtype == torch.float32
        loops.assert_close(a, b, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_half_inputs_are_accumulated_in_single_precision(name: str, dtype: torch.dtype, impl: str) -> None:
    x, y = (t.requires_grad_() for t in random_pair(17, 13, 32, dtype=dtype))
    xs, ys = (t.detach().double().requires_grad_() for t in (x, y))
    got = PRIMITIVES[name].call(x, y, scale=2.0, normalize=True, impl=impl)
    expected = PRIMITIVES[name].define(xs, ys, scale=2.0, kept=loops.everything(17, 13), normalize=True)
    assert got.dtype == torch.float32
    loops.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.ones(len(expected), dtype=torch.float64)
    for a, b in zip(loops.gradients(got, upstream, [x, y]), loops.gradients(expected, upstream, [xs, ys]), strict=True):
        assert a.dtype == dtype
        loops.assert_close(a, b, atol=2e-2 * float(b.abs().max()))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_autocast_around_a_primitive_changes_nothing(name: str, impl: str) -> None:
    x, y = random_pair(9, 7, 8, dtype=torch.float32)
    plain = PRIMITIVES[name].call(x, y, scale=50.0 if "exp" not in name else 2.0, impl=impl)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = PRIMITIVES[name].call(x, y, scale=50.0 if "exp" not in name else 2.0, impl=impl)
    assert torch.equal(plain, inside)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_layout_of_the_inputs_does_not_matter(name: str, layout: str, impl: str) -> None:
    x, y = random_pair(5, 4, 3)
    base = {
        "transposed": lambda t: t.T.contiguous().requires_grad_(),
        "strided": lambda t: t.repeat_interleave(2, 0).requires_grad_(),
        "expanded": lambda t: t[:1].clone().requires_grad_(),
    }[layout]
    view = {"transposed": lambda t: t.T, "strided": lambda t: t[::2], "expanded": lambda t: t.expand(4, 3)}[layout]
    a, b = base(x), base(y)
    c, d = (t.detach().clone().requires_grad_() for t in (a, b))
    n, m = len(view(a)), len(view(b))
    got = PRIMITIVES[name].call(view(a), view(b), scale=1.1, impl=impl)
    expected = PRIMITIVES[name].define(view(c), view(d), scale=1.1, kept=loops.everything(n, m))
    loops.assert_close(got, expected, atol=1e-9)
    upstream = torch.linspace(1, 2, len(expected), dtype=torch.float64)
    for ours, theirs in zip(
        loops.gradients(got, upstream, [a, b]), loops.gradients(expected, upstream, [c, d]), strict=True
    ):
        loops.assert_close(ours, theirs, atol=1e-8)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_two_backward_passes_and_double_use(name: str, impl: str) -> None:
    x, y = (t.requires_grad_() for t in random_pair(5, 4, 3))
    value = PRIMITIVES[name].call(x, y, scale=1.1, impl=impl).sum()
    first = torch.autograd.grad(value, [x, y], retain_graph=True)
    second = torch.autograd.grad(value, [x, y], retain_graph=True)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    twice = PRIMITIVES[name].call(x, y, scale=1.1, impl=impl).sum() + 2 * value
    for a, b in zip(first, torch.autograd.grad(twice, [x, y]), strict=True):
        loops.assert_close(b, 3 * a, atol=1e-9)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_double_backward_is_refused(name: str) -> None:
    x, y = (t.requires_grad_() for t in random_pair(5, 4, 3))
    value = PRIMITIVES[name].call(x, y, scale=1.1, impl="chunked").square().sum()
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(slope.square().sum(), x)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_gradient_of_one_side_only(name: str) -> None:
    x, y = random_pair(5, 4, 3)
    whole_x, whole_y = x.clone().requires_grad_(), y.clone().requires_grad_()
    whole = torch.autograd.grad(PRIMITIVES[name].call(whole_x, whole_y, scale=1.1).sum(), [whole_x, whole_y])
    only_x, only_y = x.clone().requires_grad_(), y.clone().requires_grad_()
    loops.assert_close(
        torch.autograd.grad(PRIMITIVES[name].call(only_x, y, scale=1.1).sum(), only_x)[0], whole[0], atol=1e-12
    )
    loops.assert_close(
        torch.autograd.grad(PRIMITIVES[name].call(x, only_y, scale=1.1).sum(), only_y)[0], whole[1], atol=1e-12
    )


@pytest.mark.parametrize("mask", ["union & exclude", "exclude & bias"])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_tiles_of_their_real_size(name: str, mask: str) -> None:
    """Odd sizes just above one tile, too many pairs for loops: the reference, held to loops elsewhere, judges."""
    n, m = 517, 1031
    built, _ = mask_cases.MASKS[mask](n, m, torch.Generator().manual_seed(0))
    x, y = random_pair(n, m, 3)
    found = []
    for impl in IMPLS:
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        scale = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
        value = PRIMITIVES[name].call(a, b, scale=scale, mask=built, normalize=True, impl=impl)
        upstream = torch.linspace(-1, 2, len(value), dtype=torch.float64)
        found.append([value, *loops.gradients(value, upstream, [a, b, scale])])
    for what, ours, theirs in zip(("value", "d/dx", "d/dy", "d/dscale"), found[1], found[0], strict=True):
        size = torch.where(theirs.isfinite(), theirs, 0).abs().max().item()
        loops.assert_close(ours, theirs, atol=1e-11 * max(1.0, size), what=what)


@given(
    keep=st.integers(1, 6).flatmap(
        lambda m: st.lists(st.lists(st.booleans(), min_size=m, max_size=m), min_size=1, max_size=6)
    ),
    name=st.sampled_from(sorted(PRIMITIVES)),
    impl=st.sampled_from(IMPLS),
    normalize=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_mask_pattern(keep: list[list[bool]], name: str, impl: str, normalize: bool, seed: int) -> None:
    mask = torch.tensor(keep)
    n, m = mask.shape
    x, y = (t.requires_grad_() for t in random_pair(n, m, 3, seed))
    xs, ys = (t.detach().clone().requires_grad_() for t in (x, y))
    got = PRIMITIVES[name].call(x, y, scale=1.5, mask=mask, normalize=normalize, impl=impl)
    expected = PRIMITIVES[name].define(xs, ys, scale=1.5, kept=loops.Kept(mask), normalize=normalize)
    loops.assert_close(got, expected, atol=1e-9)
    upstream = torch.ones(len(expected), dtype=torch.float64)
    for a, b in zip(loops.gradients(got, upstream, [x, y]), loops.gradients(expected, upstream, [xs, ys]), strict=True):
        loops.assert_close(a, b, atol=1e-8)


@given(
    row_ids=st.lists(st.integers(-1, 3), min_size=1, max_size=7),
    column_ids=st.lists(st.integers(-1, 3), min_size=1, max_size=7),
    offset=st.integers(-3, 3),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_ids(row_ids: list[int], column_ids: list[int], offset: int) -> None:
    a, b, n, m = torch.tensor(row_ids), torch.tensor(column_ids), len(row_ids), len(column_ids)
    mask = ops.PairMask.exclude(a, b) & ops.PairMask.exclude_self(n, m, offset=offset)
    kept = loops.keep_where(
        n, m, lambda i, j: not (row_ids[i] >= 0 and row_ids[i] == column_ids[j]) and j != i + offset
    )
    assert torch.equal(mask.to_dense(), kept.keep)
    x, y = random_pair(n, m, 2)
    expected = loops.row_logsumexp(x, y, scale=1.0, kept=kept)
    for impl in IMPLS:
        loops.assert_close(ops.row_logsumexp(x, y, scale=1.0, mask=mask, impl=impl), expected, atol=1e-9)
