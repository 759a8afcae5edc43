"""A run that is killed and resumed ends bitwise where an undisturbed one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kinfolk.recipes import recipe, smoke
from kinfolk.train import TrainConfig, fit, read_metrics, to_yaml
from kinfolk.train.checkpoint import checkpoints

_SCRIPT = """
import sys, time
from kinfolk.train import fit, load_config
import kinfolk.train.loop as loop

# Slow steps, so that the kill comes in the middle of an epoch; what is computed stays the same.
make_batch = loop.make_batch
def slow(*arguments, **keywords):
    time.sleep(0.1)
    return make_batch(*arguments, **keywords)
loop.make_batch = slow
fit(load_config(sys.argv[1]), out=sys.argv[2])
"""


def _config(name: str) -> TrainConfig:
    config = smoke(recipe(name))
    config = replace(config, evaluation=replace(config.evaluation, protocols=("knn",)))
    return replace(config, epochs=3, max_steps_per_epoch=7, batch_size=48, checkpoint_every_steps=2, log_every=1)


def _killed_run(config: TrainConfig, folder: Path, *, after: int) -> Path:
    """Start the run in a process of its own and SIGKILL it once checkpoint ``after`` is there."""
    file = folder / "given.yaml"
    file.write_text(to_yaml(config))
    out = folder / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(file), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not any(int(path.name[5:]) >= after for path in checkpoints(out / "checkpoints")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "the run made no checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return out


# MoCo has a twin, a queue and a shuffle from the global generator: the most state that a method of ours carries.
@pytest.mark.parametrize("name", ["simclr-digits", "moco-digits"])
def test_killed_and_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    config = _config(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = fit(config, out=tmp_path / "whole")
        out = _killed_run(config, tmp_path, after=10)
        reached = int(checkpoints(out / "checkpoints")[-1].name[5:])
        assert reached % 7, "the kill came at an epoch's end; the test wants the middle"
        # what a kill may leave behind: a half-written checkpoint and a half-written record
        (out / "checkpoints" / ".partial-step-00000099-1").mkdir(exist_ok=True)
        with (out / "metrics.jsonl").open("a") as file:
            file.write('{"event": "tra')
        assert not (out / "encoder.safetensors").exists()
        resumed = fit(config, out=out, resume=True)
    finally:
        torch.set_num_threads(threads)

    last = [checkpoints(run.checkpoints)[-1] / "weights.safetensors" for run in (whole, resumed)]
    expected, found = (load_file(path) for path in last)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert (whole.folder / "evals.json").read_text() == (resumed.folder / "evals.json").read_text()

    train = [record for record in read_metrics(resumed.metrics_file) if record["event"] == "train"]
    assert [record["step"] for record in train] == list(range(1, 22))
    undisturbed = [record for record in read_metrics(whole.metrics_file) if record["event"] == "train"]
    assert [record["loss"] for record in train] == [record["loss"] for record in undisturbed]
    assert [record["step"] for record in resumed.metrics if record["event"] == "resume"] == [reached]
    assert list((out / "checkpoints").glob(".partial*")) == []


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    config = smoke(recipe("simclr-digits"))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "metrics.jsonl").write_text(
        '{"event": "start", "step": 0}\n{"event": "train", "step": 1, "loss": 9.0}\n'
    )
    run = fit(config, out=tmp_path, resume=True)
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == list(range(1, 9))
    assert run.metrics[2]["loss"] != 9.0
