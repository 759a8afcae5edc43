"""The attack against closed forms and loops, what it must leave alone, and robust accuracy as a protocol."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.data import ArraySource, DigitsConfig, Splits
from kinfolk.data.counter import counter_uniform
from kinfolk.data.sources.table import TableSource
from kinfolk.data.sources.table_features import Feature
from kinfolk.evals import LinearProbe, Measurement, RawPixels, Subject
from kinfolk.evals.attack import attacked, evaluating, pgd_attack
from kinfolk.evals.geometry import subset
from kinfolk.evals.pgd import PGD
from kinfolk.nn import SmallConvConfig
from kinfolk.train.serialization import decode, encode


def pictures(n: int, *, channels: int = 1, side: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def linear(classes: int, inputs: int = 9, *, seed: int = 1, scale: float = 1.0) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for held in model.parameters():
            held.copy_(scale * torch.randn(held.shape, generator=generator))
    return model


def smooth(classes: int = 4) -> nn.Module:
    """Small and curved, with normalisation and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(9, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, classes)
    )


def losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with evaluating(model), torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


def wrong(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with evaluating(model), torch.no_grad():
        return model(images).argmax(1) != labels


def by_loops(
    model: nn.Module, image: Tensor, label: Tensor, *, eps: float, steps: int, seed: int, id_: int
) -> tuple[Tensor, bool, float]:
    """The protocol in words, one image at a time, on the cross-entropy itself."""
    noise = counter_uniform((seed, 0), torch.tensor([id_]), count=image.numel()).reshape(image.shape)
    x = torch.clamp(image + (2 * noise - 1) * eps, 0, 1)
    best = (bool(wrong(model, image[None], label[None])), float(losses(model, image[None], label[None])), image)
    with evaluating(model):
        for taken in range(steps + 1):
            x = x.detach().requires_grad_()
            logits = model(x[None])
            loss = F.cross_entropy(logits, label[None])
            now = (bool(logits.argmax(1) != label), float(loss.detach()), x.detach())
            best = max(best, now, key=lambda one: one[:2])
            if taken < steps:
                (gradient,) = torch.autograd.grad(loss, x)
                moved = x.detach() + eps / 4 * gradient.sign()
                x = torch.clamp(torch.maximum(torch.minimum(moved, image + eps), image - eps), 0, 1)
    return best[2], best[0], best[1]


def test_two_linear_classes_have_their_worst_image_in_closed_form() -> None:
    model, images = linear(2), pictures(40)
    labels = torch.arange(40) % 2
    towards_other = (1 - 2 * labels)[:, None] * (model[1].weight[1] - model[1].weight[0]).detach().sign()
    expected = (images + 0.1 * towards_other.view_as(images)).clamp(0, 1)
    found = pgd_attack(model, images, labels, eps=0.1, seed=0)
    torch.testing.assert_close(found, expected)
    assert torch.equal(wrong(model, found, labels), wrong(model, expected, labels))


def test_the_attack_is_the_protocol_written_as_loops() -> None:
    model, images, labels = smooth(), pictures(24), torch.arange(24) % 4
    ids = torch.arange(24) * 7 + 3
    found = pgd_attack(model, images, labels, eps=0.08, steps=7, seed=5, ids=ids)
    expected = [
        by_loops(model, images[i], labels[i], eps=0.08, steps=7, seed=5, id_=int(ids[i])) for i in range(len(images))
    ]
    torch.testing.assert_close(losses(model, found, labels), torch.tensor([loss for _, _, loss in expected]))
    assert wrong(model, found, labels).tolist() == [fooled for _, fooled, _ in expected]
    same = torch.stack([image for image, _, _ in expected]).isclose(found, atol=1e-6)
    assert same.double().mean() > 0.99  # a gradient of nearly 0 may round to either sign


def test_images_stay_in_the_ball_and_in_range() -> None:
    images = pictures(30)
    images[:5], images[5:10] = 0.0, 1.0
    found = pgd_attack(smooth(), images, torch.zeros(30).long(), eps=0.1, steps=5, restarts=2, seed=0)
    assert float((found - images).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert not found.requires_grad


def test_without_room_the_images_come_back() -> None:
    images = pictures(6)
    assert torch.equal(pgd_attack(smooth(), images, torch.arange(6) % 4, eps=0.0, seed=0), images)
    none = pgd_attack(smooth(), images[:0], torch.arange(0), eps=0.1, seed=0)
    assert none.shape == (0, 1, 3, 3)


def test_more_steps_and_more_starts_never_find_less() -> None:
    model, images, labels = smooth(), pictures(40), torch.arange(40) % 4
    short, long, many = (
        pgd_attack(model, images, labels, eps=0.1, step=0.02, steps=steps, restarts=restarts, seed=0)
        for steps, restarts in ((2, 1), (12, 1), (12, 4))
    )
    for weaker, stronger in ((images, short), (short, long), (long, many)):
        assert not bool((wrong(model, weaker, labels) & ~wrong(model, stronger, labels)).any())
        both_right = ~wrong(model, stronger, labels)
        lost = losses(model, stronger, labels) - losses(model, weaker, labels)
        assert float(lost[both_right].min()) > -1e-6
    assert float(losses(model, long, labels).mean()) > float(losses(model, short, labels).mean())


def test_the_start_depends_on_seed_and_id_and_not_on_the_batch() -> None:
    model, images, labels, ids = smooth(), pictures(10), torch.arange(10) % 4, torch.arange(10) + 50
    whole = pgd_attack(model, images, labels, eps=0.1, steps=1, seed=3, ids=ids)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    parts = [pgd_attack(model, images[p], labels[p], eps=0.1, steps=1, seed=3, ids=ids[p]) for p in order.split(3)]
    torch.testing.assert_close(torch.cat(parts), whole[order])
    assert not torch.allclose(pgd_attack(model, images, labels, eps=0.1, steps=1, seed=4, ids=ids), whole)
    assert not torch.allclose(pgd_attack(model, images, labels, eps=0.1, steps=1, seed=3, ids=ids + 1), whole)


def test_the_model_is_left_as_it_was() -> None:
    model, images = smooth().train(), pictures(8)
    model[2].eval()  # a frozen norm inside a training module must stay frozen
    model[1].weight.grad = torch.full_like(model[1].weight, 3.0)
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():  # whoever calls may have switched gradients off
        pgd_attack(model, images, torch.arange(8) % 4, eps=0.1, steps=3, seed=0)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert bool((model[1].weight.grad == 3).all())
    assert model[5].weight.grad is None
    assert all(held.requires_grad for held in model.parameters())


def test_modes_come_back_when_the_model_fails() -> None:
    model = smooth().train()
    with pytest.raises(RuntimeError):
        pgd_attack(model, pictures(2, side=4), torch.tensor([0, 1]), eps=0.1, seed=0)
    assert all(part.training for part in model.modules())


def test_a_very_sure_classifier_is_attacked_as_well_as_an_unsure_one() -> None:
    images, labels = pictures(60), torch.arange(60) % 3
    unsure, sure = linear(3), linear(3, scale=1e5)  # the same decisions
    grad_at = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(sure(grad_at), labels), grad_at)
    assert bool((gradient == 0).flatten(1).all(1).any())  # where the cross-entropy itself has underflowed
    fooled = [wrong(model, pgd_attack(model, images, labels, eps=0.1, seed=0), labels) for model in (unsure, sure)]
    assert torch.equal(*fooled)
    assert 0.5 < float(fooled[0].double().mean()) < 1


def test_nothing_is_found_where_the_logits_are_constant_or_one() -> None:
    images, labels = pictures(6), torch.arange(6) % 2
    constant = linear(2, scale=0.0)
    found, is_wrong = attacked(constant, images, labels, eps=0.2, seed=0)
    assert torch.equal(found, images)
    assert is_wrong.tolist() == [False, True] * 3
    found, is_wrong = attacked(linear(1), images, torch.zeros(6).long(), eps=0.2, seed=0)
    assert torch.equal(found, images)
    assert not bool(is_wrong.any())


def test_leaving_fooled_images_alone_changes_no_verdict() -> None:
    model, images, labels = smooth(), pictures(60), torch.arange(60) % 4
    _, full = attacked(model, images, labels, eps=0.05, restarts=2, seed=0)
    found, short = attacked(model, images, labels, eps=0.05, restarts=2, seed=0, until_wrong=True)
    assert torch.equal(full, short)
    assert 0 < int(full.sum()) < 60
    assert torch.equal(wrong(model, found, labels), short)
    clean = wrong(model, images, labels)
    assert torch.equal(found[clean], images[clean])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": pictures(2) + 0.5}, r"must lie in \[0, 1\], found 0\.5.* normalise inside the model"),
        ({"images": pictures(2) * math.nan}, r"must lie in \[0, 1\]"),
        ({"images": pictures(2)[:, 0]}, r"images \[b, C, H, W\].* \(2, 3, 3\), labels \(2,\)"),
        ({"labels": torch.tensor([0])}, r"one label each: images \(2, 1, 3, 3\), labels \(1,\)"),
        ({"labels": torch.tensor([0, 4])}, "columns of the logits, 0 to 3; found 0 to 4.*does not know"),
        ({"labels": torch.tensor([-1, 1])}, "columns of the logits, 0 to 3; found -1 to 1"),
        ({"eps": 8.0}, r"eps must lie in \[0, 1\].*got 8\.0; 8 / 255 is usual"),
        ({"steps": 0}, "one step and one start or more; got .*steps 0"),
        ({"restarts": 0}, "one step and one start or more; got .*restarts 0"),
        ({"step": -0.1}, r"one step and one start or more; got step -0\.1"),
    ],
)
def test_the_attack_refuses_what_does_not_fit(change: dict, message: str) -> None:
    given = {"images": pictures(2), "labels": torch.tensor([0, 1]), "eps": 0.1, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        pgd_attack(smooth(), given.pop("images"), given.pop("labels"), **given)


class Detached(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.detach().flatten(1)


class Breaking(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sub(0.5).sqrt()


def test_the_attack_refuses_classifiers_that_it_cannot_follow() -> None:
    images, labels = pictures(3), torch.zeros(3).long()
    with pytest.raises(ValueError, match=r"no gradient flows .* remove no_grad and detach"):
        pgd_attack(Detached(), images, labels, eps=0.1, seed=0)
    with pytest.raises(ValueError, match="logits must be finite"):
        pgd_attack(Breaking(), images, labels, eps=0.1, seed=0)


def values(measurements: list[Measurement]) -> dict[str, float]:
    return {found.name: found.value for found in measurements}


def raw(train: ArraySource, test: ArraySource, **how: int) -> Subject:
    encoder = RawPixels(channels=train.channels, image_size=train.image_size)
    return Subject.of("raw pixels", encoder, train=train, test=test, **how)


def dark_and_bright(n: int = 40, *, channels: int = 1, apart: int = 20) -> ArraySource:
    labels = torch.arange(n) % 2
    return ArraySource((labels * apart + 40).byte()[:, None, None, None].repeat(1, channels, 2, 2), labels)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return DigitsConfig().load()


@pytest.fixture(scope="module")
def subject(digits: Splits) -> Subject:
    """A small encoder, trained for a second."""
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=8).build(channels=1, image_size=(8, 8))
    model = nn.Sequential(encoder, nn.Linear(encoder.feature_dim, 10))
    held = list(model.parameters())
    images, labels = digits.train.read(torch.arange(len(digits.train))).float() / 255, digits.train.labels
    assert labels is not None
    for step in range(60):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(labels)
        slopes = torch.autograd.grad(F.cross_entropy(model(images[rows]), labels[rows]), held)
        with torch.no_grad():
            torch._foreach_add_(held, slopes, alpha=-0.3)
    few = digits.train.subset(torch.arange(400))
    return Subject.of("trained", encoder.eval(), train=few, test=digits.test)


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


def test_robust_accuracy_on_digits_is_that_of_the_loops(subject: Subject) -> None:
    found = values(list(PGD(eps=(8 / 255,), steps=5, max_rows=20, sanity_rows=0, seed=2).run(subject)))
    rows = subset(len(subject.test), 20, seed=2)
    batch, model = subject.test.fetch(rows), subject.classifier(LinearProbe())
    fooled = [
        by_loops(model, image / 255, label, eps=8 / 255, steps=5, seed=2, id_=int(id_))[1]
        for image, label, id_ in zip(batch["images"].float(), batch["labels"], batch["ids"], strict=True)
    ]
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


def test_the_subject_is_left_as_it_was(digits: Splits) -> None:
    encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)).train()
    few = digits.train.subset(torch.arange(60))
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
