"""Functions in processes of their own, which may fail, hang or be killed without harm to the run.

The processes are forked from a server that has imported torch and kinfolk and has not computed anything.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

START = 120.0
"""Seconds that processes have to start and prepare before the clock runs."""
GRACE = 2.0
"""Seconds that the others still get once one process has failed."""
_PLACES = re.compile(r"\[/[^\]]*\] ?| ?\[[\d.]+\]:\d+")
"""Source files and ports in messages of gloo: they differ from run to run and say nothing."""


@dataclass(frozen=True)
class Failure:
    """What happened instead of a result."""

    text: str


def call_each(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    *,
    limit: float,
    prepare: Callable[..., Any] | None = None,
) -> list[Any]:
    """Call a module's function with each of the arguments, all at once, each in a process.

    Args:
        function: called with each of the arguments.
        arguments: one tuple a process.
        limit: seconds from the moment that all processes are prepared.
        prepare: called with the same arguments before the clock runs: imports, say.

    Returns:
        The results in order; a `Failure` where a process raised, died or was ended by the limit.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.__main__", "benchmarks.schemes"])
    messages: Any = context.Queue()
    processes = [
        context.Process(target=_call, args=(k, function, prepare, a, messages)) for k, a in enumerate(arguments)
    ]
    for process in processes:
        process.start()
    found = _collect(messages, processes, limit)
    for process in processes:
        _end(process, GRACE if len(found) == len(processes) else 0)
    late = Failure(f"no result within {limit:.0f} s")
    return [found.get(k, late) for k in range(len(processes))]


def _collect(messages: Any, processes: Sequence[Any], limit: float) -> dict[int, Any]:
    found: dict[int, Any] = {}
    ready: set[int] = set()
    deadline = time.monotonic() + START
    while len(found) < len(processes) and time.monotonic() < deadline:
        dead = [k for k, process in enumerate(processes) if k not in found and process.exitcode is not None]
        try:
            k, kind, result = messages.get(timeout=min(0.5, max(deadline - time.monotonic(), 0.01)))
        except queue.Empty:
            found |= {k: Failure(f"the process died of {_cause(processes[k].exitcode)}") for k in dead}
        else:
            if kind == "result":
                found[k] = result
            else:
                ready.add(k)
                deadline = time.monotonic() + limit if len(ready) == len(processes) else deadline
        if any(isinstance(result, Failure) for result in found.values()):
            deadline = min(deadline, time.monotonic() + GRACE)
    return found


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"


def _end(process: Any, patience: float) -> None:
    process.join(patience)
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not become a group's leader yet
            process.kill()
    process.join()


def _call(
    k: int,
    function: Callable[..., Any],
    prepare: Callable[..., Any] | None,
    arguments: tuple[Any, ...],
    messages: Any,
) -> None:
    os.setsid()  # so that what it starts, a compiler say, is ended with it
    try:
        if prepare is not None:
            prepare(*arguments)
        messages.put((k, "ready", None))
        result = function(*arguments)
    except Exception as error:  # the parent reports whatever it is
        lines = [line for line in str(error).splitlines() if line.strip()]
        text = _PLACES.sub("", (lines or [""])[0])
        result = Failure(f"{type(error).__name__}: {text[:200]}")
    messages.put((k, "result", result))
