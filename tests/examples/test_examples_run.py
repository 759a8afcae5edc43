"""The examples run as a reader runs them, and their loss falls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"plain_loop": "sklearn", "lightning_module": "pytorch_lightning", "hf_trainer": "transformers"}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == NEEDS.keys()


@pytest.mark.parametrize("name", NEEDS)
def test_example_trains(name: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS[name])
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / f"{name}.py"), "30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, last = (float(value) for value in re.findall(r"step \d+: loss ([-\d.]+)", done.stdout))
    assert last < first - 0.1
