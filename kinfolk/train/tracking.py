"""What a run writes down and shows while it trains: ``metrics.jsonl`` and one line of progress."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from kinfolk.train.files import write_text


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``: one dictionary a line; a last line cut short by a kill is left out.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> _ = path.write_text('{"event": "train", "step": 1}\\n{"event": "tra')
        >>> read_metrics(path)
        [{'event': 'train', 'step': 1}]
    """
    if not path.exists():
        return []
    *lines, unfinished = path.read_text(encoding="utf-8").split("\n")
    if unfinished:
        print(f"{path}: the last line is cut short and was left out", file=sys.stderr)
    return [json.loads(line) for line in lines if line]


def truncate_metrics(path: Path, *, step: int) -> None:
    """Drop every record after ``step``, and what follows the last step, so that a resumed run logs no step twice."""
    records = [record for record in read_metrics(path) if record["step"] <= step and record["event"] not in _AFTER]
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


_AFTER = ("eval", "end", "failed")


class MetricsFile:
    """Appends records to ``metrics.jsonl``, each at once, so that a killed run keeps what it logged.

    Args:
        path: The file; created with its first record.
        enabled: False on ranks that write nothing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> with MetricsFile(path) as metrics:
        ...     metrics.write("train", step=1, loss=2.5)
        >>> read_metrics(path)
        [{'event': 'train', 'step': 1, 'loss': 2.5}]
    """

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        self._file: IO[str] | None = path.open("a", encoding="utf-8") if enabled else None

    def write(self, event: str, *, step: int, **values: Any) -> None:
        """Append one record; numbers, strings and lists of them."""
        if self._file is not None:
            self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Progress:
    """A progress bar with images per second and the time left; plain lines where the output is no terminal.

    Args:
        total_steps: Steps of the whole run.
        done: Steps taken before this process began (after a resume).
        enabled: False on ranks that show nothing.
        every_seconds: Least time between two plain lines.
        negatives: Rows of other samples that an anchor is contrasted with, None where that has no meaning.

    Example:
        >>> with Progress(total_steps=2) as progress:
        ...     progress.update(1, loss=2.5, images_per_second=1000.0)
    """

    def __init__(
        self,
        *,
        total_steps: int,
        done: int = 0,
        enabled: bool = True,
        every_seconds: float = 5.0,
        negatives: int | None = None,
    ) -> None:
        self._total, self._done, self._enabled = total_steps, done, enabled
        self._negatives = "" if negatives is None else f", {negatives:,} negatives"
        self._every, self._begun, self._shown = every_seconds, time.perf_counter(), -float("inf")
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            self._bar, self._task = self._open_bar()

    def _open_bar(self) -> tuple[Any, Any]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        bar = Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}"), TextColumn("{task.fields[rate]}"), *times,
                       console=Console(stderr=True))  # fmt: skip
        bar.start()
        return bar, bar.add_task(
            f"training{self._negatives}", total=self._total, completed=self._done, loss=float("nan"), rate=""
        )

    def update(self, step: int, *, loss: float, images_per_second: float) -> None:
        """Show that ``step`` steps are done."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=step, loss=loss, rate=f"{images_per_second:,.0f} images/s")
            return
        now = time.perf_counter()
        if now - self._shown >= self._every or step == self._total:
            self._shown = now
            left = (now - self._begun) / max(1, step - self._done) * (self._total - step)
            rate = f"{images_per_second:,.0f} images/s, {left:.0f} s left"
            print(f"step {step}/{self._total}: loss {loss:.4f}{self._negatives}, {rate}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Say what is being done after the last step."""
        if self._bar is not None:
            self._bar.console.print(text)
        elif self._enabled:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
