"""Running a comparison: nothing twice, kills and divergence survived, other settings refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinfolk.cli import main
from kinfolk.compare import (
    Comparison,
    ComparisonConfig,
    Contender,
    Variation,
    compare,
    describe_plan,
    read_config,
    runner,
    worker,
)
from kinfolk.compare.comparison import gather
from kinfolk.compare.plan import planned_runs, status
from kinfolk.compare.runner import claimed
from kinfolk.recipes import recipe, smoke, with_field
from kinfolk.train import to_yaml

LIGHT = ("evaluation.protocols", "[knn]")
SIMCLR, SUPCON = (Contender(name, with_field(smoke(recipe(f"{name}-digits")), *LIGHT)) for name in ("simclr", "supcon"))
START = (
    "import sys; from pathlib import Path; from kinfolk.compare import compare, read_config;"
    " compare(read_config(Path(sys.argv[1])), out=sys.argv[2], jobs=1)"
)
CONFIG = ComparisonConfig("small", (SIMCLR, SUPCON), seeds=(0,), image_views=512)


def quiet(config: ComparisonConfig, out: Path, *, jobs: int = 0) -> tuple[Comparison, list[str]]:
    lines: list[str] = []
    return compare(config, out=out, jobs=jobs, report=lines.append), lines


def metrics_written(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in out.glob("runs/**/metrics.jsonl")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("comparison")
    return out, quiet(CONFIG, out)[0]


def test_a_comparison_has_a_result_cost_and_config_of_every_run(finished: tuple[Path, Comparison]) -> None:
    out, found = finished
    accuracies = [one for one in found.results if (one.protocol, one.metric) == ("kNN", "accuracy")]
    assert [(one.contender, one.setting, one.seed) for one in accuracies] == [("simclr", "", 0), ("supcon", "", 0)]
    assert all(0 < one.value <= 1 for one in accuracies)
    assert {key: (cost.image_views, cost.labels_used) for key, cost in found.costs.items()} == {
        ("simclr", "", 0): (512, "none"),
        ("supcon", "", 0): (512, "all"),
    }
    assert {record.encoder for _, record in found.references} == {"raw pixels", "centred raw pixels", "untrained"}
    assert Comparison.from_json((out / "results.json").read_text()) == found
    assert read_config(out) == CONFIG


def test_what_is_finished_is_not_run_again(finished: tuple[Path, Comparison]) -> None:
    out, before = finished
    written = metrics_written(out)
    after, lines = quiet(CONFIG, out)
    assert metrics_written(out) == written
    assert lines == ["2 runs, 2 of them finished"]
    assert after == before


def test_a_larger_comparison_runs_what_is_new(finished: tuple[Path, Comparison]) -> None:
    out, before = finished
    written = metrics_written(out)
    after, lines = quiet(replace(CONFIG, seeds=(0, 1)), out)
    assert lines[0] == "4 runs, 2 of them finished"
    assert {path: at for path, at in metrics_written(out).items() if path in written} == written
    assert set(before.results) < set(after.results)
    assert len(after.results) == 2 * len(before.results)


def test_other_settings_in_the_same_folder_are_refused_by_field(finished: tuple[Path, Comparison]) -> None:
    out, _ = finished
    warmer = replace(SIMCLR, config=with_field(SIMCLR.config, "method.temperature", "0.7"))
    with pytest.raises(
        ValueError, match=r"seed-0 holds a run with other settings: method\.temperature: 0\.1 in the run"
    ):
        quiet(replace(CONFIG, contenders=(warmer, SUPCON)), out)


def test_other_protocols_measure_again_and_train_nothing(finished: tuple[Path, Comparison]) -> None:
    out, before = finished
    protocols = ("evaluation.protocols", "[knn, retrieval]")
    contenders = tuple(replace(one, config=with_field(one.config, *protocols)) for one in CONFIG.contenders)
    written = metrics_written(out)
    after, _ = quiet(replace(CONFIG, contenders=contenders), out)
    assert metrics_written(out) == written
    assert {one.protocol for one in after.results} == {"kNN", "retrieval"}
    assert set(before.results) < set(after.results)
    quiet(CONFIG, out)


def test_a_run_that_diverges_is_reported_and_the_others_finish(tmp_path: Path) -> None:
    wild = replace(SIMCLR, name="wild", config=replace(SIMCLR.config, clip_norm=None))
    wild = replace(wild, config=with_field(wild.config, "optimizer", "sgd learning_rate=1.0e+38"))
    found, lines = quiet(replace(CONFIG, contenders=(wild, SUPCON)), tmp_path)
    assert list(found.failed) == ["wild-seed-0"]
    assert "training stopped before the weights were changed" in found.failed["wild-seed-0"]
    assert {one.contender for one in found.results} == {"supcon"}
    assert any(line.startswith("wild, seed 0: failed") for line in lines)


def test_processes_give_the_same_results_and_a_claimed_run_is_waited_for(
    finished: tuple[Path, Comparison], tmp_path: Path
) -> None:
    _, here = finished
    config = replace(CONFIG, contenders=(SIMCLR,))
    (run,) = planned_runs(config, tmp_path)
    with claimed(tmp_path, run) as ours, claimed(tmp_path, run) as twice:
        assert (ours, twice) == (True, False)
    found, lines = quiet(config, tmp_path, jobs=2)
    assert found.results == tuple(one for one in here.results if one.contender == "simclr")
    assert sorted(line.partition(":")[0] for line in lines[1:]) == ["references", "simclr, seed 0"]


def test_a_killed_comparison_repeats_nothing_and_gives_the_same_table(tmp_path: Path) -> None:
    config = replace(CONFIG, contenders=CONFIG.contenders[:1], seeds=(0, 1), image_views=2048)
    config = replace(
        config,
        contenders=tuple(
            replace(one, config=replace(one.config, checkpoint_every_steps=4)) for one in config.contenders
        ),
    )
    whole, _ = quiet(config, tmp_path / "whole")
    out = tmp_path / "killed"
    command = [sys.executable, "-c", START, str(tmp_path / "whole"), str(out)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs = planned_runs(config, out)
    deadline = time.monotonic() + 240
    while not (status(runs[0]) == "finished" and (runs[1].folder / "checkpoints").is_dir()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # the comparison and the run that it was in
    process.wait()
    states = [status(run) for run in runs]
    assert states[0] == "finished"
    assert "missing" in states or "begun" in states
    before = {str(run.folder): (run.folder / "metrics.jsonl").read_bytes() for run in runs if status(run) == "finished"}
    again, lines = quiet(config, out)
    assert lines[0] == f"2 runs, {len(before)} of them finished"
    assert {folder: (Path(folder) / "metrics.jsonl").read_bytes() for folder in before} == before
    assert again.results == whole.results


def test_a_run_whose_process_is_killed_is_reported_and_taken_up_the_next_time(
    finished: tuple[Path, Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = finished
    alone = replace(SIMCLR, config=with_field(SIMCLR.config, "evaluation.baselines", "false"))
    alone = replace(alone, config=replace(alone.config, checkpoint_every_steps=2))
    config = replace(CONFIG, contenders=(alone,))
    (run,) = planned_runs(config, tmp_path)

    def start_and_kill(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        process = start(*args, **kwargs)
        while not (run.folder / "checkpoints").is_dir():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        return process

    start = runner._start
    monkeypatch.setattr(runner, "_start", start_and_kill)
    broken, lines = quiet(config, tmp_path, jobs=1)
    assert list(broken.failed) == ["simclr-seed-0"]
    assert broken.results == ()
    assert lines[1].startswith("simclr, seed 0: failed: ")
    assert status(run) == "begun"
    again, lines = quiet(config, tmp_path)
    assert again.failed == {}
    assert again.results == tuple(one for one in whole.results if one.contender == "simclr")


def test_in_this_process_a_run_of_another_process_is_waited_for_and_taken_over_when_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = planned_runs(replace(CONFIG, contenders=(SIMCLR,)), tmp_path)
    with claimed(tmp_path, run):
        pass
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    (lock,) = (tmp_path / "locks").iterdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    performed: list[object] = []
    monkeypatch.setattr(runner, "perform", performed.append)
    waiting = threading.Thread(target=runner.perform_here, args=(tmp_path, [run]), kwargs={"report": lambda line: None})
    waiting.start()
    waiting.join(timeout=0.7)
    assert waiting.is_alive()
    assert performed == []
    holder.kill()
    holder.communicate()
    waiting.join(timeout=60)
    assert performed == [run]


def test_a_worker_whose_comparison_was_replaced_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "comparison.yaml").write_text(to_yaml(replace(CONFIG, contenders=(SUPCON,))))
    (run,) = planned_runs(replace(CONFIG, contenders=(SIMCLR,)), tmp_path)
    assert worker.main(tmp_path, run.key) == 1
    said = capsys.readouterr().out
    assert "comparison.yaml has no simclr-seed-0 any more: another comparison was begun in this folder" in said
    assert not run.folder.exists()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks the system for a process's children")
def test_a_comparison_that_is_told_to_end_takes_its_workers_along(tmp_path: Path) -> None:
    long = replace(CONFIG, contenders=(SIMCLR,), image_views=2_000_000)
    (tmp_path / "comparison.yaml").write_text(to_yaml(long))
    command = [sys.executable, "-m", "kinfolk.cli", "compare", "--out", str(tmp_path), "--jobs", "1"]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 240
    while not (list(tmp_path.glob("logs/*")) and children.read_text()):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int(pid) for pid in children.read_text().split()]
    parent.terminate()
    assert parent.wait(timeout=60) == 143
    assert len(workers) == 1
    assert not Path(f"/proc/{workers[0]}").exists()


def test_what_is_the_same_for_all_is_the_same_for_all(tmp_path: Path) -> None:
    faster = replace(SUPCON, config=with_field(SUPCON.config, "optimizer.learning_rate", "0.01"))
    varied = Variation("derived", ("none", "few-labels per_class=30"))
    found = gather(replace(CONFIG, contenders=(SIMCLR, faster), varied=varied), tmp_path)
    assert {"optimizer", "derived"}.isdisjoint(found.shared)
    assert found.shared["source"] == "digits"
    assert found.differing["optimizer.learning_rate"]["supcon"] == "0.01"


def test_two_ranks_give_the_numbers_of_one(tmp_path: Path) -> None:
    plain = with_field(SUPCON.config, "encoder.norm", "group")
    config = replace(CONFIG, contenders=(Contender("supcon", plain),))
    alone, _ = quiet(config, tmp_path / "one")
    (tmp_path / "run.py").write_text(START)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = subprocess.run(
        [*launcher, str(tmp_path / "run.py"), str(tmp_path / "one"), str(tmp_path / "two")],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    found = Comparison.from_json((tmp_path / "two" / "results.json").read_text())
    assert [(one.metric, one.value) for one in found.results] == [
        (one.metric, pytest.approx(one.value, abs=1 / 150 + 1e-9)) for one in alone.results
    ]
    start = (tmp_path / "two" / "runs" / "supcon" / "seed-0" / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(start)["processes"] == 2


def test_a_comparison_in_a_folder_takes_more_seeds_and_nothing_else(
    finished: tuple[Path, Comparison], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    assert main(["compare", "--out", str(out), "--views", "99", "--baseline", "supcon"]) == 2
    assert "name contenders to use --views, --baseline" in capsys.readouterr().err
    assert main(["compare", "--out", str(out), "--seeds", "5", "--dry-run"]) == 0
    assert "0, 5" in capsys.readouterr().out


def test_the_plan_says_what_is_left_and_how_long_it_takes(finished: tuple[Path, Comparison]) -> None:
    out, _ = finished
    text = describe_plan(replace(CONFIG, seeds=(0, 7)), out=out)
    header, simclr, supcon = text.splitlines()[:3]
    assert header.split()[:4] == ["contender", "setting", "seeds", "batch"]
    assert simclr.split()[:8] == ["simclr", "-", "0,", "7", "64", "2", "4", "512"]
    assert "1 of 2" in simclr
    assert "1 of 2" in supcon
    assert "2 of 4 runs are left: about" in text
    assert not (out / "runs" / "simclr" / "seed-7").exists()


def test_a_plan_without_finished_runs_times_some_steps(tmp_path: Path) -> None:
    text = describe_plan(replace(CONFIG, contenders=(SIMCLR,)), out=tmp_path / "new")
    assert "* training only, from a few steps timed now" in text
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_comparison_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a comparison: it has no comparison\.yaml"):
        read_config(tmp_path)
