"""Pictures of an inspected relation: how many rows targets pull to, what a temperature does, and which pairs relate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinfolk.data import Source
from kinfolk.data.graph_inspection import PERPLEXITIES, GraphInspection, Pair, Sharpness
from kinfolk.report.style import ACCENT, FAINT, INK, MUTED, WRONG, board, headline, paste, picture, to_rgb

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

_BINS = 40
_GOOD = (min(PERPLEXITIES), max(PERPLEXITIES))


def draw_perplexities(found: GraphInspection, path: str | Path) -> Path:
    """Draw how the rows' perplexities are spread, beside the range that works.

    Args:
        found: from `kinfolk.data.graph_inspection.inspect_graph`.
        path: where the PNG goes.

    Returns:
        `path`.
    """
    values = found.perplexities
    with picture(path, height=2.6) as figure:
        headline(
            figure, "How many rows a row is pulled to",
            f"Perplexity of each row's target as the relation is; shaded: {_GOOD[0]:g} to {_GOOD[1]:g}, which works;"
            f" line: the mean, {found.now.perplexity:.3g}.",
        )  # fmt: skip
        axes = figure.add_axes((0.062, 0.2, 0.92, 0.54))
        top = max(float(values.max()) if len(values) else 1.0, _GOOD[1]) * 1.1
        edges = np.geomspace(0.9, top, _BINS + 1)
        axes.axvspan(*_GOOD, color=FAINT, alpha=0.45, linewidth=0)
        axes.hist(values, bins=edges.tolist(), color=ACCENT)
        axes.axvline(found.now.perplexity, color=WRONG, linewidth=1.4)
        axes.set(xscale="log", xlim=(0.9, top), xlabel="perplexity (1 = one other row)", ylabel="rows")
        _plain_ticks(axes, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000))
    return Path(path)


def draw_temperatures(found: GraphInspection, path: str | Path) -> Path:
    """Draw perplexity and own masses against the temperature, with the suggestions.

    Args:
        found: of a relation that has a temperature.
        path: where the PNG goes.

    Returns:
        `path`.

    Raises:
        ValueError: for a relation without a temperature.
    """
    if not found.curve:
        raise ValueError(f"the relation by {found.about} has no temperature, so there is no curve to draw")
    with picture(path, height=3.5) as figure:
        headline(
            figure, "What the temperature does",
            f"Batches of {found.batch_size} with {found.views} views. Line: mean; band: 5 % to 95 % of rows; dots:"
            " suggestions; vertical: as it is.",
        )  # fmt: skip
        left = figure.add_axes((0.062, 0.15, 0.42, 0.62))
        right = figure.add_axes((0.565, 0.15, 0.42, 0.62))
        _draw_curve(left, found)
        _draw_masses(right, found)
    return Path(path)


def draw_pairs(found: GraphInspection, source: Source, path: str | Path) -> Path:
    """Draw the most and the least related pairs side by side, with their captions.

    Args:
        found: from `kinfolk.data.graph_inspection.inspect_graph`.
        source: that it was made from, images of 1, 3 or 4 channels; the pairs' images are read.
        path: where the PNG goes.

    Returns:
        `path`.

    Raises:
        ValueError: when there are no pairs.
    """
    columns = (found.most_related, found.least_related)
    rows = max(len(pairs) for pairs in columns)
    if rows == 0:
        raise ValueError("there is nothing to draw: the inspection lists no pairs")
    top = 0.95
    with picture(path, height=top + rows * 0.77 + 0.05) as figure:
        headline(
            figure, "Most related pairs should be alike, least related ones should not",
            "How far below a sample's relation to itself a pair lies stands above its captions.",
        )  # fmt: skip
        axes = board(figure, columns=12, rows=rows, top=top)
        for pairs, x, title in zip(columns, (0.0, 6.1), ("most related", "least related"), strict=True):
            axes.text(x + 0.05, -0.1, title, fontsize=9.5, fontweight="bold", va="bottom")
            if pairs:
                images = to_rgb(source.read(_positions(pairs)))
                for row, pair in enumerate(pairs):
                    _draw_pair(axes, pair, images[2 * row : 2 * row + 2], x, row)
    return Path(path)


def _draw_curve(axes: Axes, found: GraphInspection) -> None:
    at = [_temperature(s) for s in found.curve]
    axes.set_title("perplexity")
    axes.axhspan(*_GOOD, color=FAINT, alpha=0.45, linewidth=0)
    axes.fill_between(at, [s.low for s in found.curve], [s.high for s in found.curve], color=ACCENT, alpha=0.18, lw=0)
    axes.plot(at, [s.perplexity for s in found.curve], color=ACCENT, linewidth=1.8)
    axes.axvline(_temperature(found.now), color=MUTED, linestyle=":", linewidth=1)
    for suggestion in found.suggestions:
        if suggestion.found is not None:
            x = _temperature(suggestion.found)
            axes.plot([x], [suggestion.found.perplexity], "o", color=WRONG, markersize=4.5, zorder=3)
            text = f"{suggestion.perplexity:g} at {x:.3g}"
            axes.annotate(text, (x, suggestion.found.perplexity), xytext=(5, -3), textcoords="offset points",
                          fontsize=8, va="top", color=INK)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(at[0], at[-1]), xlabel="temperature")
    _plain_ticks(axes, (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000), along="y")
    _temperature_ticks(axes, at)


def _draw_masses(axes: Axes, found: GraphInspection) -> None:
    at = [_temperature(s) for s in found.curve]
    axes.set_title("share of the target, in per cent")
    axes.plot(at, [100 * s.own_sample_mass for s in found.curve], color=ACCENT, linewidth=1.8, label="own sample")
    if all(s.own_class_mass is not None for s in found.curve):
        shares = [100 * (s.own_class_mass or 0.0) for s in found.curve]
        axes.plot(at, shares, color=WRONG, linewidth=1.8, linestyle="--", label="own class")
    axes.axvline(_temperature(found.now), color=MUTED, linestyle=":", linewidth=1)
    axes.set(xscale="log", ylim=(0, 102), xlim=(at[0], at[-1]), xlabel="temperature")
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.legend(frameon=False, loc="best")
    _temperature_ticks(axes, at)


def _draw_pair(axes: Axes, pair: Pair, images: Float[np.ndarray, "2 h w 3"], x: float, row: int) -> None:
    for place, image in enumerate(images):
        paste(axes, image, x + 0.5 + place, row + 0.5, side=0.88)
    how = "unrelated" if math.isinf(pair.below_own) else f"{pair.below_own:.3f} below own"
    said = pair.captions or (f"id {pair.ids[0]}", f"id {pair.ids[1]}")
    axes.text(x + 2.1, row + 0.22, how, fontsize=8, color=MUTED, va="center")
    for line, caption in enumerate(said):
        text = " ".join(caption.split())
        text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
        axes.text(x + 2.1, row + 0.5 + 0.25 * line, text, fontsize=8.5, color=INK, va="center")


_LONGEST = 46


def _positions(pairs: tuple[Pair, ...]) -> Tensor:
    return torch.tensor([position for pair in pairs for position in pair.positions])


def _temperature(sharpness: Sharpness) -> float:
    assert sharpness.temperature is not None
    return sharpness.temperature


def _plain_ticks(axes: Axes, values: tuple[int, ...], *, along: str = "x") -> None:
    low, high = axes.get_xlim() if along == "x" else axes.get_ylim()
    shown = [value for value in values if low <= value <= high]
    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_ticks(shown, labels=[str(value) for value in shown])
    axis.set_ticks([], minor=True)


def _temperature_ticks(axes: Axes, at: list[float]) -> None:
    shown = np.geomspace(at[0], at[-1], 5)
    axes.xaxis.set_ticks(shown.tolist(), labels=[f"{value:.2g}" for value in shown])
    axes.xaxis.set_ticks([], minor=True)
