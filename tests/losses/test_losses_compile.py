"""Every loss is one graph for torch.compile, forward and backward, with the value and gradient it has without."""

from __future__ import annotations

import pytest
import torch
from cases import CASES
from closeness import close, slopes

from kinfolk import graphs, losses

TRACED = ["NTXent", "DCLW", "InfoNCE", "SupCon out", "SupCon in", "XSample", "CACR", "CLIP"]


def test_every_loss_is_traced() -> None:
    graph_made_before = {losses.GraphContrastiveLoss}
    assert {CASES[name].build for name in TRACED} | graph_made_before == {case.build for case in CASES.values()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", TRACED)
def test_compiled_loss_is_the_loss(name: str) -> None:
    case = CASES[name]
    call, copy = case.random(6, 4), case.random(6, 4)
    torch.compiler.reset()
    compiled = torch.compile(case.make(), fullgraph=True, backend="aot_eager")
    got, expected = compiled(*call.args, **call.kwargs), case.make()(*copy.args, **copy.kwargs)
    close(got, expected, atol=1e-12)
    pairs = zip(slopes(got, call.tensors(case.learnt)), slopes(expected, copy.tensors(case.learnt)), strict=True)
    for a, b in pairs:
        close(a, b, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_graph_loss_with_a_graph_made_before() -> None:
    loss, graph = losses.GraphContrastiveLoss(), graphs.PairGraph(6)
    x, y = torch.randn(2, 6, 4, dtype=torch.float64).unbind(0)
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: loss(x, y, graph), fullgraph=True, backend="aot_eager")
    close(compiled(x, y), loss(x, y, graph), atol=1e-12)
