from __future__ import annotations

from pathlib import Path

import pytest

from kinfolk.train.tracking import MetricsFile, Progress, read_metrics, truncate_metrics


def test_records_are_on_disk_at_once(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.write("train", step=1, loss=2.0)
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"event": "train", "step": 1, "loss": 2.0}]


def test_truncation_keeps_what_the_checkpoint_knows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        metrics.write("start", step=0)
        for step in (1, 2, 3):
            metrics.write("train", step=step)
        metrics.write("end", step=2)
    with path.open("a") as file:
        file.write('{"event": "train", "st')
    truncate_metrics(path, step=2)
    assert [(record["event"], record["step"]) for record in read_metrics(path)] == [
        ("start", 0),
        ("train", 1),
        ("train", 2),
    ]


def test_a_disabled_file_writes_nothing(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl", enabled=False) as metrics:
        metrics.write("train", step=1)
    assert list(tmp_path.iterdir()) == []
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_plain_progress_says_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total_steps=4, done=2, every_seconds=0) as progress:
        progress.update(3, loss=1.25, images_per_second=1234.5)
        progress.update(4, loss=1.0, images_per_second=1234.5)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("step 3/4: loss 1.2500, 1,234 images/s, ")
    assert last.startswith("step 4/4")
    assert last.endswith(" 0 s left")


def test_plain_lines_are_not_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total_steps=100) as progress:
        for step in range(1, 101):
            progress.update(step, loss=1.0, images_per_second=1.0)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["step 1/100", "step 100/100"]


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total_steps=1, enabled=False) as progress:
        progress.update(1, loss=1.0, images_per_second=1.0)
    assert capsys.readouterr().err == ""


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with Progress(total_steps=2) as progress:
        progress.update(2, loss=1.0, images_per_second=2000.0)
    assert "2/2" in terminal.getvalue()
    assert "2,000 images/s" in terminal.getvalue()
