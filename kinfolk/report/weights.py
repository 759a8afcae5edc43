"""The weights of a contrastive attraction and contrastive repulsion loss, as pictures of what they fall on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinfolk.report.style import (
    FAINT,
    MUTED,
    RIGHT,
    WIDTH,
    WRONG,
    Array,
    board,
    headline,
    paste,
    picture,
    to_numpy,
    to_rgb,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num
    from matplotlib.axes import Axes

_GAP = 0.4
_ROW = 1.42  # cells: a picture, its bar and its number


def extreme_negatives(weights: Float[Array, " n"], own: int, *, count: int) -> Int[np.ndarray, "2 k"]:
    """Return the candidates with the highest and with the lowest weight, never the own sample, none in both.

    Args:
        weights: `[n]` repulsion weights of one query.
        own: the query's own index, which repels nothing.
        count: how many of each, fewer where n - 1 < 2 count.

    Returns:
        Two rows: highest first, lowest first.

    Example:
        >>> extreme_negatives(np.array([0.0, 0.5, 0.2, 0.3]), 0, count=1).tolist()
        [[1], [2]]
    """
    values = to_numpy(weights)
    order = np.argsort(-values, kind="stable")
    order = order[order != own]
    count = min(count, len(order) // 2)
    return np.stack([order[:count], order[::-1][:count]])


def draw_weights(
    views: Sequence[Num[Array, "n c h w"]],
    attraction: Float[Array, "n k"],
    repulsion: Float[Array, "n n"],
    path: str | Path,
    *,
    queries: Int[Array, " q"],
    count: int = 5,
) -> Path:
    """Draw, for some queries, what pulls and what pushes them, each picture with its weight below.

    Weights are printed as multiples of the uniform weight (1/K for K positives, 1/(n-1) for negatives), so that 1.0×
    means no preference, and drawn as bars on the scale of their row.

    Args:
        views: V tensors `[n, C, h, w]`; view 0 holds the queries, views 1 to V-1 their positives, view 1 the negatives.
        attraction: `[n, V-1]`, the weights of query i's positives; rows sum to 1.
        repulsion: `[n, n]`, the weights of the keys in view 1; zero diagonal, rows sum to 1.
        path: where the PNG goes.
        queries: `[q]` rows to draw.
        count: how many of the strongest, and of the weakest, negatives.

    Returns:
        `path`.

    Raises:
        ValueError: fewer than two views or samples, or weights of another shape.
    """
    pixels = [to_rgb(view) for view in views]
    pull, push = to_numpy(attraction).astype(np.float64), to_numpy(repulsion).astype(np.float64)
    _check(len(pixels), len(pixels[0]), pull.shape, push.shape)
    n, positives, asked = len(pixels[0]), len(pixels) - 1, to_numpy(queries)
    count = min(count, (n - 1) // 2)
    columns = max(1 + positives + 2 * count + 3 * _GAP, 9)
    cell, top = 0.98 * WIDTH / columns, 1.0
    with picture(path, height=top + len(asked) * _ROW * cell + 0.1) as figure:
        headline(figure, _title(positives), _NOTE)
        axes = board(figure, columns=columns, rows=len(asked) * _ROW, top=top, bottom=0.1)
        lefts = np.cumsum([0, 1 + _GAP, positives + _GAP, count + _GAP])
        titles = ("query", "positives" if positives > 1 else "positive", "strongest negatives", "weakest negatives")
        for left, title in list(zip(lefts, titles, strict=True))[: 4 if count else 2]:
            axes.text(left + 0.05, -0.1, title, va="bottom", fontsize=9, fontweight="bold")
        for row, query in enumerate(asked):
            pulls = np.stack([view[query] for view in pixels[1:]])
            strong, weak = extreme_negatives(push[query], int(query), count=count)
            y, multiples = row * _ROW, push[query] * (n - 1)
            paste(axes, pixels[0][query], 0.5, y + 0.5, side=0.92)
            _draw_block(axes, pulls, pull[query] * positives, left=lefts[1], y=y, colour=RIGHT)
            for left, keys in zip(lefts[2:], (strong, weak), strict=True):
                _draw_block(
                    axes, pixels[1][keys], multiples[keys], left=left, y=y, colour=WRONG, ceiling=multiples.max()
                )
    return Path(path)


def _check(views: int, n: int, attraction: tuple[int, ...], repulsion: tuple[int, ...]) -> None:
    if views < 2 or n < 2 or attraction != (n, views - 1) or repulsion != (n, n):
        raise ValueError(
            "expected two or more views of two or more samples, attraction [n, V-1] and repulsion [n, n]; found"
            f" {views} views of {n} samples, attraction {attraction}, repulsion {repulsion}. Pass one query view's"
            " attraction and one view pair's repulsion."
        )


_NOTE = "Numbers are multiples of the uniform weight: 1× is no preference. Bars compare weights within a row and block."


def _title(positives: int) -> str:
    if positives == 1:
        return "Repulsion weights: negatives that look alike should push hardest"
    return "Attraction and repulsion weights: far views should pull hardest, negatives that look alike push hardest"


def _draw_block(
    axes: Axes,
    images: Float[np.ndarray, "k h w 3"],
    multiples: Float[np.ndarray, " k"],
    *,
    left: float,
    y: float,
    colour: str,
    ceiling: float | None = None,
) -> None:
    ceiling = max(float(np.max(multiples, initial=0.0)) if ceiling is None else ceiling, 1e-12)
    for place, (image, multiple) in enumerate(zip(images, multiples, strict=True)):
        x = left + place + 0.5
        paste(axes, image, x, y + 0.5, side=0.92)
        axes.barh(y + 1.03, 0.92, height=0.09, left=x - 0.46, color=FAINT, alpha=0.6, zorder=2)
        axes.barh(y + 1.03, 0.92 * multiple / ceiling, height=0.09, left=x - 0.46, color=colour, zorder=3)
        axes.text(x, y + 1.22, _multiple(multiple), ha="center", va="center", fontsize=8, color=MUTED)


def _multiple(value: float) -> str:
    """Print a multiple of the uniform weight: what matters is whether it is far above, near or far below 1."""
    if value < 0.01:
        return "<0.01×"
    return f"{value:.0f}×" if value >= 10 else f"{value:.1f}×" if value >= 0.1 else f"{value:.2f}×"
