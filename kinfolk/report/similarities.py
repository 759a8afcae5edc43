"""The target graph beside what was learnt: two or three matrices of the same samples, sorted by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinfolk.report.style import INK, MUTED, WIDTH, Array, class_title, headline, picture, to_numpy

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = "Blues"  # one hue from white, so that an empty target is white and print keeps the order
_MOST_NAMES = 20


def rank_agreement(target: Float[Array, "n n"], learnt: Float[Array, "n n"]) -> float | None:
    """Return Spearman's rank correlation between two matrices off the diagonal, or None where it is not defined.

    It is not defined when there are fewer than three pairs, or when one of the two has a single value everywhere.

    Example:
        >>> target = np.array([[9.0, 1.0, 2.0], [1.0, 9.0, 3.0], [2.0, 3.0, 9.0]])
        >>> rank_agreement(target, target**3), rank_agreement(target, np.ones((3, 3)))
        (1.0, None)
    """
    from scipy.stats import rankdata

    off = ~np.eye(len(target), dtype=bool)
    pair = [to_numpy(matrix)[off] for matrix in (target, learnt)]
    if off.sum() < 3 or any(not np.isfinite(values).all() or np.ptp(values) == 0 for values in pair):
        return None
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in pair)
    return float(np.round((a @ b) / np.sqrt((a @ a) * (b @ b)), 12))


def draw_similarities(
    target: Float[Array, "n n"],
    learnt: Mapping[str, Array],
    path: str | Path,
    *,
    target_name: str = "target",
    labels: Int[Array, " n"] | None = None,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Draw the target graph and similarities of the same samples as matrices, with their rank correlation.

    The diagonal says nothing and is left grey. Each matrix has its own colour scale, since a target's weights and a
    cosine are different quantities; what can be compared is the pattern, and its rank correlation stands above it.

    Args:
        target: `[n, n]` weights, rows and columns already sorted, by class as a rule.
        learnt: panel title -> `[n, n]` similarities in the same order.
        path: where the PNG goes.
        target_name: what the target is.
        labels: `[n]` of the sorted samples: marks where classes begin.
        class_names: names on the target's rows; left out beyond 20 classes.

    Returns:
        `path`.

    Raises:
        ValueError: matrices that are not square or differ in size.
    """
    matrices = {f"target: {target_name}": to_numpy(target), **{name: to_numpy(m) for name, m in learnt.items()}}
    for name, matrix in matrices.items():
        if matrix.shape != (len(target), len(target)):
            raise ValueError(
                f"all matrices must be square and of one size: target {tuple(target.shape)}, {name!r} {matrix.shape}."
            )
    names = 0.95 if labels is not None else 0.15  # inches left of the first panel
    side = (WIDTH - names - 0.15 - 0.22 * (len(matrices) - 1)) / len(matrices)
    top, bottom = 1.05, 0.55
    with picture(path, height=top + side + bottom) as figure:
        headline(
            figure, "Target graph beside learnt similarities: the learnt pattern should follow the target's", _NOTE
        )
        for column, (name, matrix) in enumerate(matrices.items()):
            place = (names + column * (side + 0.22), bottom, side, side)
            axes = _draw_matrix(figure, matrix, place, title=name)
            if column:
                _write_agreement(axes, rank_agreement(target, matrix))
            if labels is not None:
                _mark_classes(axes, to_numpy(labels), class_names if column == 0 else None, named=column == 0)
    return Path(path)


_NOTE = (
    "Rows and columns are the same samples; each panel has its own scale."
    " ρ: Spearman's rank correlation off the diagonal."
)


def _inches(figure: Figure, place: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    width, height = figure.get_size_inches()
    return place[0] / width, place[1] / height, place[2] / width, place[3] / height


def _draw_matrix(figure: Figure, matrix: np.ndarray, place: tuple[float, float, float, float], *, title: str) -> Axes:
    axes = figure.add_axes(_inches(figure, place))
    shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    low, high = _range(shown)
    image = axes.imshow(np.ma.masked_invalid(shown), cmap=_COLOURS, vmin=low, vmax=high, interpolation="nearest")
    axes.set_facecolor("#bdbdbd")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, pad=18)
    bar = figure.add_axes(_inches(figure, (place[0], place[1] - 0.17, place[2] * 0.6, 0.09)))
    scale = figure.colorbar(image, cax=bar, orientation="horizontal")
    digits = 2 if high - low >= 0.1 else 4
    scale.set_ticks([low, high], labels=[f"{low:.{digits}f}", f"{high:.{digits}f}"])
    scale.outline.set_linewidth(0.4)
    return axes


def _range(matrix: np.ndarray) -> tuple[float, float]:
    """Return the scale's ends: all of a target that has few values, the middle 98 % of a similarity."""
    values = matrix[np.isfinite(matrix)]
    if len(values) == 0 or np.ptp(values) == 0:
        value = float(values[0]) if len(values) else 0.0
        return min(0.0, value), max(1.0, value)
    if (values == values.min()).mean() > 0.5:
        return float(values.min()), float(values.max())
    low, high = np.percentile(values, [1, 99])
    return float(low), float(high) if high > low else float(values.max())


def _write_agreement(axes: Axes, value: float | None) -> None:
    text = "ρ with the target: not defined" if value is None else f"ρ with the target: {value:+.2f}"
    axes.text(0, 1.018, text, transform=axes.transAxes, fontsize=8.5, color=INK, va="bottom")


def _mark_classes(axes: Axes, labels: np.ndarray, class_names: Sequence[str] | None, *, named: bool) -> None:
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1))
    ends = np.append(starts[1:], len(labels))
    for start in starts[1:]:
        axes.axhline(start - 0.5, color=MUTED, linewidth=0.35)
        axes.axvline(start - 0.5, color=MUTED, linewidth=0.35)
    if named and len(starts) <= _MOST_NAMES:
        centres = (starts + ends - 1) / 2
        shown: list[int] = []
        for place, centre in enumerate(centres):  # a name is 4 % of the side high; it goes where there is room
            if not shown or centre - centres[shown[-1]] >= 0.042 * len(labels):
                shown.append(place)
        names = [class_title(int(labels[starts[place]]), class_names, longest=11) for place in shown]
        axes.set_yticks(centres[shown], labels=names)
        axes.tick_params(length=0, labelsize=8, pad=2)
