"""RenyiCL's loss and order of events, against the algorithm written out; and on a table."""

from __future__ import annotations

import copy
import csv
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.data import DigitsConfig, TableConfig
from kinfolk.methods import RenyiCLConfig
from kinfolk.methods.renyi_cl import effective_share
from kinfolk.nn import HeadConfig
from kinfolk.recipes import part_config, recipe, smoke
from kinfolk.train import fit, from_yaml, to_yaml

HEAD = HeadConfig(hidden=16, out_dim=8)


def plain(**settings):
    return RenyiCLConfig(**{"head": HEAD, "predictor": HEAD, "momentum": 0.8, **settings})


def doubled(batch):
    return {**batch, "views": [view.double() for view in batch["views"]]}


def written_out(online, target, *, gamma, alpha, temperature=0.5):
    """For every target view: one logarithm of means over all positive and over all negative pairs."""
    losses = []
    for t in range(len(target)):
        near, far = [], []
        for v in range(len(online)):
            if v != t:
                f = F.normalize(online[v]) @ F.normalize(target[t]).T / temperature
                near += [f[i, i] for i in range(len(f))]
                far += [f[i, j] for i in range(len(f)) for j in range(len(f)) if i != j]
        near, far = torch.stack(near), torch.stack(far)
        pull = near.mean() if gamma == 1 else ((gamma - 1) * near).exp().mean().log() / (gamma - 1)
        mixed = alpha * (gamma * near).exp().mean() + (1 - alpha) * (gamma * far).exp().mean()
        losses.append(mixed.log() / gamma - pull)
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("gamma", "rule"), [(2.0, "1/n^2"), (1.0, "1/n"), (1.5, 0.2)])
def test_it_follows_the_algorithm_as_published(gamma, rule, digits, build):
    """Predictions, targets, loss, step, moving average; the third view is online only, the last batch smaller."""
    method = build(plain(gamma=gamma, alpha=rule), norm="group").double()
    own = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    predictor, target = copy.deepcopy(method.predictor), copy.deepcopy(own).requires_grad_(False)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (method, nn.ModuleList([own, predictor]))]
    for number, n in enumerate((12, 12, 12, 7)):
        batch = doubled(digits(number, n=n, views=3))

        views = batch["views"]
        alpha = {"1/n": 1 / n, "1/n^2": 1 / n**2}.get(rule, rule)
        online = [predictor(own(view)) for view in views]
        loss = written_out(online, [target(view) for view in views[:2]], gamma=gamma, alpha=alpha)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        for t, o in zip(target.parameters(), own.parameters(), strict=True):
            t.copy_(0.8 * t + 0.2 * o.detach())

        optimizers[0].zero_grad()
        found = method(batch)["loss"]
        found.backward()
        optimizers[0].step()
        method.after_step()
        assert found.item() == pytest.approx(loss.item(), abs=1e-9)
    for mine, theirs in zip(method.twin.parameters(), target.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_effective_sizes_of_weights_are_what_they_say(digits, build):
    batch = digits(0, n=12)
    batch["ids"] = torch.tensor([3, 3, -1, -1, *range(10, 18)])  # the first two are one sample, -1 is nobody
    method = build(plain(temperature=0.1), norm="group")
    terms = method(batch)
    (q0, q1), (k0, k1) = ([F.normalize(z) for z in part] for part in (method.embed(batch), method.embed_keys(batch)))
    near, far = [], []
    for q, k in ((q0, k1), (q1, k0)):
        for i in range(12):
            near.append((q[i] @ k[i] / 0.1).exp())
            far += [(2 * q[i] @ k[j] / 0.1).exp() for j in range(12) if i != j and {i, j} != {0, 1}]
    for name, weights in (("positives", torch.stack(near)), ("negatives", torch.stack(far))):
        expected = weights.sum() ** 2 / weights.square().sum() / len(weights)
        torch.testing.assert_close(terms[f"effective_{name}"], expected)


def test_fewer_pairs_carry_the_gradient_as_gamma_grows(digits, build):
    batch, found = digits(0, n=16), []
    for gamma in (1.0, 1.5, 2.0, 4.0):
        terms = build(plain(gamma=gamma, temperature=0.1), norm="group")(batch)
        found.append([terms[f"effective_{name}"].item() for name in ("positives", "negatives")])
    positives, negatives = zip(*found, strict=True)
    assert positives[0] == pytest.approx(1)  # at gamma 1 all positives weigh the same
    assert all(b < a - 1e-4 for row in (positives, negatives) for a, b in pairwise(row))


def test_effective_share_of_nothing_and_of_everything():
    assert effective_share(torch.empty(2, 0)).item() == 1
    assert effective_share(torch.full((7,), 300.0)).item() == pytest.approx(1)
    assert effective_share(torch.tensor([-torch.inf, 0.0, -torch.inf, -torch.inf])).item() == pytest.approx(0.25)
    assert effective_share(torch.tensor([torch.nan, 0.0])).isnan()


def test_a_batch_without_negatives_gives_zero_and_one_sample_is_refused(digits, build, monkeypatch):
    monkeypatch.setattr("kinfolk.losses.base._warned", False)  # it warns once a process
    method, batch = build(plain(), norm="group"), digits(0, n=2)
    with pytest.warns(RuntimeWarning, match="no anchor in this batch has a target"):
        terms = method({**batch, "ids": torch.tensor([4, 4])})
    assert terms["loss"].item() == 0
    assert terms["effective_negatives"].item() == 1
    with pytest.raises(ValueError, match="RenyiCLLoss needs at least 2 samples, found n = 1"):
        method(digits(0, n=1))
    with pytest.raises(ValueError, match="RenyiCLLoss needs at least"):
        method(digits(0, n=0))


@pytest.mark.parametrize("alpha", ["1/n", "1/n^2", 0.25, 0.0])
def test_alpha_survives_yaml_and_the_line_of_text(alpha):
    config = replace(recipe("renyi-cl-digits"), method=RenyiCLConfig(alpha=alpha))
    assert from_yaml(to_yaml(config)) == config
    assert part_config("method", f"renyi-cl alpha={alpha}") == RenyiCLConfig(alpha=alpha)


def test_what_cannot_be_alpha_or_gamma_is_refused(build):
    with pytest.raises(ValueError, match=r"alpha must be a number, '1/n' or '1/n\^2', found '1/m'\."):
        RenyiCLConfig(alpha="1/m")
    with pytest.raises(ValueError, match=r"must be one of '1/n', '1/n\^2', found '2/n'"):
        part_config("method", "renyi-cl alpha=2/n")
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], found 2\.0"):
        build(plain(alpha=2.0))
    with pytest.raises(ValueError, match=r"gamma must be at least 1, found 0\.5"):
        build(plain(gamma=0.5))


def test_it_trains_on_a_table(tmp_path):
    """The digits as a CSV of 64 columns and a label."""
    source = DigitsConfig().load().train
    batch = source.fetch(torch.arange(400))
    with (tmp_path / "digits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"pixel{k}" for k in range(64)), "digit"])
        writer.writerows(
            [*image.flatten().tolist(), f"d{int(label)}"]
            for image, label in zip(batch["images"], batch["labels"], strict=True)
        )
    config = smoke(recipe("renyi-cl-table"))
    config = replace(
        config,
        source=TableConfig(str(tmp_path / "digits.csv"), label="digit"),
        evaluation=replace(config.evaluation, protocols=("knn",)),
        epochs=12,
        max_steps_per_epoch=None,
    )
    run = fit(config, out=tmp_path / "run")
    losses = [record["loss"] for record in run.metrics if record["event"] == "train"]
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.1
    accuracy = {r["encoder"]: r["value"] for r in run.records if r["protocol"] == "kNN" and r["metric"] == "accuracy"}
    assert accuracy["trained"] > 0.75
