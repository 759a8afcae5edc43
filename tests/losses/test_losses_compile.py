"""Every loss is one graph for torch.compile, forward and backward, with the value and gradient it has without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import CASES, TRACED
from closeness import close, slopes

from kinfolk import graphs, losses

pytestmark = pytest.mark.no_cover


def test_every_loss_is_traced_or_says_why_not() -> None:
    assert {CASES[name].build for name in TRACED} == {case.build for case in CASES.values()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", [name for name, why_not in TRACED.items() if not why_not])
def test_compiled_loss_is_the_loss(name: str) -> None:
    case = CASES[name]
    call, copy = case.random(6, 4), case.random(6, 4)
    torch.compiler.reset()
    loss = case.make(call).double()
    loss.load_state_dict(call.parameters, strict=False)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, expected = compiled(*call.args, **call.keywords()), case.value(copy)
    close(got, expected, atol=1e-12)
    leaves = replace(call, parameters=dict(loss.named_parameters())).tensors(case.learnt)
    for a, b in zip(slopes(got, leaves), slopes(expected, copy.tensors(case.learnt)), strict=True):
        close(a, b, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_graph_loss_with_a_graph_made_before() -> None:
    loss, graph = losses.GraphContrastiveLoss(), graphs.PairGraph(6)
    x, y = torch.randn(2, 6, 4, dtype=torch.float64).unbind(0)
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: loss(x, y, graph), fullgraph=True, backend="aot_eager")
    close(compiled(x, y), loss(x, y, graph), atol=1e-12)
