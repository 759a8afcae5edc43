"""Peak memory in a fresh process: chunked is linear in the rows, and the judge fails what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# 100 MB for 6,144 rows of 64 numbers; one matrix of their scores takes 151 MB.
BYTES_PER_ROW = 100e6 / 6_144

SCRIPT = r"""
import json, os, re, sys, torch
from kinfolk import graphs, ops
torch.set_num_threads(1)
def peak():  # of this process alone: getrusage would also count the one that started it
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1))
rows, calls = int(sys.argv[1]), json.loads(sys.argv[2])
def step(call, impl, n):
    options = {"impl": impl, "normalize": True}
    x = torch.randn(n, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    names = {"x": x, "y": y, "labels": torch.arange(n) % 10, "options": options}
    eval(call, globals(), names).sum().backward()
step("ops.row_logsumexp(x, y, scale=10.0, **options)", "auto", 64)
for name, (call, impl) in calls.items():
    if not (child := os.fork()):
        step(call, impl, 64)  # code and buffers that do not depend on the size
        before = peak()
        step(call, impl, rows)
        print(json.dumps([name, peak() - before]), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} failed")
"""
"""One interpreter, whose copy (a fork) measures each call: the peak is a process's own, the imports are shared."""


CALLS = {
    "row_logsumexp, same rows": "ops.row_logsumexp(x, x, scale=10.0, **options)",
    "row_logsumexp": "ops.row_logsumexp(x, y, scale=10.0, **options)",
    "row_logsumexp, running maximum": "ops.row_logsumexp(x, y, scale=100.0, **options)",
    "row_logsumexp, constant keys": "ops.row_logsumexp(x, y.detach(), scale=10.0, **options)",
    "row_logsumexp, labels": "ops.row_logsumexp(x, x, scale=10.0, mask=ops.PairMask.only(labels, labels), **options)",
    "two_way_logsumexp": "torch.stack(ops.two_way_logsumexp(x, y, scale=10.0, **options))",
    "row_softmax_mean": "ops.row_softmax_mean(x, y, scale=10.0, weight_scale=2.0, **options)",
    "row_sum": "ops.row_sum(x, y, fn='softplus', scale=10.0, **options)",
    "row_topk": "ops.row_topk(x, y, k=5, **options)[0] + 0 * x.sum()",
    "kernel graph": "torch.stack(graphs.KernelGraph(y.detach(), temperature=0.1)"
    ".logsumexp_and_attraction(x, y, scale=10.0, **options))",
    "class graph": "graphs.ClassGraph(labels, torch.eye(10)).attraction(x, y, scale=10.0, **options)",
    "label graph, general mask": "graphs.LabelGraph(labels)"
    ".attraction(x, y, scale=10.0, mask=ops.PairMask.exclude(labels // 2, labels), **options)",
    "pair graph": "graphs.PairGraph(len(x)).attraction(x, y, scale=10.0, **options)",
}
ROWS = 6_144


def growth(calls: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Bytes by which the peak resident size grows over a forward and a backward pass of a call and implementation."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which this system has not")
    command = [sys.executable, "-c", SCRIPT, str(ROWS), json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def beyond_linear(calls: dict[str, tuple[str, str]]) -> set[str]:
    found = growth(calls)
    assert found.keys() == calls.keys()
    return {name for name, grown in found.items() if grown >= BYTES_PER_ROW * ROWS}


def test_chunked_memory_is_linear_and_the_dense_form_is_caught() -> None:
    calls = {name: (call, "chunked") for name, call in CALLS.items()}
    dense = {f"{name}, dense": (CALLS[name], "reference") for name in ("row_logsumexp", "row_sum", "two_way_logsumexp")}
    found = beyond_linear(calls | dense)
    assert found >= dense.keys()
    suspects = {name: calls[name] for name in sorted(found - dense.keys())}
    assert not suspects or beyond_linear(suspects) == set()  # once more: the system has noise
