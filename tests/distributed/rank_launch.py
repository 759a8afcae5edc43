"""Starts real processes with one gloo group over a file and collects what every rank found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

TIMEOUT = 500.0


def launch_once(world: int, folder: Path) -> list[dict[str, Any]]:
    """Launch in a folder, or wait for whoever was there first."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        deadline = time.monotonic() + TIMEOUT
        while not (folder / "done").exists():
            assert time.monotonic() < deadline, f"no answers from {world} processes in {TIMEOUT:g} s"
            time.sleep(0.2)
    else:
        launch(world, folder)
    failure = (folder / "done").read_text()
    assert not failure, failure
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(world)]


def launch(world: int, folder: Path) -> None:
    """Run the worker on every rank; writes what went wrong, or nothing, to ``done``."""
    script = Path(__file__).parent / "rank_worker.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(world), str(folder), str(TIMEOUT)]
    started = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    failed = [rank for rank in range(world) if not (folder / f"rank{rank}.pt").exists()]
    logs = [f"rank {rank} of {world}:\n{_end_of(folder / f'rank{rank}.log')}" for rank in failed]
    if started.returncode:
        logs.append(f"code {started.returncode} of {world} processes:\n{started.stdout[-2000:]}")
    (folder / "done").write_text("\n".join(logs))


def _end_of(log: Path) -> str:
    return log.read_text()[-2000:] if log.exists() else "it has not started"
