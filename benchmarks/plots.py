"""Pictures of the tables; without matplotlib there are none, and nothing fails."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from benchmarks.table import number

Rows = list[dict[str, str]]


def draw(kind: str, rows: Rows, path: Path) -> Path | None:
    """Draw a table where there is something to draw and something to draw it with."""
    if kind not in ("losses", "scaling") or importlib.util.find_spec("matplotlib") is None:
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
    """Time against rows for every loss, at the d that has most sizes."""
    d = max({r["d"] for r in rows}, key=lambda d: len({r["rows"] for r in rows if r["d"] == d}))
    e = {loss: next(r["e"] for r in rows if r["loss"] == loss) for loss in {r["loss"]: None for r in rows}}
    figure, axes = _figure(len(e))
    for axis, loss in zip(axes, e, strict=False):
        part = [r for r in rows if r["loss"] == loss and r["d"] == d and r["e"] == e[loss]]
        _lines(axis, part, "milliseconds")
        axis.set_title(f"{loss}, d = {d}" + (f", e = {e[loss]}" if e[loss] else ""))
        axis.set_ylabel("forward + backward, ms")
        axis.legend(fontsize=6)
    return figure


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
            axis.plot(*zip(*known, strict=True), marker="o", markersize=3, linewidth=1.2, label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("rows")
    axis.grid(alpha=0.3)
