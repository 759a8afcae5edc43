"""What the pictures of a comparison share: limits of an axis, labels that keep apart, and room for text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kinfolk.compare.metrics import Metric
from kinfolk.compare.statistics import Estimate
from kinfolk.report.style import DPI, FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = 0.165  # inches from one line of a label to the next, at 8 pt
_LONGEST = 30  # characters of a label


def limits(metric: Metric, estimates: Iterable[Estimate], *, zero: bool = False) -> tuple[float, float]:
    """Ends of an axis that shows every value, and intervals as far as they do not dwarf the values.

    Two seeds can have an interval of ten times what lies between all values; it runs off the panel then.

    Args:
        metric: says how values are scaled.
        estimates: that are drawn, at least one.
        zero: whether zero must be on the axis.

    Example:
        >>> metric = Metric("kNN", "accuracy", "higher", share=True, decimals=1)
        >>> low, high = limits(metric, [Estimate.of({0: 0.8, 1: 0.9})])
        >>> (round(low, 1), round(high, 1))  # the interval goes from 21 to 149
        (68.8, 101.2)
    """
    shown = list(estimates)
    values = [metric.scaled(value) for one in shown for value in one.values] + ([0.0] if zero else [])
    ends = [metric.scaled(end) for one in shown for end in (one.low, one.high) if end is not None]
    least, most = min(values), max(values)
    beyond = (most - least) or abs(most) * 0.01 or 1.0
    low = max(min([least, *ends]), least - beyond)
    high = min(max([most, *ends]), most + beyond)
    margin = 0.04 * (high - low) or beyond
    return low - margin, high + margin


def runs_off(metric: Metric, estimates: Iterable[Estimate], ends: tuple[float, float]) -> str:
    """Say that some intervals are longer than an axis shows, or return an empty text."""
    low, high = ends
    cut = any(
        metric.scaled(one.low) < low or metric.scaled(one.high) > high
        for one in estimates
        if one.low is not None and one.high is not None
    )
    return " Intervals that run off a panel are wider than drawn." if cut else ""


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as it takes to keep a gap between them, in their order.

    Labels that would overlap form a block, which is centred on where its members wanted to be.

    Args:
        wanted: positions.
        gap: least distance of two of them.
        low: lower bound.
        high: upper bound; there must be room for all.

    Example:
        >>> spread([0.5, 0.5, 2.0], gap=1.0, low=0.0, high=4.0)
        [0.0, 1.0, 2.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []  # centre of what the members want, and their number
    for i in order:
        centre, size = wanted[i], 1
        while True:
            half = gap * (size - 1) / 2
            start = min(max(centre - half, low), high - 2 * half)
            if not blocks or start - _last(blocks[-1], gap=gap, low=low, high=high) >= gap - 1e-9:
                break
            other, number = blocks.pop()
            centre, size = (centre * size + other * number) / (size + number), size + number
        blocks.append((centre, size))
    placed = []
    for block in blocks:
        last = _last(block, gap=gap, low=low, high=high)
        placed += [last - gap * back for back in reversed(range(block[1]))]
    found = [0.0] * len(wanted)
    for place, i in enumerate(order):
        found[i] = placed[place]
    return found


def _last(block: tuple[float, int], *, gap: float, low: float, high: float) -> float:
    centre, size = block
    half = gap * (size - 1) / 2
    return min(max(centre - half, low), high - 2 * half) + 2 * half


def shortened(text: str, *, longest: int = _LONGEST) -> str:
    """A name that keeps both its ends, since names that are alike often differ in the last word.

    Example:
        >>> shortened("simclr with a temperature of 0.05", longest=16)
        'simclr w… of 0.05'
    """
    return text if len(text) <= longest else f"{text[: longest // 2].rstrip()}…{text[-longest // 2 :].rstrip()}"


def widest(figure: Figure, texts: Iterable[str], *, size: float = 8) -> float:
    """Inches that the widest of some texts takes."""
    widths = [0.0]
    for text in texts:
        artist = figure.text(0, 0, text, fontsize=size)
        widths.append(artist.get_window_extent().width / DPI)
        artist.remove()
    return max(widths)


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches."""
    across, up = figure.get_figwidth(), figure.get_figheight()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.set_axisbelow(True)
    return axes


def grid(axes: Axes, *, along: str) -> None:
    """Faint lines across one axis, few enough to read their numbers."""
    axes.grid(axis="x" if along == "x" else "y", color=FAINT, linewidth=0.5)
    axes.locator_params(axis="x" if along == "x" else "y", nbins=6)
