"""Forward plus backward of each loss: kinfolk, dense PyTorch, the same compiled, other libraries, the matmul floor.

On a CPU every contender first runs alone in a process of its own, which measures its peak memory and may fail
(`benchmarks.probe`); those that came back are warmed up, their value and gradient are compared with kinfolk's, and the
ones that compute the same loss (up to a constant factor, which is stated) are timed in turns with the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import floor, inputs, machine
from benchmarks.contenders import COMPILED, OURS, YARDSTICK, Contender, contenders
from benchmarks.inputs import LOSSES, Inputs
from benchmarks.probe import OK, Found, Task, probe
from benchmarks.table import Row, Table
from benchmarks.timing import Times, in_turns, seconds

FLOOR = "matmul floor"
COLUMNS = (
    *("loss", "contender", "version", "rows", "d", "e", "dtype", "status"),
    *("milliseconds", "fastest", "slowest", "repeats", "forward milliseconds", "peak megabytes", "first call seconds"),
    *("value ratio", "gradient ratio", "gradient cosine", "time / kinfolk", "time / floor"),
    *("gigaflops", "share of matmul rate", "forward share of matmul rate", *machine.COLUMNS),
)
COSINE = {torch.float32: 1 - 1e-6, torch.bfloat16: 1 - 1e-3}
"""Gradients that point elsewhere belong to another loss."""


@dataclass(frozen=True)
class Settings:
    """Sizes, bounds and place of a run."""

    sizes: tuple[tuple[int, int], ...] = ((1024, 128), (4096, 128), (8192, 128), (4096, 512))
    """Pairs of rows and d."""
    losses: tuple[str, ...] = LOSSES
    side_width: int = 64
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    repeats: int = 9
    budget: float = 20.0
    """Seconds of timing after which a contender takes no further repeat."""
    limit: float = 180.0
    """Seconds after which a contender's first run is given up, its compilation included."""
    memory_share: float = 0.7
    """Of the free memory, what a contender may take."""
    folder: Path | None = None
    only: tuple[str, ...] | None = None
    """Names of the contenders to run, all by default; kinfolk always runs."""

    def cases(self) -> Iterable[tuple[str, int, int, int]]:
        """Loss, rows, d and e in the order of the table: X-CLR at both widths of its side embedding."""
        for rows, d in self.sizes:
            for loss in self.losses:
                widths = (self.side_width, d) if loss == "X-CLR" and d != self.side_width else (self.side_width,)
                for e in widths:
                    yield loss, rows, d, e


def measure(settings: Settings, path: Path) -> list[Row]:
    """Measure every case, write rows to a CSV file as they come and return them."""
    table, about = Table(path, COLUMNS), machine.describe(settings.device)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    rate = None
    if settings.device == "cuda":
        rate = floor.matmul_rate(device="cuda", dtype=settings.dtype)
        print(f"matmul rate {rate / 1e12:.0f} TFLOP/s in {settings.dtype}", flush=True)
    for loss, rows, d, e in settings.cases():
        for row in _case(settings, loss, rows, d, e, rate):
            known: Row = {"loss": loss, "rows": rows, "d": d, "e": e if loss == "X-CLR" else None}
            table.add(known | {"dtype": str(settings.dtype).removeprefix("torch.")} | row | about)
            print(_line(table.rows[-1]), flush=True)
    return table.rows


def _case(s: Settings, loss: str, rows: int, d: int, e: int, rate: float | None) -> Iterable[Row]:
    """One loss at one size: a row per contender, and the floor's."""
    torch._dynamo.reset()
    only = None if s.only is None else (OURS, YARDSTICK, *s.only)
    asked = contenders(loss, only=only, folder=s.folder, device=s.device)
    x = inputs.make(loss, rows, d, e, device=s.device, dtype=s.dtype)
    found = {name: _first_run(s, c, x, loss, rows, d, e) for name, c in asked.items()}
    table: dict[str, Row] = {}
    steps: dict[str, Callable[[Inputs], Tensor]] = {}
    reference: tuple[float, Tensor] | None = None
    for name, contender in asked.items():
        peak = found[name].peak
        row: Row = {"contender": name, "version": contender.version, "status": found[name].status}
        row |= {"peak megabytes": None if peak is None else peak / 1e6, "first call seconds": found[name].first_seconds}
        table[name] = row
        if found[name].status != OK or contender.step is None:
            continue
        value, gradient = _evaluate(contender.step, x)
        reference = reference or (value, gradient)
        row |= compare(value, gradient, reference)
        if name == YARDSTICK:
            row["status"] = contender.note
        elif not float(str(row["gradient cosine"])) > COSINE[s.dtype]:
            row["status"] = "another loss: not timed"
            continue
        steps[name] = contender.step
    load = floor.work(loss, rows, d, e)
    times, forward = _timed(s, steps, x, floor.products(load, device=s.device, dtype=s.dtype))
    table[FLOOR] = {"contender": FLOOR, "status": OK}
    for name, known in table.items():
        yield known | _figures(name, times, forward, load, rate)


def _first_run(s: Settings, contender: Contender, x: Inputs, loss: str, rows: int, d: int, e: int) -> Found:
    if contender.step is None:
        return Found(f"absent: {contender.note}")
    if s.device == "cuda":
        return _first_run_on_gpu(contender, x)
    allowed = int(machine.free_memory() * s.memory_share)
    task = Task(loss, contender.name, rows, d, e, torch.get_num_threads(), allowed, s.folder)
    return probe(task, limit=s.limit)


def _first_run_on_gpu(contender: Contender, x: Inputs) -> Found:
    """Warm up (compilation and autotuning happen here), then measure the allocator's peak."""
    assert contender.step is not None
    step = contender.step

    def once() -> None:
        x.clear()
        step(x).backward()

    try:
        first = seconds(once, device="cuda")
        x.clear()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once()
        peak = torch.cuda.max_memory_allocated() - before
        return Found(OK, peak, None, first if contender.name == COMPILED else None)
    except torch.cuda.OutOfMemoryError:
        x.clear()
        torch.cuda.empty_cache()
        return Found(f"out of memory on {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB")
    except Exception as error:  # whatever a library raises is its result
        x.clear()
        return Found(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")


def _evaluate(step: Callable[[Inputs], Tensor], x: Inputs) -> tuple[float, Tensor]:
    x.clear()
    loss = step(x)
    loss.backward()
    return loss.item(), x.gradient()


def compare(value: float, gradient: Tensor, reference: tuple[float, Tensor]) -> Row:
    """Say by what factor a value and a gradient differ from the reference's, and whether the gradient points there."""
    expected, towards = reference
    return {
        "value ratio": value / expected,
        "gradient ratio": (gradient.norm() / towards.norm()).item(),
        "gradient cosine": torch.cosine_similarity(gradient, towards, 0).item(),
    }


def _timed(
    s: Settings, steps: dict[str, Callable[[Inputs], Tensor]], x: Inputs, products: Callable[[], None]
) -> tuple[dict[str, Times], dict[str, Times]]:
    """Forward plus backward of all and the floor in turns; on a GPU the forward alone as well."""

    def full(step: Callable[[Inputs], Tensor]) -> Callable[[], None]:
        return lambda: step(x).backward()

    products()
    functions = {name: full(step) for name, step in steps.items()} | {FLOOR: products}
    bounds = {"repeats": s.repeats, "budget": s.budget, "device": s.device}
    times = in_turns(functions, between=x.clear, **bounds)  # type: ignore[arg-type]
    x.clear()
    if s.device != "cuda":
        return times, {}
    with torch.no_grad():
        values: dict[str, Callable[[], object]] = {name: partial(step, x) for name, step in steps.items()}
        for function in values.values():
            function()
        return times, in_turns(values, **bounds)  # type: ignore[arg-type]


def _figures(
    name: str, times: dict[str, Times], forward: dict[str, Times], load: floor.Work, rate: float | None
) -> Row:
    if name not in times:
        return {}
    median = times[name].median
    row: Row = {
        "milliseconds": 1e3 * median,
        "fastest": 1e3 * min(times[name].values),
        "slowest": 1e3 * max(times[name].values),
        "repeats": len(times[name].values),
        "time / kinfolk": median / times[OURS].median if OURS in times else None,
        "time / floor": median / times[FLOOR].median,
        "gigaflops": load.flops / 1e9,
    }
    if rate:
        row["share of matmul rate"] = load.flops / median / rate
    if name in forward:
        row["forward milliseconds"] = 1e3 * forward[name].median
        row["forward share of matmul rate"] = load.forward_flops / forward[name].median / (rate or 1)
    return row


def _line(row: Row) -> str:
    name = f"{row['loss']:<9}{row['rows']:>8} x {row['d']:<4}{'e ' + str(row['e']) if row['e'] else '':<7}"
    if row.get("milliseconds") is None:
        return f"{name}{row['contender']:<26}{row['status']}"
    peak = row.get("peak megabytes")
    memory = f"{peak:>10.1f} MB" if isinstance(peak, float) else f"{'':>13}"
    return (
        f"{name}{row['contender']:<26}{row['milliseconds']:>10.2f} ms{memory}"
        f"{row['time / kinfolk'] or 0:>8.2f} x kinfolk{row['time / floor']:>8.2f} x floor  "
        f"{'' if row['status'] == OK else row['status']}"
    )


def smoke(device: str = "cpu", dtype: torch.dtype = torch.float32, losses: Sequence[str] = LOSSES) -> Settings:
    """Return settings that take seconds, to see that it runs."""
    few = ("dense", "SupContrast style", "pytorch-metric-learning", "lightly", "open_clip")
    return Settings(((64, 8),), tuple(losses), side_width=4, device=device, dtype=dtype, repeats=2, only=few)
