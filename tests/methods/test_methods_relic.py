"""ReLIC's loss and order of events, against the algorithm written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.data import DigitsConfig
from kinfolk.data.derived.attached import SaliencyConfig
from kinfolk.data.saliency import compute_saliency
from kinfolk.data.views import MultiViewsConfig, digits_views
from kinfolk.losses import CLIPLoss
from kinfolk.methods import ReLICConfig
from kinfolk.nn import HeadConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.train import fit, read_metrics

HEAD = HeadConfig(hidden=16, out_dim=8)
NORMED = HeadConfig(hidden=32, out_dim=16, norm="batch")


def plain(**settings):
    return ReLICConfig(**{"head": HEAD, "predictor": HEAD, "momentum": 0.8, **settings})


def doubled(batch):
    return {**batch, "views": [view.double() for view in batch["views"]]}


def written_out(online, target, *, temperature, alpha, beta):
    """Mean over pairs of an online view and the target of another one, sample by sample."""

    def prediction(a, b):
        return F.log_softmax(F.normalize(online[a]) @ F.normalize(target[b]).T / temperature, dim=1)

    losses = []
    for a in range(len(online)):
        for b in range(len(target)):
            if a == b:
                continue
            other = (b, a) if a < len(target) else (next(c for c in range(len(target)) if c != b), b)
            p, r = prediction(a, b), prediction(*other).detach()
            kl = (p.exp() * (p - r)).sum(1).mean()
            losses.append(-alpha * p.diagonal().mean() + beta * kl)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("large", [2, 3])
def test_it_follows_the_algorithm_as_published(large, schedule, digits, build):
    """Predictions, targets, loss, step, moving average: in that order; the third view is online only if not large."""
    config = plain(large=large, alpha=0.7, beta=0.4, momentum_schedule=schedule)
    method = build(config, norm="group", steps=6).double()
    own = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    predictor = copy.deepcopy(method.predictor)
    target = copy.deepcopy(own).requires_grad_(False)
    both = nn.ModuleList([own, predictor])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (method, both)]
    for number in range(6):
        batch = doubled(digits(number, n=16, views=3))

        views = batch["views"]
        online = [predictor(own(view)) for view in views]
        loss = written_out(online, [target(v) for v in views[:large]], temperature=0.1, alpha=0.7, beta=0.4)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        momentum = 0.8 if schedule == "constant" else 1 - 0.2 * (1 + _cosine(number / 6)) / 2
        for t, o in zip(target.parameters(), own.parameters(), strict=True):
            t.copy_(momentum * t + (1 - momentum) * o.detach())

        optimizers[0].zero_grad()
        terms = method(batch)
        terms["loss"].backward()
        optimizers[0].step()
        method.after_step()
        assert terms["loss"].item() == pytest.approx(loss.item(), abs=1e-9)
    for found, expected in zip(method.twin.parameters(), target.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def _cosine(share):
    return torch.cos(torch.tensor(share * torch.pi, dtype=torch.float64)).item()


def test_without_divergence_and_predictor_it_is_clip_between_the_views(digits, build):
    method = build(plain(beta=0.0, predictor=HeadConfig(layers=0), momentum=0.0), norm="group").double()
    batch = doubled(digits(0, n=20))
    a, b = method.embed(batch)
    # Both directions: each view looks for itself among the other's, and the side looked at is a constant.
    expected = CLIPLoss()(a, b, 1 / 0.1)
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-9)


def test_the_loss_is_the_sum_of_its_parts(digits, build):
    batch = doubled(digits(0, n=20, views=3))
    parts = {}
    for beta in (0.0, 0.5, 2.0):
        terms = build(plain(beta=beta), norm="group").double()(batch)
        parts[beta] = terms
        assert terms["loss"].item() == pytest.approx((terms["contrastive"] + beta * terms["divergence"]).item())
        online, target = _sides(build(plain(), norm="group").double(), batch)
        expected = written_out(online, target, temperature=0.1, alpha=0.0, beta=1.0)
        assert terms["divergence"].item() == pytest.approx(expected.item(), abs=1e-9)
    assert parts[0.0]["contrastive"].item() == parts[0.0]["loss"].item()
    assert parts[2.0]["contrastive"].item() == pytest.approx(parts[0.5]["contrastive"].item(), abs=1e-9)


def _sides(method, batch):
    return method.embed(batch), method.embed_keys(batch)


def test_two_equal_views_have_no_divergence(digits, build):
    view = digits(0, n=20)["views"][0].double()
    terms = build(plain(), norm="group").double()({"views": [view, view], "ids": torch.arange(20)})
    assert terms["divergence"].item() == pytest.approx(0, abs=1e-12)


def test_one_sample_alone_has_nothing_to_learn(digits, build):
    method = build(plain(), norm="group").double()
    loss = method(doubled(digits(0, n=1)))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert all(p.grad is None or p.grad.abs().max() < 1e-12 for p in method.parameters())


def test_the_divergence_term_makes_views_predict_alike(digits, build):
    found = {}
    for beta in (0.0, 1.0):
        method = build(plain(beta=beta, head=NORMED, predictor=NORMED, momentum=0.9), norm="group")
        optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=3e-3)
        for number in range(40):
            terms = method(digits(number))
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            method.after_step()
        found[beta] = [method.eval()(digits(number))["divergence"].item() for number in range(50, 54)]
    assert max(found[1.0]) < 0.85 * min(found[0.0])


def test_negative_weights_are_refused(build):
    with pytest.raises(ValueError, match=r"beta must be at least 0, found -1\.0"):
        build(plain(beta=-1.0))
    with pytest.raises(ValueError, match=r"temperature must be positive, found 0\.0"):
        build(plain(temperature=0.0))


def test_a_run_removes_backgrounds_and_takes_small_crops(tmp_path):
    masks = compute_saliency(DigitsConfig(moved=True).load(), tmp_path / "masks", method="intensity")
    large = replace(digits_views(), background=0.5)
    small = replace(digits_views(count=1), size=(8, 8), crop_scale=(0.2, 0.5))
    config = smoke(recipe("relic-digits-moved"))
    config = replace(
        config,
        derived=(SaliencyConfig(str(masks)),),
        views=MultiViewsConfig(groups=(large, small)),
        evaluation=replace(config.evaluation, protocols=("knn",)),
    )
    run = fit(config, out=tmp_path / "run")
    records = [record for record in read_metrics(run.folder / "metrics.jsonl") if record["event"] == "train"]
    assert [record["step"] for record in records] == list(range(1, 9))
    assert all(record["divergence"] > 0 for record in records)
    # Without masks the same views cannot be made, so they were.
    with pytest.raises(ValueError, match="saliency"):
        fit(replace(config, derived=()), out=tmp_path / "without")
