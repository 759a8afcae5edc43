"""Peak memory, time and outcome of one contender at one size, in a process of its own that may fail."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import inputs
from benchmarks.contenders import COMPILED, contenders
from benchmarks.processes import Failure, call_each
from benchmarks.timing import seconds

OK = "ok"


@dataclass(frozen=True)
class Task:
    """What to run, and the bounds to run it in."""

    loss: str
    contender: str
    rows: int
    d: int
    e: int
    threads: int
    memory_limit: int
    """Bytes of private memory beyond what the started process holds."""
    folder: Path | None = None
    repeats: int = 1


@dataclass(frozen=True)
class Found:
    """Outcome: ``status`` is "ok" or says what happened."""

    status: str
    peak: int | None = None
    """Growth in bytes of the process's largest resident size over the inputs; gradients of the inputs included."""
    seconds: float | None = None
    first_seconds: float | None = None
    """The first call, for a compiled function with its compilation."""


def probe(task: Task, *, limit: float) -> Found:
    """Run a task in a process; whatever fails or exceeds ``limit`` seconds comes back as its status."""
    result = call_each(run, [(task,)], limit=limit)[0]
    return Found(result.text) if isinstance(result, Failure) else result


def run(task: Task) -> Found:
    """Measure in this process. Only the growth of the peak counts, so call it once per process."""
    torch.set_num_threads(task.threads)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # read when the compiler is imported
    step = contenders(task.loss, only=(task.contender,), folder=task.folder)[task.contender].step
    assert step is not None
    x = inputs.make(task.loss, task.rows, task.d, task.e)

    def once() -> None:
        x.clear()
        step(x).backward()

    first = None
    if task.contender == COMPILED:  # its compilation needs the size itself and must not count
        return_free_blocks()
        first = seconds(once)
    else:
        step(inputs.make(task.loss, 64, task.d, task.e)).backward()
    x.clear()
    limit_private_memory(task.memory_limit)
    baseline = reset_peak()
    try:
        times = [seconds(once) for _ in range(task.repeats)]
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        return Found(f"out of memory at a limit of {task.memory_limit / 1e9:.1f} GB")
    return Found(OK, resident("VmHWM") - baseline, min(times), first)


def resident(field: str) -> int:
    """Return a size of this process in bytes from /proc: ``VmHWM`` (peak), ``VmRSS`` (now) or ``VmData``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; peak memory is measured on Linux only.")


def reset_peak() -> int:
    """Give free memory back, set the peak to what is held now, and return that."""
    ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # a sandbox may refuse: the peak so far is then the baseline
        Path("/proc/self/clear_refs").write_text("5")
    return resident("VmHWM")


def return_free_blocks() -> None:
    """Let glibc map every block above 64 KB on its own, so that freeing it lowers the resident size at once."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    for option in (m_trim_threshold, m_mmap_threshold):
        ctypes.CDLL(None).mallopt(option, 65536)


def limit_private_memory(extra: int) -> None:
    """Let allocations fail, rather than the machine, beyond ``extra`` bytes from here on."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (resident("VmData") + extra, hard))
