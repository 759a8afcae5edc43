"""Pictures of the tables; without matplotlib there are none, and nothing fails."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from benchmarks.table import number

Rows = list[dict[str, str]]

_COLOURS = {
    "kinfolk": "tab:blue",
    "kinfolk, cached": "tab:cyan",
    "dense, cached": "tab:olive",
    "kinfolk NT-Xent": "lightsteelblue",
    "dense": "tab:orange",
    "dense compiled": "tab:green",
    "matmul floor": "tab:gray",
}
"""One colour for one contender in every picture; the others share what is left."""


def draw(kind: str, rows: Rows, path: Path) -> Path | None:
    """Draw a table where there is something to draw and something to draw it with."""
    if kind not in ("losses", "scaling", "towers") or importlib.util.find_spec("matplotlib") is None:
        return None
    import matplotlib as mpl

    mpl.use("Agg")
    figure = _losses(rows) if kind == "losses" else _scaling(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _figure(count: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    columns = min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False).flat


def _losses(rows: Rows) -> Any:
    """Time against rows for every loss, at the d that has most sizes; bars where that is a single one."""
    d = max({r["d"] for r in rows}, key=lambda d: len({r["rows"] for r in rows if r["d"] == d}))
    e = {loss: next(r["e"] for r in rows if r["loss"] == loss) for loss in {r["loss"]: None for r in rows}}
    figure, axes = _figure(len(e))
    for axis, loss in zip(axes, e, strict=False):
        part = [r for r in rows if r["loss"] == loss and r["d"] == d and r["e"] == e[loss]]
        title = f"{loss}, d = {d}" + (f", e = {e[loss]}" if e[loss] else "")
        sizes = {r["rows"] for r in part}
        if len(sizes) == 1:
            _bars(axis, part)
            axis.set_title(f"{title}, {int(sizes.pop()):,} rows", fontsize=10)
            continue
        _lines(axis, part, "milliseconds")
        axis.set_title(title)
        axis.set_ylabel("forward + backward, ms")
        axis.legend(fontsize=6)
    return figure


def _bars(axis: Any, rows: Rows) -> None:
    """Time of every contender at one size, with its ratio to kinfolk's."""
    times = {r["contender"]: time for r in rows if (time := number(r["milliseconds"])) is not None}
    order = sorted(times, key=lambda name: -times[name])
    bars = axis.barh(order, [times[name] for name in order], color=[_COLOURS.get(name, "tab:red") for name in order])
    axis.bar_label(bars, [f"{times[name] / times['kinfolk']:.2f} x" for name in order], padding=3, fontsize=8)
    axis.set_xlim(0, 1.25 * max(times.values()))
    axis.set_xlabel("forward + backward, ms")
    axis.tick_params(axis="y", labelsize=8)


def _scaling(rows: Rows) -> Any:
    figure, axes = _figure(2)
    for axis, column in zip(axes, ("milliseconds", "peak megabytes"), strict=True):
        _lines(axis, rows, column)
        axis.set_ylabel(column)
        axis.legend(fontsize=8)
    return figure


def _lines(axis: Any, rows: Rows, column: str) -> None:
    for name in dict.fromkeys(r["contender"] for r in rows):
        points = [(int(r["rows"]), number(r[column])) for r in rows if r["contender"] == name]
        known = [(x, y) for x, y in points if y is not None]
        if known:
            axis.plot(
                *zip(*known, strict=True), marker="o", markersize=3, linewidth=1.2, label=name, color=_COLOURS.get(name)
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("rows")
    axis.grid(alpha=0.3)
