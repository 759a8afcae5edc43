"""Batch norm over ranks: two real processes against `nn.BatchNorm` on the joined batch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kinfolk.nn import SmallConvConfig, SplitBatchNorm, SynchronisedBatchNorm, split_batch_norm, synchronise_batch_norm

SCRIPT = Path(__file__).with_name("ranks_of_batch_norm.py")
_spec = importlib.util.spec_from_file_location("ranks_of_batch_norm", SCRIPT)
ranks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ranks)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return what each of the two processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISTRIBUTED_DEBUG": "INFO"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(folder / "store"), str(folder)],
            env=env, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def joined(case: str) -> dict[str, torch.Tensor]:
    """Return what one process computes with plain batch norm, in float64."""
    x, grad = (torch.cat(parts).double() for parts in ranks.inputs(case))
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[x.ndim]
    return ranks.passes(ranks.layer_of(case, kind).double(), x, grad)


@pytest.mark.parametrize("case", list(ranks.CASES))
def test_two_processes_equal_one_on_the_joined_batch(case: str, found: list[dict]) -> None:
    expected, parts = joined(case), [result[case] for result in found]
    assert {part["out"].dtype for part in parts} == {ranks.CASES[case][2]}
    both = {name: torch.cat([part[name] for part in parts]).double() for name in ("out", "grad x")}
    both |= {name: sum(part[name] for part in parts).double() for name in expected if name.startswith("grad ")
             and name != "grad x"}  # fmt: skip
    both |= {name: parts[1][name].double() for name in expected if name.startswith(("running", "weight", "bias"))}
    tolerance = {torch.float64: 1e-12, torch.float32: 3e-3, torch.bfloat16: 3e-2}[ranks.CASES[case][2]]
    for name, value in both.items():
        size = max(expected[name].abs().max().item(), 1.0)
        assert (value - expected[name]).abs().max().item() <= tolerance * size, name
    assert int(parts[0]["num_batches_tracked"]) == 2


def test_a_small_variance_far_from_zero_survives(found: list[dict]) -> None:
    expected, result = joined("far from 0"), found[0]["far from 0"]
    torch.testing.assert_close(result["running_var"].double(), expected["running_var"], rtol=1e-3, atol=0)
    x = torch.cat(ranks.inputs("far from 0")[0]).transpose(0, 1).flatten(1)
    difference = x.square().mean(1) - x.mean(1).square()  # the other way to a variance, in the same precision
    assert ((difference / x.double().var(1, correction=0) - 1).abs() > 0.1).any()


def test_statistics_are_equal_on_both_ranks_bit_for_bit(found: list[dict]) -> None:
    for case in ranks.CASES:
        for name in ("running_mean", "running_var"):
            assert torch.equal(*(result[case][name] for result in found)), (case, name)


def test_a_queue_that_differs_between_ranks_is_reported_in_debug(found: list[dict]) -> None:
    for result in found:
        assert "queue's rows must be the same on all ranks; that of rank 1 differs" in result["queue"]


def test_one_process_and_eval_mode_are_plain_batch_norm() -> None:
    torch.manual_seed(0)
    x, plain, joint = torch.randn(10, 4, 3, 3), nn.BatchNorm2d(4), SynchronisedBatchNorm(4)
    for _ in range(3):
        assert torch.equal(joint(x), plain(x))
    assert torch.equal(joint.running_var, plain.running_var)
    plain.eval().load_state_dict(joint.state_dict())
    assert torch.equal(joint.eval()(x), plain(x))
    with pytest.raises(ValueError, match=r"expected an input \[b, 4, ...\], found \(2, 5\)"):
        joint(torch.rand(2, 5))


def test_converting_keeps_the_very_tensors_and_split_batch_norm() -> None:
    encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8))
    parameters, before = list(encoder.parameters()), encoder.state_dict()
    model = nn.ModuleDict({"encoder": encoder, "split": split_batch_norm(nn.BatchNorm1d(3), splits=2)})
    assert synchronise_batch_norm(model) is model
    assert sum(isinstance(layer, SynchronisedBatchNorm) for layer in encoder.modules()) == 3
    assert isinstance(model["split"], SplitBatchNorm)
    assert all(a is b for a, b in zip(encoder.parameters(), parameters, strict=True))
    assert encoder.state_dict().keys() == before.keys()
    SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)).load_state_dict(encoder.state_dict())
    layer = synchronise_batch_norm(nn.BatchNorm1d(3, eps=0.5, momentum=None, affine=False).eval())
    assert (layer.eps, layer.momentum, layer.affine, layer.training) == (0.5, None, False, False)
    assert synchronise_batch_norm(layer) is layer
