"""What the chunked sweeps do besides the plain case: constant keys, many equal ids, wide ranges, few tensors kept."""

from __future__ import annotations

import mask_cases
import pairwise_loops as loops
import pytest
import torch
from primitive_cases import random_pair

from kinfolk import ops
from kinfolk.ops import PairMask
from kinfolk.ops.chunked import tiles

pytestmark = pytest.mark.usefixtures("small_tiles")
UPSTREAM = torch.randn(11, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.7, 300.0])
@pytest.mark.parametrize("mask_name", mask_cases.MASKS)
def test_keys_without_gradient(mask_name: str, scale: float) -> None:
    """The forward sweep averages the keys then; 300 is beyond what needs no running maximum."""
    mask, kept = mask_cases.MASKS[mask_name](11, 10, torch.Generator().manual_seed(3))
    x, y = random_pair(11, 10, 4)
    rate = torch.tensor(scale, dtype=torch.float64)
    ours, theirs = ([t.clone().requires_grad_() for t in (x, rate)] for _ in range(2))
    got = ops.row_logsumexp(ours[0], y, scale=ours[1], mask=mask)
    expected = loops.row_logsumexp(theirs[0], y, scale=theirs[1], kept=kept)
    loops.assert_close(got, expected, atol=1e-9, what="value")
    for what, a, b in zip(
        ("d/dx", "d/dscale"),
        loops.gradients(got, UPSTREAM, ours),
        loops.gradients(expected, UPSTREAM, theirs),
        strict=True,
    ):
        loops.assert_close(a, b, atol=1e-8, what=what)


@pytest.mark.parametrize("form", ["exclude", "only", "union", "margin", "exclude & only"])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_ids_that_match_often_are_compared_tile_by_tile(form: str, scale: float) -> None:
    """60 x 60 pairs of two kinds match more often than a list of places may hold."""
    n = 60
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randint(-1, 2, (n,), generator=generator) for _ in range(2))
    assert PairMask.exclude(a, b).excluded[0].matches(limit=4 * 2 * n) is None
    mask = {
        "exclude": PairMask.exclude(a, b),
        "only": PairMask.only(a, b),
        "union": PairMask.only(a, b, or_ids=(b, a)),
        "margin": PairMask.bias_on_equal(a, b, -0.75),
        "exclude & only": PairMask.exclude(a, b) & PairMask.only(b, a, or_ids=(a, a)),
    }[form]
    x, y = random_pair(n, n, 3)
    for function in (ops.row_logsumexp, lambda *v, **k: torch.cat(ops.two_way_logsumexp(*v, **k))):
        results = []
        for impl in ("chunked", "reference"):
            leaves = [t.clone().requires_grad_() for t in (x, y)]
            value = function(*leaves, scale=scale, mask=mask, impl=impl)
            finite = value.where(value.isfinite(), torch.zeros_like(value))
            results.append((value.nan_to_num(neginf=-1e3), *torch.autograd.grad(finite.sum(), leaves)))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-9)


def test_matches_are_those_of_the_comparison() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randint(-1, 6, (13,), generator=generator), torch.randint(-1, 6, (17,), generator=generator)
    pair = PairMask.exclude(a, b).excluded[0]
    found = pair.matches(limit=10_000)
    assert found is not None
    dense = torch.zeros(13, 17, dtype=torch.bool)
    dense[found] = True
    assert torch.equal(dense, pair.equal((0, 13), (0, 17)))
    assert len(found[0]) == int(dense.sum())


def test_nothing_is_kept_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under no_grad no score may be stored, however few there are."""
    monkeypatch.setattr(tiles, "_KEPT_BYTES", 1 << 30)
    stored: list[int] = []
    monkeypatch.setattr(tiles.Kept, "put", lambda self, tile: stored.append(tile.numel()))
    x, y = random_pair(11, 10, 4)
    x.requires_grad_()
    with torch.no_grad():
        ops.row_logsumexp(x, y, scale=1.0)
        ops.two_way_logsumexp(x, y, scale=1.0)
    assert not stored
    ops.row_logsumexp(x, y.requires_grad_(), scale=1.0, recompute=False)
    assert sum(stored) == 110


@pytest.mark.parametrize("recompute", [True, False, None])
def test_recompute_changes_no_value(recompute: bool | None) -> None:
    x, y = (t.requires_grad_() for t in random_pair(11, 10, 4))
    for function in (ops.row_logsumexp, lambda *v, **k: torch.cat(ops.two_way_logsumexp(*v, **k))):
        got = function(x, y, scale=3.0, recompute=recompute)
        expected = function(x, y, scale=3.0, impl="reference")
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
        pairs = zip(torch.autograd.grad(got.sum(), (x, y)), torch.autograd.grad(expected.sum(), (x, y)), strict=True)
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


@pytest.mark.parametrize("scale", [0.0, -2.0, -300.0])
def test_scales_of_zero_and_below(scale: float) -> None:
    x, y = random_pair(11, 10, 4)
    torch.testing.assert_close(
        ops.row_logsumexp(x, y, scale=scale), torch.logsumexp(scale * x @ y.T, 1), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5000), (5000, 1), (100, 100), (3000, 3000), (10**6, 10**6)])
def test_tiles_fit_the_problem(monkeypatch: pytest.MonkeyPatch, n: int, m: int) -> None:
    monkeypatch.setattr(tiles, "_ROWS", None)
    like = torch.empty(0)
    height, width = tiles.tile_shape(n, m, like)
    assert 1 <= height <= n
    assert 1 <= width <= m
    assert height * width * 4 <= 64 << 20
    assert 1 <= tiles.triangle_step(n, like) <= n
