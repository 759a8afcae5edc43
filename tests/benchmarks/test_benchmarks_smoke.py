"""Every benchmark runs at a tiny size, and what it compares with computes the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.losses import _cases  # noqa: E402


@pytest.mark.parametrize("name", ["NT-Xent", "SupCon", "X-CLR", "InfoNCE", "CLIP"])
def test_the_dense_form_is_the_same_loss(name: str) -> None:
    ours, dense = _cases(64)[name]
    assert ours().item() == pytest.approx(dense().item(), rel=1e-5)


def test_losses_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "losses", "--smoke", "--out", str(tmp_path / "t.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "kinfolk / floor" in done.stdout
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 6
