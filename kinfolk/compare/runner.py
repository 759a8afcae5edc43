"""Running what a comparison still lacks: every run in a process of its own, or all of them in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kinfolk import distributed
from kinfolk.compare.plan import PlannedReference, PlannedRun, status
from kinfolk.evals import FeatureCache
from kinfolk.train import Run, fit, load_encoder, to_yaml
from kinfolk.train.calibration import load_classifier
from kinfolk.train.evaluation import measure, write_evaluation
from kinfolk.train.files import write_text
from kinfolk.train.processes import from_first_rank, on_first_rank
from kinfolk.train.towers import load_towers

Task = PlannedRun | PlannedReference

LOCKED = 75  # what a process returns that found its task in another one's hands
_POLL_SECONDS = 0.2


def is_done(task: Task) -> bool:
    """Whether nothing is left to do for a task.

    Raises:
        ValueError: when the folder of a run holds one with another config.
    """
    return task.file.is_file() if isinstance(task, PlannedReference) else status(task) == "finished"


def perform(task: Task) -> None:
    """Train and evaluate a run from where it stands, or measure the references; nothing if that is done.

    Raises:
        ValueError: when the folder of a run holds one with another config.
        FloatingPointError: when training diverges.
    """
    if from_first_rank(lambda: is_done(task)):
        return
    if isinstance(task, PlannedReference):
        on_first_rank(lambda: write_evaluation(task.file, measure(task.config, None, task.config.load())))
        return
    stage = from_first_rank(lambda: status(task))
    if stage == "measured otherwise":
        on_first_rank(lambda: _measure_again(task))
        return
    fit(task.config, out=task.folder, resume=stage == "begun")


def _measure_again(run: PlannedRun) -> None:
    """Evaluate a trained encoder by the protocols that are asked for now; the config follows when that is done."""
    there = Run(run.folder)
    found = measure(
        run.config,
        load_encoder(there),
        run.config.load(),
        cache=FeatureCache(),
        classifier=load_classifier(there, run.config),
        towers=load_towers(there, run.config),
    )
    write_evaluation(there.evals_file, found)
    write_text(there.config_file, to_yaml(run.config))


def perform_here(folder: Path, tasks: Sequence[Task], *, report: Callable[[str], None]) -> dict[str, str]:
    """Perform tasks one after the other in this process, or with all ranks of a group.

    A task that another comparison's process holds is waited for, as in `perform_in_processes`.

    Returns:
        Why a task failed, by its key; empty when all went well. A failure does not keep the others from running.
    """
    failed: dict[str, str] = {}
    for task in tasks:
        begun = time.perf_counter()
        try:
            with _waited_for(folder, task):
                perform(task)
        except FloatingPointError as error:  # divergence is a result of this run, not a fault of the comparison
            failed[task.key] = str(error)
            report(f"{task}: failed: {error}")
        else:
            report(f"{task}: {_duration(time.perf_counter() - begun)}")
    return failed


def perform_in_processes(
    folder: Path, tasks: Sequence[Task], *, jobs: int, report: Callable[[str], None]
) -> dict[str, str]:
    """Perform tasks in processes of their own, so many at a time; see `perform_here`.

    A task that another comparison's process holds is waited for, and taken over if that one dies. What a process says
    goes to ``logs/KEY.log``.

    Args:
        folder: the comparison's, with its ``comparison.yaml``.
        tasks: what is to be done.
        jobs: processes at a time, at least 1.
        report: gets a line for every task that ends.
    """
    waiting, failed = list(tasks), {}
    running: dict[str, tuple[Task, subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                running[task.key] = (task, _start(folder, task, jobs=jobs), time.perf_counter())
            time.sleep(_POLL_SECONDS)
            for key, (task, process, begun) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[key]
                if code == LOCKED:
                    waiting.append(task)
                elif code:
                    failed[key] = _last_words(folder, task)
                    report(f"{task}: failed: {failed[key]}")
                else:
                    report(f"{task}: {_duration(time.perf_counter() - begun)}")
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()
    return failed


@contextmanager
def claimed(folder: Path, task: Task) -> Iterator[bool]:
    """Hold a task for as long as the block lasts; gives False when another process holds it.

    The lock ends with its process, however that ends.
    """
    path = folder / "locks" / f"{task.key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        yield _lock(file)


@contextmanager
def _waited_for(folder: Path, task: Task) -> Iterator[None]:
    """Hold a task; on several ranks the first one holds it for all."""
    if distributed.rank():
        yield
        return
    while True:
        with claimed(folder, task) as ours:
            if ours:
                yield
                return
        time.sleep(_POLL_SECONDS)


def _lock(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: two comparisons in one folder at a time are not kept apart
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _start(folder: Path, task: Task, *, jobs: int) -> subprocess.Popen[bytes]:
    log = folder / "logs" / f"{task.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    command = [sys.executable, "-m", "kinfolk.compare.worker", str(folder), task.key]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def _last_words(folder: Path, task: Task) -> str:
    log = folder / "logs" / f"{task.key}.log"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} (all of it in {log})"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def read_records(file: Path) -> list[dict]:
    """Read what `write_evaluation` wrote."""
    return json.loads(file.read_text(encoding="utf-8"))["records"]
