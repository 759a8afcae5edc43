"""A metric where nothing is varied: a row for each contender, its seeds as dots, differences to the baseline beside."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kinfolk.compare.metrics import Metric
from kinfolk.compare.panel import grid, limits, panel, runs_off, shortened, widest
from kinfolk.compare.results import Comparison
from kinfolk.compare.statistics import Estimate, Statistics, Verdict, verdict
from kinfolk.report.style import ACCENT, INK, MUTED, RIGHT, WIDTH, WRONG, headline, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _HEAD, _FOOT, _GAP = 0.36, 0.66, 0.7, 0.45  # inches
_NAME_WIDTH = 26  # characters at which a name goes on in a second line
_VERDICT_COLOURS: Mapping[Verdict, str] = {"better": RIGHT, "worse": WRONG, "higher": ACCENT, "lower": ACCENT}


def draw_dots(comparison: Comparison, statistics: Statistics, metric: Metric, path: Path) -> Path:
    """Draw every seed, mean and 95 % interval of each contender, and beside them the paired differences.

    Differences whose interval excludes zero are blue where the contender is better and orange where it is worse, with
    a filled point; all others are grey and hollow. References stand beneath; one that lies far outside is written at
    the edge instead of squeezing everything else.

    Args:
        comparison: where nothing is varied.
        statistics: of it.
        metric: one that some run has.
        path: where the PNG goes.

    Returns:
        `path`.
    """
    setting = statistics.settings[0]
    values = {
        one: statistics.values[one, setting, metric]
        for one in comparison.contenders
        if (one, setting, metric) in statistics.values
    }
    differences = {
        one: statistics.differences[one, setting, metric]
        for one in values
        if (one, setting, metric) in statistics.differences
    }
    references = {
        record.encoder: metric.scaled(record.value)
        for where, record in comparison.references
        if (where, record.protocol, record.metric) == (setting, metric.protocol, metric.name)
    }
    names = [
        textwrap.fill(shortened(name, longest=2 * _NAME_WIDTH - 8), _NAME_WIDTH) for name in (*values, *references)
    ]
    rows = len(names) + (0.4 if references else 0.0)
    height = _HEAD + _ROW * rows + _FOOT
    with picture(path, height=height) as figure:
        left = 0.3 + widest(figure, names, size=9)
        whole = WIDTH - left - 0.2
        width = 0.55 * (whole - _GAP) if differences else whole
        first = panel(figure, left, _FOOT, width, _ROW * rows)
        _draw_values(first, values, references, metric)
        first.set_yticks(
            [*range(len(values)), *_reference_rows(values, references)], labels=names, fontsize=9, color=INK
        )
        axes = [first]
        if differences:
            second = panel(figure, left + width + _GAP, _FOOT, whole - width - _GAP, _ROW * rows)
            _draw_differences(second, list(values), differences, comparison.baseline, metric)
            second.set_yticks([])
            axes.append(second)
        cut = runs_off(metric, values.values(), first.get_xlim())
        cut = cut or runs_off(metric, differences.values(), axes[-1].get_xlim())
        headline(figure, metric.label, _note(comparison) + cut)
        for one in axes:
            one.set_ylim(rows - 0.5, -0.5)
            one.tick_params(axis="y", length=0)
            grid(one, along="x")
    return path


def _draw_values(axes: Axes, values: Mapping[str, Estimate], references: Mapping[str, float], metric: Metric) -> None:
    low, high = limits(metric, values.values())
    near = [value for value in references.values() if abs(value - (low + high) / 2) <= (high - low) * 5 / 6]
    margin = 0.04 * (high - low)
    low, high = min([low, *(v - margin for v in near)]), max([high, *(v + margin for v in near)])
    for row, estimate in enumerate(values.values()):
        _draw_estimate(axes, row, estimate, metric, colour=ACCENT, filled=True)
    for place, value in zip(_reference_rows(values, references), references.values(), strict=True):
        if low <= value <= high:
            axes.plot(value, place, "D", color=MUTED, markersize=5)
        else:
            at, side, text = (low, "left", "◂ {}") if value < low else (high, "right", "{} ▸")
            axes.text(
                at, place, text.format(f"{value:.{metric.decimals}f}"), ha=side, va="center", fontsize=8, color=MUTED
            )
    axes.set(xlim=(low, high), xlabel=metric.title)


def _draw_differences(
    axes: Axes, names: Sequence[str], differences: Mapping[str, Estimate], baseline: str, metric: Metric
) -> None:
    axes.set_xlim(*limits(metric, differences.values(), zero=True))
    axes.axvline(0, color=INK, linewidth=1)
    for row, name in enumerate(names):
        if name in differences:
            colour = _VERDICT_COLOURS.get(verdict(differences[name], metric), MUTED)
            _draw_estimate(axes, row, differences[name], metric, colour=colour, filled=differences[name].excludes_zero)
    axes.set_xlabel(f"minus {shortened(baseline)}\npaired by seed{metric.points and ', points'}")


def _draw_estimate(axes: Axes, row: float, estimate: Estimate, metric: Metric, *, colour: str, filled: bool) -> None:
    """Seeds as small dots a little below, the interval as a line through the mean."""
    if estimate.n > 1:
        seeds = [metric.scaled(value) for value in estimate.values]
        axes.plot(seeds, [row + 0.24] * estimate.n, "o", color=colour, markersize=3, alpha=0.55, markeredgewidth=0)
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(row, metric.scaled(estimate.low), metric.scaled(estimate.high), color=colour, linewidth=1.8)
    axes.plot(
        metric.scaled(estimate.mean),
        row,
        "o",
        color=colour,
        markersize=6,
        markerfacecolor=colour if filled else "white",
    )


def _reference_rows(values: Mapping[str, Estimate], references: Mapping[str, float]) -> list[float]:
    return [len(values) + 0.4 + row for row in range(len(references))]


def _note(comparison: Comparison) -> str:
    if len(comparison.seeds) == 1:
        return "One seed: no intervals."
    filled = "; filled differences exclude zero" if len(comparison.contenders) > 1 else ""
    return f"Means over {len(comparison.seeds)} seeds with 95 % intervals, seeds as small dots{filled}."
