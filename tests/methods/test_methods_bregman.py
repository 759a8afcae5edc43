"""Deep Bregman's loss, its networks and their dropout."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from kinfolk.methods import BregmanConfig, SimCLRConfig
from kinfolk.nn import HeadConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.train import checkpoints, fit, load_method

HEAD = HeadConfig(hidden=16, out_dim=8, norm="batch")


def plain(**settings):
    return BregmanConfig(**{"networks": 6, "hidden": 5, "dropout": 0.0, "head": HEAD, **settings})


def doubled(batch):
    return {**batch, "views": [view.double() for view in batch["views"]]}


def written_out(z0, z1, networks, *, sigma, temperature, weight):
    """NT-Xent and its like with the networks' similarity, pair by pair."""
    n, rows = len(z0), F.normalize(torch.cat([z0, z1]))
    values = torch.stack([network(rows).squeeze(1) for network in networks], 1)
    winner = values.argmax(1).tolist()
    losses = []
    for i in range(2 * n):
        partner, others = (i + n) % (2 * n), [j for j in range(2 * n) if j != i]
        distance = {j: values[i, winner[i]] - values[i, winner[j]] for j in others}
        for similarity, factor in (
            ({j: rows[i] @ rows[j] for j in others}, 1.0),
            ({j: torch.exp(-distance[j] / (2 * sigma**2)) for j in others}, weight),
        ):
            logits = torch.stack([similarity[j] / temperature for j in others])
            losses.append(factor * (logits.logsumexp(0) - similarity[partner] / temperature))
    return torch.stack(losses).sum() / (2 * n)


def test_it_follows_the_algorithm_as_published(digits, build):
    """Encoder, head and networks all learn from the sum of the two terms."""
    method = build(plain(networks=12, sigma=0.6, temperature=0.2, weight=0.7), norm="group").double()
    own = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    networks = nn.ModuleList(nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 1)).double() for _ in range(12))
    source = method.loss.networks
    with torch.no_grad():
        for k, network in enumerate(networks):
            network[0].weight.copy_(source.hidden_weight[k])
            network[0].bias.copy_(source.hidden_bias[k])
            network[2].weight.copy_(source.weight[k : k + 1])
            network[2].bias.copy_(source.bias[k : k + 1])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (method, nn.ModuleList([own, networks]))]
    for number in range(4):
        batch = doubled(digits(number, n=10))
        z0, z1 = own(torch.cat(batch["views"])).chunk(2)
        loss = written_out(z0, z1, networks, sigma=0.6, temperature=0.2, weight=0.7)
        terms = method(batch)
        assert terms["loss"].item() == pytest.approx(loss.item(), abs=1e-9)
        assert terms["active_networks"].item() > 1  # else the networks would learn nothing here
        for optimizer, value in zip(optimizers, (terms["loss"], loss), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        method.after_step()
    for k, network in enumerate(networks):
        torch.testing.assert_close(source.hidden_weight[k], network[0].weight, rtol=0, atol=1e-9)


def test_weight_zero_is_simclr(digits, build):
    batch = digits(0)
    methods = [build(plain(weight=0.0, temperature=0.2)), build(SimCLRConfig(temperature=0.2, head=HEAD))]
    losses = [method(batch)["loss"] for method in methods]
    assert torch.equal(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    theirs = dict(methods[1].named_parameters())
    for name, parameter in methods[0].named_parameters():
        if name in theirs:
            assert torch.equal(parameter.grad, theirs[name].grad), name


def test_one_network_adds_a_constant_and_learns_nothing(digits, build):
    batch = digits(0, n=20)
    method = build(plain(networks=1, temperature=0.2))
    terms, alone = method(batch), build(SimCLRConfig(temperature=0.2, head=HEAD))(batch)
    assert terms["loss"].item() == pytest.approx(alone["loss"].item() + math.log(39), abs=1e-5)
    assert terms["active_networks"].item() == 1
    terms["loss"].backward()
    assert not any(parameter.grad.any() for parameter in method.loss.networks.parameters())


def test_active_networks_are_counted_without_dropout_or_random_numbers(digits, build):
    method, batch = build(plain(networks=30, dropout=0.5)), digits(0)
    rows = F.normalize(torch.cat(method.embed(batch)))
    expected = len(method.loss.networks.eval()(rows).argmax(1).unique())
    method.train()
    counts, states = set(), []
    for seed in range(3):
        torch.manual_seed(seed)
        counts.add(method(batch)["active_networks"].item())
        states.append(method.loss.networks.training)
    assert counts == {expected}
    assert expected > 1
    assert states == [True] * 3
    with_graph = []
    method.loss.networks.register_forward_hook(lambda *_: with_graph.append(torch.is_grad_enabled()))
    method.loss.active(batch["views"][0].flatten(1)[:, : rows.shape[1]])
    assert with_graph == [False]  # counting keeps nothing for a backward pass
    torch.manual_seed(5)
    loss = method(batch)["loss"]  # dropout is on in training, and off in eval mode
    assert method(batch)["loss"] != loss
    method.eval()
    assert torch.equal(method(batch)["loss"], method(batch)["loss"])


def test_more_views_are_the_mean_over_pairs(digits, build):
    batch = digits(0, n=12, views=3)
    method = build(plain(), norm="group").double()
    batch = doubled(batch)
    a, b, c = method.embed(batch)
    expected = sum(method.loss(*pair, batch["ids"]) for pair in ((a, b), (a, c), (b, c))) / 3
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_sample_that_the_batch_holds_twice_is_no_negative_of_itself(digits, build):
    method, batch = build(plain(temperature=0.2), norm="group"), digits(0, n=8)
    twice = {"views": [torch.cat([view, view]) for view in batch["views"]]}
    assert method({**twice, "ids": batch["ids"].repeat(2)})["loss"] < method(twice)["loss"] - 0.05


def test_one_sample_alone_has_nothing_to_learn(digits, build):
    loss = build(plain(), norm="group")(digits(0, n=1))["loss"]
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_settings_out_of_range_are_refused(build):
    for settings, message in (
        ({"networks": 0}, "networks must be at least 1, found 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), found 1\.0"),
        ({"sigma": 0.0}, r"sigma must be positive, found 0\.0"),
        ({"weight": -1.0}, r"weight must be at least 0, found -1\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            build(plain(**settings))
    with pytest.raises(ValueError, match="Bregman takes at least two views of each image, found 1"):
        build(plain())({"views": [torch.zeros(4, 1, 8, 8)]})


def test_a_run_with_dropout_resumes_bitwise_and_its_networks_learn(tmp_path):
    config = smoke(recipe("bregman-digits"))
    assert config.method.dropout > 0
    config = replace(config, evaluation=replace(config.evaluation, protocols=("knn",)), checkpoint_every_steps=5)
    whole = fit(config, out=tmp_path / "whole")
    shutil.copytree(whole.folder, tmp_path / "cut")
    last = checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    shutil.rmtree(last)
    assert checkpoints(tmp_path / "cut" / "checkpoints")[-1].name.endswith("5")
    resumed = fit(config, out=tmp_path / "cut", resume=True)
    expected, found = (load_file(checkpoints(run.checkpoints)[-1] / "weights.safetensors") for run in (whole, resumed))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert not any("networks" in name for name in load_file(whole.folder / "encoder.safetensors"))
    assert load_method(whole).loss.networks.hidden_weight.shape == (32, 64, 128)
