from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from kinfolk.train.optimizers import AdamWConfig, SGDConfig, cosine_schedule, parameter_groups


def test_only_matrices_and_filters_decay() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3), nn.LayerNorm(3))
    module.register_parameter("temperature", nn.Parameter(torch.tensor(0.1)))
    decay, plain = parameter_groups(module, weight_decay=0.1)
    assert {id(p) for p in decay["params"]} == {id(module[0].weight), id(module[3].weight)}
    assert len(plain["params"]) == 7
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_are_left_out_and_shared_ones_appear_once() -> None:
    layer, frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    decay, plain = parameter_groups(nn.ModuleList([layer, layer, frozen]), weight_decay=0.1)
    assert (len(decay["params"]), len(plain["params"])) == (1, 1)


@pytest.mark.parametrize("config", [AdamWConfig(weight_decay=0.5), SGDConfig(weight_decay=0.5)])
def test_a_bias_does_not_shrink_without_a_gradient(config: AdamWConfig | SGDConfig) -> None:
    layer = nn.Linear(2, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = config.build(layer)
    (0 * sum(p.sum() for p in layer.parameters())).backward()
    optimizer.step()
    assert torch.equal(layer.bias, bias)
    torch.testing.assert_close(layer.weight, weight * (1 - config.learning_rate * 0.5))


def test_schedule_rises_linearly_then_falls_to_nearly_nothing() -> None:
    factors = [cosine_schedule(step, total_steps=100, warmup_fraction=0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001
    assert factors[55] == pytest.approx(0.5)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.1), (1, 0.9), (2, 0.5), (3, 0.0)])
def test_schedule_of_very_short_runs_takes_real_steps(total: int, warmup: float) -> None:
    factors = [cosine_schedule(step, total_steps=total, warmup_fraction=warmup) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1


@pytest.mark.parametrize("kind", [AdamWConfig, SGDConfig])
def test_bad_numbers(kind: type) -> None:
    with pytest.raises(ValueError, match="learning_rate must be positive, found 0"):
        kind(learning_rate=0)
    with pytest.raises(ValueError, match="weight_decay must be 0 or more"):
        kind(weight_decay=-1e-4)


@pytest.mark.parametrize("config", [AdamWConfig(weight_decay=0.1), SGDConfig()])
def test_a_submodule_can_have_a_rate_of_its_own(config: AdamWConfig | SGDConfig) -> None:
    module = nn.ModuleDict({"encoder": nn.Linear(2, 3), "classifier": nn.Linear(3, 2)})
    module.rate_factors = {"encoder": 0.1}
    groups = config.build(module).param_groups
    assert [(group["rate_factor"], len(group["params"])) for group in groups] == [
        (1.0, 1),
        (1.0, 1),
        (0.1, 1),
        (0.1, 1),
    ]
    assert groups[2]["params"][0] is module["encoder"].weight
    assert [group["weight_decay"] > 0 for group in groups] == [True, False, True, False]
