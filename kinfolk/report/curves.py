"""The training curves: one small panel for each thing that a run logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinfolk.report.style import ACCENT, FAINT, MUTED, WRONG, headline, picture

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    Series = tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]

_NOT_CURVES = ("step", "epoch", "seconds", "event", "images_seen", "views_seen")
_FIRST = ("loss", "learning_rate", "gradient_norm", "images_per_second")
_TITLES = {
    "loss": "loss (should fall, then flatten)",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm (no explosions)",
    "images_per_second": "images per second",
    "effective_rank": "effective rank (1 = collapse)",
    "participation_ratio": "participation ratio (1 = collapse)",
    "positive_cosine": "cosine of own views",
    "repulsion_entropy": "repulsion entropy (1 = uniform)",
    "alignment": "alignment (lower = closer)",
    "uniformity": "uniformity (lower = more even)",
}
_COLUMNS, _AT_MOST = 3, 12


def series_of(events: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """Collect every logged number of the training records as (steps, values), the best-known names first.

    A step that was logged twice (before and after a resume) counts once, with its later record. Values that are not
    finite stay in as NaN.

    Example:
        >>> events = [{"event": "train", "step": 1, "loss": 2.0}, {"event": "train", "step": 2, "loss": 1.0}]
        >>> {name: values.tolist() for name, (steps, values) in series_of(events).items()}
        {'loss': [2.0, 1.0]}
    """
    by_step = {event["step"]: event for event in events if event.get("event") == "train" and "step" in event}
    columns: dict[str, list[tuple[float, float]]] = {}
    for step in sorted(by_step):
        for name, value in by_step[step].items():
            if name not in _NOT_CURVES and isinstance(value, int | float) and not isinstance(value, bool):
                columns.setdefault(name, []).append((step, value if np.isfinite(value) else np.nan))
    names = [name for name in _FIRST if name in columns] + sorted(set(columns) - set(_FIRST))
    return {name: tuple(np.array(columns[name], dtype=np.float64).T) for name in names}


def smoothed(values: Float[np.ndarray, " s"], *, span: int) -> Float[np.ndarray, " s"]:
    """Return the mean of the finite values in a window of `span` around each place; NaN where there are none.

    Example:
        >>> smoothed(np.array([1.0, np.nan, 3.0]), span=3).tolist()
        [1.0, 2.0, 3.0]
    """
    window = np.ones(span)
    total = np.convolve(np.nan_to_num(values), window, mode="full")
    count = np.convolve(np.isfinite(values), window, mode="full")
    start = (span - 1) // 2
    total, count = total[start : start + len(values)], count[start : start + len(values)]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def draw_curves(
    series: Mapping[str, Series],
    path: str | Path,
    *,
    resumed_at: Sequence[float] = (),
    title: str = "Training, step by step",
) -> Path:
    """Draw one panel for each logged number, at most twelve, on a common step axis.

    The thin line is what was logged, the strong one its running mean. Steps with a value that is not finite get a
    tick at the panel's foot.

    Args:
        series: name -> (steps, values), as `series_of` gives it.
        path: where the PNG goes.
        resumed_at: steps at which an interrupted run went on, drawn as dotted lines.
        title: what one should see.

    Returns:
        `path`.

    Raises:
        ValueError: no series at all.
    """
    if not series:
        raise ValueError(
            "there is nothing to draw: series is empty; metrics.jsonl needs at least one record with event 'train'."
        )
    shown = list(series)[:_AT_MOST]
    left_out = f" Not drawn: {', '.join(list(series)[_AT_MOST:])}." if len(series) > _AT_MOST else ""
    rows = -(-len(shown) // _COLUMNS)
    height = 0.75 + 1.75 * rows + 0.2
    with picture(path, height=height) as figure:
        headline(
            figure,
            title,
            "Thin: as logged; strong: running mean; dotted: resumed here. Losses of two methods cannot be compared."
            + left_out,
        )
        grid = figure.add_gridspec(
            rows,
            _COLUMNS,
            left=0.062,
            right=0.985,
            top=1 - 0.85 / height,
            bottom=0.42 / height,
            hspace=0.55,
            wspace=0.26,
        )
        for place, name in enumerate(shown):
            axes = figure.add_subplot(grid[place // _COLUMNS, place % _COLUMNS])
            _draw_one(axes, *series[name], name=name, resumed_at=resumed_at)
            if place + _COLUMNS >= len(shown):
                axes.set_xlabel("step")
    return Path(path)


def _draw_one(axes: Axes, steps: np.ndarray, values: np.ndarray, *, name: str, resumed_at: Sequence[float]) -> None:
    axes.set_title(_TITLES.get(name, name.replace("_", " ")))
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.locator_params(axis="both", nbins=5)
    finite = np.isfinite(values)
    if not finite.any():
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=WRONG)
    marker = "." if finite.sum() < 3 else None
    exact = name == "learning_rate" or len(values) < 12  # a schedule has no noise to smooth
    axes.plot(steps, values, color=ACCENT, lw=1.8 if exact else 0.8, alpha=1.0 if exact else 0.4, marker=marker)
    if not exact:
        mean = smoothed(values, span=2 * (len(values) // 24) + 1)
        axes.plot(steps, np.where(finite, mean, np.nan), color=ACCENT, linewidth=1.8)
    axes.plot(steps[~finite], np.zeros((~finite).sum()), "|", color=WRONG, transform=axes.get_xaxis_transform(), ms=9)
    for step in resumed_at:
        axes.axvline(step, color=MUTED, linestyle=":", linewidth=1)
    if name == "images_per_second" and finite.any():
        axes.set_ylim(0, None)
