"""What every method must do, on real digits."""

from __future__ import annotations

import copy
import dataclasses
import typing

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kinfolk.methods import Method, SimCLRConfig
from kinfolk.nn import HeadConfig, SmallConvConfig
from kinfolk.train import MethodConfig

VIEWS = {"cacr": 3, "excon": 3, "fnc": 3, "relic": 3}  # by kind of method; two otherwise


def train(method, batches, *, optimizer=None):
    optimizer = optimizer or make_optimizer(method)
    history = []
    for batch in batches:
        terms = method(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        method.after_step()
        history.append({name: term.detach().item() for name, term in terms.items()})
    return history


def make_optimizer(method):
    return torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=3e-3)


def views_of(config):
    return VIEWS.get(config.kind, 2)


def test_it_trains_without_collapse(config, digits, build):
    method = build(config)
    history = train(method, [digits(step, views=views_of(config)) for step in range(40)])
    losses = [terms["loss"] for terms in history[4:]]  # by the fourth step MoCo's queue holds nothing but keys
    assert sum(losses[-8:]) / 8 < sum(losses[:8]) / 8 - 0.02
    assert history[-1]["participation_ratio"] > 3
    assert all(torch.isfinite(torch.tensor(list(terms.values()))).all() for terms in history)


def test_it_learns_to_recognise_digits(config, digits, build):
    def nearest_neighbour_accuracy(method):
        method.eval()
        with torch.no_grad():
            known, asked = (nn.functional.normalize(method.encoder(b["views"][0])) for b in probe)
        return (probe[0]["labels"][(asked @ known.T).argmax(1)] == probe[1]["labels"]).float().mean().item()

    probe = [digits(step, n=400) for step in (1000, 1001)]
    method = build(config)
    before = nearest_neighbour_accuracy(copy.deepcopy(method))
    train(method, [digits(step, views=views_of(config)) for step in range(60)])
    assert nearest_neighbour_accuracy(method) > before + 0.05


def test_a_resumed_run_continues_bitwise(config, digits, build, tmp_path):
    batches = [digits(step, views=views_of(config), n=48) for step in range(8)]
    method = build(config)
    optimizer = make_optimizer(method)
    train(method, batches[:4], optimizer=optimizer)
    torch.save({"method": method.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint")
    train(method, batches[4:], optimizer=optimizer)

    saved = torch.load(tmp_path / "checkpoint", weights_only=True)
    resumed = build(config, seed=99)
    resumed.load_state_dict(saved["method"])
    optimizer = make_optimizer(resumed)
    optimizer.load_state_dict(saved["optimizer"])
    torch.manual_seed(12345)  # methods draw nothing from the global generator
    train(resumed, batches[4:], optimizer=optimizer)
    expected, found = method.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_the_gradient_reaches_encoder_and_head_and_nothing_else(config, digits, build):
    method = build(config, norm="group")
    method(digits(0, views=views_of(config)))["loss"].backward()
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:  # an EMA twin's
            assert parameter.grad is None
        elif name != "head.steps.0.bias":  # a ReLU behind it may be silent for a unit
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert any(name.startswith("head.") for name, _ in method.named_parameters()) == (config.head.layers > 0)


def test_terms_beside_the_loss_are_detached_scalars(config, digits, build):
    terms = build(config)(digits(0, views=views_of(config)))
    assert terms["loss"].requires_grad
    assert {"positive_cosine", "participation_ratio"} < set(terms)
    for name, term in terms.items():
        assert term.shape == (), name
        assert name == "loss" or not term.requires_grad, name


def test_evaluation_changes_no_state(config, digits, build):
    method = build(config)
    train(method, [digits(step, views=views_of(config)) for step in range(2)])
    before = copy.deepcopy(method.state_dict())
    method.eval()
    method(digits(7, views=views_of(config)))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_the_exported_encoder_loads_into_its_own_config(config, digits, build):
    method = build(config)
    train(method, [digits(step, views=views_of(config)) for step in range(2)])
    encoder = SmallConvConfig(width=8, depth=2, pool="flatten", feature_dim=32).build(channels=1, image_size=(8, 8))
    encoder.load_state_dict(method.encoder.state_dict())
    images = digits(5)["views"][0]
    torch.testing.assert_close(encoder.eval()(images), method.eval().encoder(images))


def test_it_runs_under_autocast_and_with_a_small_last_batch(config, digits, build):
    method = build(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method(digits(0, views=views_of(config)))
    assert terms["loss"].dtype == torch.float32
    terms["loss"].backward()
    method.after_step()
    assert method(digits(1, views=views_of(config), n=5))["loss"].isfinite()


@pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning")
def test_it_runs_inside_a_data_parallel_wrapper(config, digits, build, tmp_path):
    method, alone = build(config), build(config)
    batches = [digits(step, views=views_of(config)) for step in range(2)]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(method, broadcast_buffers=False)
        optimizer = make_optimizer(method)
        for batch in batches:
            optimizer.zero_grad()
            wrapped(batch)["loss"].backward()
            optimizer.step()
            method.after_step()
    finally:
        dist.destroy_process_group()
    train(alone, batches)
    torch.testing.assert_close(method.state_dict(), alone.state_dict(), rtol=1e-5, atol=1e-6)


def test_configs_are_plain_frozen_data(config):
    cls = type(config)
    assert config.labels_used in ("none", "all")
    assert typing.get_type_hints(cls)["head"] is HeadConfig  # YAML and the command line read the annotations
    assert dataclasses.replace(config) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.kind = "other"


def test_kinds_differ_and_every_field_is_documented():
    import ast
    import inspect

    from kinfolk import methods

    configs = [value for name, value in vars(methods).items() if {"kind", "labels_used"} <= set(dir(value))]
    assert set(configs) == set(typing.get_args(MethodConfig))  # all of them can be written to YAML and read back
    assert len({cls.kind for cls in configs}) == len(configs)
    for cls in configs:
        body = ast.parse(inspect.getsource(cls)).body[0].body
        fields = [
            i for i, node in enumerate(body) if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.dump(node)
        ]
        assert fields
        assert all(isinstance(body[i + 1], ast.Expr) for i in fields), cls


def test_the_base_is_abstract_and_an_encoder_needs_its_length():
    with pytest.raises(TypeError, match="abstract"):
        Method()
    with pytest.raises(TypeError, match="as_encoder"):
        SimCLRConfig().build(nn.Flatten())
