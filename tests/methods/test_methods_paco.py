"""PaCo and GPaCo: centres, keys and queue, against the algorithm written out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.methods import GPaCoConfig, PaCoConfig
from kinfolk.nn import HeadConfig, SplitBatchNorm, as_encoder
from kinfolk.recipes import recipe, smoke
from kinfolk.train import fit, load_method
from kinfolk.train.serialization import decode, encode

HEAD = HeadConfig(hidden=16, out_dim=8)
COUNTS = (90, 60, 40, 30, 20, 10, 9, 5, 3, 2)


def settings_of(cls, **settings):
    own = {"momentum": 0.8} if cls is PaCoConfig else {}
    return cls(**{"classes": 10, "class_counts": COUNTS, "queue_size": 11, "head": HEAD, **own, **settings})


@pytest.fixture(params=[PaCoConfig, GPaCoConfig])
def plain(request):
    """Return `plain(**settings)`: small settings of either method in turn."""
    return lambda **settings: settings_of(request.param, **settings)


def doubled(batch, **changes):
    return {**batch, "views": [view.double() for view in batch["views"]], **changes}


def some_unlabelled(batch):
    return torch.where(torch.arange(len(batch["labels"])) % 4 == 1, -1, batch["labels"])


def written_out(rows, features, weight, bias, prior, keys, *, alpha, temperature):
    """Anchor by anchor; rows are (vector, label, id), keys (vector, label, id, whether of an earlier step)."""
    values = []
    for i, (z, label, own) in enumerate(rows):
        if label < 0:
            continue
        centres = weight @ features[i] + bias + prior
        others = [(z @ a / temperature, y, x) for j, (a, y, x) in enumerate(rows) if j != i]
        stored = [
            (z @ a / temperature, y, None) for a, y, x, is_earlier in keys if y >= 0 and not (is_earlier and x == own)
        ]
        candidates = torch.stack([*centres, *(s for s, _, _ in others + stored)])
        target = [centres[label]] + [alpha * s for s, y, x in others + stored if y == label or x == own]
        values.append(candidates.logsumexp(0) - sum(target) / (1 + alpha * (len(target) - 1)))
    return torch.stack(values).mean()


def unit(rows, labels, ids):
    return list(zip(F.normalize(rows), labels.tolist(), ids.tolist(), strict=True))


class Written:
    """Either method by lists, with its own optimiser, moving average and queue."""

    def __init__(self, method, config):
        self.encoder, self.head = copy.deepcopy(method.encoder), copy.deepcopy(method.head)
        self.weight, self.bias = (getattr(method.loss, name).detach().clone() for name in ("weight", "bias"))
        for centre in (self.weight, self.bias):
            centre.requires_grad_()
        self.ema = [copy.deepcopy(self.encoder), copy.deepcopy(self.head)]
        self.queue, self.config = [], config
        self.parameters = [*self.encoder.parameters(), *self.head.parameters(), self.weight, self.bias]
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.3)

    def step(self, batch):
        (first, second), labels, ids = batch["views"], batch["labels"], batch["ids"]
        earlier = [(*entry, True) for entry in self.queue[-self.config.queue_size :]]
        if self.config.kind == "paco":
            features = self.encoder(first)
            rows = unit(self.head(features), labels, ids)
            with torch.no_grad():
                keys = unit(self.ema[1](self.ema[0](second)), labels, ids)
            candidates = [(*entry, False) for entry in keys] + earlier
        else:
            views = [self.encoder(view) for view in (first, second)]
            features, candidates = torch.cat(views), earlier
            rows = unit(self.head(features), labels.repeat(2), ids.repeat(2))
            keys = [(z.detach(), y, x) for z, y, x in rows[len(labels) :]]
        shares = torch.tensor(COUNTS, dtype=torch.float64)
        prior = (shares / shares.sum()).log() if self.config.logit_adjustment else torch.zeros(10)
        options = {"alpha": self.config.alpha, "temperature": self.config.temperature}
        loss = written_out(rows, features, self.weight, self.bias, prior, candidates, **options)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.queue += [entry for entry in keys if entry[1] >= 0]
        for slow, fast in zip(self.ema, (self.encoder, self.head), strict=True):
            for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
                a.data.mul_(0.8).add_(b.data, alpha=0.2)
        return loss.item()


@pytest.mark.parametrize("logit_adjustment", [True, False])
def test_it_follows_the_algorithm_written_out(logit_adjustment, plain, digits, build):
    """Samples come again while their old rows are in the queue, which wraps; some samples have no label."""
    config = plain(alpha=0.3, temperature=0.4, logit_adjustment=logit_adjustment)
    method = build(config, norm="group").double()
    by_lists, optimizer = Written(method, config), torch.optim.SGD(method.parameters(), lr=0.3)
    for number in range(5):
        batch = digits(number % 2, n=5)
        batch = doubled(batch, labels=some_unlabelled(batch))
        expected = by_lists.step(batch)
        terms = method(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        method.after_step()
        assert terms["loss"].item() == pytest.approx(expected, abs=1e-9)
    for found, parameter in zip([*method.encoder.parameters(), *method.head.parameters(), method.loss.weight,
                                 method.loss.bias], by_lists.parameters, strict=True):  # fmt: skip
        torch.testing.assert_close(found, parameter, rtol=0, atol=1e-9)
    assert method(batch)["queue_fill"] == 1


def test_rows_enter_the_queue_after_the_step_with_ids_and_labels_and_without_the_unlabelled(plain, digits, build):
    method, batch = build(plain()), digits(0, n=8)
    batch["labels"] = some_unlabelled(batch)
    before = method.queue.snapshot()
    method(batch)["loss"].backward()
    assert torch.equal(method.queue.snapshot().features, before.features)
    expected = method.embed_keys(batch) or method.embed(batch)[1:2]  # GPaCo's: the second view's projections
    method.after_step()
    after, known = method.queue.snapshot(), batch["labels"] >= 0
    assert int(method.queue.filled) == int(known.sum()) == 6
    assert torch.equal(after.ids[:6], batch["ids"][known])
    assert torch.equal(after.labels[:6], batch["labels"][known])
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in method.modules()):
        torch.testing.assert_close(after.features[:6], F.normalize(expected[0][known]))


def test_empty_slots_are_no_candidates(plain, digits, build):
    """The queue begins with random rows; what they are must not matter."""
    losses = []
    for size in (3, 200):
        method, batch = build(plain(queue_size=size), norm="group").double(), doubled(digits(0, n=6))
        method.queue.rows.mul_(1e3)
        losses.append(method(batch)["loss"].item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_without_ids_old_rows_of_a_sample_stay_among_its_candidates(plain, digits, build):
    found = []
    for has_ids in (True, False):
        method, batch = build(plain(), norm="group"), digits(0, n=8)
        for _ in range(2):
            given = batch if has_ids else {name: batch[name] for name in ("views", "labels")}
            loss = method(given)["loss"].item()
            method.after_step()
        found.append(loss)
        assert bool((method.queue.snapshot().ids >= 0).any()) == has_ids
    assert abs(found[0] - found[1]) > 1e-3


@pytest.mark.filterwarnings("ignore:PaCoLoss. no anchor in this batch:RuntimeWarning")
def test_a_batch_without_a_label_has_loss_0_with_a_graph_and_stores_nothing(plain, digits, build):
    method, batch = build(plain()), digits(0, n=6)
    terms = method({**batch, "labels": torch.full((6,), -1)})
    terms["loss"].backward()
    method.after_step()
    assert terms["loss"] == terms["accuracy"] == 0
    assert all(p.grad is None or p.grad.eq(0).all() for p in method.parameters())
    assert int(method.queue.filled) == 0


def test_a_batch_of_one_class_or_one_sample_is_finite_and_has_a_gradient(plain, digits, build):
    for n in (5, 1):
        method, batch = build(plain(), norm="group"), digits(0, n=n)
        method({**batch, "labels": torch.full((n,), 7)})["loss"].backward()
        assert method.loss.weight.grad.abs().sum(1).gt(0).all()  # the other centres are negatives
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_passes_without_gradient_leave_no_trace(plain, digits, build):
    method = build(plain(), norm="group")
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(digits(0))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_predictions_are_the_centres_scores_of_features_without_the_prior(plain, digits, build):
    images = digits(0)["views"][0]
    methods = [build(plain(class_counts=counts)).eval() for counts in (COUNTS, COUNTS[::-1])]
    with torch.no_grad():
        first, second = (method.logits(images) for method in methods)
        expected = F.linear(methods[0].encoder(images), methods[0].loss.weight, methods[0].loss.bias)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected)
    assert torch.equal(methods[0].predict(images), expected.argmax(1))
    torch.testing.assert_close(methods[0].probabilities(images), expected.softmax(1))


def test_only_gpaco_lets_a_gradient_through_the_second_view(digits, build):
    for cls, passes in ((PaCoConfig, False), (GPaCoConfig, True)):
        method, batch = build(settings_of(cls), norm="group"), digits(0, n=6)
        first, second = (view.clone().requires_grad_() for view in batch["views"])
        method({**batch, "views": [first, second]})["loss"].backward()
        assert first.grad.abs().sum() > 0
        assert (second.grad is not None and bool(second.grad.abs().sum() > 0)) == passes


def test_paco_splits_batch_norm_and_gpaco_has_a_head_of_three_layers_without_any(build):
    paco, gpaco = (build(replace(settings_of(cls), head=cls(classes=2).head)) for cls in (PaCoConfig, GPaCoConfig))
    assert sum(isinstance(m, SplitBatchNorm) for m in paco.encoder.modules()) == 2
    assert not any(isinstance(m, SplitBatchNorm) for m in gpaco.modules())
    assert [type(m) for m in gpaco.head.steps] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_one_sample_of_one_class_by_hand():
    """PaCo: centres score 1 and 0, the own key is as the query: a softmax over three, with targets 1 and alpha."""
    encoder = as_encoder(nn.Flatten(), channels=1, image_size=(1, 2))
    method = PaCoConfig(
        classes=2, logit_adjustment=False, alpha=0.5, temperature=0.25, head=HeadConfig(layers=0)
    ).build(encoder)
    with torch.no_grad():
        method.loss.weight.copy_(torch.eye(2))
        method.loss.bias.zero_()
    view = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    terms = method({"views": [view, view], "labels": torch.tensor([0])})
    expected = math.log(math.exp(1) + 1 + math.exp(4)) - (1 + 0.5 * 4) / 1.5
    assert terms["loss"].item() == pytest.approx(expected, abs=1e-6)
    assert terms["accuracy"] == 1


def test_it_learns_to_classify_with_the_encoder(plain, digits, build):
    method = build(plain(class_counts=(144,) * 10, queue_size=160, head=HeadConfig(hidden=32, out_dim=16)))
    optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=1e-2)
    for step in range(30):
        terms = method(digits(step))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        method.after_step()
    seen = digits(1000, n=200)
    assert (method.eval().predict(seen["views"][0]) == seen["labels"]).float().mean() > 0.55


@pytest.mark.parametrize("name", ["paco", "gpaco"])
def test_a_run_counts_its_long_tailed_classes_and_is_measured_by_shots(name, tmp_path):
    config = smoke(recipe(f"{name}-digits"))
    assert config.method.class_counts is None
    assert decode(type(config.method), encode(config.method)) == config.method
    own = replace(config.evaluation, protocols=("own_classifier",), baselines=False)
    run = fit(replace(config, evaluation=own, epochs=1), out=tmp_path / "run")
    counts = load_method(run).loss.class_counts
    assert counts.tolist() == [143, 104, 75, 53, 38, 27, 19, 14, 10, 7]
    metrics = {record["metric"] for record in run.records}
    assert {"accuracy", "accuracy, many", "accuracy, medium", "accuracy, few"} <= metrics


def test_what_is_missing_or_beyond_the_classes_is_said(plain, digits, build):
    name = type(plain()).__name__
    with pytest.raises(ValueError, match=rf"give {name}\(classes=\.\.\., class_counts=\.\.\.\)"):
        build(plain(class_counts=None))
    build(plain(class_counts=None, logit_adjustment=False))  # nothing needs them
    with pytest.raises(ValueError, match=rf"the number of classes is open; give {name}\(classes=\.\.\.\)"):
        build(plain(classes=None, class_counts=None, logit_adjustment=False))
    with pytest.raises(ValueError, match=r"alpha must be at least 0, found -1\.0"):
        build(plain(alpha=-1.0))
    batch, kind = digits(0, n=6), name.removesuffix("Config")
    with pytest.raises(ValueError, match=f"{kind} takes exactly 2 views of each image, found 3"):
        build(plain())(digits(0, n=6, views=3))
    with pytest.raises(ValueError, match=f"{kind} needs labels in the batch"):
        build(plain())({"views": batch["views"]})
    with pytest.raises(ValueError, match="one of 3 classes, 0 to 2, found"):
        build(plain(classes=3, class_counts=(3, 2, 1)))({**batch, "labels": torch.full((6,), 7)})
