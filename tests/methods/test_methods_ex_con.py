"""ExCon: what becomes a view, what becomes background, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.losses import SupConLoss
from kinfolk.methods import ExConConfig, SupConConfig, TrainingPlan
from kinfolk.nn import HeadConfig, MLPConfig, SmallConvConfig

_CONFIG = ExConConfig(classes=10, start=0.0, head=HeadConfig(hidden=16, out_dim=8))


def make(config=_CONFIG, *, norm="batch", steps=10):
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=4, depth=2, norm=norm, pool="flatten", feature_dim=16)
    method = config.build(encoder.build(channels=1, image_size=(8, 8)))
    method.begin(TrainingPlan(steps, 5, None, lambda module: torch.empty(0)))
    if hasattr(method, "explainer"):
        nn.init.normal_(method.explainer.weight, generator=torch.Generator().manual_seed(7))
    return method.double()


def batch_of(digits, step, **more):
    batch = digits(step, views=3, **more)
    return {**batch, "views": [view.double() for view in batch["views"]]}


def explained(method, images, labels):
    """Grad-CAM, mask and verdict of each image by itself, written out."""
    features, convolution = method.encoder, method.encoder.blocks[-1][0]
    fill, masked, hits = images.mean((0, 2, 3)), [], []
    for image, label in zip(images, labels, strict=True):
        kept = []
        hook = convolution.register_forward_hook(lambda m, i, out, kept=kept: kept.append(out) or out.clone())
        logit = method.explainer(features(image[None]))[0, label]
        hook.remove()
        weights = torch.autograd.grad(logit, kept[0])[0].mean((2, 3))[0]
        heat = sum(w * channel for w, channel in zip(weights, kept[0][0].detach(), strict=True))
        heat = F.interpolate(heat[None, None], size=(8, 8), mode="bilinear", align_corners=False)[0, 0]
        share = (heat - heat.min()) / (heat.max() - heat.min())
        masked.append(torch.where(share > 0.5, image, fill[:, None, None]))
        hits.append(bool(method.explainer(features(masked[-1][None]))[0].argmax() == label))
    return torch.stack(masked), torch.tensor(hits)


@pytest.mark.parametrize("background", [False, True])
def test_it_follows_the_algorithm_as_published(digits, background):
    method = make(replace(_CONFIG, background=background), norm="group")
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    seen = set()
    for step in range(4):
        batch = batch_of(digits, step, n=32)
        (plain, first, second), labels = batch["views"], batch["labels"]
        masked, hit = explained(method, plain, labels)
        seen |= set(hit.tolist())
        view = torch.where(hit[:, None, None, None], masked, second)
        features = method.encoder(torch.cat([view, first] + [masked[~hit]] * background))
        targets = torch.cat([labels, labels] + [torch.full_like(labels[~hit], -1)] * background)
        unit = F.normalize(method.head(features), dim=1)
        scores = (unit @ unit.T / 0.1).masked_fill(torch.eye(len(unit), dtype=torch.bool), -torch.inf)
        log_share = scores.log_softmax(1)
        values = []
        for row in range(64):  # the background is no anchor
            same = (targets == targets[row]) & (torch.arange(len(targets)) != row)
            values.append(-log_share[row][same].mean())
        logits = method.explainer(features[:64].detach())
        expected = torch.stack(values).mean() + F.cross_entropy(logits, targets[:64])
        expected_grads = torch.autograd.grad(expected, list(method.parameters()))

        optimizer.zero_grad()
        terms = method(batch)
        terms["loss"].backward()
        torch.testing.assert_close(terms["loss"], expected, rtol=1e-9, atol=1e-9)
        for parameter, grad in zip(method.parameters(), expected_grads, strict=True):
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-7, atol=1e-9)
        assert terms["explained_share"] == hit.float().mean()
        optimizer.step()
        method.after_step()
    assert seen == {False, True}


def test_before_its_start_it_is_supcon_bit_for_bit(digits):
    method, plain = make(replace(_CONFIG, start=1.0, background=True)), make(SupConConfig(head=_CONFIG.head))
    parts = [(m, torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9)) for m in (method, plain)]
    for step in range(4):
        batch = batch_of(digits, step, n=32)
        for each, optimizer in parts:
            views = batch["views"] if each is method else [batch["views"][2], batch["views"][1]]
            optimizer.zero_grad()
            each({**batch, "views": views})["loss"].backward()
            optimizer.step()
            each.after_step()
    found = method.state_dict()
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())


def test_explanations_begin_at_their_share_of_training(digits):
    method, shares = make(replace(_CONFIG, start=0.5), steps=4), []
    for step in range(4):
        terms = method(batch_of(digits, step))
        terms["loss"].backward()
        method.after_step()
        shares.append(float(terms["explained_share"]) > 0)
    assert shares == [False, False, True, True]


def test_explaining_leaves_no_trace(digits):
    method = make()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    made = method.prepare(batch_of(digits, 0))
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(part.training for part in method.modules())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert not any(image.requires_grad for image in (*made["contrasted"], made["masked"]))


def test_a_flat_explanation_keeps_all_pixels(digits):
    method = make()
    nn.init.zeros_(method.explainer.weight)
    batch = batch_of(digits, 0)
    assert torch.equal(method.prepare(batch)["masked"], batch["views"][0])


def test_background_rows_are_candidates_alone_even_of_a_sample_that_comes_twice(digits):
    batch = batch_of(digits, 0, n=12)
    batch = {**batch, "ids": torch.zeros_like(batch["ids"])}  # all of one sample
    batch["ids"][6:] = torch.arange(6) + 1
    method = make(replace(_CONFIG, background=True), norm="group")
    made = method.prepare(batch)
    made["wrong"] = ~made["right"] | True
    parts = method.embed(made)
    loss = method.terms(parts, made)["loss"] - F.cross_entropy(torch.cat(parts[2:4]), batch["labels"].repeat(2))
    rows, owners = torch.cat([*parts[:2], parts[4]]), torch.cat([batch["ids"].repeat(2), torch.arange(100, 112)])
    labels = torch.cat([batch["labels"].repeat(2), torch.full((12,), -1)])
    torch.testing.assert_close(loss, SupConLoss(temperature=0.1)(rows, labels, ids=owners))
    assert loss > SupConLoss(temperature=0.1)(rows[:24], labels[:24], ids=owners[:24])


def test_unlabelled_samples_are_not_explained(digits):
    batch = batch_of(digits, 0, n=10)
    method = make(replace(_CONFIG, background=True))
    made = method.prepare({**batch, "labels": torch.full((10,), -1)})
    assert not (made["right"] | made["wrong"]).any()
    assert torch.equal(made["contrasted"][0], batch["views"][2])
    assert method({**batch, "labels": torch.full((10,), -1)})["loss"].isfinite()


def test_removed_pixels_show_the_given_colour(digits):
    batch = batch_of(digits, 0)
    masked = make(replace(_CONFIG, mean=(0.25,))).prepare(batch)["masked"]
    removed = masked != batch["views"][0]
    assert removed.any()
    assert (masked[removed] == 0.25).all()


def test_it_predicts_by_its_explainer(digits):
    method, images = make().eval(), batch_of(digits, 0)["views"][0]
    assert torch.equal(method.predict(images), method.explainer(method.encoder(images)).argmax(1))


def test_errors_say_what_to_do(digits):
    with pytest.raises(ValueError, match="start must be a share of training"):
        ExConConfig(start=1.5)
    with pytest.raises(ValueError, match=r"no layer 'blocks\.9'; set ExConConfig\.layer"):
        make(replace(_CONFIG, layer="blocks.9"))
    with pytest.raises(ValueError, match="the encoder has no convolution"):
        _CONFIG.build(MLPConfig().build(channels=1, image_size=(8, 8)))
    with pytest.raises(ValueError, match="takes three views"):
        make()(digits(0))
    with pytest.raises(ValueError, match=r"set ExConConfig\.classes"):
        make(replace(_CONFIG, classes=3))(batch_of(digits, 0))
    with pytest.raises(ValueError, match="one number per channel"):
        make(replace(_CONFIG, mean=(0.1, 0.2)))(batch_of(digits, 0))
