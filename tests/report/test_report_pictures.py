"""Every picture: a valid PNG of the expected size whose pixels say what the data says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinfolk.report import (
    Bar,
    draw_bars,
    draw_curves,
    draw_map,
    draw_neighbours,
    draw_overview,
    draw_similarities,
    draw_weights,
)
from kinfolk.report.bars import ENCODER_COLOURS
from kinfolk.report.style import DPI, RIGHT, WIDTH, WRONG, class_colour, picture

Draw = Callable[[np.random.Generator, Path], Path]


def _images(rng: np.random.Generator, n: int, channels: int = 1) -> np.ndarray:
    return rng.integers(0, 256, (n, channels, 6, 5), dtype=np.uint8)


def _weights(rng: np.random.Generator, rows: int, columns: int, *, square: bool = False) -> np.ndarray:
    raw = rng.random((rows, columns)) + 0.01
    if square:
        np.fill_diagonal(raw, 0)
    return raw / raw.sum(1, keepdims=True)


def _curves(rng: np.random.Generator, path: Path) -> Path:
    steps = np.arange(30.0)
    return draw_curves({"loss": (steps, rng.random(30)), "effective_rank": (steps, rng.random(30))}, path)


def _map(rng: np.random.Generator, path: Path) -> Path:
    points = {"one": rng.random((40, 2)), "two": rng.random((40, 2))}
    return draw_map(points, _images(rng, 40), path, labels=rng.integers(-1, 5, 40))


def _neighbours(rng: np.random.Generator, path: Path) -> Path:
    found = {"a": rng.integers(0, 20, (3, 4)), "b": rng.integers(0, 20, (3, 4))}
    return draw_neighbours(_images(rng, 20, 3), found, path, queries=np.array([0, 1, 2]), labels=rng.integers(0, 2, 20))


def _similarities(rng: np.random.Generator, path: Path) -> Path:
    return draw_similarities(rng.random((12, 12)), {"learnt": rng.random((12, 12))}, path, labels=np.arange(12) // 4)


def _loss_weights(rng: np.random.Generator, path: Path) -> Path:
    views = [_images(rng, 9, 4) for _ in range(4)]
    return draw_weights(views, _weights(rng, 9, 3), _weights(rng, 9, 9, square=True), path, queries=np.array([0, 8]))


def _overview(rng: np.random.Generator, path: Path) -> Path:
    points = {"raw": rng.random((30, 2)), "trained": rng.random((30, 2))}
    bars = {"trained": [Bar(rng.random(), 0.0, 1.0), None]}
    return draw_overview(points, _images(rng, 30), path, labels=rng.integers(0, 3, 30), groups=["1", "5"], bars=bars)


_PICTURES: dict[str, Draw] = {
    "curves": _curves,
    "map": _map,
    "neighbours": _neighbours,
    "similarities": _similarities,
    "weights": _loss_weights,
    "overview": _overview,
}


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def _count(path: Path, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((_pixels(path) == wanted).all(-1).sum())


@pytest.mark.parametrize("name", _PICTURES)
def test_a_picture_is_page_wide_repeatable_and_shows_its_data(name: str, tmp_path: Path) -> None:
    draw = _PICTURES[name]
    first = draw(np.random.default_rng(0), tmp_path / "deep" / "first.png")
    again = draw(np.random.default_rng(0), tmp_path / "again.png")
    other = draw(np.random.default_rng(1), tmp_path / "other.png")
    a, b = _pixels(first), _pixels(other)
    assert a.shape[1] == round(WIDTH * DPI)
    assert a.shape[0] > DPI
    assert (a != 255).any(-1).mean() > 0.02, "almost nothing is drawn"
    assert first.read_bytes() == again.read_bytes()
    assert a.shape == b.shape
    assert (a != b).any(-1).mean() > 0.003
    assert [p.name for p in tmp_path.iterdir()] == ["deep", "again.png", "other.png"] or len(
        list(tmp_path.iterdir())
    ) == 3


def test_nothing_is_written_when_drawing_fails_and_no_setting_leaks(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with pytest.raises(RuntimeError, match="half way"), picture(tmp_path / "x.png", height=1):
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []
    assert dict(mpl.rcParams) == before


def test_the_map_draws_each_class_in_its_colour_and_none_without_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points, images = {"one": 0.1 + 0.8 * rng.random((60, 2))}, np.full((60, 1, 6, 6), 255, dtype=np.uint8)
    images[:, :, :5] = 0
    with_labels = draw_map(points, images, tmp_path / "with.png", labels=np.arange(60) % 3)
    assert all(_count(with_labels, class_colour(label)) > 100 for label in range(3))
    assert _count(with_labels, class_colour(3)) == 0
    without = draw_map(points, images, tmp_path / "without.png")
    assert all(_count(without, class_colour(label)) == 0 for label in range(3))


def test_the_map_refuses_what_does_not_fit(tmp_path: Path) -> None:
    images = np.zeros((4, 1, 2, 2))
    with pytest.raises(ValueError, match=r"one \(x, y\) per image: points \(3, 2\), images 4"):
        draw_map({"a": np.zeros((3, 2))}, images, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"one entry per image: labels \(5,\), images 4"):
        draw_map({"a": np.zeros((4, 2))}, images, tmp_path / "x.png", labels=np.zeros(5, dtype=int))


def test_neighbours_have_a_frame_by_being_right_or_wrong(tmp_path: Path) -> None:
    images, queries = np.zeros((6, 1, 4, 4)), np.array([0])
    labels = np.array([0, 0, 0, 1, 1, -1])

    def drawn(found: list[int], classes: np.ndarray | None) -> tuple[int, int]:
        path = draw_neighbours(images, {"x": np.array([found])}, tmp_path / "n.png", queries=queries, labels=classes)
        return _count(path, RIGHT), _count(path, WRONG)

    right, wrong = drawn([1, 2], labels)
    assert right > 0
    assert wrong == 0
    right, wrong = drawn([3, 4], labels)
    assert right == 0
    assert wrong > 0
    assert drawn([5, -1], labels) == (0, 0)
    assert drawn([1, 3], None) == (0, 0)


def test_bars_are_as_high_as_their_values(tmp_path: Path) -> None:
    with picture(tmp_path / "bars.png", height=3) as figure:
        series = {"trained": [Bar(0.8, 0.8, 0.8), None], "raw pixels": [None, Bar(0.4, 0.3, 0.5)]}
        draw_bars(figure.add_subplot(), ["one", "five"], series)
    trained, pixels = (_count(tmp_path / "bars.png", ENCODER_COLOURS[name]) for name in series)
    assert 1.9 < trained / pixels < 2.2
    with pytest.raises(ValueError, match="2 bars for 1 groups"), picture(tmp_path / "x.png", height=3) as figure:
        draw_bars(figure.add_subplot(), ["one"], series)


def test_curves_mark_values_that_are_not_finite(tmp_path: Path) -> None:
    steps, values = np.arange(20.0), np.linspace(2, 1, 20)
    assert _count(draw_curves({"loss": (steps, values)}, tmp_path / "good.png"), WRONG) == 0
    values[7] = np.nan
    assert _count(draw_curves({"loss": (steps, values)}, tmp_path / "bad.png"), WRONG) > 0
    draw_curves({"loss": (steps, np.full(20, np.nan))}, tmp_path / "all.png", resumed_at=[3])
    draw_curves({"loss": (np.array([1.0]), np.array([2.0]))}, tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"metrics\.jsonl needs at least one record"):
        draw_curves({}, tmp_path / "x.png")


def test_more_than_twelve_curves_grow_no_further(tmp_path: Path) -> None:
    one = (np.arange(3.0), np.arange(3.0))
    heights = [
        _pixels(draw_curves({f"term {i}": one for i in range(n)}, tmp_path / "c.png")).shape[0] for n in (3, 12, 13)
    ]
    assert heights[0] < heights[1] == heights[2]


def test_a_block_target_is_dark_where_classes_meet_and_white_elsewhere(tmp_path: Path) -> None:
    labels = np.arange(20) // 10
    same = (labels[:, None] == labels).astype(float)
    dark = [8, 48, 107]  # the end of the colour scale
    both = _pixels(draw_similarities(same, {"x": np.zeros((20, 20))}, tmp_path / "b.png"))
    none = _pixels(draw_similarities(np.zeros((20, 20)), {"x": np.zeros((20, 20))}, tmp_path / "n.png"))
    assert (both == dark).all(-1).sum() > 20 * (none == dark).all(-1).sum() > 0  # the scale's own end is always drawn


def test_matrices_of_two_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of one size: target \(3, 3\), 'x' \(2, 2\)"):
        draw_similarities(np.eye(3), {"x": np.eye(2)}, tmp_path / "x.png")


def test_weights_show_the_strongest_and_weakest_negatives_and_not_the_others(tmp_path: Path) -> None:
    colours = np.array([[10 * i + 5, 250 - 20 * i, 128] for i in range(9)], dtype=np.uint8)
    view = np.broadcast_to(colours[:, :, None, None], (9, 3, 4, 4)).copy()
    repulsion = np.tile(np.arange(9.0), (9, 1))
    np.fill_diagonal(repulsion, 0)
    repulsion /= repulsion.sum(1, keepdims=True)
    path = draw_weights([view, view], np.ones((9, 1)), repulsion, tmp_path / "w.png", queries=np.array([0]), count=2)
    shown = [_count(path, "#" + bytes(colour).hex()) > 500 for colour in colours]
    assert shown == [True, True, True, False, False, False, False, True, True]


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    view = np.zeros((3, 1, 2, 2))
    with pytest.raises(ValueError, match=r"found 2 views of 3 samples, attraction \(3, 2\), repulsion \(3, 3\)"):
        draw_weights([view, view], np.ones((3, 2)), np.ones((3, 3)), tmp_path / "x.png", queries=np.array([0]))
    two = view[:2]  # one negative cannot be both strongest and weakest: only the positive is drawn
    draw_weights([two, two], np.ones((2, 1)), 1 - np.eye(2), tmp_path / "two.png", queries=np.array([0]))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("n", "classes"), [(1, 1), (2, 1), (30, 25)])
def test_few_samples_one_class_and_many_classes(channels: int, n: int, classes: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, images = np.arange(n) % classes, _images(rng, n, channels)
    names = ["$x_1^{", "日本", "<b>&"] + [f"class {i}" for i in range(classes)]
    draw_map({"a": rng.random((n, 2))}, images, tmp_path / "map.png", labels=labels, class_names=names)
    found = {"a": np.full((1, 3), -1 if n == 1 else 1)}
    args = {"queries": np.array([0]), "labels": labels, "class_names": names}
    draw_neighbours(images, found, tmp_path / "neighbours.png", **args)
    matrix = np.eye(n)
    draw_similarities(matrix, {"a": matrix}, tmp_path / "graph.png", labels=labels, class_names=names)
    draw_overview({"a": rng.random((n, 2))}, images, tmp_path / "o.png", labels=None, groups=[], bars={})
    assert all(_pixels(path).std() > 0 for path in tmp_path.glob("*.png"))
    assert len(list(tmp_path.glob("*.png"))) == 4
