"""Every benchmark runs from the command line at a tiny size and leaves a table with real figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import attention, gradients, losses, scaling, towers  # noqa: E402
from benchmarks.contenders import OURS  # noqa: E402
from benchmarks.inputs import LOSSES  # noqa: E402
from benchmarks.losses import FLOOR  # noqa: E402
from benchmarks.table import read  # noqa: E402

COLUMNS = {name: module.COLUMNS for name, module in vars().items() if hasattr(module, "COLUMNS")}


def benchmark(name: str, out: Path, *options: str) -> list[dict[str, str]]:
    """Run a benchmark in a process of its own and return its table."""
    path = out / f"{name}.csv"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", name, "--smoke", "--out", str(path), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return table(name, path)


def table(name: str, path: Path) -> list[dict[str, str]]:
    rows = read(path)
    assert tuple(rows[0]) == COLUMNS[name]
    assert all(row["torch"] and int(row["threads"]) >= 1 for row in rows)
    return rows


def test_losses(tmp_path: Path) -> None:
    """Without the compiled form, whose compilation takes most of the time: NT-Xent's runs among the GPU's parts."""
    installed = ["dense", "pytorch-metric-learning", "lightly", "open_clip", "SupContrast style"]
    some = ["SupCon", "X-CLR", "CLIP"]
    rows = benchmark("losses", tmp_path, "--threads", "1", "--losses", *some, "--only", *installed)
    assert {row["loss"] for row in rows} == set(some) < set(LOSSES)
    check_losses(rows)


def check_losses(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert row["status"] == "ok" or row["status"].startswith(("absent", "another loss, as")), row
        if row["milliseconds"]:
            assert 0 < float(row["fastest"]) <= float(row["milliseconds"]) <= float(row["slowest"])
            assert float(row["time / floor"]) > 0
    for loss in {row["loss"] for row in rows}:
        names = [row["contender"] for row in rows if row["loss"] == loss and row["milliseconds"]]
        assert {OURS, "dense", FLOOR} <= set(names)


def check_scaling(rows: list[dict[str, str]]) -> None:
    assert [(row["contender"], row["rows"]) for row in rows] == [
        (name, str(size)) for size in scaling.smoke().sizes for name in (OURS, "dense")
    ]
    assert all(float(row["milliseconds"]) > 0 and float(row["peak megabytes"]) >= 0 for row in rows)


def check_attention(rows: list[dict[str, str]]) -> None:
    assert {row["contender"] for row in rows} == set(attention.ways("cpu"))
    timed = [row for row in rows if row["milliseconds"]]
    assert attention.FUSED in {row["contender"] for row in timed}
    assert len(timed) > 1
    assert all(float(row["value ratio"]) == pytest.approx(1, abs=1e-5) for row in timed)


def test_towers(tmp_path: Path) -> None:
    rows = benchmark("towers", tmp_path)
    assert {row["contender"] for row in rows} == set(towers.FORMS)
    assert {row["rows"] for row in rows} == {"16", "32"}
    assert {row["status"] for row in rows} == {"ok"}
    assert all(float(row["milliseconds"]) > 0 and float(row["peak megabytes"]) >= 0 for row in rows)


def test_gradients(tmp_path: Path) -> None:
    """Without gathering a step on two ranks learns something else; kinfolk's does not."""
    rows = benchmark("gradients", tmp_path)
    found = {(row["library"], row["processes"]): row for row in rows}
    assert {row["status"] for row in rows} == {"ok"}
    assert float(found["kinfolk", "2"]["relative error"]) < 1e-10
    assert float(found["as people write it", "2"]["relative error"]) > 1e-3
    assert float(found["as people write it", "1"]["relative error"]) < 1e-10


def test_gpu_parts_run_one_after_the_other_on_a_cpu(tmp_path: Path) -> None:
    """The control flow only: smoke sizes, tests collected and not run; the tables are those of the single commands."""
    command = [sys.executable, "-m", "benchmarks", "gpu", "--smoke", "--out", str(tmp_path), "--budget", "500"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, log[-3000:]
    assert log.index("== losses: code 0") < log.index("== attention: code 0") < log.index("== scaling: code 0")
    assert {path.name for path in tmp_path.glob("*.csv")} == {"losses.csv", "attention.csv", "scaling.csv"}
    assert len(list(tmp_path.iterdir())) <= 8
    for name, check in {"losses": check_losses, "attention": check_attention, "scaling": check_scaling}.items():
        check(table(name, tmp_path / f"{name}.csv"))


def test_every_public_loss_is_in_the_distributed_table() -> None:
    from benchmarks.schemes import KINFOLK, schemes
    from kinfolk import losses as public

    assert set(KINFOLK) == set(public.__all__)
    assert {f"{name}: kinfolk" for name in public.__all__} <= set(schemes())
    assert set(gradients.smoke().names or ()) <= set(schemes())


def test_the_defaults_cover_the_sizes_that_the_design_names() -> None:
    cases = set(losses.Settings().cases())
    assert {("NT-Xent", 8192, 128, 64), ("X-CLR", 8192, 128, 64), ("X-CLR", 8192, 128, 128)} <= cases
    assert max(scaling.Settings().sizes) == 131072
