from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from kinfolk.nn import EMATwin


def online() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_update_is_the_moving_average_of_every_parameter():
    module = online().double()
    twin = EMATwin(module, momentum=0.9)
    expected = {name: p.detach().clone() for name, p in module.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        twin.update(module)
        expected = {name: 0.9 * expected[name] + 0.1 * p.detach() for name, p in module.named_parameters()}
    for name, parameter in twin.module.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-12)
    assert int(twin.step) == 3


@pytest.mark.parametrize(("momentum", "follows"), [(0.0, True), (1.0, False)])
def test_extreme_momenta_copy_or_stay(momentum, follows):
    module = online()
    twin, before = EMATwin(module, momentum=momentum), copy.deepcopy(module.state_dict())
    with torch.no_grad():
        module[0].weight.add_(1)
    twin.update(module)
    assert torch.equal(twin.module[0].weight, module[0].weight if follows else before["0.weight"])


def test_buffers_come_from_the_twins_own_forward_passes():
    module = online()
    twin = EMATwin(module, momentum=0.5)
    module(torch.randn(32, 3) + 5)
    twin.update(module)
    assert torch.equal(twin.module[1].running_mean, torch.zeros(4))
    assert int(twin.module[1].num_batches_tracked) == 0
    twin(torch.randn(32, 3))
    assert int(twin.module[1].num_batches_tracked) == 1
    assert int(module[1].num_batches_tracked) == 1


def test_no_gradient_reaches_the_twin_and_the_original_keeps_its_own():
    module = online()
    twin = EMATwin(module)
    x = torch.randn(8, 3, requires_grad=True)
    out = twin(x)
    assert not out.requires_grad
    assert not any(p.requires_grad for p in twin.parameters())
    assert all(p.requires_grad for p in module.parameters())
    (module(x) * out).sum().backward()
    assert all(p.grad is None for p in twin.parameters())
    assert module[0].weight.grad is not None


def test_the_twin_is_a_copy():
    module = online()
    twin = EMATwin(module)
    with torch.no_grad():
        module[0].weight.zero_()
    assert twin.module[0].weight.abs().sum() > 0


def test_cosine_schedule_rises_to_one_and_stays():
    module = online()
    twin = EMATwin(module, momentum=0.9, cosine_steps=10)
    seen = []
    for _ in range(12):
        seen.append(twin.current_momentum())
        twin.update(module)
    assert seen[0] == pytest.approx(0.9)
    assert seen[5] == pytest.approx(0.95)
    assert seen[3] == pytest.approx(1 - 0.1 * (1 + math.cos(0.3 * math.pi)) / 2)
    assert seen[10] == seen[11] == 1.0
    assert seen == sorted(seen)


def test_schedule_goes_on_after_loading():
    module = online()
    twin = EMATwin(module, momentum=0.9, cosine_steps=10)
    for _ in range(4):
        twin.update(module)
    fresh = EMATwin(online(), momentum=0.9, cosine_steps=10)
    fresh.load_state_dict(twin.state_dict())
    assert fresh.current_momentum() == twin.current_momentum() > 0.9
    assert torch.equal(fresh.module[0].weight, twin.module[0].weight)


def test_another_module_is_refused_before_anything_changes():
    twin = EMATwin(online())
    before = copy.deepcopy(twin.state_dict())
    with pytest.raises(ValueError, match=r"the module that this twin was copied from; 2 parameters differ.*'2.bias'"):
        twin.update(online()[:2])
    with pytest.raises(ValueError, match=r"1 parameters differ, the first is '0\.weight'"):
        twin.update(nn.Sequential(nn.Linear(5, 4), *online()[1:]))
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\], found 1.5"),
        ({"momentum": math.nan}, "momentum must lie in"),
        ({"cosine_steps": 0}, "cosine_steps must be at least 1, or None"),
    ],
)
def test_wrong_settings_are_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        EMATwin(online(), **settings)
