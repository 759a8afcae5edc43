"""Clipping: one norm for all, and one of their own for submodules that learn beside the rest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kinfolk.methods import ExConConfig, SupConConfig, TrainingPlan
from kinfolk.nn import HeadConfig, SmallConvConfig
from kinfolk.train.device import make_accelerator
from kinfolk.train.step import clip_gradients


class TwoParts(nn.Module):
    def __init__(self, apart: tuple[str, ...]) -> None:
        super().__init__()
        self.trunk, self.beside = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        self.clipped_apart = apart
        self.trunk.weight.grad, self.beside.weight.grad = torch.tensor([[0.3, 0.4]]), torch.tensor([[30.0, 40.0]])


@pytest.mark.parametrize("apart", [(), ("beside",)])
def test_a_submodule_apart_shrinks_nobody_s_step(apart: tuple[str, ...]) -> None:
    model = TwoParts(apart)
    norm = clip_gradients(make_accelerator("cpu", "fp32"), model, 1.0)
    assert norm == pytest.approx(math.hypot(0.5, 50.0))
    trunk = 0.5 if apart else 0.5 / norm
    assert float(model.trunk.weight.grad.norm()) == pytest.approx(trunk, rel=1e-4)
    assert float(model.beside.weight.grad.norm()) == pytest.approx(1.0 if apart else 50 / norm, rel=1e-4)


def test_a_gradient_that_is_not_finite_is_seen_wherever_it_is() -> None:
    model = TwoParts(("beside",))
    model.beside.weight.grad[0, 0] = torch.nan
    assert math.isnan(clip_gradients(make_accelerator("cpu", "fp32"), model, 1.0))


def test_without_explanations_excon_trains_as_supcon_does_clipped_too() -> None:
    head, encoder = HeadConfig(hidden=8, out_dim=6), SmallConvConfig(width=4, depth=2)
    generator = torch.Generator().manual_seed(0)
    views = [torch.rand(12, 1, 8, 8, generator=generator) for _ in range(3)]
    labels, ids = torch.arange(12) % 3, torch.arange(12)
    torch.manual_seed(1)
    excon, supcon = (
        config.build(encoder.build(channels=1, image_size=(8, 8)))
        for config in (ExConConfig(classes=3, start=1.0, head=head), SupConConfig(temperature=0.1, head=head))
    )
    excon.begin(TrainingPlan(100, 10, ids, lambda module: module(views[0])))
    shared = supcon.state_dict().keys() & excon.state_dict().keys()
    supcon.load_state_dict({name: value for name, value in excon.state_dict().items() if name in shared})
    accelerator = make_accelerator("cpu", "fp32")
    for method, shown in ((excon, views), (supcon, [views[2], views[1]])):
        optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
        for _ in range(4):
            optimizer.zero_grad()
            method({"views": shown, "labels": labels, "ids": ids})["loss"].backward()
            assert clip_gradients(accelerator, method, 0.05) > 0.05
            optimizer.step()
            method.after_step()
    found, expected = excon.state_dict(), supcon.state_dict()
    assert len(shared) == len(expected)
    assert all(torch.equal(found[name], expected[name]) for name in shared)
