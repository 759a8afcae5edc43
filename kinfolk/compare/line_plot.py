"""A metric against the varied setting: one line for each contender, and below it the differences to the baseline."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kinfolk.compare.metrics import Metric
from kinfolk.compare.panel import LINE, grid, limits, panel, runs_off, shortened, spread, widest
from kinfolk.compare.results import Comparison
from kinfolk.compare.statistics import Estimate, Statistics, as_number
from kinfolk.report.style import INK, MUTED, PALETTE, WIDTH, headline, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    _Points = list[tuple[float, float]]

_MARKERS = "os^DvP<X>phd"
_COLOURS = tuple(PALETTE[start + i] for start in (0, 10) for i in (0, 3, 2, 1, 5, 4, 8, 6, 7, 9))  # strong ones first
_STYLES: tuple[str, ...] = ("--", ":", "-.")
_LEFT, _HEAD, _BETWEEN = 0.62, 0.95, 0.5  # inches
_BANDS_UP_TO = 4  # contenders; more bands hide each other, so intervals are bars from there on


@dataclass(frozen=True)
class Scale:
    """Where settings stand on the axis, from 0 to 1; contenders stand side by side there.

    Args:
        places: one for each setting.
        kind: "log" and "linear" place numbers by their size, "named" everything else evenly.
    """

    places: tuple[float, ...]
    kind: Literal["log", "linear", "named"]

    @property
    def gap(self) -> float:
        """The least distance of two settings."""
        return min((b - a for a, b in zip(self.places, self.places[1:], strict=False)), default=1.0)


@dataclass(frozen=True)
class _Line:
    """A contender's estimates, each with its place on the axis."""

    name: str
    colour: str
    marker: str
    points: tuple[tuple[float, Estimate], ...]

    def end(self, metric: Metric) -> tuple[str, str, str, tuple[float, float]]:
        """Name, colour, marker, and where the line ends."""
        place, estimate = self.points[-1]
        return self.name, self.colour, self.marker, (place, metric.scaled(estimate.mean))


def scale_of(settings: Sequence[str]) -> Scale:
    """Choose an axis: logarithmic for positive numbers over a factor of four, linear for other numbers.

    Numbers that would stand too close for their labels are placed evenly, by name.

    Args:
        settings: in ascending order where they are numbers.

    Example:
        >>> scale_of(("32", "64", "128")).kind, scale_of(("0", "0.2", "0.4")).kind, scale_of(("none", "linear")).kind
        ('log', 'linear', 'named')
    """
    count = len(settings)
    even = Scale(tuple((i + 0.5) / count for i in range(count)), "named")
    numbers = [number for number in map(as_number, settings) if number is not None]
    if len(numbers) < count or count < 2 or numbers[0] == numbers[-1]:
        return even
    log = numbers[0] > 0 and numbers[-1] >= 4 * numbers[0]
    sizes = [math.log(number) if log else number for number in numbers]
    scale = Scale(tuple((size - sizes[0]) / (sizes[-1] - sizes[0]) for size in sizes), "log" if log else "linear")
    return scale if scale.gap >= 0.08 else even


def draw_lines(comparison: Comparison, statistics: Statistics, metric: Metric, path: Path) -> Path:
    """Draw a metric against the setting, with bands or bars for 95 % intervals, and the paired differences below.

    Filled points of the differences have an interval that excludes zero. References that lie far outside are named in
    the note instead of squeezing everything else.

    Args:
        comparison: with a varied field.
        statistics: of it.
        metric: one that some run has.
        path: where the PNG goes.

    Returns:
        `path`.
    """
    scale = scale_of(statistics.settings)
    values = _lines(comparison, statistics, statistics.values, metric, scale)
    differences = _lines(comparison, statistics, statistics.differences, metric, scale)
    low, high, inside, outside = _room(values, _references(comparison, statistics, metric, scale), metric)
    upper = max(2.3, LINE * (len(values) + len(inside) + 1))
    lower = max(1.6, LINE * (len(differences) + 2)) if differences else 0.0
    bands = _has_bands(len(comparison.contenders), scale)
    settings = _wrapped(statistics.settings, scale)
    bottom = 0.42 + LINE * max(text.count("\n") + 1 for text in settings)
    height = _HEAD + upper + (_BETWEEN + lower if differences else 0.0) + bottom
    with picture(path, height=height) as figure:
        width = WIDTH - _LEFT - 0.4 - widest(figure, map(shortened, (*comparison.contenders, *inside)))
        top = panel(figure, _LEFT, height - _HEAD - upper, width, upper)
        top.set(ylim=(low, high), title=metric.title)
        _draw(top, values, metric, bands=bands)
        for style, points in zip(cycle(_STYLES), inside.values(), strict=False):
            x, y = zip(*points, strict=True)
            top.plot(x, y, color=MUTED, linestyle=style, linewidth=1.1, zorder=1.5, marker="_" if len(x) == 1 else "")
        _name(
            top,
            [*(line.end(metric) for line in values), *((n, MUTED, "", p[-1]) for n, p in inside.items())],
            inches=upper,
        )
        axes = [top]
        if differences:
            below = panel(figure, _LEFT, bottom, width, lower)
            below.set(ylim=limits(metric, [one for line in differences for _, one in line.points], zero=True))
            below.set_title(f"minus {shortened(comparison.baseline)}, paired by seed{metric.points and ', points'}")
            below.axhline(0, color=INK, linewidth=1)
            _draw(below, differences, metric, bands=bands, filled=False)
            _name(below, [line.end(metric) for line in differences], inches=lower)
            axes.append(below)
        drawn = zip((values, differences), axes, strict=False)
        cut = [runs_off(metric, (one for line in lines for _, one in line.points), a.get_ylim()) for lines, a in drawn]
        headline(figure, f"{metric.label} against {comparison.varied}", _note(comparison, max(cut), outside))
        for one in axes:
            one.set_xlim(*_sides(len(comparison.contenders), scale))
            one.set_xticks(scale.places, labels=settings if one is axes[-1] else [""] * len(settings))
            grid(one, along="y")
        axes[-1].set_xlabel(f"{comparison.varied}{' (logarithmic)' if scale.kind == 'log' else ''}")
    return path


def _room(
    values: Sequence[_Line], references: Mapping[str, _Points], metric: Metric
) -> tuple[float, float, dict[str, _Points], list[str]]:
    """Limits of the panel of values, the references that it has room for, and the others as text."""
    low, high = limits(metric, [estimate for line in values for _, estimate in line.points])
    near = (low - (high - low) / 3, high + (high - low) / 3)
    inside = {name: points for name, points in references.items() if all(near[0] <= y <= near[1] for _, y in points)}
    outside = [f"{name} ({_span(metric, points)})" for name, points in references.items() if name not in inside]
    heights = [y for points in inside.values() for _, y in points]
    margin = 0.04 * (high - low)
    low, high = min([low, *(y - margin for y in heights)]), max([high, *(y + margin for y in heights)])
    return low, high, inside, outside


def _lines(
    comparison: Comparison,
    statistics: Statistics,
    estimates: Mapping[tuple[str, str, Metric], Estimate],
    metric: Metric,
    scale: Scale,
) -> list[_Line]:
    """One line for each contender that has a point; colour and marker are the contender's in both panels."""
    lines, count = [], len(comparison.contenders)
    for number, one in enumerate(comparison.contenders):
        aside = 0.0 if _has_bands(count, scale) else _aside(count, scale) * (number - (count - 1) / 2)
        points = tuple(
            (place + aside, estimates[one, setting, metric])
            for place, setting in zip(scale.places, statistics.settings, strict=True)
            if (one, setting, metric) in estimates
        )
        if points:
            lines.append(_Line(one, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], points))
    return lines


def _has_bands(contenders: int, scale: Scale) -> bool:
    return scale.kind != "named" and contenders <= _BANDS_UP_TO


def _aside(contenders: int, scale: Scale) -> float:
    """How far neighbours stand apart at a setting, so that their bars do not cover each other."""
    return min(0.5 * scale.gap / contenders, 0.03)


def _draw(axes: Axes, lines: Sequence[_Line], metric: Metric, *, bands: bool, filled: bool = True) -> None:
    for line in lines:
        x = [place for place, _ in line.points]
        y = [metric.scaled(estimate.mean) for _, estimate in line.points]
        axes.plot(x, y, color=line.colour, linewidth=1.4)
        spans = [
            (place, metric.scaled(one.low), metric.scaled(one.high))
            for place, one in line.points
            if one.low is not None and one.high is not None
        ]
        where, lows, highs = ([span[i] for span in spans] for i in range(3))
        if bands and len(spans) > 1:
            axes.fill_between(where, lows, highs, color=line.colour, alpha=0.2, linewidth=0)
        else:
            axes.vlines(where, lows, highs, color=line.colour, linewidth=1.1)
        for at, value, (_, estimate) in zip(x, y, line.points, strict=True):
            face = line.colour if filled or estimate.excludes_zero else "white"
            axes.plot(at, value, line.marker, color=line.colour, markerfacecolor=face, markersize=5, zorder=3)


def _name(axes: Axes, ends: Sequence[tuple[str, str, str, tuple[float, float]]], *, inches: float) -> None:
    """Name every line right of its end; a thin line leads there where the name had to give way."""
    low, high = axes.get_ylim()
    placed = spread([(y - low) / (high - low) * inches for *_, (_, y) in ends], gap=LINE, low=0.0, high=inches)
    for (name, colour, marker, end), at in zip(ends, placed, strict=True):
        beside, arrow = (1.02, at / inches), {"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 4}
        inside = axes.transAxes
        axes.annotate("", xy=end, xytext=beside, textcoords=inside, annotation_clip=False, arrowprops=arrow)
        axes.plot(*beside, marker, color=colour, markersize=5, transform=inside, clip_on=False)
        text_colour = INK if marker else MUTED
        axes.text(1.033, at / inches, shortened(name), transform=inside, va="center", fontsize=8, color=text_colour)


def _references(comparison: Comparison, statistics: Statistics, metric: Metric, scale: Scale) -> dict[str, _Points]:
    """Places and scaled values of each reference."""
    found: dict[str, _Points] = {}
    for place, setting in zip(scale.places, statistics.settings, strict=True):
        for where, record in comparison.references:
            if (where, record.protocol, record.metric) == (setting, metric.protocol, metric.name):
                found.setdefault(record.encoder, []).append((place, metric.scaled(record.value)))
    return found


def _sides(contenders: int, scale: Scale) -> tuple[float, float]:
    if scale.kind == "named":
        return 0.0, 1.0
    beyond = 0.03 + (0.0 if _has_bands(contenders, scale) else _aside(contenders, scale) * contenders / 2)
    return -beyond, 1 + beyond


def _span(metric: Metric, points: _Points) -> str:
    texts = [f"{y:.{metric.decimals}f}" for _, y in sorted(points, key=lambda point: point[1])]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _wrapped(settings: Sequence[str], scale: Scale) -> list[str]:
    """Settings in lines that fit between their neighbours, broken behind blanks and signs where that is possible."""
    room = max(4, int(scale.gap * (WIDTH - _LEFT - 2.4) / 0.08) - 1)
    found = []
    for setting in settings:
        lines = [""]
        for piece in re.findall(rf"[^\s=/-]{{1,{room - 1}}}[\s=/-]?|[\s=/-]", setting):
            if lines[-1] and len(lines[-1] + piece.rstrip()) > room:
                lines.append("")
            lines[-1] += piece
        found.append("\n".join(line.strip() for line in lines))
    return found


def _note(comparison: Comparison, cut: str, outside: Sequence[str]) -> str:
    text = "One seed: no intervals."
    if len(comparison.seeds) > 1:
        filled = "; filled differences exclude zero" if len(comparison.contenders) > 1 else ""
        text = f"Means over {len(comparison.seeds)} seeds with 95 % intervals{filled}.{cut}"
    return text + (f"\nOutside the panel: {', '.join(outside)}." if outside else "")
