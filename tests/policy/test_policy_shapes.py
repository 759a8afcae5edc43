"""The shapes in the core's signatures hold: every call below runs with them checked, in an interpreter of its own.

The ordinary test run leaves them unchecked, so that users' mistakes meet our own errors and not the checker's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BATTERY = Path(__file__).parents[1] / "losses"

PREPARE = """
import builtins, warnings, jaxtyping
for name in ("Bool", "Float", "Int"):  # the core imports these names for type checkers only
    setattr(builtins, name, getattr(jaxtyping, name))
warnings.simplefilter("ignore")
hook = jaxtyping.install_import_hook(["kinfolk.ops", "kinfolk.graphs", "kinfolk.losses"], "beartype.beartype")
import torch
from kinfolk import graphs, losses, ops
from kinfolk.ops import masks
n, m, d = 5, 7, 3
x, y, z = torch.randn(n, d), torch.randn(m, d), torch.randn(n, d)
labels, key_labels = torch.arange(n) % 2, torch.arange(m) % 2
"""

CALLS = {
    "primitives": """
mask = ops.PairMask.exclude(labels, key_labels) & ops.PairMask.bias(torch.randn(m))
for impl in ("chunked", "reference"):
    ops.row_logsumexp(x, y, scale=2.0, mask=mask, impl=impl)
    ops.two_way_logsumexp(x, y, scale=2.0, mask=mask, impl=impl)
    ops.row_softmax_mean(x, y, scale=2.0, weight_scale=1.0, mask=mask, impl=impl)
    ops.row_sum(x, y, fn="exp", scale=2.0, row_shift=torch.randn(n), mask=mask, impl=impl)
    ops.row_topk(x, y, k=2, mask=mask, impl=impl)
""",
    "graphs": """
table = torch.rand(2, 2)
kinds = [
    graphs.PairGraph(n, m), graphs.LabelGraph(labels, key_labels=key_labels),
    graphs.ClassGraph(labels, table, key_labels=key_labels), graphs.DenseGraph(torch.rand(n, m)),
    graphs.SparseGraph(torch.arange(n + 1), torch.arange(n), m=m),
    graphs.KernelGraph(torch.randn(n, 2), torch.randn(m, 2), temperature=0.5),
]
kinds.append(graphs.MixtureGraph(kinds[:2], [0.5, 0.5]))
keep = torch.rand(n, m) > 0.3
for graph in kinds:
    for mask in (None, keep, ops.PairMask.exclude_self(n, m)):
        target = graph.row_normalised(mask)
        target.to_dense(), target.has_target, target.neighbours(0, 3)
        for impl in ("chunked", "reference"):
            target.logsumexp_and_attraction(x, y, scale=2.0, mask=mask, impl=impl)
""",
    "losses": f"""
import sys
sys.path.insert(0, {str(BATTERY)!r})
from cases import CASES
for case in CASES.values():
    for impl in ("chunked", "reference"):
        case.value(case.random(6, 4), impl=impl)
losses.XSampleLoss()(x, graphs.LabelGraph(labels)), losses.CACRLoss().weights([x, z])
""",
}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PREPARE + code], capture_output=True, text=True)


@pytest.mark.parametrize("room", CALLS)
def test_signatures_tell_the_truth(room: str) -> None:
    done = run(CALLS[room])
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_wrong_shape_is_caught() -> None:
    done = run(
        "masks.IdPair(labels, labels); from kinfolk.ops import reference\n"
        "reference.scores(x, torch.randn(m, d + 1), 1.0)"
    )
    assert done.returncode != 0
    assert "jaxtyping" in done.stderr
