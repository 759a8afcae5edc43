"""The linear probe by SGD: its heads against torch's optimiser, its views, the choice of the rate, hard cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kinfolk.data import ArraySource, DigitsConfig, TableSource
from kinfolk.data.sources.table import Feature
from kinfolk.data.views import ViewMaker, ViewsConfig, to_float
from kinfolk.evals import LinearProbe, Measurement, RawPixels, Subject
from kinfolk.evals.linear_probe import cut_by_class
from kinfolk.evals.sgd_probe import Heads, SGDProbe
from kinfolk.nn import SmallConvConfig
from kinfolk.train.serialization import decode, encode

STILL = {"crop_scale": (1.0, 1.0), "flip": 0.0}  # no augmentation: the encoder runs once


class Counting(nn.Module):
    """Flattened pixels times a factor, and how many images it has seen."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor, self.seen = factor, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images.flatten(1) * self.factor


def pictures(n: int, *, classes: int = 3, seed: int = 0, first_id: int = 0, noise: float = 120.0) -> ArraySource:
    """4 x 4 grey images around one picture per class, in a random order of id."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 255 * torch.rand(classes, 1, 4, 4, generator=torch.Generator().manual_seed(99))
    images = (centres[labels] + noise * torch.randn(n, 1, 4, 4, generator=generator)).clamp(0, 255).byte()
    return ArraySource(images, labels, ids=first_id + torch.randperm(n, generator=generator))


def relabelled(source: ArraySource, labels: torch.Tensor) -> ArraySource:
    return ArraySource(source.images, labels, ids=source.ids)


def subject(train: ArraySource, test: ArraySource, encoder: nn.Module | None = None) -> Subject:
    pixels = RawPixels(channels=train.channels, image_size=train.image_size)
    return Subject.of("raw pixels", encoder or pixels, train=train, test=test)


def measured(probe: SGDProbe, one: Subject) -> Measurement:
    plain, balanced = probe.run(one)
    assert [plain.name, balanced.name] == ["accuracy", "balanced accuracy"]
    assert np.isfinite([plain.value, balanced.value]).all()
    return plain


@pytest.fixture(scope="module")
def easy() -> Subject:
    return subject(pictures(240), pictures(150, seed=1, first_id=1000))


# --- the heads -----------------------------------------------------------------------------------------------------


def test_the_heads_are_torchs_sgd_on_one_linear_layer_each() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 5, generator=generator), torch.randint(0, 3, (48,), generator=generator)
    rates, factors = (0.1, 1.0, 3.0), (1.0, 1.0, 0.1, 0.01)
    heads = Heads(5, 3, rates, momentum=0.9)
    for factor in factors:
        for rows in torch.arange(48).split(20):  # the last batch has 8
            heads.step(x[rows], y[rows], factor=factor)
    for number, rate in enumerate(rates):
        layer = nn.Linear(5, 3)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
        for factor in factors:
            optimizer.param_groups[0]["lr"] = rate * factor
            for rows in torch.arange(48).split(20):
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
                optimizer.step()
        torch.testing.assert_close(heads.weight[:, number], layer.weight.T.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(heads.bias[number], layer.bias.detach(), atol=1e-5, rtol=1e-4)
        assert torch.equal(heads.predict(x)[number], layer(x).argmax(1))


def test_momentum_carries_the_gradient_of_the_learning_rate_before() -> None:
    """One feature of 1, two classes, from zero: residual -/+ 1/2, then that of softmax(0.5 * 2)."""
    heads = Heads(1, 2, (1.0,), momentum=0.5)
    one, y = torch.ones(1, 1), torch.tensor([0])
    heads.step(one, y, factor=1.0)
    assert heads.weight.flatten().tolist() == [0.5, -0.5]
    heads.step(one, y, factor=0.1)
    residual = 1 - 1 / (1 + np.exp(-2.0))  # logits are 1 and -1 now: weight and bias
    assert heads.weight[0, 0, 0].item() == pytest.approx(0.5 + 0.1 * (0.5 * 0.5 + residual))


def test_heads_that_overflow_predict_the_most_frequent_class() -> None:
    heads = Heads(2, 3, (0.1, 1.0), momentum=0.0)
    heads.step(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), factor=1.0)
    heads.weight[0, 1, 2] = torch.nan
    heads.replace_diverged(torch.tensor([2, 7, 1]))
    assert heads.diverged == [1.0]
    assert heads.predict(torch.tensor([[5.0, 1.0], [-9.0, 0.0]]))[1].tolist() == [1, 1]
    assert heads.predict(torch.tensor([[5.0, 1.0]]))[0].tolist() == [0]


# --- schedule and choice of the rate -------------------------------------------------------------------------------


def test_the_schedules_by_hand() -> None:
    step = SGDProbe()
    assert [step.rate_factor(epoch) for epoch in (0, 59, 60, 79, 80, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    short = SGDProbe(epochs=5)
    assert [short.rate_factor(epoch) for epoch in range(5)] == [1, 1, 1, 0.1, 0.01]
    cosine = SGDProbe(epochs=4, schedule="cosine")
    assert [cosine.rate_factor(epoch) for epoch in range(4)] == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert [SGDProbe(drops=()).rate_factor(epoch) for epoch in (0, 99)] == [1, 1]


def test_the_schedule_is_applied(easy: Subject) -> None:
    """A rate that drops to nothing after the first of two epochs gives the head of one epoch."""
    still = SGDProbe(learning_rates=(0.1,), epochs=1, **STILL)
    frozen = SGDProbe(learning_rates=(0.1,), epochs=2, drops=(0.5,) * 30, **STILL)
    assert measured(frozen, easy).value == measured(still, easy).value
    assert measured(SGDProbe(learning_rates=(0.1,), epochs=2, drops=(), **STILL), easy) != measured(still, easy)


def test_without_augmentation_it_is_about_the_closed_form(easy: Subject) -> None:
    closed = next(iter(LinearProbe().run(easy.features))).value
    for schedule in ("step", "cosine"):
        found = measured(SGDProbe(batch_size=64, schedule=schedule, **STILL), easy)
        assert found.value == pytest.approx(closed, abs=0.03)
        assert found.details["diverged"] == []
    assert 0.5 < closed < 0.995  # else anything would be about it


def test_the_rate_is_the_most_accurate_on_the_held_out_part(easy: Subject) -> None:
    probe = SGDProbe(learning_rates=(10.0, 1e-4, 0.3), epochs=3, **STILL)
    train = easy.features.train
    fit, validation = cut_by_class(train.labels, held_out=0.2, seed=0)
    scores = []
    for rate in (1e-4, 0.3, 10.0):
        heads = Heads(train.dim, 3, (rate,), momentum=0.9)
        for epoch in range(3):
            order = fit[torch.randperm(len(fit), generator=torch.Generator().manual_seed(epoch))]
            for rows in order.split(256):
                heads.step(train.rows[rows], train.labels[rows], factor=probe.rate_factor(epoch))
        scores.append((heads.predict(train.rows[validation])[0] == train.labels[validation]).double().mean().item())
    details = measured(probe, easy).details
    assert details["validation_accuracies"] == pytest.approx(scores)
    assert details["learning_rate_used"] == (1e-4, 0.3, 10.0)[int(np.argmax(scores))]


def test_the_test_set_does_not_choose_the_rate(easy: Subject) -> None:
    reversed_labels = subject(easy.train, relabelled(easy.test, 2 - easy.test.labels))
    found = [measured(SGDProbe(epochs=3, **STILL), one).details for one in (easy, reversed_labels)]
    assert found[0] == found[1]


def test_the_tested_head_saw_every_training_row() -> None:
    """Each class has one informative row: where it is held out, only the final fit can know it."""
    images = (torch.eye(10) * 255).byte().reshape(10, 1, 1, 10)
    source = ArraySource(images, torch.arange(10) // 5)
    probe = SGDProbe(learning_rates=(3.0,), epochs=60, **STILL)
    found = measured(probe, subject(source, source))
    assert found.value == 1.0
    assert found.details["validation_accuracies"][0] < 1.0


# --- the views -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def convolution() -> Subject:
    """Digits and an untrained encoder with batch normalisation, part of it in training mode."""
    digits = DigitsConfig().load()
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=8).build(channels=1, image_size=(8, 8)).train()
    encoder.blocks[1].eval()
    return subject(digits.train.subset(torch.arange(299, -1, -1)), digits.test.subset(torch.arange(150)), encoder)


def test_features_of_an_epoch_are_those_of_its_views_by_id(convolution: Subject) -> None:
    probe, train = SGDProbe(seed=5), convolution.features.train
    maker = ViewMaker(ViewsConfig(count=1, crop_scale=(0.2, 1.0), crop_form="rejected", flip=0.5), seed=5)
    found = {epoch: probe._augmented(convolution, train, epoch) for epoch in (0, 3)}
    position = {sample: i for i, sample in enumerate(convolution.train.ids.tolist())}
    images = convolution.train.read(torch.tensor([position[sample] for sample in train.ids.tolist()]))
    convolution.encoder.eval()
    with torch.no_grad():
        for epoch, rows in found.items():
            expected = convolution.encoder(maker(images, train.ids, epoch=epoch)[0])
            torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-4)
    convolution.encoder.train().blocks[1].eval()
    assert (found[0] - found[3]).abs().max() > 0.01


def test_flips_alone_are_mirror_images_and_none_are_the_images(easy: Subject) -> None:
    train = easy.features.train
    mirrored = SGDProbe(crop_scale=(1.0, 1.0), flip=1.0)._augmented(easy, train, 0)
    torch.testing.assert_close(mirrored, train.rows.view(-1, 4, 4).flip(2).flatten(1))
    assert SGDProbe(**STILL)._augmented(easy, train, 0) is train.rows


def test_the_encoder_runs_once_an_epoch_for_all_rates_and_stays_as_it_was(convolution: Subject) -> None:
    encoder = convolution.encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    assert len(set(modes)) == 2
    seen: list[int] = []
    handle = encoder.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    measured(SGDProbe(epochs=3), convolution)
    handle.remove()
    assert sum(seen) == 3 * 300
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert [module.training for module in encoder.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in encoder.parameters())


def test_without_augmentation_the_encoder_does_not_run_again() -> None:
    encoder = Counting()
    one = subject(pictures(30), pictures(9, seed=1, first_id=100), encoder)
    before = encoder.seen
    measured(SGDProbe(epochs=5, **STILL), one)
    assert encoder.seen == before == 39


def test_it_repeats_exactly_and_the_order_of_the_samples_does_not_matter(convolution: Subject) -> None:
    probe = SGDProbe(epochs=3)
    expected = list(probe.run(convolution))
    assert list(probe.run(convolution)) == expected
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    shuffled = subject(convolution.train.subset(order), convolution.test, convolution.encoder)
    assert next(probe.run(shuffled)).value == pytest.approx(expected[0].value, abs=1 / 150 + 1e-9)
    other = list(SGDProbe(epochs=3, seed=1).run(convolution))
    assert other[0].details["validation_accuracies"] != expected[0].details["validation_accuracies"]


def test_digits_are_learnt_with_crops_and_mirrors_harm() -> None:
    """Measured once on pixels, 300 + 150 digits: 0.807 with gentle crops, 0.780 with half of them mirrored."""
    digits = DigitsConfig().load()
    one = subject(digits.train.subset(torch.arange(300)), digits.test.subset(torch.arange(150)))
    probes = [SGDProbe(epochs=30, crop_scale=(0.7, 1.0), flip=flip) for flip in (0.0, 1.0)]
    crops, mirrors = (measured(probe, one).value for probe in probes)
    assert crops == pytest.approx(0.807, abs=0.03)
    assert mirrors < crops - 0.1


def test_colour_images_and_transparent_ones() -> None:
    for channels in (3, 4):
        grey = pictures(60, noise=20.0)
        source = ArraySource(grey.images.expand(-1, channels, -1, -1).contiguous(), grey.labels, ids=grey.ids)
        assert measured(SGDProbe(epochs=20, crop_scale=(0.8, 1.0), flip=0.0), subject(source, source)).value > 0.8


def test_rows_of_a_table_are_taken_as_they_are() -> None:
    labels = torch.arange(60) % 2
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + 2 * labels[:, None]
    table = TableSource(rows, columns={"labels": labels}, features=[Feature(name, name, 0.0, 1.0) for name in "abc"])
    encoder = Counting()
    one = subject(table, table, encoder)
    before = encoder.seen
    assert measured(SGDProbe(epochs=10), one).value > 0.9
    assert encoder.seen == before


# --- hard cases ----------------------------------------------------------------------------------------------------


def test_constant_features_give_the_largest_class() -> None:
    labels = torch.tensor([0] * 40 + [1] * 80)
    grey = ArraySource(torch.full((120, 1, 4, 4), 77, dtype=torch.uint8), labels)
    found = measured(SGDProbe(epochs=10), subject(grey, grey))
    assert found.value == pytest.approx(2 / 3)


def test_features_too_large_for_any_rate_still_give_a_finite_choice() -> None:
    source = relabelled(pictures(90), torch.tensor([0] * 20 + [1] * 40 + [2] * 30))
    found = measured(SGDProbe(epochs=4, batch_size=16, **STILL), subject(source, source, Counting(1e30)))
    assert found.details["diverged"] == [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    assert found.details["learning_rate_used"] == 0.1
    assert found.value == pytest.approx(40 / 90)


def test_smaller_features_take_a_larger_rate(easy: Subject) -> None:
    """Which is why three decades are on offer and features are not rescaled silently."""
    shrunk = subject(easy.train, easy.test, Counting(0.01))
    usual, larger = (measured(SGDProbe(epochs=10, **STILL), one).details for one in (easy, shrunk))
    assert larger["learning_rate_used"] > usual["learning_rate_used"]


@pytest.mark.parametrize("labels", [[0], [0, 1], [3, 3, 3], [0, 0, 1, 1, 2]])
def test_tiny_training_sets_take_the_middle_rate(labels: list[int]) -> None:
    images = (torch.eye(len(labels)) * 255).byte().reshape(len(labels), 1, 1, -1)
    source = ArraySource(images, torch.tensor(labels))
    found = measured(SGDProbe(epochs=20, **STILL), subject(source, source))
    assert found.value == 1.0
    assert found.details["learning_rate_used"] == 3.0
    assert found.details["validation_accuracies"] is None


def test_unlabelled_rows_are_neither_encoded_nor_learnt_nor_scored() -> None:
    train, test = pictures(90), pictures(60, seed=1, first_id=500)
    labels, truth = train.labels.clone(), test.labels.clone()
    labels[::3], truth[::4] = -1, -1
    known, asked = (labels >= 0).nonzero().flatten(), (truth >= 0).nonzero().flatten()
    encoder = Counting()
    with_unlabelled = subject(relabelled(train, labels), relabelled(test, truth), encoder)
    before = encoder.seen
    probe = SGDProbe(epochs=2)
    expected = list(probe.run(subject(relabelled(train, labels).subset(known), test.subset(asked))))
    assert list(probe.run(with_unlabelled)) == expected
    assert encoder.seen - before == 2 * 60


def test_a_class_that_training_lacks_counts_as_errors(easy: Subject) -> None:
    labels = easy.test.labels.clone()
    labels[::2] = 7
    probe = SGDProbe(epochs=5, **STILL)
    before, after = measured(probe, easy), measured(probe, subject(easy.train, relabelled(easy.test, labels)))
    assert 0 < after.value < before.value - 0.3


def test_labels_are_needed() -> None:
    blind = ArraySource(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="needs labels, and none of the 3 rows has one"):
        list(SGDProbe().run(subject(blind, blind)))


def test_settings_survive_yaml() -> None:
    probe = SGDProbe(learning_rates=(1.0, 5.0), schedule="cosine", crop_scale=(0.5, 1.0), flip=0.0)
    assert decode(SGDProbe, encode(probe)) == probe
    assert hash(SGDProbe(learning_rates=[1.0])) == hash(SGDProbe(learning_rates=(1.0,)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"learning_rates": ()}, "learning_rates must be at least one rate, each positive"),
        ({"learning_rates": (0.0, 1.0)}, r"each positive, got \(0.0, 1.0\)"),
        ({"epochs": 0}, "epochs and batch_size must be at least 1, got epochs=0"),
        ({"batch_size": 0}, "got epochs=100, batch_size=0"),
        ({"schedule": "linear"}, "schedule must be 'step' or 'cosine', got 'linear'"),
        ({"drops": (60,)}, r"drops must be shares of the epochs in \[0, 1\], got \(60,\); 60 of 100 is 0.6"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"validation_fraction": 0.0}, r"validation_fraction must lie in \(0, 1\), got 0.0"),
        ({"flip": 2.0}, "flip must be a number within 0 to 1; found 2.0"),
        ({"crop_scale": (0.5, 2.0)}, "crop_scale must be a range"),
    ],
)
def test_the_probe_refuses(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SGDProbe(**settings)


def test_images_are_the_unaugmented_ones_in_the_test(easy: Subject) -> None:
    assert torch.equal(to_float(easy.test.images).flatten(1)[easy.test.ids.argsort()], easy.features.test.rows)
