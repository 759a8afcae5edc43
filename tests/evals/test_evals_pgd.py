"""Robust accuracy as a protocol: on digits and on what can be computed by hand, and what it must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kinfolk.data import ArraySource
from kinfolk.data.counter import counter_uniform
from kinfolk.data.sources.table import TableSource
from kinfolk.data.sources.table_features import Feature
from kinfolk.evals import LinearProbe, Measurement, RawPixels, Subject
from kinfolk.evals.geometry import subset
from kinfolk.evals.pgd import PGD
from kinfolk.nn import Attack, SmallConvConfig, pgd_attack
from kinfolk.train.serialization import decode, encode


def values(measurements: list[Measurement]) -> dict[str, float]:
    return {found.name: found.value for found in measurements}


def raw(train: ArraySource, test: ArraySource, **how: int) -> Subject:
    encoder = RawPixels(channels=train.channels, image_size=train.image_size)
    return Subject.of("raw pixels", encoder, train=train, test=test, **how)


def dark_and_bright(n: int = 40, *, channels: int = 1, apart: int = 20) -> ArraySource:
    labels = torch.arange(n) % 2
    return ArraySource((labels * apart + 40).byte()[:, None, None, None].repeat(1, channels, 2, 2), labels)


EPS = (2 / 255, 8 / 255, 24 / 255)


@pytest.fixture(scope="module")
def on_digits(subject: Subject) -> list[Measurement]:
    return list(PGD(eps=EPS, max_rows=120, sanity_rows=40, sanity_steps=30).run(subject))


def test_accuracy_on_digits_falls_with_eps(on_digits: list[Measurement]) -> None:
    found = values(on_digits)
    robust = [found[f"robust accuracy, eps {eps * 255:g}/255"] for eps in EPS]
    assert found["clean accuracy"] > 0.85
    assert found["clean accuracy"] >= robust[0] > robust[1] > robust[2]
    assert robust[0] > 0.7
    assert robust[2] < 0.35
    assert found["robust / clean, eps 8/255"] == robust[1] / found["clean accuracy"]
    assert 0 <= found["lost to 30 steps x 3, eps 2/255"] <= 0.05


def test_clean_accuracy_is_that_of_the_head_on_the_rows_in_use(subject: Subject, on_digits: list[Measurement]) -> None:
    everything = values(list(PGD(eps=(1e-6,), steps=1, max_rows=10_000, sanity_rows=0).run(subject)))
    test = subject.features.test
    right = subject.head(LinearProbe()).predict(test.rows) == test.labels
    assert everything["clean accuracy"] == pytest.approx(right.double().mean().item(), abs=1 / len(test) + 1e-9)
    assert everything["robust / clean, eps 0.000255/255"] == pytest.approx(1, abs=0.01)
    assert on_digits[0].details["n_test"] == 120


def test_robust_accuracy_on_digits_is_that_of_attacks_one_by_one(subject: Subject) -> None:
    found = values(list(PGD(eps=(8 / 255,), steps=5, max_rows=20, sanity_rows=0, seed=2).run(subject)))
    rows = subset(len(subject.test), 20, seed=2)
    batch, model = subject.test.fetch(rows), subject.classifier(LinearProbe())
    fooled = []
    for image, label, id_ in zip(batch["images"].float() / 255, batch["labels"], batch["ids"], strict=True):
        start = 2 * counter_uniform((2, 0), id_[None], count=64).view(1, 1, 8, 8) - 1
        fooled += pgd_attack(model, image[None], label[None], Attack(8 / 255, 5), starts=[start]).fooled.tolist()
    assert found["robust accuracy, eps 8/255"] == 1 - sum(fooled) / 20
    assert 0 < sum(fooled) < 20


def test_the_details_say_what_was_done(on_digits: list[Measurement]) -> None:
    robust, lost = on_digits[1].details, on_digits[-1].details
    assert robust["eps_used"] == EPS[0]
    assert robust["rows_of_unknown_classes"] == 0
    assert "l2_used" in robust
    assert lost["rows_used"] == 40
    assert lost["robust_before"] - lost["robust_after"] == on_digits[-1].value
    assert [found.better for found in on_digits] == ["higher"] * 7 + [None]


def test_neither_batches_nor_the_order_of_the_source_change_a_number(subject: Subject, on_digits: list) -> None:
    order = torch.randperm(len(subject.test), generator=torch.Generator().manual_seed(1))
    again = Subject.of("again", subject.encoder, train=subject.train, test=subject.test.subset(order), batch_size=50)
    found = values(list(PGD(eps=EPS[:1], max_rows=120, sanity_rows=0).run(again)))
    expected = values(on_digits)
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=1 / 120 + 1e-9)  # one row may lie on the border


def test_raw_pixels_fall_where_half_the_distance_of_the_classes_is_passed() -> None:
    source = dark_and_bright()  # 20 / 255 apart: the border is in the middle
    found = values(list(PGD(eps=(9 / 255, 11 / 255, 1.0)).run(raw(source, source))))
    assert found["clean accuracy"] == found["robust accuracy, eps 9/255"] == 1
    assert found["robust accuracy, eps 11/255"] == found["robust accuracy, eps 255/255"] == 0
    assert found["lost to 100 steps x 3, eps 9/255"] == 0


class Shattered(nn.Module):
    """Gradients say nothing about what happens a step away."""

    feature_dim = 4

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) + 0.02 * torch.sin(3e4 * images.flatten(1))


def test_the_longer_attack_tells_shattered_gradients() -> None:
    source = dark_and_bright(100)
    shattered = Subject.of("shattered", Shattered(), train=source, test=source)
    [*_, lost] = PGD(eps=(9 / 255,), steps=2).run(shattered)
    assert lost.value > 0.05


def test_a_class_the_head_does_not_know_is_an_error_clean_and_attacked() -> None:
    known = dark_and_bright()
    labels = torch.where(torch.arange(40) < 10, 7, known.labels)
    labels[-4:] = -1
    found = list(
        PGD(eps=(2 / 255,), sanity_rows=0).run(raw(known, ArraySource(known.images, labels, ids=known.ids + 100)))
    )
    assert found[0].details["n_test"] == 36
    assert found[0].details["rows_of_unknown_classes"] == 10
    assert values(found)["clean accuracy"] == values(found)["robust accuracy, eps 2/255"] == 26 / 36


def test_constant_features_and_a_single_class_cannot_be_attacked() -> None:
    alike = ArraySource(torch.full((9, 1, 2, 2), 60, dtype=torch.uint8), (torch.arange(9) > 5).long())
    found = values(list(PGD(sanity_rows=0).run(raw(alike, alike))))
    assert found["clean accuracy"] == found["robust accuracy, eps 16/255"] == 6 / 9
    single = ArraySource(dark_and_bright(6).images, torch.full((6,), 3))
    found = values(list(PGD(sanity_rows=0).run(raw(single, single.subset(torch.tensor([2]))))))
    assert found["clean accuracy"] == found["robust accuracy, eps 16/255"] == 1


def test_nothing_right_leaves_the_ratio_out() -> None:
    known = dark_and_bright()
    swapped = ArraySource(known.images, 1 - known.labels, ids=known.ids + 100)
    found = values(list(PGD(eps=(0.5,), sanity_rows=0).run(raw(known, swapped))))
    assert found == {"clean accuracy": 0, "robust accuracy, eps 127.5/255": 0}


def test_grey_images_take_twice_the_eps_of_coloured_ones() -> None:
    assert [eps * 255 for eps in PGD().eps_for(3)] == pytest.approx([1, 2, 4, 8])
    assert [eps * 255 for eps in PGD().eps_for(1)] == pytest.approx([2, 4, 8, 16])
    assert PGD(eps=(0.5,)).eps_for(1) == (0.5,)
    coloured = dark_and_bright(channels=3)
    assert "robust accuracy, eps 1/255" in values(list(PGD(steps=1, sanity_rows=0).run(raw(coloured, coloured))))


def test_the_subject_is_left_as_it_was(subject: Subject) -> None:
    encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)).train()
    few = subject.train.subset(torch.arange(60))
    subject = Subject.of("untrained", encoder, train=few, test=few)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    next(PGD(eps=(0.01,), steps=1, sanity_rows=0).run(subject))  # and whoever reads may stop halfway
    assert all(part.training for part in encoder.modules())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert all(held.grad is None and held.requires_grad for held in encoder.parameters())


def test_a_table_and_single_pixels_have_no_pictures_to_attack() -> None:
    table = TableSource(
        torch.randn(8, 2), features=[Feature("a", "a", 0.0, 1.0)] * 2, columns={"labels": torch.arange(8) % 2}
    )
    pixels = ArraySource(torch.zeros(8, 1, 1, 1, dtype=torch.uint8), torch.arange(8) % 2)
    for source in (table, pixels):
        subject = Subject.of("raw", RawPixels(channels=source.channels, image_size=(1, 1)), train=source, test=source)
        assert PGD().missing(subject) == "no pictures"
        assert list(PGD().run(subject)) == []
    assert PGD().missing(raw(dark_and_bright(), dark_and_bright())) is None


def test_a_test_set_without_labels_is_refused() -> None:
    known = dark_and_bright()
    with pytest.raises(ValueError, match="needs labels"):
        list(PGD().run(raw(known, ArraySource(known.images))))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eps": ()}, r"eps must be ascending, in \(0, 1\].*got \(\)"),
        ({"eps": (0.2, 0.1)}, "eps must be ascending"),
        ({"eps": (0.0,)}, "eps must be ascending"),
        ({"eps": (8,)}, r"eps must be ascending, in \(0, 1\], such as 8 / 255, got \(8,\)"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"max_rows": 0}, "max_rows must be at least 1, got 0"),
        ({"sanity_rows": -1}, "sanity_rows must be at least 0, got -1"),
        ({"sanity_restarts": 0}, "sanity_restarts must be at least 1, got 0"),
    ],
)
def test_fields_are_checked(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(**fields)


def test_it_survives_yaml() -> None:
    for given in (PGD(), PGD(eps=(0.1, 0.2), probe=LinearProbe(seed=3))):
        assert decode(PGD, encode(given)) == given
    assert hash(PGD(eps=[0.1, 0.2])) == hash(PGD(eps=(0.1, 0.2)))  # type: ignore[arg-type]
