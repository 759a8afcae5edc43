"""The kernels are not only interpreted: the compiler takes them, for a GPU that need not be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.backends.nvidia", reason="no compiler for NVIDIA GPUs")

SCRIPT = Path(__file__).parent / "triton_compile.py"
KERNELS = {
    "sweep",
    "weigh",
    "merge",
    "sweep_mean",
    "weigh_mean",
    "sweep_sum",
    "weigh_sum",
    "sweep_attraction",
    "weigh_attraction",
    "write_logits",
}


def test_every_kernel_compiles(tmp_path: Path) -> None:
    surroundings = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = str(SCRIPT.parents[2])
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        env=surroundings | {"PYTHONPATH": root, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {line.split()[0].split(".")[-1] for line in done.stdout.splitlines()} == KERNELS
    assert all(int(line.split()[1]) > 0 for line in done.stdout.splitlines())
