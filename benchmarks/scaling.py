"""Time and memory against the number of rows, to the limit: kinfolk and the dense form, NT-Xent.

Every point is a process of its own on a CPU. A form whose memory at the next size, extrapolated from its last two
measured sizes, exceeds what is free is not started: the row says what it would take. Where it does start and fails all
the same, the row says that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import floor, inputs, machine
from benchmarks.contenders import OURS, contenders
from benchmarks.probe import OK, Found, Task, probe
from benchmarks.table import Row, Table
from benchmarks.timing import seconds

COLUMNS = (
    *("loss", "contender", "rows", "d", "dtype", "status", "milliseconds", "peak megabytes", "predicted megabytes"),
    *("gigaflops", "gigaflops / second", *machine.COLUMNS),
)


@dataclass(frozen=True)
class Settings:
    """Sizes and bounds of a run."""

    sizes: tuple[int, ...] = tuple(2**k for k in range(10, 18))
    d: int = 128
    loss: str = "NT-Xent"
    names: tuple[str, ...] = (OURS, "dense")
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    limit: float = 900.0
    memory_share: float = 0.7


def measure(settings: Settings, path: Path) -> list[Row]:
    """Measure every point, small sizes first, and write rows as they come."""
    table, about = Table(path, COLUMNS), machine.describe(settings.device)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    peaks: dict[str, list[tuple[int, float]]] = {name: [] for name in settings.names}
    for rows in settings.sizes:
        for name in settings.names:
            row = _point(settings, name, rows, peaks[name])
            if row.get("peak megabytes"):
                peaks[name].append((rows, float(str(row["peak megabytes"]))))
            known: Row = {"loss": settings.loss, "contender": name, "rows": rows, "d": settings.d}
            table.add(known | {"dtype": str(settings.dtype).removeprefix("torch.")} | row | about)
            print(_line(table.rows[-1]), flush=True)
    for name, points in peaks.items():
        if len(points) > 1:
            print(f"{name}: memory grows as rows^{exponent(points):.2f}", flush=True)
    return table.rows


def exponent(points: Sequence[tuple[float, float]], *, last: int = 4) -> float:
    """Return the slope of log y against log x by least squares over the last points, where constants are small."""
    logs = [(math.log(x), math.log(y)) for x, y in points[-last:]]
    x_mean, y_mean = (sum(p[k] for p in logs) / len(logs) for k in (0, 1))
    return sum((x - x_mean) * (y - y_mean) for x, y in logs) / sum((x - x_mean) ** 2 for x, _ in logs)


def predict(points: Sequence[tuple[int, float]], rows: int) -> float | None:
    """Return the memory at a size from the power law through the last two measured ones; None with fewer."""
    if len(points) < 2:
        return None
    return points[-1][1] * (rows / points[-1][0]) ** exponent(points, last=2)


def _point(s: Settings, name: str, rows: int, peaks: Sequence[tuple[int, float]]) -> Row:
    expected = predict(peaks, rows)
    free = torch.cuda.mem_get_info()[0] if s.device == "cuda" else machine.free_memory()
    allowed = int(free * s.memory_share)
    if expected is not None and 1e6 * expected > allowed:
        status = f"does not fit: {expected / 1e3:.1f} GB expected, {allowed / 1e9:.1f} GB allowed"
        return {"status": status, "predicted megabytes": expected}
    if s.device == "cuda":
        found = _on_gpu(s, name, rows)
    else:
        repeats = 3 if rows <= 16384 else 1
        task = Task(s.loss, name, rows, s.d, 0, torch.get_num_threads(), allowed, repeats=repeats)
        found = probe(task, limit=s.limit)
    if found.status != OK or found.seconds is None or found.peak is None:
        return {"status": found.status, "predicted megabytes": expected}
    work = floor.work(s.loss, rows, s.d, 0).flops / 1e9
    return {
        "status": OK,
        "milliseconds": 1e3 * found.seconds,
        "peak megabytes": found.peak / 1e6,
        "predicted megabytes": expected,
        "gigaflops": work,
        "gigaflops / second": work / found.seconds,
    }


def _on_gpu(s: Settings, name: str, rows: int) -> Found:
    step = contenders(s.loss, only=(name,), device="cuda")[name].step
    assert step is not None
    x = inputs.make(s.loss, rows, s.d, 0, device="cuda", dtype=s.dtype)

    def once() -> None:
        x.clear()
        step(x).backward()

    try:
        once()
        x.clear()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        times = [seconds(once, device="cuda") for _ in range(3)]
        return Found(OK, torch.cuda.max_memory_allocated() - before, min(times))
    except torch.cuda.OutOfMemoryError:
        x.clear()
        torch.cuda.empty_cache()
        return Found(f"out of memory on {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB")


def _line(row: Row) -> str:
    name = f"{row['loss']:<9}{row['rows']:>8} x {row['d']:<4}{row['contender']:<10}"
    if row["status"] != OK:
        return name + str(row["status"])
    return f"{name}{row['milliseconds']:>12.1f} ms{row['peak megabytes']:>11.1f} MB"


def smoke(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Settings:
    """Return settings that take seconds."""
    return Settings(sizes=(128, 256), d=8, device=device, dtype=dtype)
