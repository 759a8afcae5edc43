"""The reliability diagram: how often a classifier is right, by how sure it says it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kinfolk.report.style import ACCENT, FAINT, INK, WIDTH, WRONG, headline, picture

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from matplotlib.axes import Axes

_PROTOCOL = "calibration"
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.72, 0.2, 0.9, 0.5  # inches around the panels
_SIDE, _HISTOGRAM, _BETWEEN = 4.0, 1.1, 0.15  # of a diagram, of the histogram below it, and between the two


class Diagram(NamedTuple):
    """One classifier's bins of confidence, and what stands above them.

    Args:
        title: of the panel.
        counts: rows in every bin.
        confidences: their mean confidence, NaN in an empty bin.
        accuracies: their accuracy, NaN in an empty bin.
    """

    title: str
    counts: Int[np.ndarray, " b"]
    confidences: Float[np.ndarray, " b"]
    accuracies: Float[np.ndarray, " b"]

    @property
    def shares(self) -> Float[np.ndarray, " b"]:
        """Share of all rows in every bin."""
        return self.counts / max(int(self.counts.sum()), 1)

    def overall(self, values: Float[np.ndarray, " b"]) -> float:
        """Mean over rows of what is known bin by bin."""
        return float(np.nansum(values * self.shares))


def write_reliability(records: Iterable[Mapping[str, Any]], path: str | Path, *, encoder: str | None = None) -> Path:
    """Draw the reliability diagram of one encoder's linear head, beside the one with a fitted temperature.

    Every bin of confidence has a bar as high as its accuracy, and the gap between accuracy and mean confidence is
    hatched, both pale where a bin has fewer than 10 rows; below stands how many rows have that confidence. On the
    diagonal a classifier is right as often as it says.

    Args:
        records: of the protocol "calibration" among any others, as a run's `evals.json` holds them; nothing else is
            read.
        path: where the PNG goes.
        encoder: whose head; None takes "trained", or else the first there is.

    Returns:
        `path`.

    Raises:
        ValueError: without a calibration record of that encoder; the message says which encoders have one.

    Example:
        >>> import tempfile
        >>> bins = {"bin_counts": [1, 3], "bin_confidences": [0.4, 0.9], "bin_accuracies": [1.0, 0.667]}
        >>> record = {"encoder": "trained", "protocol": "calibration", "metric": "ECE", "value": 0.325}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_reliability([{**record, "parameters": bins}], Path(folder) / "reliability.png").name
        'reliability.png'
    """
    found = _diagrams(records)
    who = encoder or ("trained" if "trained" in found else next(iter(found), "trained"))
    if who not in found:
        known = ", ".join(found) or "none"
        raise ValueError(
            f"there is no calibration record of {who!r} to draw; encoders that have one: {known}. "
            "Evaluate with the protocol 'calibration'."
        )
    height = _TOP + _SIDE + _BETWEEN + _HISTOGRAM + _BOTTOM
    with picture(path, height=height) as figure:
        headline(figure, f"Is the linear head right as often as it is sure? Features: {who}", _NOTE)
        grid = figure.add_gridspec(
            2,
            2,
            height_ratios=(_SIDE, _HISTOGRAM),
            left=_LEFT / WIDTH,
            right=1 - _RIGHT / WIDTH,
            top=1 - _TOP / height,
            bottom=_BOTTOM / height,
            hspace=2 * _BETWEEN / (_SIDE + _HISTOGRAM),  # of the mean height of the two rows
            wspace=0.13,
        )
        most = max(float(diagram.shares.max()) for diagram in found[who])
        for column, diagram in enumerate(found[who][:2]):
            _draw_bins(figure.add_subplot(grid[0, column]), diagram, named=column == 0)
            _draw_shares(figure.add_subplot(grid[1, column]), diagram, most=most, named=column == 0)
    return Path(path)


_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_NOTE = (
    "Bars: accuracy by bin of confidence. Hatched: gap to the mean confidence, orange too sure, blue not sure enough."
    " Pale: under 10 rows."
)
_FEW = 10  # rows below which a bin's accuracy is mostly chance


def _diagrams(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Diagram]]:
    """Encoder -> its one or two diagrams, in the order of the records."""
    found: dict[str, list[Diagram]] = {}
    for record in records:
        parameters = record.get("parameters") or {}
        if record["protocol"] != _PROTOCOL or "bin_counts" not in parameters:
            continue
        diagram = Diagram(
            _title(float(record["value"]), parameters.get("temperature")),
            np.array(parameters["bin_counts"], dtype=np.int64),
            np.array(parameters["bin_confidences"], dtype=np.float64),  # None becomes NaN
            np.array(parameters["bin_accuracies"], dtype=np.float64),
        )
        found.setdefault(record["encoder"], []).append(diagram)
    return found


def _title(error: float, temperature: float | None) -> str:
    how = "as fitted" if temperature is None else f"logits / {temperature:.3g}"
    return f"{how}: calibration error (ECE) {100 * error:.1f} %"


def _draw_bins(axes: Axes, diagram: Diagram, *, named: bool) -> None:
    axes.set_title(diagram.title)
    bins = len(diagram.counts)
    for place in np.flatnonzero(diagram.counts):
        accuracy, confidence = diagram.accuracies[place], diagram.confidences[place]
        colour = WRONG if confidence > accuracy else "#6aaed6"
        how: dict[str, Any] = {"width": 1 / bins, "align": "edge", "alpha": 0.3 if diagram.counts[place] < _FEW else 1}
        axes.bar(place / bins, accuracy, color=ACCENT, ec="white", lw=0.6, **how)
        low, gap = min(accuracy, confidence), abs(confidence - accuracy)
        axes.bar(place / bins, gap, bottom=low, color="none", ec=colour, hatch="/////", lw=0.8, **how)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle="--")
    _frame(axes)
    axes.set(ylim=(0, 1), xticklabels=[])
    axes.set_yticks(_TICKS, labels=[f"{100 * tick:.0f}" for tick in _TICKS])
    if named:
        axes.set_ylabel("accuracy, %")


def _draw_shares(axes: Axes, diagram: Diagram, *, most: float, named: bool) -> None:
    bins = len(diagram.counts)
    axes.bar(np.arange(bins) / bins, diagram.shares, width=1 / bins, align="edge", color=FAINT, ec="white", lw=0.6)
    means = (("mean confidence", diagram.confidences, WRONG, "--"), ("accuracy", diagram.accuracies, ACCENT, "-"))
    for text, values, colour, style in means:
        mean = diagram.overall(values)
        axes.axvline(mean, color=colour, linestyle=style, linewidth=1.5, label=f"{text} {100 * mean:.1f} %")
    _frame(axes)
    axes.set(ylim=(0, 1.05 * most), xlabel="confidence, %")
    axes.set_xticks(_TICKS, labels=[f"{100 * tick:.0f}" for tick in _TICKS])
    axes.set_yticks([0, most], labels=["0", f"{100 * most:.0f}"])
    axes.legend(loc="upper left", frameon=False, handlelength=1.6, borderaxespad=0.2)
    if named:
        axes.set_ylabel(f"share of\n{int(diagram.counts.sum()):,} rows, %")


def _frame(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
