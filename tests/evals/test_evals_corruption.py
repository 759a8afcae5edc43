"""Corruption robustness against loops, what is shared between encoders, and degenerate test sets."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinfolk.data import ArraySource, corrupt
from kinfolk.data.derived import CORRUPTIONS
from kinfolk.data.sources.table import TableSource
from kinfolk.data.sources.table_features import Feature
from kinfolk.evals import Features, FeatureSplits, LinearProbe, Measurement, RawPixels, Subject, corruption
from kinfolk.evals.corruption import CorruptionRobustness, scored_samples
from kinfolk.nn import SmallConvConfig
from kinfolk.train.serialization import decode, encode

FEW: dict[str, Any] = {"corruptions": ("gaussian_noise", "brightness"), "severities": (1, 5)}


def values(measurements: list[Measurement]) -> dict[str, float]:
    return {found.name: found.value for found in measurements}


def raw(train: ArraySource, test: ArraySource, **how: int) -> Subject:
    encoder = RawPixels(channels=train.channels, image_size=train.image_size)
    return Subject.of("raw pixels", encoder, train=train, test=test, **how)


def stripes(n: int = 60, *, seed: int = 0, first_id: int = 0) -> ArraySource:
    """Two classes whose stripes noise and blur can hide."""
    generator = torch.Generator().manual_seed(seed)
    labels, images = torch.arange(n) % 2, torch.randint(90, 150, (n, 1, 8, 8), generator=generator)
    images[labels == 1, :, ::2] += 20
    return ArraySource(images.byte(), labels, ids=torch.arange(n) + first_id)


@pytest.fixture(scope="module")
def on_digits(subject: Subject) -> list[Measurement]:
    return list(CorruptionRobustness(max_rows=100).run(subject))


def test_digits_lose_accuracy_and_more_at_higher_severity(on_digits: list[Measurement]) -> None:
    clean, corrupted, ratio = on_digits
    assert [found.name for found in on_digits] == ["clean accuracy", "corrupted accuracy", "corrupted / clean"]
    assert clean.value > 0.75
    assert 0.3 < corrupted.value < clean.value
    assert ratio.value == corrupted.value / clean.value
    by_severity = list(corrupted.details["accuracy_by_severity"].values())
    assert by_severity[0] > by_severity[2] > by_severity[4]
    assert {found.better for found in on_digits} == {"higher"}


def test_all_75_count_the_same_and_stand_in_the_details(on_digits: list[Measurement]) -> None:
    details = on_digits[1].details
    table = torch.tensor([details["accuracy_by_corruption_and_severity"][c] for c in CORRUPTIONS], dtype=torch.float64)
    assert table.shape == (15, 5)
    assert on_digits[1].value == pytest.approx(table.mean().item())
    assert list(details["accuracy_by_corruption"].values()) == pytest.approx(table.mean(1).tolist())
    assert list(details["accuracy_by_severity"].values()) == pytest.approx(table.mean(0).tolist())
    assert details["n_test"] == 100
    assert "l2_used" in details


def test_it_is_what_loops_over_images_give(subject: Subject) -> None:
    evaluator = CorruptionRobustness(**FEW, max_rows=30, seed=4)
    found = {m.name: m for m in evaluator.run(subject)}
    head, samples = subject.head(LinearProbe()), scored_samples(subject, at_most=30, seed=4)
    assert samples.labels is not None
    for c in FEW["corruptions"]:
        for at, severity in enumerate(FEW["severities"]):
            right = 0
            for image, id_, label in zip(samples.images, samples.ids, samples.labels, strict=True):
                made = corrupt(image[None], id_[None], corruption=c, severity=severity, seed=4)
                with torch.no_grad():
                    right += int(head.predict(subject.encoder(made.float() / 255)) == label)
            table = found["corrupted accuracy"].details["accuracy_by_corruption_and_severity"]
            assert table[c][at] == pytest.approx(right / 30)


def test_neither_batches_nor_the_order_of_the_source_change_a_number(subject: Subject) -> None:
    evaluator = CorruptionRobustness(**FEW, max_rows=80)
    order = torch.randperm(len(subject.test), generator=torch.Generator().manual_seed(1))
    again = Subject.of("again", subject.encoder, train=subject.train, test=subject.test.subset(order), batch_size=17)
    assert values(list(evaluator.run(again))) == pytest.approx(values(list(evaluator.run(subject))), abs=1 / 80)


def test_a_seed_draws_other_rows_and_other_noise(subject: Subject) -> None:
    first, second = (scored_samples(subject, at_most=50, seed=seed).ids for seed in (0, 1))
    assert len(first) == len(second) == 50
    assert not torch.equal(first, second)
    noisy = CorruptionRobustness(corruptions=("gaussian_noise",), severities=(5,), max_rows=10_000)
    other = CorruptionRobustness(corruptions=("gaussian_noise",), severities=(5,), max_rows=10_000, seed=1)
    found = [values(list(evaluator.run(subject)))["corrupted accuracy"] for evaluator in (noisy, noisy, other)]
    assert found[0] == found[1] != found[2]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is corrupted, in order."""
    calls: list[tuple[str, int]] = []

    def counted(images: Tensor, ids: Tensor, *, corruption: str, severity: int, seed: int) -> Tensor:
        calls.append((corruption, severity))
        return corrupt(images, ids, corruption=corruption, severity=severity, seed=seed)

    monkeypatch.setattr(corruption, "corrupt", counted)
    return calls


def test_encoders_on_one_test_source_share_the_corrupted_images(
    made: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = stripes(), stripes(seed=1, first_id=100)
    evaluator = CorruptionRobustness(**FEW)
    first = values(list(evaluator.run(raw(train, test))))
    assert len(made) == 4
    assert values(list(evaluator.run(raw(train, test)))) == first
    assert len(made) == 4
    list(CorruptionRobustness(**FEW, seed=1).run(raw(train, test)))  # other noise is made anew
    assert len(made) == 8
    monkeypatch.setattr(corruption, "_LARGEST_MEMO", 0)
    test = stripes(seed=1, first_id=100)
    list(evaluator.run(raw(train, test)))
    assert values(list(evaluator.run(raw(train, test)))) == first
    assert len(made) == 16


def test_corrupted_images_go_with_their_source(made: list[tuple[str, int]]) -> None:
    gc.collect()
    before = len(corruption._made)
    train, test = stripes(), stripes(seed=1, first_id=100)
    list(CorruptionRobustness(**FEW).run(raw(train, test)))
    assert len(corruption._made) == before + 1
    del test
    gc.collect()
    assert len(corruption._made) == before


def test_a_class_the_head_does_not_know_is_an_error_and_unlabelled_rows_are_left_out() -> None:
    train, test = stripes(), stripes(seed=1, first_id=100)
    labels = torch.where(torch.arange(60) < 15, 9, test.columns["labels"])
    labels[-6:] = -1
    found = list(CorruptionRobustness(**FEW).run(raw(train, ArraySource(test.images, labels, ids=test.ids))))
    assert found[0].details["n_test"] == 54
    assert found[0].details["classes_without_training_row"] == 1
    assert found[0].value <= 39 / 54
    assert max(found[1].details["accuracy_by_corruption"].values()) <= 39 / 54


def test_one_class_one_sample_and_constant_features_give_what_a_constant_answer_gives() -> None:
    alike = ArraySource(stripes().images, torch.full((60,), 2))
    found = values(list(CorruptionRobustness(**FEW).run(raw(alike, alike.subset(torch.tensor([4]))))))
    assert found == {"clean accuracy": 1, "corrupted accuracy": 1, "corrupted / clean": 1}

    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_full((len(images), 3), 7.0)

    source = ArraySource(stripes().images, (torch.arange(60) > 40).long())
    constant = Subject.of("constant", Constant(), train=source, test=source)
    assert values(list(CorruptionRobustness(**FEW).run(constant))) == pytest.approx(
        {"clean accuracy": 41 / 60, "corrupted accuracy": 41 / 60, "corrupted / clean": 1}
    )


def test_nothing_right_leaves_the_ratio_out() -> None:
    source = ArraySource(
        (torch.arange(20) % 2 * 120).byte()[:, None, None, None].repeat(1, 1, 8, 8), torch.arange(20) % 2
    )
    swapped = ArraySource(source.images, 1 - source.columns["labels"], ids=source.ids + 100)
    found = values(list(CorruptionRobustness(corruptions=("pixelate",), severities=(1,)).run(raw(source, swapped))))
    assert found == {"clean accuracy": 0, "corrupted accuracy": 0}


def test_a_table_and_single_pixels_have_no_pictures_to_corrupt() -> None:
    table = TableSource(
        torch.randn(8, 2), features=[Feature("a", "a", 0.0, 1.0)] * 2, columns={"labels": torch.arange(8) % 2}
    )
    pixels = ArraySource(torch.zeros(8, 1, 1, 1, dtype=torch.uint8), torch.arange(8) % 2)
    for source in (table, pixels):
        subject = Subject.of("raw", RawPixels(channels=source.channels, image_size=(1, 1)), train=source, test=source)
        assert CorruptionRobustness().missing(subject) == "no pictures"
        assert list(CorruptionRobustness().run(subject)) == []
    assert CorruptionRobustness().missing(raw(stripes(), stripes())) is None


def test_a_test_set_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        list(CorruptionRobustness(**FEW).run(raw(stripes(), ArraySource(stripes().images))))


def test_only_samples_with_features_are_scored() -> None:
    source = stripes(10)
    rows = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    kept = Features.from_rows(rows, source.ids[3:], source.labels[3:] if source.labels is not None else None)
    shuffled = source.subset(torch.arange(9, -1, -1))
    encoder = RawPixels(channels=1, image_size=(8, 8))
    subject = Subject("some", encoder, FeatureSplits(kept, kept), train=source, test=shuffled, pretraining=source)
    samples = scored_samples(subject, at_most=100, seed=0)
    assert samples.ids.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert torch.equal(samples.images, source.images[3:])
    assert samples.columns["labels"].tolist() == [1, 0, 1, 0, 1, 0, 1]


def test_the_encoder_keeps_its_modes() -> None:
    train = stripes()
    encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)).train()
    subject = Subject.of("untrained", encoder, train=train, test=train)
    next(CorruptionRobustness(**FEW).run(subject))
    assert all(part.training for part in encoder.modules())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corruptions": ("rain",)}, r"corruptions must be some of gaussian_noise, .*each once; found \('rain',\)"),
        ({"corruptions": ()}, "corruptions must be some of"),
        ({"corruptions": ("fog", "fog")}, "each once"),
        ({"severities": (0,)}, r"severities must be some of 1, 2, 3, 4, 5, each once; found \(0,\)"),
        ({"max_rows": 0}, "max_rows must be at least 1, got 0"),
    ],
)
def test_fields_are_checked(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorruptionRobustness(**fields)


def test_it_has_all_corruptions_and_survives_yaml() -> None:
    assert CorruptionRobustness().corruptions == CORRUPTIONS
    for given in (CorruptionRobustness(), CorruptionRobustness(**FEW, probe=LinearProbe(seed=3))):
        assert decode(CorruptionRobustness, encode(given)) == given
    assert hash(CorruptionRobustness(severities=[1])) == hash(CorruptionRobustness(severities=(1,)))  # type: ignore
