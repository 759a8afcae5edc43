"""LARS against its update written out, what it leaves alone, and a resumed optimiser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kinfolk.train import LARSConfig, from_yaml, to_yaml
from kinfolk.train.config import OptimizerConfig


def _module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def _gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def _written_out(weights: list[Tensor], steps: int, config: LARSConfig) -> list[Tensor]:
    """You, Gitman, Ginsburg, algorithm 1, with the parameters of one dimension left to plain momentum."""
    weights, velocities = [w.clone() for w in weights], [torch.zeros_like(w) for w in weights]
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        rate = config.learning_rate / (1 + step)
        for w, v in zip(weights, velocities, strict=True):
            g, local = torch.randn(w.shape, generator=generator, dtype=w.dtype), 1.0
            if w.ndim >= 2:
                g = g + config.weight_decay * w
                local = config.trust * w.square().sum().sqrt().item() / g.square().sum().sqrt().item()
            v.copy_(config.momentum * v + rate * local * g)
            w -= config.momentum * v + rate * local * g if config.nesterov else v
    return weights


@pytest.mark.parametrize(
    "config",
    [LARSConfig(weight_decay=0.3), LARSConfig(nesterov=True, trust=0.02), LARSConfig(weight_decay=0.0, momentum=0.5)],
    ids=repr,
)
def test_several_steps_are_those_of_the_algorithm(config: LARSConfig) -> None:
    module = _module()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = config.build(module)
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate / (1 + step)
        _gradients(module, step)
        optimizer.step()
    for found, wanted in zip(module.parameters(), _written_out(before, 4, config), strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-12, atol=1e-12)


def test_the_first_step_is_a_share_of_each_layers_norm_whatever_its_gradient() -> None:
    for size in (1e-3, 1.0, 1e5):
        module = _module()
        before = module[0].weight.detach().clone()
        optimizer = LARSConfig(learning_rate=2.0, weight_decay=0.0, trust=0.01).build(module)
        _gradients(module, 0)
        module[0].weight.grad *= size
        optimizer.step()
        moved = (module[0].weight.detach() - before).norm()
        assert moved.item() == pytest.approx(0.02 * before.norm().item(), rel=1e-9)


def test_a_zero_weight_and_a_zero_gradient_take_the_plain_step() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARSConfig(learning_rate=0.5, weight_decay=0.0).build(nn.ParameterList([zero, still]))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(zero.detach(), torch.full((2, 2), -0.5))
    assert torch.equal(still.detach(), torch.ones(2, 2))


def test_biases_and_norm_layers_neither_decay_nor_adapt_even_with_a_rate_of_their_own() -> None:
    module = nn.ModuleDict({"encoder": _module(), "head": nn.Linear(2, 2)})
    module.rate_factors = {"encoder": 0.1}
    groups = LARSConfig(weight_decay=0.2).build(module).param_groups
    for group in groups:
        wide = {parameter.ndim >= 2 for parameter in group["params"]}
        assert wide == {group["adapted"]}
        assert (group["weight_decay"] > 0) is group["adapted"]
    assert [group["rate_factor"] for group in groups] == [1.0, 1.0, 0.1, 0.1]


def test_a_parameter_without_a_gradient_stays() -> None:
    module = _module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    LARSConfig(weight_decay=0.5).build(module).step()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_resumed_optimiser_continues_bitwise() -> None:
    straight, resumed = _module().float(), _module().float()
    first, second = (LARSConfig(nesterov=True).build(module) for module in (straight, resumed))
    for step in range(5):
        for module, optimizer in ((straight, first), (resumed, second)):
            _gradients(module, step)
            optimizer.step()
        if step == 2:
            fresh = LARSConfig(nesterov=True).build(resumed)
            fresh.load_state_dict(second.state_dict())
            second = fresh
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_a_closure_is_called_with_gradient() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = LARSConfig(learning_rate=1.0, weight_decay=0.0, trust=0.1).build(nn.ParameterList([weight]))

    def closure() -> float:
        (loss := weight.sum()).backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 0.9))


def test_bad_numbers_are_explained() -> None:
    with pytest.raises(ValueError, match="learning_rate must be positive, found 0"):
        LARSConfig(learning_rate=0)
    with pytest.raises(ValueError, match="trust must be positive, found -1"):
        LARSConfig(trust=-1)
    with pytest.raises(ValueError, match=r"weight_decay must be 0 or more, found -0\.1"):
        LARSConfig(weight_decay=-0.1)
    with pytest.raises(ValueError, match="momentum must be at least 0 and less than 1, found 1"):
        LARSConfig(momentum=1)


def test_it_is_one_of_the_optimisers_of_a_config() -> None:
    config = LARSConfig(learning_rate=1.0)
    assert from_yaml(to_yaml(config), OptimizerConfig) == config
