"""Accuracy with few labels as bars, the trained encoder beside its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kinfolk.report.style import ACCENT, FAINT, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENCODER_COLOURS = {
    "trained": ACCENT,
    "untrained": "#a6a6a6",
    "raw pixels": "#e0a458",
    "raw features": "#e0a458",
    "centred raw pixels": "#b5651d",
}


class Bar(NamedTuple):
    """One measured value with the ends of its interval; equal ends draw none."""

    value: float
    low: float
    high: float


def draw_bars(
    axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[Bar | None]], *, chance: float | None = None
) -> None:
    """Draw one group of bars per protocol and one bar per encoder, each with its value in per cent and its interval.

    Args:
        axes: where to draw.
        groups: names below the groups.
        series: encoder -> one bar per group, None where it was not measured.
        chance: what guessing gives, drawn as a dotted line.

    Raises:
        ValueError: a series with another number of bars than there are groups.
    """
    width = 0.84 / max(len(series), 1)
    for place, (encoder, bars) in enumerate(series.items()):
        if len(bars) != len(groups):
            raise ValueError(
                f"series {encoder!r} has {len(bars)} bars for {len(groups)} groups; put None where there is no value."
            )
        colour = ENCODER_COLOURS.get(encoder, MUTED)
        at = np.arange(len(groups)) - 0.42 + (place + 0.5) * width
        for x, bar in zip(at, bars, strict=True):
            if bar is not None:
                _draw_bar(axes, float(x), bar, width=width * 0.9, colour=colour)
        axes.bar([0], [0], color=colour, label=encoder)
    if chance is not None:
        axes.axhline(chance, color=MUTED, linestyle=":", linewidth=1, label="chance")
    axes.set_xticks(range(len(groups)), labels=groups)
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(-0.5, max(len(groups) - 0.5, 0.5)), ylim=(0, 1.02))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25", "50", "75", "100"])
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)


def _draw_bar(axes: Axes, x: float, bar: Bar, *, width: float, colour: str) -> None:
    axes.bar([x], [bar.value], width=width, color=colour)
    if bar.high > bar.low:
        axes.plot([x, x], [bar.low, bar.high], color="#222222", linewidth=1)
    text = f"{100 * bar.value:.0f}"
    axes.text(x, max(bar.value, bar.high) + 0.012, text, ha="center", va="bottom", fontsize=8)
