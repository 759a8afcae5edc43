"""Fine-tuning's loss by hand and against scikit-learn, and what unlabelled samples and frozen encoders do to it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from kinfolk import distributed
from kinfolk.data import ArraySource, DigitsConfig, FewLabelsConfig, ImbalancedConfig, Splits
from kinfolk.data.derived import LabelledPartConfig
from kinfolk.methods.fine_tune import FineTuneConfig
from kinfolk.nn import as_encoder
from kinfolk.train.serialization import decode, encode

LABELS = torch.tensor([0, -1, 2, 1, 2, -1])


def on_rows(classes: int = 3, **changes):
    """A method whose features are the four pixels of an image, with a classifier that is not 0, in evaluation mode."""
    encoder = as_encoder(nn.Flatten(), channels=1, image_size=(2, 2))
    method = FineTuneConfig(classes=classes, **changes).build(encoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        method.classifier[1].weight.copy_(torch.randn(classes, 4, generator=generator))
        method.classifier[1].bias.copy_(torch.randn(classes, generator=generator))
    norm = method.classifier[0]
    norm.running_var.fill_(1 - norm.eps)  # so that it changes nothing
    return method.eval()


def images(views: int = 1, n: int = 6):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(n, 1, 2, 2, generator=generator) for _ in range(views)]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("views", [1, 3])
def test_the_loss_is_the_mean_over_labelled_rows_of_all_views(smoothing, views):
    method, shown = on_rows(label_smoothing=smoothing), images(views)
    weight, bias = method.classifier[1].weight.tolist(), method.classifier[1].bias.tolist()
    values, right = [], []
    for view in shown:
        for x, y in zip(view.flatten(1).tolist(), LABELS.tolist(), strict=True):
            if y >= 0:
                logits = [
                    sum(w * a for w, a in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)
                ]
                log_sum = math.log(sum(math.exp(logit) for logit in logits))
                target = [smoothing / 3 + (1 - smoothing) * (k == y) for k in range(3)]
                values.append(sum(t * (log_sum - logit) for t, logit in zip(target, logits, strict=True)))
                right.append(max(range(3), key=logits.__getitem__) == y)
    terms = method({"views": shown, "labels": LABELS})
    assert terms["loss"].item() == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert terms["accuracy"].item() == pytest.approx(sum(right) / len(right))
    assert not terms["accuracy"].requires_grad


def test_an_unlabelled_sample_contributes_nothing():
    (shown,) = images()
    other = torch.where((LABELS < 0)[:, None, None, None], 100.0, shown)
    values, gradients = [], []
    for batch in (shown, other, shown[LABELS >= 0]):
        method = on_rows()
        terms = method({"views": [batch], "labels": LABELS if len(batch) == 6 else LABELS[LABELS >= 0]})
        terms["loss"].backward()
        values.append(torch.stack([terms["loss"].detach(), terms["accuracy"]]))
        gradients.append(method.classifier[1].weight.grad)
    torch.testing.assert_close(values, [values[0]] * 3)
    torch.testing.assert_close(gradients, [gradients[0]] * 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_without_a_label_has_loss_and_gradient_zero(smoothing, build, digits):
    method, batch = build(FineTuneConfig(classes=10, label_smoothing=smoothing)), digits(0, n=4)
    nn.init.ones_(method.classifier[1].weight)
    terms = method(batch | {"labels": torch.full((4,), -1)})
    terms["loss"].backward()
    assert {name: term.item() for name, term in terms.items()} == {"loss": 0.0, "accuracy": 0.0}
    assert all(bool((p.grad == 0).all()) for p in method.parameters())


def test_the_first_loss_is_the_logarithm_of_the_classes_and_spares_the_encoder(build, digits):
    method = build(FineTuneConfig(classes=10))
    loss = method(digits(0, views=1))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(math.log(10))
    assert all(bool((p.grad == 0).all()) for p in method.encoder.parameters())
    assert bool((method.classifier[1].weight.grad != 0).any())


def test_the_classifier_of_a_frozen_encoder_is_logistic_regression():
    generator = torch.Generator().manual_seed(3)
    rows, labels = torch.randn(90, 1, 2, 2, generator=generator), torch.arange(90) % 3
    rows[:, 0, 0, 0] += labels
    method = on_rows(freeze_encoder=True).train()
    optimizer = torch.optim.LBFGS(method.classifier.parameters(), max_iter=500, tolerance_grad=1e-7, tolerance_change=0)

    def objective():
        optimizer.zero_grad()
        value = method({"views": [rows], "labels": labels})["loss"]
        value = value + 0.005 * method.classifier[1].weight.square().sum()
        value.backward()
        return value

    optimizer.step(objective)
    standard = StandardScaler().fit_transform(rows.flatten(1).double().numpy())
    theirs = LogisticRegression(C=1 / (0.01 * 90), tol=1e-8, max_iter=2000).fit(standard, labels.numpy())
    torch.testing.assert_close(method.classifier[1].weight.detach().double(), torch.from_numpy(theirs.coef_).double(),
                               atol=2e-3, rtol=2e-3)  # fmt: skip
    assert method.predict(rows).tolist() == theirs.predict(standard).tolist()


def test_a_frozen_encoder_stays_bitwise_what_it_was(build, digits):
    method = build(FineTuneConfig(classes=10, freeze_encoder=True))
    before = copy.deepcopy(method.encoder.state_dict())
    trainable = [name for name, p in method.named_parameters() if p.requires_grad]
    assert trainable == ["classifier.1.weight", "classifier.1.bias"]
    optimizer = torch.optim.AdamW(method.classifier.parameters(), lr=1e-2)
    losses = []
    for step in range(5):
        method.train()
        optimizer.zero_grad()
        loss = method(digits(step, views=1))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert not method.encoder.training
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[name], value) for name, value in method.encoder.state_dict().items())


def test_an_encoder_that_is_not_frozen_follows_train_and_eval(build):
    method = build(FineTuneConfig(classes=10, encoder_rate=0.1))
    assert method.encoder.training
    assert not method.eval().encoder.training
    assert method.train().encoder.training
    assert method.rate_factors == {"encoder": 0.1}


def test_it_learns_to_recognise_digits(build, digits):
    method, test = build(FineTuneConfig(classes=10)), DigitsConfig().load().test
    shown = test.read(torch.arange(len(test))).float() / 255
    before = (method.eval().predict(shown) == test.labels).double().mean()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    method.train()
    for step in range(80):
        optimizer.zero_grad()
        method(digits(step, views=1))["loss"].backward()
        optimizer.step()
    method.eval()
    assert before < 0.2
    assert (method.predict(shown) == test.labels).double().mean() > 0.7
    assert method.predict(shown).tolist() == method.logits(shown).argmax(1).tolist()


def test_embedding_in_parts_gives_the_whole_batch(build, digits):
    method, batch = build(FineTuneConfig(classes=10), norm="group").eval(), digits(0, n=10)
    nn.init.normal_(method.classifier[1].weight)
    batch["labels"][:6] = -1  # the first part has fewer labels than the second
    parts = [{"views": [v[rows] for v in batch["views"]], "labels": batch["labels"][rows]}
             for rows in (slice(0, 7), slice(7, 10))]  # fmt: skip
    joined = [torch.cat(views) for views in zip(*map(method.embed, parts), strict=True)]
    torch.testing.assert_close(method.terms(joined, batch), method(batch))


def test_the_learning_rate_need_not_know_the_size_of_the_features():
    losses = []
    for size in (0.1, 100.0):
        method = on_rows(freeze_encoder=True).train()
        nn.init.zeros_(method.classifier[1].weight)
        optimizer = torch.optim.AdamW(method.classifier.parameters(), lr=1e-2)
        for _ in range(50):
            optimizer.zero_grad()
            loss = method({"views": [size * images(n=6)[0]], "labels": LABELS})["loss"]
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx([losses[1]] * 2, rel=0.1)


def test_the_mean_over_processes_is_the_mean_over_labelled_rows(monkeypatch):
    (shown,) = images()
    method, shares = on_rows(), (slice(0, 2), slice(2, 6))  # one label here, three there
    whole = method({"views": [shown], "labels": LABELS})
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda x: torch.full_like(x, 4.0))
    ranks = [method({"views": [shown[rows]], "labels": LABELS[rows]}) for rows in shares]
    means = {name: (ranks[0][name] + ranks[1][name]) / 2 for name in whole}
    torch.testing.assert_close(means, whole)
    monkeypatch.undo()
    apart = [method({"views": [shown[rows]], "labels": LABELS[rows]})["loss"] for rows in shares]
    assert abs((apart[0] + apart[1]) / 2 - whole["loss"]) > 1e-3  # what the exchange is there for


def test_a_single_class_and_a_single_sample():
    terms = on_rows(classes=1)({"views": images(n=1), "labels": torch.zeros(1, dtype=torch.int64)})
    assert {name: term.item() for name, term in terms.items()} == {"loss": 0.0, "accuracy": 1.0}
    assert on_rows(classes=1).predict(images()[0]).tolist() == [0] * 6


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"views": images()}, "fine-tuning needs labels in the batch"),
        ({"labels": LABELS}, "one or more views of equal shapes, found none"),
        ({"views": [], "labels": LABELS}, "found none"),
        ({"views": [*images(), *images(n=5)], "labels": LABELS}, r"found \[\(6, 1, 2, 2\), \(5, 1, 2, 2\)\]"),
        ({"views": images(), "labels": LABELS + 1}, "has 3 classes, and the batch has the label 3; set FineTuneConfig"),
    ],
)
def test_unfit_batches_are_explained(batch, message):
    with pytest.raises(ValueError, match=message):
        on_rows()(batch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "classes must be at least 1, or None for the training set's; found 0"),
        ({"encoder_rate": 0.0}, "encoder_rate must be positive, found 0.0; freeze_encoder stops it"),
        ({"encoder_rate": math.nan}, "encoder_rate must be positive"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and less than 1, found 1.0"),
    ],
)
def test_settings_out_of_range_are_explained(changes, message):
    with pytest.raises(ValueError, match=message):
        FineTuneConfig(**changes)


def test_an_open_number_of_classes_is_the_training_set_s():
    blank = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    unnamed = ArraySource(blank, torch.tensor([0, 4, -1]))
    assert FineTuneConfig().settled(unnamed).classes == 5
    assert FineTuneConfig(classes=7).settled(unnamed).classes == 7
    with pytest.raises(ValueError, match="FineTune needs labels; source 'arrays' has none"):
        FineTuneConfig().settled(ArraySource(blank))
    with pytest.raises(ValueError, match=r"number of classes is open; give FineTuneConfig\(classes=...\)"):
        FineTuneConfig().build(as_encoder(nn.Flatten(), channels=1, image_size=(4, 4)))


def test_a_config_survives_yaml():
    config = FineTuneConfig(classes=4, encoder_rate=0.1, freeze_encoder=True, label_smoothing=0.1)
    assert decode(FineTuneConfig, encode(config)) == config
    assert decode(LabelledPartConfig, encode(LabelledPartConfig())) == LabelledPartConfig()


def test_the_labelled_part_undoes_what_was_derived_for_pretraining_alone():
    digits = DigitsConfig().load()
    few = FewLabelsConfig(share=0.01).apply(digits)
    part = LabelledPartConfig().apply(few)
    assert bool((few.train.labels < 0).any())
    wanted = [max(1, round(0.01 * count)) for count in digits.train.labels.bincount().tolist()]
    assert part.train.labels.bincount().tolist() == wanted
    assert bool((part.train.labels >= 0).all())
    assert torch.equal(part.train.ids, few.train.ids[few.train.labels >= 0])
    assert part.test is digits.test
    imbalanced = ImbalancedConfig(rule="exponential").apply(digits)
    assert len(imbalanced.train) < len(LabelledPartConfig().apply(imbalanced).train) == len(digits.train)
    unlabelled = ArraySource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([-1, -1]))
    with pytest.raises(ValueError, match="the labelled part needs labels; source 'arrays' has none"):
        LabelledPartConfig().apply(Splits(unlabelled, unlabelled))
