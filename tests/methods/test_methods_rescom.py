"""ResCom's classifier, class weights, queue and mined pairs, against the algorithm written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.losses import NTXentLoss, SupConLoss
from kinfolk.methods import ResComConfig
from kinfolk.nn import HeadConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.train import fit, load_method
from kinfolk.train.serialization import decode, encode

HEAD = HeadConfig(hidden=16, out_dim=8)
COUNTS = (90, 60, 40, 30, 20, 10, 9, 5, 3, 2)


def plain(**settings):
    own = {"classes": 10, "class_counts": COUNTS, "positives": 2, "negatives": 3, "queue_per_class": 2, "head": HEAD}
    return ResComConfig(**{**own, **settings})


def doubled(batch, **changes):
    return {**batch, "views": [view.double() for view in batch["views"]], **changes}


def some_unlabelled(batch):
    return torch.where(torch.arange(len(batch["labels"])) % 4 == 1, -1, batch["labels"])


def contrast(z, labels, ids, rings, *, temperature, beta, positives, negatives):
    """Anchor by anchor, with the hardest pairs of a list per class."""
    effective = [(1 - beta**n) / (1 - beta) for n in COUNTS]
    values = []
    for i, (row, label) in enumerate(zip(z, labels, strict=True)):
        batch = [(row @ z[a] / temperature, a) for a in range(len(z)) if a != i]
        near = [s for s, a in batch if ids[a] == ids[i] or (labels[a] == label and label >= 0)]
        far, close = [], []
        if label >= 0:
            far = sorted((row @ k / temperature for k in rings[label]), key=Tensor.item)[:positives]
            strangers = [k for c, ring in rings.items() if c != label for k in ring]
            close = sorted((row @ k / temperature for k in strangers), key=Tensor.item, reverse=True)[:negatives]
        if near or far:
            partition = torch.stack([*(s for s, _ in batch), *far, *close]).logsumexp(0)
            weight = sum(effective) / len(effective) / effective[label] if label >= 0 else 1
            values.append(weight * (partition - torch.stack(near + far).mean()))
    return torch.stack(values).mean()


def test_it_follows_the_algorithm_written_out(digits, build):
    """Two or three views, some samples without a label, rings that wrap; queue rows are of the encoder as it was."""
    config = plain(temperature=0.3, con_weight=0.7, beta=0.9)
    method = build(config, norm="group").double()
    parts = nn.ModuleList(copy.deepcopy([method.encoder, method.head, method.classifier]))
    encoder, head, classifier = parts
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (method, parts)]
    prior = (torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)).log()
    streams = {c: [] for c in range(10)}
    for number in range(4):
        batch = digits(number, n=8, views=2 + number % 2)
        batch = doubled(batch, labels=some_unlabelled(batch))
        count, rows = len(batch["views"]), [encoder(view) for view in batch["views"]]
        labels, ids = batch["labels"].repeat(count), batch["ids"].repeat(count).tolist()
        projections = [F.normalize(head(features)) for features in rows]
        logits = classifier(torch.cat(rows))[labels >= 0] + prior
        balanced = (logits.logsumexp(1) - logits.gather(1, labels[labels >= 0][:, None])[:, 0]).mean()
        rings = {c: stream[-2:] for c, stream in streams.items()}
        options = {"temperature": 0.3, "beta": 0.9, "positives": 2, "negatives": 3}
        contrastive = contrast(torch.cat(projections), labels.tolist(), ids, rings, **options)
        loss = balanced + 0.7 * contrastive
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        for row, label in zip(projections[0].detach(), batch["labels"].tolist(), strict=True):
            streams.setdefault(label, []).append(row)
        streams.pop(-1, None)

        terms = method(batch)
        optimizers[0].zero_grad()
        terms["loss"].backward()
        optimizers[0].step()
        method.after_step()
        assert terms["loss"].item() == pytest.approx(loss.item(), abs=1e-9)
        assert terms["balanced_softmax"].item() == pytest.approx(balanced.item(), abs=1e-9)
        assert terms["contrastive"].item() == pytest.approx(contrastive.item(), abs=1e-9)
    assert max(map(len, streams.values())) > 2  # else no ring wrapped
    for name in ("encoder", "head", "classifier"):
        own = dict(zip(("encoder", "head", "classifier"), parts, strict=True))[name]
        for found, expected in zip(getattr(method, name).parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def filled(method, digits, *, steps=2):
    for number in range(steps):
        method(digits(100 + number, n=30))
        method.after_step()
    return method


def test_without_contrast_it_is_balanced_softmax_bit_for_bit(digits, build):
    method, batch = filled(build(plain(con_weight=0.0), norm="group"), digits), digits(0, n=12)
    terms = method(batch)
    terms["loss"].backward()
    alone = build(plain(), norm="group")
    value = alone.balanced_softmax(
        alone.classifier(alone.encoder(torch.cat(batch["views"]))), batch["labels"].repeat(2)
    )
    value.backward()
    assert terms["contrastive"] > 0
    assert torch.equal(terms["loss"], value)
    for part in ("encoder", "classifier"):
        for a, b in zip(getattr(method, part).parameters(), getattr(alone, part).parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)


def test_with_nothing_mined_and_equal_weights_it_is_balanced_softmax_and_supcon(digits, build):
    method = filled(build(plain(positives=0, negatives=0, beta=0.0), norm="group").double(), lambda *a, **k:
                    doubled(digits(*a, **k)))  # fmt: skip
    batch = doubled(digits(0, n=12))
    rows = torch.cat(method.embed(batch)[:2])
    expected = SupConLoss(temperature=0.1)(rows, batch["labels"].repeat(2), ids=batch["ids"].repeat(2))
    assert method(batch)["contrastive"].item() == pytest.approx(expected.item(), abs=1e-9)


def test_equal_counts_make_the_classifier_loss_a_cross_entropy(digits, build):
    method, batch = build(plain(class_counts=(7,) * 10), norm="group"), digits(0, n=12)
    logits = torch.cat(method.embed(batch)[2:])
    expected = F.cross_entropy(logits, batch["labels"].repeat(2))
    torch.testing.assert_close(method(batch)["balanced_softmax"], expected.detach())


def test_the_queue_takes_the_first_views_rows_by_class_after_the_step(digits, build):
    method, batch = build(plain(queue_per_class=3), norm="group"), digits(0, n=16)
    batch["labels"] = some_unlabelled(batch)
    method(batch)["loss"].backward()
    assert (method.queue.snapshot().labels == -1).all()
    expected = F.normalize(method.embed(batch)[0])
    method.after_step()
    features, ids, labels = method.queue.snapshot()
    assert int(method.queue.written.sum()) == int((batch["labels"] >= 0).sum())
    for place in (labels >= 0).nonzero().flatten().tolist():
        sample = int((batch["ids"] == ids[place]).nonzero())
        assert int(labels[place]) == int(batch["labels"][sample]) == place // 3
        torch.testing.assert_close(features[place], expected[sample])
    assert not features.requires_grad


def test_every_class_has_as_many_rows_in_the_queue_whatever_its_frequency(digits, build):
    method = build(plain(queue_per_class=4), norm="group")
    for number in range(8):
        batch = digits(number, n=40)
        batch["labels"] = torch.where(batch["labels"] == 3, 3, 0)  # nine of ten samples are of class 0
        method(batch)
        method.after_step()
    assert method.queue.written[0] > 5 * method.queue.written[3]
    assert method.queue.snapshot().labels.add(1).bincount(minlength=11).tolist() == [32, 4, 0, 0, 4, *[0] * 6]


def test_passes_without_gradient_leave_no_trace(digits, build):
    method = filled(build(plain(), norm="group"), digits)
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(digits(0))
    method.after_step()
    method.eval()(digits(0))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_predictions_are_the_classifiers_without_the_prior(digits, build):
    images = digits(0)["views"][0]
    methods = [build(plain(class_counts=counts)).eval() for counts in (COUNTS, COUNTS[::-1])]
    with torch.no_grad():
        first, second = (method.logits(images) for method in methods)
        expected = methods[0].classifier(methods[0].encoder(images))
    assert torch.equal(first, second)
    assert torch.equal(first, expected)
    assert torch.equal(methods[0].predict(images), expected.argmax(1))
    torch.testing.assert_close(methods[0].probabilities(images), expected.softmax(1))


@pytest.mark.filterwarnings("ignore:BalancedSoftmaxLoss. no anchor in this batch:RuntimeWarning")
def test_a_batch_without_a_label_contrasts_views_alone_and_stores_nothing(digits, build):
    method, batch = filled(build(plain(), norm="group"), digits), digits(0, n=8)
    before = method.queue.written.clone()
    terms = method({**batch, "labels": torch.full((8,), -1)})
    terms["loss"].backward()
    method.after_step()
    assert terms["balanced_softmax"] == terms["accuracy"] == 0
    torch.testing.assert_close(terms["contrastive"], NTXentLoss(temperature=0.1)(*method.embed(batch)[:2]).detach())
    assert torch.equal(method.queue.written, before)


@pytest.mark.parametrize("n", [1, 5])
def test_a_batch_of_one_class_and_an_empty_queue_are_finite(n, digits, build):
    method, batch = build(plain(), norm="group"), digits(0, n=n)
    for _ in range(2):  # the second time the queue has one class, and so no negatives
        terms = method({**batch, "labels": torch.full((n,), 9)})
        terms["loss"].backward()
        method.after_step()
        assert terms["loss"].isfinite()
        assert all(p.grad.isfinite().all() for p in method.parameters())
    assert method.queue.written.tolist() == [0] * 9 + [2 * n]


def test_rare_classes_weigh_more_with_beta(digits, build):
    batch, found = digits(0, n=12), {}
    for label in (0, 9):
        labels = torch.full((12,), label)
        for beta in (0.0, 0.999):
            method = build(plain(beta=beta), norm="group")
            found[label, beta] = method({**batch, "labels": labels})["contrastive"].item()
    assert found[0, 0.0] == pytest.approx(found[9, 0.0])
    assert found[9, 0.999] > 20 * found[0, 0.999]


def test_its_head_has_batch_norm_and_the_classifier_stands_beside_it(build):
    method = build(replace(plain(), head=ResComConfig().head))
    assert [type(m) for m in method.head.steps] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert method.classifier.in_features == 32  # the encoder's


def test_a_run_counts_its_long_tailed_classes_and_is_measured_by_shots(tmp_path):
    config = smoke(recipe("rescom-digits"))
    assert config.method.class_counts is None
    assert decode(ResComConfig, encode(config.method)) == config.method
    own = replace(config.evaluation, protocols=("own_classifier",), baselines=False)
    run = fit(replace(config, evaluation=own, epochs=1), out=tmp_path / "run")
    method = load_method(run)
    assert method.contrast.class_counts.tolist() == [143, 104, 75, 53, 38, 27, 19, 14, 10, 7]
    assert method.queue.written.sum() == 256  # four steps of 64
    metrics = {record["metric"] for record in run.records}
    assert {"accuracy", "accuracy, many", "accuracy, medium", "accuracy, few"} <= metrics


def test_what_is_missing_or_does_not_fit_is_said(digits, build):
    with pytest.raises(ValueError, match=r"give ResComConfig\(classes=\.\.\., class_counts=\.\.\.\)"):
        build(plain(class_counts=None))
    with pytest.raises(ValueError, match=r"con_weight must be at least 0, found -0\.5"):
        plain(con_weight=-0.5)
    with pytest.raises(ValueError, match="a class has 2 slots in the queue, and positives=3 are asked for"):
        plain(positives=3)
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), found 1\.0"):
        build(plain(beta=1.0))
    batch = digits(0, n=6)
    with pytest.raises(ValueError, match="ResCom needs labels in the batch"):
        build(plain())({"views": batch["views"]})
    with pytest.raises(ValueError, match="ResCom takes at least two views"):
        build(plain())({**batch, "views": batch["views"][:1]})
    with pytest.raises(ValueError, match="labels must be below the number of classes, 3; found 7"):
        build(plain(classes=3, class_counts=(3, 2, 1)))({**batch, "labels": torch.full((6,), 7)})
