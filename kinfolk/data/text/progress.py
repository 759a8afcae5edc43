"""Progress of long work on many texts: a bar on a terminal, plain lines elsewhere, nothing for short work."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import TracebackType
from typing import Any

from kinfolk.distributed import rank


class TextProgress:
    """Shows how many of `total` texts are done; on rank 0 only, on standard error.

    Args:
        total: texts.
        task: what is done, ``"embedding texts"``.
        every_seconds: between two plain lines, and before the first one.

    Example:
        >>> with TextProgress(2, "embedding texts") as progress:
        ...     progress.advance(2)
    """

    def __init__(self, total: int, task: str, *, every_seconds: float = 5.0) -> None:
        self._total, self._task, self._every, self._done = total, task, every_seconds, 0
        self._begun = self._shown = time.perf_counter()
        self._enabled, self._bar = rank() == 0, None
        if self._enabled and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            self._bar, self._number = _open_bar(total, task)

    def advance(self, count: int) -> None:
        """Say that `count` more texts are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._number, advance=count)
            return
        now = time.perf_counter()
        if self._enabled and now - self._shown >= self._every:
            self._shown = now
            speed = self._done / (now - self._begun)
            left = (self._total - self._done) / speed
            self._say(f"{self._task}: {self._done:,}/{self._total:,}, {speed:,.0f}/s, about {left:.0f} s left")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._begun

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> TextProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def say(text: str) -> None:
    """Print one line of news to standard error, on rank 0 only."""
    if rank() == 0:
        print(text, file=sys.stderr, flush=True)


def _open_bar(total: int, task: str) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"),
                   TimeRemainingColumn(), console=Console(stderr=True))  # fmt: skip
    bar.start()
    return bar, bar.add_task(task, total=total)
