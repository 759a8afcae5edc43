"""Cross-entropy's loss by hand, plain, adjusted and beside SupCon, and what it has in common with its neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.data import ArraySource, DigitsConfig
from kinfolk.losses import BalancedSoftmaxLoss
from kinfolk.methods import CrossEntropyConfig, ResComConfig, SupConConfig
from kinfolk.nn import HeadConfig, as_encoder
from kinfolk.train.serialization import decode, encode

HEAD = HeadConfig(hidden=16, out_dim=8)
COUNTS = (60, 30, 0, 10)
LABELS = torch.tensor([0, -1, 3, 1, 3, -1])


def on_rows(**changes):
    """A method whose features are the four pixels of an image, in float64."""
    torch.manual_seed(0)
    encoder = as_encoder(nn.Flatten(), channels=1, image_size=(2, 2))
    return CrossEntropyConfig(classes=4, class_counts=COUNTS, head=HEAD, **changes).build(encoder).double()


def images(views: int = 2, n: int = 6):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(n, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(views)]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("tau", [0.0, 1.0, 1.7])
def test_the_loss_is_the_mean_over_labelled_rows_with_the_prior_in_it(tau, smoothing, views):
    method, shown = on_rows(logit_adjustment=tau, label_smoothing=smoothing), images(views)
    weight, bias = method.classifier.weight.tolist(), method.classifier.bias.tolist()
    kept = range(4) if tau == 0 else (0, 1, 3)  # without a prior nothing is known of the class that never occurs
    values, right = [], []
    for view in shown:
        for x, y in zip(view.flatten(1).tolist(), LABELS.tolist(), strict=True):
            if y >= 0:
                plain = [sum(w * a for w, a in zip(weight[k], x, strict=True)) + bias[k] for k in range(4)]
                logits = {k: plain[k] + (tau * math.log(COUNTS[k] / 100) if tau else 0) for k in kept}
                log_sum = math.log(sum(map(math.exp, logits.values())))
                target = {k: smoothing / len(logits) + (1 - smoothing) * (k == y) for k in kept}
                values.append(sum(target[k] * (log_sum - logits[k]) for k in kept))
                right.append(max(range(4), key=plain.__getitem__) == y)
    terms = method({"views": shown, "labels": LABELS})
    assert terms["loss"].item() == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert terms["accuracy"].item() == pytest.approx(sum(right) / len(right))
    assert {"positive_cosine", "participation_ratio"} <= set(terms) or views == 1


def test_an_adjustment_of_one_is_balanced_softmax_and_rescom_without_contrast(digits, build):
    shared = {"classes": 10, "class_counts": tuple(range(100, 0, -10))}
    ours = build(CrossEntropyConfig(**shared, logit_adjustment=1.0), norm="group").double()
    theirs = build(ResComConfig(**shared, con_weight=0.0), norm="group").double()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()})
    optimizers = [torch.optim.SGD([*m.encoder.parameters(), *m.classifier.parameters()], lr=0.1)
                  for m in (ours, theirs)]  # fmt: skip
    for step in range(3):
        batch = digits(step, n=16)
        batch["views"] = [view.double() for view in batch["views"]]
        losses = []
        for method, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            loss = method(batch)["loss"]
            loss.backward()
            optimizer.step()
            method.after_step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], abs=1e-9)
    logits = ours.logits(batch["views"][0])
    one = {**batch, "views": batch["views"][:1]}
    expected = BalancedSoftmaxLoss(shared["class_counts"])(logits, batch["labels"])
    assert ours.terms([logits], one)["loss"].item() == pytest.approx(expected.item(), abs=1e-9)


def test_equal_counts_change_nothing(digits, build):
    batch = digits(0, n=12)
    plain = build(CrossEntropyConfig(classes=10))(batch)["loss"]
    adjusted = build(CrossEntropyConfig(classes=10, class_counts=(7,) * 10, logit_adjustment=1.0))(batch)["loss"]
    assert adjusted.item() == pytest.approx(plain.item(), abs=1e-5)


def test_the_class_frequencies_are_not_in_what_is_predicted():
    plain, adjusted = on_rows(), on_rows(logit_adjustment=2.0)
    shown = images()[0]
    assert torch.equal(plain.logits(shown), adjusted.logits(shown))
    torch.testing.assert_close(adjusted.probabilities(shown), plain.logits(shown).float().softmax(1))
    assert plain.state_dict().keys() == adjusted.state_dict().keys()


def test_with_contrast_the_loss_is_the_sum_of_two_tasks_on_one_encoder(digits, build):
    batch = digits(0, n=12)
    batch["labels"][3] = -1
    both = build(CrossEntropyConfig(classes=10, contrast_weight=0.7, temperature=0.2, head=HEAD), norm="group")
    plain = build(CrossEntropyConfig(classes=10), norm="group")
    supcon = build(SupConConfig(temperature=0.2, head=HEAD), norm="group")
    for method in (plain, supcon):
        method.load_state_dict({k: v for k, v in both.state_dict().items() if k in method.state_dict()})
    terms = both(batch)
    parts = [plain(batch)["loss"], supcon(batch)["loss"]]
    assert terms["cross_entropy"].item() == pytest.approx(parts[0].item(), abs=1e-6)
    assert terms["contrastive"].item() == pytest.approx(parts[1].item(), abs=1e-6)
    assert terms["loss"].item() == pytest.approx((parts[0] + 0.7 * parts[1]).item(), abs=1e-6)
    terms["loss"].backward()
    (parts[0] + 0.7 * parts[1]).backward()
    for (name, p), (_, a), (_, b) in zip(both.encoder.named_parameters(), plain.encoder.named_parameters(),
                                         supcon.encoder.named_parameters(), strict=True):  # fmt: skip
        torch.testing.assert_close(p.grad, a.grad + b.grad, rtol=1e-4, atol=1e-6, msg=name)
    # The health is of the projections, not of the logits.
    z = [F.normalize(both.head(both.encoder(view)), dim=1) for view in batch["views"]]
    assert terms["positive_cosine"].item() == pytest.approx((z[0] * z[1]).sum(1).mean().item(), abs=1e-5)


def test_a_head_is_built_only_for_a_contrast():
    assert not any(name.startswith("head") for name, _ in on_rows().named_parameters())
    assert on_rows().negatives(samples=8, views=2) is None
    assert on_rows(contrast_weight=1.0).negatives(samples=8, views=2) == 14


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_a_batch_without_a_label_has_cross_entropy_and_gradient_zero(tau):
    method = on_rows(logit_adjustment=tau, label_smoothing=0.1)
    terms = method({"views": images(), "labels": torch.full((6,), -1)})
    terms["loss"].backward()
    assert terms["loss"].item() == 0
    assert terms["accuracy"].item() == 0
    assert all(bool((p.grad == 0).all()) for p in method.parameters())


def test_classes_that_never_occur_receive_no_gradient_with_an_adjustment():
    method = on_rows(logit_adjustment=1.0, label_smoothing=0.1)
    method({"views": images(), "labels": LABELS})["loss"].backward()
    assert bool((method.classifier.weight.grad[2] == 0).all())
    assert bool((method.classifier.weight.grad[[0, 1, 3]] != 0).any(1).all())


def test_open_classes_and_counts_are_the_training_set_s():
    blank = torch.zeros(5, 1, 4, 4, dtype=torch.uint8)
    source = ArraySource(blank, torch.tensor([0, 2, 2, -1, 0]))
    config = CrossEntropyConfig(logit_adjustment=1.0).settled(source)
    assert (config.classes, config.class_counts) == (3, (2, 0, 2))
    encoder = as_encoder(nn.Flatten(), channels=1, image_size=(4, 4))
    assert CrossEntropyConfig(classes=3).build(encoder).class_counts is None  # without adjustment nobody counts
    with pytest.raises(ValueError, match=r"the classes are not counted; give CrossEntropyConfig"):
        CrossEntropyConfig(classes=3, logit_adjustment=1.0).build(encoder)


def test_it_learns_to_recognise_digits(build, digits):
    method, test = build(CrossEntropyConfig(classes=10)), DigitsConfig().load().test
    shown = test.read(torch.arange(len(test))).float() / 255
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        method(digits(step, views=1))["loss"].backward()
        optimizer.step()
    assert (method.eval().predict(shown) == test.labels).double().mean() > 0.7


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"views": images()}, "cross-entropy needs labels in the batch"),
        ({"labels": LABELS}, "cross-entropy takes one or more views of equal shapes, found none"),
        ({"views": images(), "labels": LABELS + 1}, "has 4 classes, and the batch has the label 4; set CrossEntropyC"),
        ({"views": images(), "labels": LABELS.clamp_max(2)}, "label 2 belongs to a class with class_counts 0; count"),
    ],
)
def test_unfit_batches_are_explained(batch, message):
    with pytest.raises(ValueError, match=message):
        on_rows(logit_adjustment=1.0)(batch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and less than 1, found 1.0"),
        ({"logit_adjustment": -1.0}, "logit_adjustment must be at least 0, which is without it; found -1.0"),
        ({"contrast_weight": math.nan}, "contrast_weight must be at least 0, which is without it; found nan"),
    ],
)
def test_settings_out_of_range_are_explained(changes, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropyConfig(**changes)


def test_a_config_survives_yaml():
    config = CrossEntropyConfig(classes=4, class_counts=COUNTS, logit_adjustment=1.5, contrast_weight=1.0, head=HEAD)
    assert decode(CrossEntropyConfig, encode(config)) == config
