"""The pictures of a comparison: where things stand, that labels keep apart, and that every case can be drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_comparisons import RANK, comparison_of
from matplotlib.figure import Figure
from PIL import Image

from kinfolk.compare import dot_plot, line_plot
from kinfolk.compare.line_plot import scale_of
from kinfolk.compare.metrics import Metric
from kinfolk.compare.panel import limits, runs_off, shortened, spread
from kinfolk.compare.plots import alt_text, draw_metric
from kinfolk.compare.results import Comparison
from kinfolk.compare.statistics import Estimate, statistics_of
from kinfolk.report.style import DPI, WIDTH, WRONG, picture

KNN = Metric("kNN", "accuracy", "higher", share=True, decimals=1)
TWELVE = tuple(f"contender with a rather long name {i}" for i in range(12))
BATCHES = ("32", "64", "128", "512")


def made(
    contenders: tuple[str, ...] = ("SimCLR", "DCL"), settings: tuple[str, ...] = ("",), seeds: int = 3, **more: Any
) -> Comparison:
    generator = np.random.default_rng(0)
    return comparison_of(
        {
            (one, setting, s): 0.8 + 0.01 * i + 0.003 * generator.standard_normal()
            for setting in settings
            for i, one in enumerate(contenders)
            for s in range(seeds)
        },
        **more,
    )


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a test draws, to be looked into."""
    seen: list[Figure] = []

    @contextmanager
    def kept(*args: Any, **keywords: Any) -> Iterator[Figure]:
        with picture(*args, **keywords) as figure:
            seen.append(figure)
            yield figure

    monkeypatch.setattr(line_plot, "picture", kept)
    monkeypatch.setattr(dot_plot, "picture", kept)
    return seen


def draw(comparison: Comparison, folder: Path) -> Path:
    statistics = statistics_of(comparison)
    return draw_metric(comparison, statistics, statistics.metrics[0], folder)


def texts_of(figure: Figure) -> list[Any]:
    """All texts that can be seen, tick labels included."""
    found = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    found += [axes._left_title for axes in figure.axes]
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())  # beyond its ends an axis has ticks that it does not draw
        found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in (*figure.texts, *found) if text.get_text() and text.get_visible()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]


def outside(figure: Figure) -> list[str]:
    width, height = figure.get_size_inches() * DPI
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    return [t for t, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]


CASES = {
    "two contenders": made(),
    "one contender": made(("SimCLR",)),
    "one seed": made(seeds=1, references={"raw pixels": 0.79, "untrained": 0.1}),
    "equal values": comparison_of({(one, s): 0.5 for one in "ab" for s in range(3)}),
    "twelve contenders": made(TWELVE, references={"raw pixels": 0.8, "centred raw pixels": 0.81, "untrained": 0.5}),
    "against batch size": made(settings=BATCHES, references={"raw pixels": 0.8, "centred raw pixels": 0.801}),
    "twelve against batch size": made(TWELVE, BATCHES, references={"raw pixels": 0.8, "untrained": 0.1}),
    "a single setting": made(settings=("64",), references={"raw pixels": 0.8}),
    "one seed against names": made(("a", "b", "c"), ("none", "imbalanced rule=exponential"), seeds=1),
    "eight long names": made(settings=tuple(f"imbalanced rule=long-tail factor={10**i}" for i in range(8))),
    "a word too long for its place": made(settings=tuple("x" * 40 + str(i) for i in range(6))),
    "ranks": comparison_of({(one, b, s, RANK): 40.0 + s for one in "ab" for b in BATCHES for s in (0, 1)}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_a_picture_of_the_pages_width_whose_labels_keep_apart(
    case: str, tmp_path: Path, figures: list[Figure]
) -> None:
    path = draw(CASES[case], tmp_path)
    with Image.open(path) as image:
        assert (image.format, image.width) == ("PNG", round(WIDTH * DPI))
        assert image.height < 1.1 * image.width
        assert len(image.convert("L").getcolors()) > 20, "something is drawn"
    assert overlaps(figures[0]) == []
    assert outside(figures[0]) == []


def test_the_search_for_overlaps_finds_one(tmp_path: Path) -> None:
    with picture(tmp_path / "a.png", height=2) as figure:
        axes = figure.add_subplot()
        axes.text(0.5, 0.5, "one")
        axes.text(0.51, 0.5, "other")
        assert overlaps(figure) == [("one", "other")]


def test_lines_go_through_the_means_in_both_panels(tmp_path: Path, figures: list[Figure]) -> None:
    comparison = made(settings=BATCHES)
    draw(comparison, tmp_path)
    statistics = statistics_of(comparison)
    top, below = figures[0].axes
    expected = [100 * statistics.values["DCL", setting, KNN].mean for setting in BATCHES]
    assert any(np.allclose(line.get_ydata(), expected) for line in top.lines if len(line.get_ydata()) == 4)
    expected = [100 * statistics.differences["DCL", setting, KNN].mean for setting in BATCHES]
    assert any(np.allclose(line.get_ydata(), expected) for line in below.lines if len(line.get_ydata()) == 4)
    assert len(top.collections) == 2, "a band for each contender"
    low = 100 * statistics.values["DCL", "64", KNN].low
    assert np.isclose(top.collections[1].get_paths()[0].vertices[:, 1], low).any()


def test_differences_are_filled_exactly_where_their_interval_excludes_zero(
    tmp_path: Path, figures: list[Figure]
) -> None:
    gaps = {"32": (0.05, 0.05, 0.06), "64": (-0.05, 0.05, 0.01)}
    values = {("a", setting, s): 0.5 for setting in gaps for s in range(3)}
    values |= {("b", setting, s): 0.5 + gap for setting, own in gaps.items() for s, gap in enumerate(own)}
    draw(comparison_of(values), tmp_path)
    faces = [line.get_markerfacecolor() for line in figures[0].axes[1].lines if line.get_marker() == "s"]
    assert [face == "white" for face in faces] == [False, True, False], "32, 64, and the name's own marker"


def test_a_contender_that_is_worse_has_the_colour_for_wrong(tmp_path: Path, figures: list[Figure]) -> None:
    worse = {("a", s): 0.9 for s in range(3)} | {("b", s): 0.5 + 0.001 * s for s in range(3)}
    draw(comparison_of(worse), tmp_path)
    assert WRONG in [line.get_color() for line in figures[0].axes[1].lines]
    assert WRONG not in [line.get_color() for line in figures[0].axes[0].lines]


def test_a_missing_run_leaves_a_gap_and_no_line_to_nothing(tmp_path: Path, figures: list[Figure]) -> None:
    whole = made(settings=BATCHES, seeds=1)
    left = tuple(r for r in whole.results if (r.contender, r.setting) != ("DCL", "512"))
    draw(Comparison(**{**vars(whole), "results": left}), tmp_path)
    assert [len(line.get_xdata()) for line in figures[0].axes[1].lines if len(line.get_xdata()) > 2] == [3]


def test_a_distant_reference_is_named_and_does_not_squeeze_the_rest(tmp_path: Path, figures: list[Figure]) -> None:
    for settings, file in ((("",), "dots"), (BATCHES, "lines")):
        draw(made(settings=settings, references={"near": 0.795, "far": 0.1}), tmp_path / file)
        values = figures[-1].axes[0].get_xlim() if file == "dots" else figures[-1].axes[0].get_ylim()
        assert 70 < values[0] < 79.5
        texts = [text.get_text() for text in texts_of(figures[-1])]
        assert any("10.0" in text for text in texts)
        assert not any("79.5" in text and "near" in text for text in texts)


def test_numbers_stand_where_their_size_puts_them() -> None:
    doubling = scale_of(("32", "64", "128"))
    assert (doubling.kind, doubling.places) == ("log", pytest.approx((0.0, 0.5, 1.0)))
    uneven = scale_of(("0", "1", "4"))
    assert (uneven.kind, uneven.places) == ("linear", (0.0, 0.25, 1.0))
    assert scale_of(("0.1", "0.2", "0.3")).kind == "linear", "less than a factor of four"
    assert scale_of(("0", "1", "1000")).kind == "named", "0 and 1 would share a label"
    assert scale_of(("none", "10")).kind == "named"
    assert scale_of(("64",)).places == (0.5,)


@pytest.mark.parametrize("seed", range(5))
def test_spread_keeps_order_gap_and_bounds_and_moves_little(seed: int) -> None:
    generator = np.random.default_rng(seed)
    wanted = generator.choice([0.0, 0.5, 1.0, 1.02, 2.9], size=9) + 0.01 * generator.random(9)
    placed = np.array(spread(list(wanted), gap=0.3, low=0.0, high=3.0))
    assert (np.argsort(placed) == np.argsort(wanted)).all()
    assert np.diff(np.sort(placed)).min() >= 0.3 - 1e-9
    assert placed.min() >= -1e-9
    assert placed.max() <= 3.0 + 1e-9


def test_spread_leaves_alone_what_does_not_overlap_and_centres_what_does() -> None:
    assert spread([2.0, 0.5, 1.0], gap=0.5, low=0.0, high=3.0) == [2.0, 0.5, 1.0]
    assert spread([1.0, 1.0], gap=0.5, low=0.0, high=3.0) == [0.75, 1.25]
    assert spread([0.0, 3.0], gap=0.5, low=0.0, high=3.0) == [0.0, 3.0]
    assert spread([2.9, 3.5], gap=0.5, low=0.0, high=3.0) == [2.5, 3.0], "beyond the upper bound"
    assert spread([], gap=0.5, low=0.0, high=3.0) == []


def test_limits_show_all_values_and_cut_intervals_that_would_dwarf_them() -> None:
    calm, wild = Estimate.of({0: 0.80, 1: 0.81, 2: 0.82}), Estimate.of({0: 0.7, 1: 0.9})
    low, high = limits(KNN, [calm])
    assert low < 100 * calm.low < 100 * calm.high < high
    assert runs_off(KNN, [calm], (low, high)) == ""
    low, high = limits(KNN, [wild])
    assert 100 * wild.low < low < 70 < 90 < high < 100 * wild.high
    assert "wider than drawn" in runs_off(KNN, [wild], (low, high))
    assert limits(KNN, [Estimate.of({0: 0.5})])[0] < 50 < limits(KNN, [Estimate.of({0: 0.5})])[1], "one value has room"
    assert limits(KNN, [calm], zero=True)[0] < 0


def test_a_shortened_name_keeps_both_ends_and_its_length() -> None:
    assert shortened("short") == "short"
    found = [shortened(name) for name in TWELVE]
    assert len(set(found)) == 12
    assert max(map(len, found)) <= 31


def test_the_picture_is_named_after_its_metric_and_described_in_words(tmp_path: Path) -> None:
    comparison = made(settings=BATCHES)
    statistics = statistics_of(comparison)
    assert draw(comparison, tmp_path).name == "knn-accuracy.png"
    assert alt_text(comparison, statistics, KNN) == (
        "kNN accuracy against batch_size of SimCLR, DCL and their differences to SimCLR, paired by seed, with 95 %"
        " intervals."
    )
    single = made(("SimCLR",), seeds=1)
    assert alt_text(single, statistics_of(single), KNN) == "kNN accuracy of SimCLR."


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (draw(made(seeds=1), tmp_path / name).read_bytes() for name in "ab")
    assert first == second
