"""Training in two real processes: the gradients, weights, queues and checkpoints of one."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ranks_of_training as battery
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kinfolk.train import TrainConfig, checkpoints, fit, load_encoder, load_method, read_metrics
from kinfolk.train.checkpoint import Position, random_states, restore_checkpoint, save_checkpoint
from kinfolk.train.device import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where two processes left what they computed; the first two are killed at last, two more resume."""
    folder = tmp_path_factory.mktemp("ranks")
    groups = ["chunks,group,refused,batch,local,moco,infinite,dropping,killed", "resumed"]
    # In this mode the queue of every rank is compared after every step.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISTRIBUTED_DEBUG": "INFO"}
    process = subprocess.Popen(
        [sys.executable, battery.__file__, str(folder), *groups], env=env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        codes, errors = process.communicate(timeout=500)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert codes.split("\n") == [f"{-signal.SIGKILL:d} {-signal.SIGKILL:d}", "0 0", ""], errors
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the same runs in one process, on demand."""
    folder = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()

    def run(name: str) -> Path:
        torch.set_num_threads(1)
        if not (folder / name).exists():
            battery.run(name, folder, rank=0, world=1)
        torch.set_num_threads(threads)
        return folder / name

    return run


@functools.cache  # a hundred tests read the same two files
def results(folder: Path) -> list[dict[str, dict[str, Tensor]]]:
    return [torch.load(folder / f"chunks-{rank}.pt") for rank in range(2)]


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(checkpoints(run / "checkpoints")[-1] / "weights.safetensors")


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run / "metrics.jsonl") if record["event"] == "train"]


@pytest.mark.parametrize(("name", "size"), battery.SIZES)
def test_three_steps_of_every_method_are_those_of_one_process(name: str, size: int | None, folder: Path) -> None:
    expected = battery.steps(name, chunk_size=None, rank=0, world=1)
    found = [result[f"{name} {size}"] for result in results(folder)]
    assert sum(part["loss"] for part in found) / 2 == pytest.approx(float(expected.pop("loss")), abs=1e-10)
    for part in found:
        assert part.keys() == expected.keys() | {"loss"}
        for key, value in expected.items():
            torch.testing.assert_close(part[key], value, rtol=0, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", list(battery.METHODS))
def test_ranks_may_have_other_numbers_of_rows_and_chunks(name: str, folder: Path) -> None:
    expected = battery.unequal(name, rank=0, world=1)
    for result in results(folder):
        assert result[f"{name} unequal"].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(result[f"{name} unequal"][key], value, rtol=0, atol=1e-10, msg=key)


def test_a_loop_of_ones_own_with_wrapped_encoders(folder: Path) -> None:
    expected = battery.wrapped(rank=0, world=1)
    for result in results(folder):
        for key, value in expected.items():
            torch.testing.assert_close(result["wrapped"][key], value, rtol=0, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", ["group", "batch", "moco"])
def test_a_run_in_two_processes_is_the_run_of_one(name: str, folder: Path, alone: Callable[[str], Path]) -> None:
    one, two = alone(name), folder / name
    expected, found = weights(one), weights(two)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=2e-4, atol=2e-4, msg=key)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    start = [read_metrics(run / "metrics.jsonl")[0] for run in (one, two)]
    assert [record["processes"] for record in start] == [1, 2]
    assert {record["negatives_per_anchor"] for record in start} == {80 if name == "moco" else 94}
    if name == "moco":
        assert (found["queue.row_ids"] >= 0).all()
        assert torch.equal(found["queue.row_ids"], expected["queue.row_ids"])


def test_local_statistics_are_something_else_and_are_averaged(folder: Path, alone: Callable[[str], Path]) -> None:
    """With weights that stand still the first layer's mean over two halves of a batch is that over the batch."""
    expected, found = weights(alone("local")), weights(folder / "local")
    mean, variance = (f"encoder.blocks.0.1.running_{name}" for name in ("mean", "var"))
    torch.testing.assert_close(found[mean], expected[mean], rtol=1e-5, atol=1e-6)
    assert ((found[variance] / expected[variance] - 1).abs() > 1e-4).any()


def test_the_export_is_an_ordinary_encoder(folder: Path) -> None:
    encoder = load_encoder(folder / "batch")
    assert any(type(layer) is nn.BatchNorm2d for layer in encoder.modules())
    method = load_method(folder / "batch")
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(encoder(images), method.encoder(images))


def test_a_loss_that_is_no_number_on_one_rank_stops_both(folder: Path) -> None:
    first, second = ((folder / f"error-{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert "step 1: loss nan" in first
    failed = read_metrics(folder / "infinite" / "metrics.jsonl")[-1]
    assert failed["event"] == "failed"
    assert len(set(failed["ids"])) == 48


def test_what_one_rank_refuses_all_refuse(folder: Path) -> None:
    first, second = ((folder / f"refused-{rank}.txt").read_text() for rank in range(2))
    assert first == second
    exists, uneven = first.splitlines()
    assert "is not empty; use overwrite to replace it" in exists
    assert "needs equally many chunks on each, found [4, 2]; give the shorter lists chunks without rows" in uneven


def test_wrappers_that_split_parameters_are_refused() -> None:
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value="FSDP"))
    with pytest.raises(ValueError, match=r"data-parallel in several; found FSDP\. Launch with `torchrun"):
        prepare(accelerator, nn.Linear(1, 1), None)


def test_killed_and_resumed_equals_uninterrupted(folder: Path) -> None:
    """MoCo with dropout, in chunks: queue, twin, and random numbers of each rank's own."""
    killed = folder / "killed"
    files = (folder / "files-0.txt").read_text().splitlines()
    assert sorted(name[-8:] for name in files if "killed/checkpoints/step" in name and "." not in name) == [
        "00000003", "00000004",
    ]  # fmt: skip
    assert "killed/encoder.safetensors" not in files
    assert "dropping/encoder.safetensors" in files
    expected, found = weights(folder / "dropping"), weights(killed)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert losses(killed) == losses(folder / "dropping")
    state = torch.load(checkpoints(killed / "checkpoints")[-1] / "training.pt", weights_only=True)
    assert len(state["random"]) == 2
    assert not torch.equal(state["random"][0]["torch"], state["random"][1]["torch"])


def test_a_run_of_two_processes_goes_on_in_one(folder: Path) -> None:
    config: TrainConfig = battery.config_of("group")
    run = folder / "group"
    last = checkpoints(run / "checkpoints")[-1]
    last.rename(last.with_name("late"))  # leaves step 4 of 6
    before = weights(run)
    fit(config, out=run, resume=True)
    resumed = next(record for record in read_metrics(run / "metrics.jsonl") if record["event"] == "resume")
    assert (resumed["step"], resumed["processes"]) == (4, 1)
    expected, found = load_file(last.with_name("late") / "weights.safetensors"), weights(run)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=2e-4, atol=2e-4, msg=key)
    assert not all(torch.equal(before[key], found[key]) for key in before)


def test_each_rank_takes_its_own_random_state_and_a_new_one_keeps_what_it_has(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        states.append(random_states())
    path = save_checkpoint(tmp_path, layer, optimizer, position=Position(1), random=states)
    for rank in range(2):
        restore_checkpoint(path, layer, optimizer, rank=rank)
        assert torch.equal(torch.get_rng_state(), states[rank]["torch"])
    torch.manual_seed(99)
    before = torch.get_rng_state()
    restore_checkpoint(path, layer, optimizer, rank=2)
    assert torch.equal(torch.get_rng_state(), before)
    # the first version wrote the state of its one process, without a list
    state = torch.load(path / "training.pt", weights_only=True)
    torch.save({**state, "random": states[0]}, path / "training.pt")
    restore_checkpoint(path, layer, optimizer)
    assert torch.equal(torch.get_rng_state(), states[0]["torch"])
