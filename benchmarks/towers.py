"""A training step of two towers against the batch: with and without the engine, with and without gradient caching.

The encoders are those of the recipe `clip-emoji`, with group norm so that chunks change nothing. Every point is a
process of its own; what would not fit is not started, as in `benchmarks.scaling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import dense, machine
from benchmarks.inputs import TEMPERATURE
from benchmarks.probe import OK, Found, limit_private_memory, reset_peak, resident
from benchmarks.processes import Failure, call_each
from benchmarks.scaling import exponent, predict
from benchmarks.table import Row, Table
from benchmarks.timing import seconds

COLUMNS = (
    *("contender", "rows", "status", "milliseconds", "peak megabytes", "predicted megabytes", "pairs / second"),
    *machine.COLUMNS,
)
FORMS = {
    "kinfolk, cached": (True, True),
    "kinfolk": (True, False),
    "dense, cached": (False, True),
    "dense": (False, False),
}
"""Whether the engine computes the loss, and whether the encoders see chunks."""


@dataclass(frozen=True)
class Settings:
    """Sizes and bounds of a run."""

    sizes: tuple[int, ...] = tuple(2**k for k in range(8, 16))
    chunk: int = 256
    width: int = 32
    names: tuple[str, ...] = tuple(FORMS)
    limit: float = 900.0
    memory_share: float = 0.7


@dataclass(frozen=True)
class Task:
    """One point."""

    form: str
    rows: int
    chunk: int
    width: int
    threads: int
    memory_limit: int


def measure(settings: Settings, path: Path) -> list[Row]:
    """Measure every point, small batches first, and write rows as they come."""
    table, about = Table(path, COLUMNS), machine.describe("cpu")
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    peaks: dict[str, list[tuple[int, float]]] = {name: [] for name in settings.names}
    for rows in settings.sizes:
        for name in settings.names:
            row = _point(settings, name, rows, predict(peaks[name], rows))
            if isinstance(peak := row.get("peak megabytes"), float):
                peaks[name].append((rows, peak))
            known: Row = {"contender": name, "rows": rows}
            table.add(known | row | about)
            print(f"{rows:>7} {name:<16} {row}", flush=True)
    for name, points in peaks.items():
        if len(points) > 1:
            print(f"{name}: memory grows as rows^{exponent(points):.2f}", flush=True)
    return table.rows


def _point(s: Settings, name: str, rows: int, expected: float | None) -> Row:
    allowed = int(machine.free_memory() * s.memory_share)
    if expected is not None and 1e6 * expected > allowed:
        status = f"does not fit: {expected / 1e3:.1f} GB expected, {allowed / 1e9:.1f} GB allowed"
        return {"status": status, "predicted megabytes": expected}
    task = Task(name, rows, s.chunk, s.width, torch.get_num_threads(), allowed)
    found = call_each(run, [(task,)], limit=s.limit)[0]
    if isinstance(found, Failure):
        return {"status": found.text, "predicted megabytes": expected}
    if found.status != OK or found.seconds is None or found.peak is None:
        return {"status": found.status, "predicted megabytes": expected}
    return {
        "status": OK,
        "milliseconds": 1e3 * found.seconds,
        "peak megabytes": found.peak / 1e6,
        "predicted megabytes": expected,
        "pairs / second": rows / found.seconds,
    }


def run(task: Task) -> Found:
    """Measure in this process: the growth of the peak over encoders and batch, and the time of a step."""
    torch.set_num_threads(task.threads)
    step, batch = _step(task), _batch(task.rows)
    step(_batch(8))
    limit_private_memory(task.memory_limit)
    baseline = reset_peak()
    try:
        took = seconds(lambda: step(batch))
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        return Found(f"out of memory at a limit of {task.memory_limit / 1e9:.1f} GB")
    return Found(OK, resident("VmHWM") - baseline, took)


def _batch(rows: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    texts = [f"picture number {i:06d} of many things" for i in range(rows)]
    return {"views": [torch.rand(rows, 3, 32, 32, generator=generator)], "ids": torch.arange(rows), "text": texts}


def _step(task: Task) -> Any:
    from kinfolk.losses import CLIPLoss
    from kinfolk.methods import CLIPConfig
    from kinfolk.nn import SmallConvConfig, TextTransformerConfig
    from kinfolk.train import cached_backward, split_rows

    engine, cached = FORMS[task.form]
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=task.width, norm="group").build(channels=3, image_size=(32, 32))
    method = CLIPConfig(text=TextTransformerConfig(length=32)).build(encoder)
    contrast = CLIPLoss()

    def loss(found: tuple[Tensor, ...]) -> Tensor:
        return contrast(*found, 1 / TEMPERATURE) if engine else dense.clip(*found)

    def step(batch: dict[str, Any]) -> None:
        method.zero_grad(set_to_none=True)
        if cached:
            cached_backward(method.embed, split_rows(batch, task.chunk), loss)
        else:
            loss(method.embed(batch)).backward()

    return step


def smoke() -> Settings:
    """Return settings that take seconds."""
    return Settings(sizes=(16, 32), chunk=8, width=4)
