"""Every loss keeps linear memory in a process of its own, and the judge fails a dense form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cases import MEMORY, losses_of

from kinfolk import losses

N = 3072  # samples; two views make 6,144 rows, and one float32 matrix of their scores 151 MB
ALLOWED = 100e6

SCRIPT = r"""
import json, os, re, sys, torch
from kinfolk import graphs, losses
torch.set_num_threads(1)
calls, n = json.loads(sys.argv[1]), int(sys.argv[2])
def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1))
def step(call, impl, n):
    a, b = torch.randn(2, n, 64).requires_grad_()
    eval(call, {"losses": losses, "graphs": graphs, "torch": torch, "impl": impl, "a": a, "b": b}).backward()
step("losses.NTXentLoss()(a, b)", "auto", 64)
for name, (call, impl) in calls.items():
    if not (child := os.fork()):
        step(call, impl, 64)
        before = peak()
        step(call, impl, n)
        print(json.dumps([name, peak() - before]), flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{name} failed")
"""
"""One interpreter, whose copy (a fork) measures each loss: the peak is a process's own, the imports are shared."""


def growth(calls: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Bytes by which the peak resident size grows over a forward and a backward pass."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which this system has not")
    command = [sys.executable, "-c", SCRIPT, json.dumps(calls), str(N)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_every_loss_is_measured() -> None:
    assert MEMORY.keys() == losses_of(losses)


def test_memory_is_linear_and_the_dense_form_is_caught() -> None:
    calls = {name: (call, "auto") for name, call in MEMORY.items()}
    found = growth({**calls, "dense": (MEMORY["NTXentLoss"], "reference")})
    assert found.keys() == {*MEMORY, "dense"}
    assert found.pop("dense") > ALLOWED
    again = {name: calls[name] for name, grown in found.items() if grown >= ALLOWED}  # the system's own noise
    assert not again or {name: grown for name, grown in growth(again).items() if grown >= ALLOWED} == {}
