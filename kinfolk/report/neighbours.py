"""Nearest neighbours as rows of pictures: a query, what each kind of features finds nearest, right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kinfolk.evals.neighbours import nearest as evals_nearest
from kinfolk.report.embedding_map import unit_rows
from kinfolk.report.style import (
    FAINT,
    MUTED,
    RIGHT,
    WIDTH,
    WRONG,
    Array,
    board,
    class_title,
    frame,
    headline,
    paste,
    picture,
    to_numpy,
    to_rgb,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num
    from matplotlib.axes import Axes

_LABEL_COLUMNS = 1.45  # cells to the left of the query, for its class name
_GAP = 0.45


def nearest(features: Num[Array, "n d"], queries: Int[Array, " q"], *, k: int = 8) -> Int[np.ndarray, "q k"]:
    """Find each query's k nearest other rows by cosine; ties go to the lower index.

    Args:
        features: `[n, d]`.
        queries: `[q]` rows of `features`; a query is never its own neighbour.
        k: neighbours; places that n - 1 rows cannot fill are -1.

    Example:
        >>> nearest(np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]), np.array([0]), k=3).tolist()
        [[2, 1, -1]]
    """
    rows, asked = torch.from_numpy(unit_rows(features)), torch.from_numpy(to_numpy(queries)).long()
    found = evals_nearest(rows[asked], rows, k=k, exclude=asked)[1].numpy()
    return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=-1)


def same_class(
    neighbours: Int[Array, "q k"], queries: Int[Array, " q"], labels: Int[Array, " n"]
) -> Float[np.ndarray, "q k"]:
    """Say which neighbours share their query's class: 1, 0, or NaN where either label or the neighbour is missing.

    Example:
        >>> same_class(np.array([[1, 2, -1]]), np.array([0]), np.array([5, 5, 3])).tolist()
        [[1.0, 0.0, nan]]
    """
    found, classes = to_numpy(neighbours), to_numpy(labels)
    own, theirs = classes[to_numpy(queries)][:, None], classes[found]
    known = (own >= 0) & (theirs >= 0) & (found >= 0)
    return np.where(known, (own == theirs).astype(np.float64), np.nan)


def draw_neighbours(
    images: Num[Array, "n c h w"],
    neighbours: Mapping[str, Array],
    path: str | Path,
    *,
    queries: Int[Array, " q"],
    labels: Int[Array, " n"] | None = None,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Draw one row for each query: the query, then its neighbours under each kind of features, side by side.

    With labels, a neighbour of the query's class has a solid frame and a wrong one a dashed frame and a cross, so that
    the difference does not hang on colour. Without labels nothing is framed.

    Args:
        images: `[n, C, h, w]`, uint8 or floats in [0, 1].
        neighbours: block title -> `[q, k]` indices into `images`, as `nearest` gives them; -1 leaves a gap.
        path: where the PNG goes.
        queries: `[q]` indices into `images`.
        labels: `[n]`, -1 = unlabelled.
        class_names: names printed beside the queries.

    Returns:
        `path`.
    """
    pixels, asked = to_rgb(images), to_numpy(queries)
    blocks = {name: to_numpy(found) for name, found in neighbours.items()}
    label_columns = _LABEL_COLUMNS if labels is not None else 0.0
    columns = label_columns + 1 + sum(_GAP + found.shape[1] for found in blocks.values())
    cell = 0.98 * WIDTH / columns
    top = 1.0
    with picture(path, height=top + max(len(asked), 1) * cell + 0.1) as figure:
        headline(figure, "Nearest neighbours: what the features take for alike", _note(labels is not None))
        axes = board(figure, columns=columns, rows=max(len(asked), 1), top=top, bottom=0.1)
        _draw_queries(axes, pixels, asked, labels=labels, class_names=class_names)
        left = label_columns + 1
        for name, found in blocks.items():
            right = None if labels is None else same_class(found, asked, labels)
            left += _GAP
            axes.text(left + 0.05, -0.12, block_title(name, right), va="bottom", fontsize=9, fontweight="bold")
            _draw_block(axes, pixels, found, right, left=left)
            left += found.shape[1]
    return Path(path)


def _note(labelled: bool) -> str:
    note = "Queries drawn by seed, neighbours by cosine."
    return note + (" Solid frame: the query's class; dashed frame and cross: another class." if labelled else "")


def block_title(name: str, right: Float[np.ndarray, "q k"] | None) -> str:
    """Return a block's title with its count of right neighbours, where labels are known."""
    if right is None or not np.isfinite(right).any():
        return name
    return f"{name}: {int(np.nansum(right))} of {int(np.isfinite(right).sum())} right"


def _draw_queries(
    axes: Axes, pixels: np.ndarray, asked: np.ndarray, *, labels: Array | None, class_names: Sequence[str] | None
) -> None:
    offset = 0.0 if labels is None else _LABEL_COLUMNS
    axes.text(offset + 0.05, -0.12, "query", va="bottom", fontsize=9, fontweight="bold")
    for row, index in enumerate(asked):
        paste(axes, pixels[index], offset + 0.5, row + 0.5, side=0.88)
        if labels is not None:
            name = class_title(int(to_numpy(labels)[index]), class_names, longest=11)
            axes.text(offset - 0.1, row + 0.5, name, ha="right", va="center", fontsize=8, color=MUTED)


def _draw_block(
    axes: Axes,
    pixels: np.ndarray,
    found: Int[np.ndarray, "q k"],
    right: Float[np.ndarray, "q k"] | None,
    *,
    left: float,
) -> None:
    for (row, column), index in np.ndenumerate(found):
        x, y = left + column + 0.5, row + 0.5
        if index < 0:
            frame(axes, x, y, side=0.84, colour=FAINT, style=":", thickness=0.8)
            continue
        paste(axes, pixels[index], x, y, side=0.84)
        if right is None or np.isnan(right[row, column]):
            continue
        if right[row, column]:
            frame(axes, x, y, side=0.9, colour=RIGHT, thickness=2.0)
        else:
            frame(axes, x, y, side=0.9, colour=WRONG, style=(0, (2, 1)), thickness=2.0)
            _cross(axes, x + 0.3, y - 0.3)


def _cross(axes: Axes, x: float, y: float) -> None:
    axes.plot([x], [y], marker="s", ms=8.5, color="white", mec="none", zorder=4, clip_on=False)
    axes.plot([x], [y], marker="x", ms=6, mew=2.0, color=WRONG, zorder=5, clip_on=False)
