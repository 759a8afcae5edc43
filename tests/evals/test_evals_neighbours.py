"""Nearest neighbours are those of all cosines, whichever way they are searched and however many are tied."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from kinfolk.data.sources import DigitsConfig
from kinfolk.evals import RawPixels, extract, neighbours
from kinfolk.evals.neighbours import GRID, nearest, nearest_by_candidates, normalised

Found = tuple[Tensor, Tensor]


def gaussian(n: int, d: int = 12, *, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def tiles(queries: Tensor, keys: Tensor, *, k: int, exclude: Tensor | None = None) -> Found:
    return nearest(queries, keys, k=k, exclude=exclude, tile=64)


def by_sorting(queries: Tensor, keys: Tensor, *, k: int, exclude: Tensor | None = None) -> list[list[int]]:
    """The definition, query by query: highest grid point first, lower index first among equals."""
    answers = []
    for row, query in enumerate(queries.numpy()):
        units = np.round(keys.numpy() @ query / GRID)
        left = [i for i in range(len(keys)) if exclude is None or i != int(exclude[row])]
        answers.append(sorted(left, key=lambda i: (-units[i], i))[:k])
    return answers


CASES = {
    "random": (gaussian(90), gaussian(250, seed=1)),
    "one feature": (gaussian(20, 1), gaussian(250, 1, seed=1)),
    "every key thrice": (gaussian(90), gaussian(80, seed=1).repeat(3, 1)),
    "collapsed but for rounding": (
        torch.ones(30, 12) + 1e-7 * gaussian(30),
        torch.ones(250, 12) + 1e-7 * gaussian(250),
    ),
    "all equal": (torch.ones(30, 12), torch.ones(250, 12)),
    "all zero": (torch.zeros(30, 12), torch.zeros(250, 12)),
    "some zero": (gaussian(60) * (torch.arange(60) % 3 > 0)[:, None], gaussian(250) * (torch.arange(250) % 2)[:, None]),
    "tight clusters": (
        torch.eye(12)[torch.arange(60) % 12] + 1e-4 * gaussian(60),
        torch.eye(12)[torch.arange(250) % 12] + 1e-4 * gaussian(250, seed=1),
    ),
    "signs": (gaussian(60).sign(), gaussian(250, seed=1).sign()),
}


@pytest.mark.parametrize("name", CASES)
def test_tiles_find_what_sorting_finds(name: str) -> None:
    queries, keys = map(normalised, CASES[name])
    cosines, indices = tiles(queries, keys, k=7)
    assert indices.tolist() == by_sorting(queries, keys, k=7)
    torch.testing.assert_close(cosines, (queries @ keys.T).gather(1, indices), atol=GRID, rtol=0)


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("name", CASES)
def test_candidates_give_the_same_bits(name: str, k: int) -> None:
    pytest.importorskip("faiss")
    queries, keys = map(normalised, CASES[name])
    for found, expected in zip(nearest_by_candidates(queries, keys, k=k), tiles(queries, keys, k=k), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["random", "every key thrice", "all equal"])
def test_candidates_leave_the_query_out(name: str) -> None:
    pytest.importorskip("faiss")
    rows = normalised(CASES[name][1])
    own = torch.arange(len(rows))
    own[::5] = -1
    found = nearest_by_candidates(rows, rows, k=6, exclude=own)
    assert torch.equal(found[1], tiles(rows, rows, k=6, exclude=own)[1])
    assert found[1].tolist() == by_sorting(rows, rows, k=6, exclude=own)


@pytest.mark.parametrize("name", ["random", "all equal", "some zero"])
def test_candidates_do_not_depend_on_the_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 7 queries: some end early, and after an undecided one the rest goes without faiss."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(neighbours, "_SEARCHED", 7)
    queries, keys = map(normalised, CASES[name])
    exclude = torch.arange(len(queries))
    found = nearest_by_candidates(queries, keys, k=3, exclude=exclude)
    assert all(map(torch.equal, found, tiles(queries, keys, k=3, exclude=exclude)))


def test_candidates_alone_would_be_wrong_and_are_known_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 equal keys: float32 keeps any 19 of them, and only the search without faiss knows the lowest three."""
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(faiss.IndexFlatIP, "search", lambda self, x, k: _last(x, k))
    rows = normalised(torch.ones(200, 4))
    assert nearest_by_candidates(rows[:5], rows, k=3)[1].tolist() == [[0, 1, 2]] * 5
    monkeypatch.setattr(neighbours, "_ranked_again", _gullible(neighbours._ranked_again))
    assert nearest_by_candidates(rows[:5], rows, k=3)[1].tolist() == [[181, 182, 183]] * 5


def _last(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((len(x), k), np.float32), np.tile(np.arange(200 - k, 200), (len(x), 1))


def _gullible(judge):
    def trusting(*args, **settings):
        near, which, sure = judge(*args, **settings)
        return near, which, torch.ones_like(sure)

    return trusting


def test_keys_in_the_wrong_order_by_float32_are_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosines two grid points apart that float32 scores cannot tell apart: the candidates are ranked again."""
    pytest.importorskip("faiss")
    angles = torch.arange(300, dtype=torch.float64) * 3e-6 + 0.7
    keys = torch.stack([angles.cos(), angles.sin()], dim=1)
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = nearest_by_candidates(queries, keys, k=4)[1]
    assert found.tolist() == by_sorting(queries, keys, k=4) == [[0, 1, 2, 3], [299, 298, 297, 296]]


def test_a_cosine_on_the_edge_of_a_grid_cell_is_left_to_the_reference() -> None:
    """Its last bit, which another order of summation may change, would decide its grid point."""
    edge = (2**19 + 0.5) * GRID
    keys = torch.tensor([[x, (1 - x * x) ** 0.5] for x in (edge, 0.3, 0.1)], dtype=torch.float64)
    query, found = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0, 1]])
    scores = torch.tensor([[edge, 0.3]])
    sure = neighbours._ranked_again(query, keys, found, scores, k=1, exclude=None)[2]
    assert sure.tolist() == [False]
    keys[0, 0] = edge + 0.3 * GRID
    assert neighbours._ranked_again(query, keys, found, scores, k=1, exclude=None)[2].tolist() == [True]


@pytest.mark.parametrize("k", [250, 400])
def test_more_neighbours_than_keys_gives_all_of_them(k: int) -> None:
    queries, keys = map(normalised, CASES["random"])
    cosines, indices = nearest(queries[:5], keys, k=k, exclude=torch.tensor([3, -1, 0, 1, 2]))
    assert indices.shape == (5, 250)
    assert indices[:, -1].tolist()[0] == -1
    assert indices[1].sort().values.tolist() == list(range(250))
    assert cosines[0, -1] == -torch.inf


def test_a_single_key_that_is_the_query_is_no_neighbour() -> None:
    row = normalised(torch.ones(1, 3))
    cosines, indices = nearest(row, row, k=4, exclude=torch.tensor([0]))
    assert (cosines.tolist(), indices.tolist()) == ([[-torch.inf]], [[-1]])


def test_no_query_has_no_neighbours() -> None:
    cosines, indices = nearest(torch.zeros(0, 3, dtype=torch.float64), normalised(torch.eye(3)), k=2)
    assert cosines.shape == indices.shape == (0, 2)


def test_faiss_is_for_large_searches_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    rows = normalised(gaussian(300))
    asked: list[int] = []
    monkeypatch.setattr(
        neighbours, "nearest_by_candidates", lambda q, m, *, k, exclude: asked.append(k) or tiles(q, m, k=k)
    )
    nearest(rows, rows, k=5)
    assert asked == []  # small
    monkeypatch.setattr(neighbours, "_WORTH_IT", 300 * 300)
    nearest(rows, rows, k=5)
    assert asked == [5]
    nearest(rows, rows, k=5, tile=8)  # the reference, asked for by name
    nearest(rows, rows, k=70)  # candidates would be a third of the keys
    assert not neighbours._is_worth_it(rows.to("meta"), rows.to("meta"), 5)
    assert asked == [5]


def test_without_faiss_large_searches_go_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normalised(gaussian(300))
    monkeypatch.setattr(neighbours, "_WORTH_IT", 1)
    monkeypatch.setattr(neighbours, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "faiss", None)  # an import would fail
    assert nearest(rows, rows, k=5)[1].tolist() == by_sorting(rows, rows, k=5)


def test_without_faiss_the_search_by_candidates_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = normalised(gaussian(9))
    with pytest.raises(ImportError, match=r'needs faiss, which is not installed: pip install "kinfolk\[index\]"'):
        nearest_by_candidates(rows, rows, k=1)


def test_digits_have_the_same_neighbours_both_ways() -> None:
    pytest.importorskip("faiss")
    splits = DigitsConfig().load()
    raw = RawPixels(channels=1, image_size=(8, 8))
    keys, queries = (normalised(extract(raw, source).rows) for source in (splits.train, splits.test))
    assert all(map(torch.equal, nearest_by_candidates(queries, keys, k=20), tiles(queries, keys, k=20)))


def test_a_gpu_finds_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    queries, keys = map(normalised, CASES["every key thrice"])
    found = nearest(queries.cuda(), keys.cuda(), k=7, exclude=torch.arange(90).cuda())
    assert found[1].tolist() == by_sorting(queries, keys, k=7, exclude=torch.arange(90))
