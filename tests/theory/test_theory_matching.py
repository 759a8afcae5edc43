"""Matching by scores: orders never enter, every way does what it says, and nothing takes a matrix that need not."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinfolk.theory import match, sinkhorn, top_pairs

WAYS = ["argmax", "mutual", "assignment", "sinkhorn"]
EVERY_WAY = pytest.mark.parametrize("how", WAYS)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffle(n: int, seed: int = 0) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@EVERY_WAY
@pytest.mark.parametrize("products", [False, True], ids=["matrix", "vectors"])
def test_permuted_columns_permute_the_answer(how: Any, products: bool) -> None:
    x, y = noise(8, 3), noise(11, 3, seed=1)
    expected = match((x, y) if products else x @ y.T, how=how, temperature=0.5)
    rows, columns = shuffle(8), shuffle(11, seed=1)
    moved = (x[rows], y[columns])
    got = match(moved if products else moved[0] @ moved[1].T, how=how, temperature=0.5)
    back = torch.where(got.columns < 0, -1, columns[got.columns])
    assert torch.equal(back, expected.columns[rows])
    torch.testing.assert_close(got.confidence, expected.confidence[rows], atol=1e-12, rtol=0)


@EVERY_WAY
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (9, 5)], ids=str)
def test_vectors_and_their_products_give_one_answer(how: Any, shape: tuple[int, int]) -> None:
    x, y = noise(shape[0], 3), noise(shape[1], 3, seed=1)
    of_matrix = match(x @ y.T, how=how)
    for impl in ("chunked", "reference"):
        of_vectors = match((x, y), how=how, impl=impl)
        assert torch.equal(of_vectors.columns, of_matrix.columns)
        torch.testing.assert_close(of_vectors.confidence, of_matrix.confidence, atol=1e-12, rtol=0)
    unit = [torch.nn.functional.normalize(t, dim=1) for t in (x, y)]
    assert torch.equal(match((x, y), how=how, normalize=True).columns, match(unit[0] @ unit[1].T, how=how).columns)


def test_argmax_and_mutual_by_loops() -> None:
    s = noise(7, 9)
    best = [max(range(9), key=lambda j: float(s[i, j])) for i in range(7)]
    back = [max(range(7), key=lambda i: float(s[i, j])) for j in range(9)]
    assert match(s).columns.tolist() == best
    mutual = [j if back[j] == i else -1 for i, j in enumerate(best)]
    assert -1 in mutual
    assert match(s, how="mutual").columns.tolist() == mutual


@pytest.mark.parametrize("shape", [(6, 6), (4, 6), (6, 4)], ids=str)
def test_assignment_is_the_best_of_all_orders(shape: tuple[int, int]) -> None:
    s = noise(*shape)
    n, m = shape
    if n <= m:
        best = max(itertools.permutations(range(m), n), key=lambda order: sum(float(s[i, order[i]]) for i in range(n)))
    else:
        rows = max(itertools.permutations(range(n), m), key=lambda order: sum(float(s[order[j], j]) for j in range(m)))
        best = tuple(rows.index(i) if i in rows else -1 for i in range(n))
    assert match(s, how="assignment").columns.tolist() == list(best)


def test_confidence_is_a_share() -> None:
    s = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    a, b = 1 / (1 + math.exp(-2 / 0.5)), 0.5
    assert match(s, temperature=0.5).confidence.tolist() == pytest.approx([a, b])
    assert match(s[:1].T, how="mutual", temperature=0.5).confidence.tolist() == pytest.approx([a, 0])
    both = match(s, how="assignment", temperature=0.5).confidence
    assert both.tolist() == pytest.approx([a, b])
    skewed = torch.tensor([[2.0, 0.0], [3.0, 9.0]], dtype=torch.float64)
    assert match(skewed, how="assignment").confidence[0] == pytest.approx(1 / (1 + math.e))  # the column prefers row 1


@EVERY_WAY
@pytest.mark.parametrize("products", [False, True], ids=["matrix", "vectors"])
def test_columns_that_stand_for_several_rows(how: Any, products: bool) -> None:
    x, y, t = noise(9, 3), noise(4, 3, seed=1), 0.5
    s, copies = x @ y.T, torch.tensor([1, 3, 12, 2])
    found = match((x, y) if products else s, how=how, copies=copies, temperature=t, tolerance=1e-12)
    given, taken = (s / t).softmax(1), (s / t).softmax(0)
    for i, j in enumerate(found.columns.tolist()):
        if j < 0:
            assert found.confidence[i] == 0
        elif how == "argmax":
            assert found.confidence[i].item() == pytest.approx(given[i, j].item())
        elif how != "sinkhorn":
            both = min(given[i, j].item(), copies[j].item() * taken[i, j].item())
            assert found.confidence[i].item() == pytest.approx(both)
    if how == "mutual":
        best = s.argmax(1).tolist()
        within = [set(s[:, j].topk(min(9, int(copies[j]))).indices.tolist()) for j in range(4)]
        assert found.columns.tolist() == [j if i in within[j] else -1 for i, j in enumerate(best)]
        assert found.columns.tolist() != match(s, how=how).columns.tolist()
    column_of = torch.arange(4).repeat_interleave(copies)
    if how == "assignment":
        repeated = match(s[:, column_of], how=how)
        assert torch.equal(found.columns, column_of[repeated.columns])
        assert bool((found.columns.bincount(minlength=4) <= copies).all())
    if how == "sinkhorn":
        plan = sinkhorn(s[:, column_of], temperature=t, tolerance=1e-12)
        mass = torch.exp(s[:, column_of] / t + plan.row_potential[:, None] + plan.column_potential)
        mass = torch.zeros_like(s).index_add(1, column_of, mass)
        assert torch.equal(found.columns, mass.argmax(1))
        torch.testing.assert_close(found.confidence, mass.max(1).values / mass.sum(1), atol=1e-9, rtol=0)


@EVERY_WAY
def test_one_copy_each_changes_nothing(how: Any) -> None:
    s = noise(6, 8)
    plain, ones = match(s, how=how), match(s, how=how, copies=torch.ones(8, dtype=torch.int32))
    assert torch.equal(plain.columns, ones.columns)
    torch.testing.assert_close(plain.confidence, ones.confidence, atol=1e-12, rtol=0)


def test_sinkhorn_at_a_low_temperature_is_the_assignment() -> None:
    greedy = 0
    for seed in range(5):
        s = noise(8, 8, seed=seed)
        found = match(s, how="sinkhorn", temperature=0.02, start_temperature=4.0)
        assert torch.equal(found.columns, match(s, how="assignment").columns)
        assert found.confidence.min() > 0.8
        greedy += int(torch.equal(found.columns, match(s).columns))
    assert greedy == 0


def test_a_warm_start_arrives_at_the_same_plan_sooner() -> None:
    s = noise(20, 4) @ noise(20, 4, seed=1).T
    cold = sinkhorn(s, temperature=0.02, tolerance=1e-3)
    warm = sinkhorn(s, temperature=0.02, tolerance=1e-3, start_temperature=10.0)
    assert warm.iterations < cold.iterations / 2
    cold, warm = (torch.exp(s / 0.02 + p.row_potential[:, None] + p.column_potential) for p in (cold, warm))
    assert (cold - warm).abs().sum() < 0.05


@pytest.mark.parametrize("how", ["mutual", "assignment", "sinkhorn"])
def test_shuffled_pairs_are_found_again(how: Any) -> None:
    codes, order = noise(200, 16), shuffle(200)
    x, y = codes + 0.2 * noise(200, 16, seed=1), (codes + 0.2 * noise(200, 16, seed=2))[order]
    found = match((x, y), how=how, temperature=0.1, normalize=True)
    right = order[found.columns.clamp_min(0)] == torch.arange(200)
    assert right[found.columns >= 0].double().mean() > 0.98
    assert (found.columns >= 0).double().mean() > 0.95


def plan_of(s: Tensor, temperature: float, **options: Any) -> Tensor:
    plan = sinkhorn(s, temperature=temperature, **options)
    return torch.exp(s / temperature + plan.row_potential[:, None] + plan.column_potential)


def test_plan_has_the_masses_asked_for() -> None:
    s, rows, columns = noise(5, 7), torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0]), torch.arange(7.0)
    plan = plan_of(s, 0.3, row_mass=rows, column_mass=columns, tolerance=1e-12)
    torch.testing.assert_close(plan.sum(1), rows.double() / 8, atol=1e-12, rtol=0)
    torch.testing.assert_close(plan.sum(0), columns.double() / 21, atol=1e-12, rtol=0)
    torch.testing.assert_close(plan_of(s, 1e9), torch.full((5, 7), 1 / 35, dtype=torch.float64), atol=1e-8, rtol=0)


def test_plan_maximises_what_it_says() -> None:
    """Along any change that keeps the masses, score plus entropy falls."""
    s, tau = noise(4, 4), 0.5
    plan = plan_of(s, tau, tolerance=1e-13)

    def objective(p: Tensor) -> float:
        return float((p * s).sum() - tau * (p * p.log()).sum())

    for i, k, j, m in itertools.product(range(2), range(2, 4), range(2), range(2, 4)):
        for step in (1e-3, -1e-3):
            moved = plan.clone()
            moved[i, j] += step * plan.min()
            moved[k, m] += step * plan.min()
            moved[i, m] -= step * plan.min()
            moved[k, j] -= step * plan.min()
            assert objective(moved) < objective(plan)


def test_plan_does_not_know_constants_of_rows_and_columns() -> None:
    s = noise(5, 6)
    shifted = s + noise(5, 1, seed=1) + 500 * noise(1, 6, seed=2)
    torch.testing.assert_close(
        plan_of(shifted, 0.4, tolerance=1e-12), plan_of(s, 0.4, tolerance=1e-12), atol=1e-10, rtol=0
    )


def test_sinkhorn_says_how_far_it_is() -> None:
    s = noise(30, 30)
    with pytest.warns(RuntimeWarning, match=r"(?s)after 3 iterations.*0\.001"):
        early = sinkhorn(s, temperature=0.001, iterations=3)
    assert early.iterations == 3
    assert early.error > 1e-3
    done = sinkhorn(s, temperature=1.0, tolerance=1e-8)
    assert done.error <= 1e-8
    assert 1 < done.iterations < 1000


def test_top_pairs_are_the_first_of_a_sorted_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[top_pairs.__module__], "_NUMBERS", 20)  # three rows at a time
    x, y = noise(10, 3), noise(6, 3, seed=1)
    s = x @ y.T
    for k in (1, 7, 60):
        expected = s.flatten().topk(k)
        for scores in (s, (x, y)):
            values, rows, columns = top_pairs(scores, k=k)
            torch.testing.assert_close(values, expected.values, atol=1e-14, rtol=0)
            assert torch.equal(rows * 6 + columns, expected.indices)


def test_top_pairs_that_are_not_there() -> None:
    s = torch.tensor([[-math.inf, 1.0], [0.0, -math.inf]])
    values, rows, columns = top_pairs(s, k=3)
    assert values.tolist() == [1.0, 0.0, -math.inf]
    assert rows.tolist() == [0, 1, -1]
    assert columns.tolist() == [1, 0, -1]
    assert top_pairs((torch.zeros(0, 2), torch.zeros(3, 2)), k=2)[1].tolist() == [-1, -1]
    assert top_pairs(torch.tensor([[math.nan, 2.0]]), k=1)[0].isnan().all()


def test_nothing_to_match() -> None:
    for how in WAYS:
        found = match((torch.zeros(0, 2), torch.zeros(3, 2)), how=how)  # type: ignore[arg-type]
        assert found.columns.shape == found.confidence.shape == (0,)
        assert found.columns.dtype == torch.int64


def test_matches_carry_no_gradient() -> None:
    x, y = noise(4, 2).requires_grad_(), noise(4, 2, seed=1).requires_grad_()
    for how in WAYS:
        assert not match((x, y), how=how).confidence.requires_grad  # type: ignore[arg-type]
    assert not top_pairs((x, y), k=2)[0].requires_grad


def test_what_cannot_be_matched_is_refused() -> None:
    s = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"(?s)how.*sinkhorn.*nearest"):
        match(s, how="nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"temperature.*-1"):
        match(s, temperature=-1.0)
    with pytest.raises(ValueError, match=r"(?s)scores.*\(3,\)"):
        match(s[0])
    with pytest.raises(ValueError, match=r"(?s)column.*\(3, 0\)"):
        match(s[:, :0])
    with pytest.raises(ValueError, match=r"(?s)row.*\(0, 3\)"):
        match((s, s[:0]))
    with pytest.raises(TypeError, match="int64"):
        match(s.long())
    with pytest.raises(ValueError, match=r"at least 1 for each of 3 columns, found \(2,\)"):
        match(s, copies=torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"at least 1 for each of 3 columns, found \(3,\) with 0"):
        match(s, copies=torch.tensor([1, 0, 2]))
    with pytest.raises(TypeError, match=r"copies must be an integer tensor, found torch.float32"):
        match(s, copies=torch.ones(3))
    with pytest.raises(ValueError, match=r"(?s)k.*0"):
        top_pairs(s, k=0)
    with pytest.raises(ValueError, match=r"(?s)3 numbers.*\(2,\)"):
        sinkhorn(s, row_mass=torch.ones(2))
    with pytest.raises(ValueError, match=r"(?s)at least 0"):
        sinkhorn(s, column_mass=torch.tensor([1.0, -1.0, 2.0]))
    with pytest.raises(ValueError, match=r"(?s)iterations.*0"):
        sinkhorn(s, iterations=0)


@EVERY_WAY
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(how: Any, bad: float) -> None:
    s = noise(3, 4)
    s[1, 2] = bad
    with pytest.raises(ValueError, match=r"(?s)scores.*(NaN|infinite)"):
        match(s, how=how)
    x = noise(3, 2)
    x[1, 0] = math.nan
    with pytest.raises(ValueError, match=r"(?s)scores.*NaN"):
        match((noise(3, 2, seed=1), x), how=how)


@pytest.mark.parametrize("how", ["argmax", "mutual"])
def test_pairs_that_must_not_be(how: Any) -> None:
    s = torch.tensor([[-math.inf, -math.inf], [-math.inf, 2.0], [1.0, 3.0]])
    found = match(s, how=how)
    assert found.columns.tolist() == {"argmax": [-1, 1, 1], "mutual": [-1, -1, 1]}[how]
    assert found.confidence[0] == 0.0
    assert not found.confidence.isnan().any()


def test_assignment_without_scipy_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"(?s)pip install.*sinkhorn"):
        match(torch.zeros(2, 2), how="assignment")


def test_importing_theory_costs_torch_only() -> None:
    code = "import torch, sys; import kinfolk.theory; print('scipy' in sys.modules, 'numpy.testing' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"


GROWTH = r"""
import re, sys, torch
from kinfolk.theory import match, sinkhorn, top_pairs
torch.set_num_threads(1)
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1))
def step(n):
    x, y = torch.randn(2, n, 16)
    for call in sys.argv[1:]:
        eval(call)
step(64)
before = peak()
step(4000)
print((peak() - before) * 1024)
"""


LINEAR = [
    "top_pairs((x, y), k=len(x))",
    "match((x, y), how='mutual')",
    "match((x, y), how='sinkhorn', temperature=10.0, iterations=3)",
]


@pytest.mark.parametrize(("calls", "linear"), [(LINEAR, True), (["match(x @ y.T)"], False)], ids=["vectors", "matrix"])
def test_memory_is_linear_unless_a_matrix_is_given(calls: list[str], linear: bool) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which this system has not")
    command = [sys.executable, "-W", "ignore", "-c", GROWTH, *calls]
    growth = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    assert (growth < 40e6) is linear, f"{growth / 1e6:.0f} MB; one float32 matrix of 4000 x 4000 is 64"
