"""Medians of functions that run in turns, so that a drift of the machine meets each of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of every repeat of one function."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def seconds(function: Callable[[], object], *, device: str = "cpu") -> float:
    """Return the time of one call; on a GPU between two events on its stream."""
    if device != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    budget: float,
    device: str = "cpu",
    between: Callable[[], object] = lambda: None,
) -> dict[str, Times]:
    """Time functions in turns; each stops early once it has used up ``budget`` seconds (after one repeat at least).

    Call them once before: nothing here warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            between()
            if not times[name] or sum(times[name]) < budget:
                times[name].append(seconds(function, device=device))
    return {name: Times(tuple(values)) for name, values in times.items()}
