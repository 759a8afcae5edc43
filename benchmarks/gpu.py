"""Everything that needs a GPU, within a budget of minutes: its tests, then every benchmark; partial results are kept.

Needs torch, triton, numpy and pytest, installs nothing and leaves a handful of files. Each part is a process that is
ended when its share of the remaining time is over; a part that finishes early leaves its time to the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from benchmarks import attention, losses, plots, scaling
from benchmarks.inputs import LOSSES
from benchmarks.page import kind_of
from benchmarks.table import read

ROOT = Path(__file__).parents[1]

LOSSES_SETTINGS = losses.Settings(
    sizes=((65536, 512), (65536, 128), (8192, 512), (8192, 128), (32768, 512)),
    losses=("NT-Xent", "CLIP", "X-CLR", "SupCon", "InfoNCE", "CACR"),
    device="cuda",
    dtype=torch.bfloat16,
    repeats=9,
    budget=2.0,
)
SCALING_SETTINGS = scaling.Settings(
    sizes=tuple(2**k for k in (10, 12, 14, 15, 16, 17, 18, 19, 20)), device="cuda", dtype=torch.bfloat16
)
ATTENTION_SETTINGS = attention.Settings(
    sizes=((8192, 8192, 128, 64), (8192, 65536, 128, 64), (32768, 32768, 128, 128), (32768, 32768, 512, 64)),
    device="cuda",
    dtype=torch.bfloat16,
    budget=2.0,
)
assert set(LOSSES_SETTINGS.losses) == set(LOSSES)


@dataclass(frozen=True)
class Part:
    """A command, its share of the time that is left when it starts, and the weights of those after it."""

    name: str
    command: tuple[str, ...]
    weight: float


def parts(out: Path, *, smoke: bool, folder: Path | None) -> list[Part]:
    """Return what is run, in order."""
    python, how = sys.executable, ["--smoke"] if smoke else ["--device", "cuda"]
    tests = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/ops/test_ops_triton*.py"))
    empty = ["-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "--import-mode=importlib"]
    pytest = [python, "-m", "pytest", *empty, "-q", "-rfEs", "--tb=short", "--maxfail=30", *tests]
    if smoke:
        pytest.append("--collect-only")
    peers = ["--peers", str(folder)] if folder else []

    def benchmark(name: str, *options: str) -> tuple[str, ...]:
        return (python, "-W", "ignore", "-m", "benchmarks", name, *how, "--out", str(out / f"{name}.csv"), *options)

    return [
        *([Part("tests", tuple(pytest), 35)] if tests else []),
        Part("losses", benchmark("losses", *peers, *(["--losses", "NT-Xent"] if smoke else [])), 45),
        Part("attention", benchmark("attention"), 10),
        Part("scaling", benchmark("scaling"), 10),
    ]


def run(out: Path, *, budget: float, smoke: bool = False, folder: Path | None = None) -> int:
    """Run all parts and return how many did not end well; everything they print is in ``log.txt`` too."""
    if not smoke and not torch.cuda.is_available():
        raise SystemExit("make gpu needs an NVIDIA GPU that this torch can use; torch.cuda.is_available() is False.")
    out.mkdir(parents=True, exist_ok=True)
    deadline, todo = time.monotonic() + budget, parts(out.resolve(), smoke=smoke, folder=folder)
    bad = 0  # parts that failed or were ended
    with (out / "log.txt").open("w") as log:
        for place, part in enumerate(todo):
            left = deadline - time.monotonic()
            allowed = left * part.weight / sum(other.weight for other in todo[place:])
            _say(log, f"== {part.name}: at most {allowed:.0f} of {left:.0f} s: {' '.join(part.command)}\n")
            start = time.monotonic()
            code = _bounded(part.command, allowed, log)
            ended = "ended by the clock, results so far are kept" if code is None else f"code {code}"
            _say(log, f"== {part.name}: {ended}, {time.monotonic() - start:.0f} s\n")
            bad += code != 0
        for table in sorted(out.glob("*.csv")):
            rows = read(table)
            if rows and plots.draw(kind_of(rows), rows, table.with_suffix(".png")):
                _say(log, f"== {table.stem}: drawn\n")
        _say(log, f"== {bad} of {len(todo)} parts did not end by themselves with code 0\n")
    return bad


def _bounded(command: Sequence[str], limit: float, log: IO[str]) -> int | None:
    """Run a command, copying its output line by line; None where the limit ended it and its children."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    ended = threading.Event()

    def end() -> None:
        ended.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(max(limit, 1), end)
    timer.start()
    assert process.stdout is not None
    for line in process.stdout:
        _say(log, line)
    code = process.wait()
    timer.cancel()
    return None if ended.is_set() else code


def _say(log: IO[str], text: str) -> None:
    print(text, end="", flush=True)
    log.write(text)
    log.flush()
