"""ESupCon's loss, classifier and prototypes, against the algorithm written out."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.data import DigitsConfig
from kinfolk.losses import GraphContrastiveLoss, NTXentLoss
from kinfolk.methods import ESupConConfig
from kinfolk.nn import HeadConfig, as_encoder
from kinfolk.recipes import recipe, smoke
from kinfolk.train import AdamWConfig, LARSConfig, SGDConfig, fit, load_method, read_metrics
from kinfolk.train.optimizers import parameter_groups
from kinfolk.train.serialization import decode, encode

HEAD = HeadConfig(hidden=16, out_dim=8)


def plain(**settings):
    return ESupConConfig(**{"classes": 10, "head": HEAD, **settings})


def doubled(batch):
    return {**batch, "views": [view.double() for view in batch["views"]]}


def written_out(z, theta, labels, ids, *, temperature):
    """Anchor by anchor: every row that has a positive, then the prototype of every class that the batch has."""
    z, theta = F.normalize(z), F.normalize(theta)
    m, values = len(z), []
    for i in range(m):
        candidates = [z[i] @ z[a] / temperature for a in range(m) if a != i]
        candidates += [z[i] @ prototype / temperature for prototype in theta]
        positives = [
            z[i] @ z[a] / temperature
            for a in range(m)
            if a != i and (ids[a] == ids[i] or (labels[a] == labels[i] and labels[i] >= 0))
        ]
        positives += [z[i] @ theta[labels[i]] / temperature] if labels[i] >= 0 else []
        if positives:
            values.append(torch.stack(candidates).logsumexp(0) - torch.stack(positives).mean())
    for k in range(len(theta)):
        own = [theta[k] @ z[j] / temperature for j in range(m) if labels[j] == k]
        if own:
            candidates = [theta[k] @ z[j] / temperature for j in range(m)]
            values.append(torch.stack(candidates).logsumexp(0) - torch.stack(own).mean())
    return torch.stack(values).mean()


def test_it_follows_the_algorithm_written_out(digits, build):
    """Projections of all views, one mean over anchors of both kinds, a step that moves the prototypes too."""
    method = build(plain(temperature=0.3), norm="group").double()
    encode, theta = copy.deepcopy(nn.Sequential(method.encoder, method.head)), method.loss.weight.detach().clone()
    theta.requires_grad_()
    optimizers = [
        torch.optim.SGD(method.parameters(), lr=0.3),
        torch.optim.SGD([*encode.parameters(), theta], lr=0.3),
    ]
    for number in range(3):
        batch = doubled(digits(number, n=6, views=2 + number % 2))
        batch["labels"] = torch.where(torch.arange(6) % 4 == 0, -1, batch["labels"])

        rows, count = torch.cat([encode(view) for view in batch["views"]]), len(batch["views"])
        labels, ids = (batch[name].repeat(count) for name in ("labels", "ids"))
        loss = written_out(rows, theta, labels, ids, temperature=0.3)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()

        terms = method(batch)
        optimizers[0].zero_grad()
        terms["loss"].backward()
        optimizers[0].step()
        method.after_step()
        assert terms["loss"].item() == pytest.approx(loss.item(), abs=1e-9)
    torch.testing.assert_close(method.loss.weight, theta, rtol=0, atol=1e-9)
    for found, expected in zip(method.head.parameters(), encode[1].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_it_is_graph_contrast_on_rows_and_prototypes_without_pairs_of_prototypes(digits, build):
    method, batch = build(plain(classes=10), norm="group").double(), doubled(digits(0, n=40))
    labels = torch.cat([batch["labels"].repeat(2), torch.arange(10)])
    assert labels.unique().numel() == 10  # else an absent prototype would be no anchor
    rows = torch.cat([*method.embed(batch), method.loss.weight])
    graph = (labels[:, None] == labels).double()
    graph[80:, 80:] = 0
    graph.fill_diagonal_(0)
    mask = ~torch.eye(90, dtype=torch.bool)
    mask[80:, 80:] = False
    expected = GraphContrastiveLoss(temperature=0.1)(rows, rows, graph, mask=mask)
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-9)


def test_the_nearest_prototype_is_the_prediction_and_cosines_over_the_temperature_the_logits(digits, build):
    method, images = build(plain(temperature=0.25)).eval(), digits(3)["views"][0]
    with torch.no_grad():
        method.loss.weight *= torch.linspace(0.1, 20, 10)[:, None]  # lengths do not matter
        z = F.normalize(method.head(method.encoder(images)))
        expected = z @ F.normalize(method.loss.weight).T / 0.25
        torch.testing.assert_close(method.logits(images), expected, rtol=0, atol=1e-5)
    assert torch.equal(method.predict(images), expected.argmax(1))
    torch.testing.assert_close(method.probabilities(images), expected.softmax(1), rtol=0, atol=1e-5)
    method.calibration.fill_(2.0)
    torch.testing.assert_close(method.probabilities(images), (expected / 2).softmax(1), rtol=0, atol=1e-5)


def test_the_classifier_learns_with_the_encoder(digits, build):
    method, seen = build(plain(head=HeadConfig(hidden=32, out_dim=16))), digits(1000, n=300)

    def right():
        return (method.eval().predict(seen["views"][0]) == seen["labels"]).float().mean().item()

    before, optimizer = right(), AdamWConfig(learning_rate=1e-2).build(method)
    for step in range(50):
        terms = method.train()(digits(step))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert before < 0.4
    assert right() > 0.7
    assert terms["accuracy"] > 0.7


def test_the_accuracy_counts_labelled_rows_of_all_views():
    method = ESupConConfig(classes=2, head=HeadConfig(layers=0)).build(
        as_encoder(nn.Flatten(), channels=1, image_size=(1, 2))
    )
    with torch.no_grad():
        method.loss.weight.copy_(torch.eye(2))
    view = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])[:, None, None]
    batch = {"views": [view, view[[0, 1, 0]]], "labels": torch.tensor([1, -1, 0])}
    assert method(batch)["accuracy"].item() == 0.25  # of four labelled rows one, the last
    assert method({**batch, "labels": torch.tensor([-1, -1, -1])})["accuracy"].item() == 0


def test_without_labels_it_is_nt_xent_with_the_prototypes_as_further_negatives(digits, build):
    method = build(plain(), norm="group").double()
    batch = doubled(digits(0, n=12))
    batch["labels"] = torch.full((12,), -1)
    a, b = method.embed(batch)
    z, theta = F.normalize(torch.cat([a, b])), F.normalize(method.loss.weight)
    own = (z * z.roll(12, 0)).sum(1) / 0.1
    without = NTXentLoss(temperature=0.1, reduction="none")(a, b) + own
    expected = (torch.logaddexp(without, (z @ theta.T / 0.1).logsumexp(1)) - own).mean()
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-9)


def test_a_batch_of_one_class_still_has_the_other_prototypes_to_avoid(digits, build):
    method, batch = build(plain(), norm="group").double(), doubled(digits(0, n=6))
    batch["labels"] = torch.full((6,), 3)
    terms = method(batch)
    terms["loss"].backward()
    rows = torch.cat(method.embed(batch))
    expected = written_out(rows, method.loss.weight, batch["labels"].repeat(2), batch["ids"].repeat(2), temperature=0.1)
    assert terms["loss"].item() == pytest.approx(expected.item(), abs=1e-9)
    gradient = method.loss.weight.grad
    assert bool((gradient.abs().sum(1) > 0).all())
    # only directions count, so the gradient has no part along a prototype
    assert (gradient * method.loss.weight).sum(1).abs().max() < 1e-12


@pytest.mark.parametrize("optimizer", [AdamWConfig(weight_decay=0.5), SGDConfig(weight_decay=0.5), LARSConfig()])
def test_prototypes_never_decay(optimizer, build):
    method = build(plain())
    decaying = {
        id(parameter)
        for group in optimizer.build(method).param_groups
        if group["weight_decay"] > 0
        for parameter in group["params"]
    }
    named = {name for name, parameter in method.named_parameters() if id(parameter) in decaying}
    assert "head.steps.0.weight" in named
    assert any(name.startswith("encoder.") for name in named)
    assert "loss.weight" not in named


def test_what_does_not_decay_may_have_a_rate_of_its_own_and_is_named_by_whole_names():
    module = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 2), "bc": nn.Linear(2, 2)})
    module.rate_factors, module.without_decay = {"b": 0.1}, ("b",)
    groups = parameter_groups(module, weight_decay=0.3)
    assert [(len(g["params"]), g["weight_decay"], g["rate_factor"]) for g in groups] == [
        (2, 0.3, 1.0), (2, 0.0, 1.0), (0, 0.3, 0.1), (2, 0.0, 0.1),
    ]  # fmt: skip


def test_a_run_fills_in_the_classes_and_its_classifier_can_be_loaded(tmp_path):
    config = smoke(recipe("esupcon-digits"))
    assert config.method.classes is None
    assert decode(ESupConConfig, encode(config.method)) == config.method
    run = fit(config, out=tmp_path / "run")
    last = [record for record in read_metrics(run.metrics_file) if record["event"] == "train"][-1]
    assert 0 <= last["accuracy"] <= 1
    method, test = load_method(run), DigitsConfig().load().test
    assert method.loss.weight.shape == (10, 128)
    images = test.fetch(torch.arange(32))["images"].float() / 255
    assert method.probabilities(images).sum(1).tolist() == pytest.approx([1.0] * 32, abs=1e-5)


def test_what_is_missing_or_beyond_the_classes_is_said(build, digits):
    with pytest.raises(ValueError, match=r"the number of classes is open; give ESupConConfig\(classes=\.\.\.\)"):
        build(plain(classes=None))
    with pytest.raises(ValueError, match=r"temperature must be positive, found 0\.0"):
        build(plain(temperature=0.0))
    batch = digits(0, n=8)
    with pytest.raises(ValueError, match=r"one of 3 classes, 0 to 2, found"):
        build(plain(classes=3))(batch | {"labels": torch.full((8,), 7)})
    with pytest.raises(ValueError, match="ESupCon needs labels in the batch"):
        build(plain())({"views": batch["views"]})
    with pytest.raises(ValueError, match="ESupCon takes at least two views"):
        build(plain())({**batch, "views": batch["views"][:1]})


def test_a_single_labelled_row_is_told_from_the_other_prototypes():
    """One sample, whose two views are equal: the row part over one row and the prototypes by hand."""
    method = ESupConConfig(classes=2, temperature=1.0, head=HeadConfig(layers=0)).build(
        as_encoder(nn.Flatten(), channels=1, image_size=(1, 2))
    )
    with torch.no_grad():
        method.loss.weight.copy_(torch.eye(2))
    view = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    loss = method({"views": [view, view], "labels": torch.tensor([0])})["loss"]
    row = math.log(2 * math.e + 1) - 1  # the other view, both prototypes
    prototype = math.log(2 * math.e) - 1  # both views
    assert loss.item() == pytest.approx((2 * row + prototype) / 3, abs=1e-6)
