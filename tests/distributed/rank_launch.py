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
    running = []
    for rank in range(world):
        command = [sys.executable, str(script), str(rank), str(world), str(folder)]
        with open(folder / f"rank{rank}.log", "w") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and any(process.poll() is None for process in running):
        if any(process.poll() for process in running):  # one has failed: the others would only wait for it
            time.sleep(1.0)
            break
        time.sleep(0.05)
    failed = [rank for rank, process in enumerate(running) if process.poll() != 0]
    for process in running:
        process.kill()
        process.wait()
    logs = "\n".join(f"rank {r} of {world}:\n{(folder / f'rank{r}.log').read_text()[-2000:]}" for r in failed)
    (folder / "done").write_text(logs)
