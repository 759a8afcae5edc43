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
        views: V tensors `[n, C, h, w]`; view 0 holds the queries, views 1 to V-1 their positives, and view 1 the negatives.
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
    pull, push = to_numpy(attraction).astype(float), to_numpy(repulsion).astype(float)
    n, positives = len(pixels[0]), len(pixels) - 1
    if positives < 1 or n < 2 or pull.shape != (n, positives) or push.shape != (n, n):
        raise ValueError(
            f"{n} samples in {len(pixels)} views need at least 2 of both, attraction ({n}, {positives}) and repulsion ({n}, {n}); "
            f"found attraction {pull.shape} and repulsion {push.shape}. Pass one view pair's repulsion."
        )
    asked = to_numpy(queries)
    count = min(count, (n - 1) // 2)
    columns = 1 + positives + 2 * count + 3 * _GAP
    cell, top = 0.98 * WIDTH / max(columns, 9), 1.0
    with picture(path, height=top + len(asked) * _ROW * cell + 0.1) as figure:
        headline(figure, _title(positives), _NOTE)
        axes = board(figure, columns=max(columns, 9), rows=len(asked) * _ROW, top=top, bottom=0.1)
        lefts = np.cumsum([0, 1 + _GAP, positives + _GAP, count + _GAP])
        for left, text in zip(
            lefts,
            ("query", "positives" if positives > 1 else "positive", "strongest negatives", "weakest negatives"),
            strict=True,
        ):
            axes.text(
                left + 0.05, -0.1, text if left < lefts[2] or count else "", va="bottom", fontsize=9, fontweight="bold"
            )
        for row, query in enumerate(asked):
            high, low = extreme_negatives(push[query], int(query), count=count)
            y = row * _ROW
            paste(axes, pixels[0][query], 0.5, y + 0.5, side=0.92)
            pulls = [pixels[view][query] for view in range(1, len(pixels))]
            _draw_weighted(axes, pulls, pull[query] * positives, left=lefts[1], y=y, colour=RIGHT)
            ceiling = float(push[query].max()) * (n - 1)
            _draw_weighted(
                axes, pixels[1][high], push[query, high] * (n - 1), left=lefts[2], y=y, colour=WRONG, ceiling=ceiling
            )
            _draw_weighted(
                axes, pixels[1][low], push[query, low] * (n - 1), left=lefts[3], y=y, colour=WRONG, ceiling=ceiling
            )
    return Path(path)


_NOTE = "Numbers are multiples of the uniform weight: 1× is no preference. Bars compare weights within a row and block."


def _title(positives: int) -> str:
    if positives == 1:
        return "Repulsion weights: negatives that look alike should push hardest"
    return "Attraction and repulsion weights: far views should pull hardest, negatives that look alike push hardest"


def _draw_weighted(
    axes: Axes,
    images: Sequence[np.ndarray] | np.ndarray,
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
    """Print a multiple of the uniform weight with two significant digits or none after 10."""
    return (
        f"{value:.0f}×"
        if value >= 10
        else f"{value:.1f}×"
        if value >= 0.095
        else f"{value:.2f}×"
        if value >= 0.005
        else "<0.01×"
    )
