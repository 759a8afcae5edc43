"""The shapes in the core's signatures hold: every call below runs with them checked, in an interpreter of its own.

The ordinary test run leaves them unchecked, so that users' mistakes meet our own errors and not the checker's.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

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
    "losses": """
ids = torch.tensor([0, 1, 2, 2, 3])
losses.NTXentLoss()(x, z, ids=ids), losses.DCLLoss(sigma=0.5)(x, z, ids=ids), losses.CLIPLoss()(x, z, 10.0, ids=ids)
for exclude in ((labels, key_labels), torch.rand(n, m) > 0.5):
    losses.InfoNCELoss()(x, z, y, exclude=exclude)
for form in ("out", "in"):
    losses.SupConLoss(form=form)(x, labels, ids=ids)
losses.XSampleLoss()(x, torch.randn(n, 4)), losses.XSampleLoss()(x, graphs.LabelGraph(labels))
losses.GraphContrastiveLoss()(x, y, torch.rand(n, m))
losses.CACRLoss()([x, z, x], ids=ids), losses.CACRLoss().weights([x, z])
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
