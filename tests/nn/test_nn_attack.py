"""The attack against closed forms and loops, what it must leave alone, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.data.counter import counter_uniform
from kinfolk.nn import Attack, evaluating, pgd_attack, worst_in_ball


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


def starts_of(images: Tensor, *, seed: int, restarts: int = 1, ids: Tensor | None = None) -> list[Tensor]:
    ids = torch.arange(len(images)) if ids is None else ids
    count = images[:1].numel()
    return [2 * counter_uniform((seed, r), ids, count=count).view_as(images) - 1 for r in range(restarts)]


def test_two_linear_classes_have_their_worst_image_in_closed_form() -> None:
    model, images = linear(2), pictures(40)
    labels = torch.arange(40) % 2
    towards_other = (1 - 2 * labels)[:, None] * (model[1].weight[1] - model[1].weight[0]).detach().sign()
    expected = (images + 0.1 * towards_other.view_as(images)).clamp(0, 1)
    found = pgd_attack(model, images, labels, Attack(0.1), starts=starts_of(images, seed=0)).images
    torch.testing.assert_close(found, expected)
    assert torch.equal(wrong(model, found, labels), wrong(model, expected, labels))


def test_the_attack_is_the_protocol_written_as_loops() -> None:
    model, images, labels = smooth(), pictures(24), torch.arange(24) % 4
    ids = torch.arange(24) * 7 + 3
    found = pgd_attack(model, images, labels, Attack(0.08, 7), starts=starts_of(images, seed=5, ids=ids)).images
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
    starts = starts_of(images, seed=0, restarts=2)
    found = pgd_attack(smooth(), images, torch.zeros(30).long(), Attack(0.1, 5), starts=starts).images
    assert float((found - images).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert not found.requires_grad


def test_without_room_the_images_come_back() -> None:
    images = pictures(6)
    found = pgd_attack(smooth(), images, torch.arange(6) % 4, Attack(0.0), starts=starts_of(images, seed=0))
    assert torch.equal(found.images, images)
    none = pgd_attack(smooth(), images[:0], torch.arange(0), Attack(), starts=[images[:0]])
    assert none.images.shape == (0, 1, 3, 3)
    assert none.fooled.shape == (0,)


def test_more_steps_and_more_starts_never_find_less() -> None:
    model, images, labels = smooth(), pictures(40), torch.arange(40) % 4
    short, long, many = (
        pgd_attack(
            model, images, labels, Attack(0.1, steps, 0.02), starts=starts_of(images, seed=0, restarts=restarts)
        ).images
        for steps, restarts in ((2, 1), (12, 1), (12, 4))
    )
    for weaker, stronger in ((images, short), (short, long), (long, many)):
        assert not bool((wrong(model, weaker, labels) & ~wrong(model, stronger, labels)).any())
        both_right = ~wrong(model, stronger, labels)
        lost = losses(model, stronger, labels) - losses(model, weaker, labels)
        assert float(lost[both_right].min()) > -1e-6
    assert float(losses(model, long, labels).mean()) > float(losses(model, short, labels).mean())


def test_every_image_is_attacked_by_itself() -> None:
    model, images, labels = smooth(), pictures(10), torch.arange(10) % 4
    (start,) = starts_of(images, seed=3)
    whole = pgd_attack(model, images, labels, Attack(0.1, 3), starts=[start]).images
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    parts = [pgd_attack(model, images[p], labels[p], Attack(0.1, 3), starts=[start[p]]).images for p in order.split(3)]
    torch.testing.assert_close(torch.cat(parts), whole[order])
    other = pgd_attack(model, images, labels, Attack(0.1, 3), starts=starts_of(images, seed=4)).images
    assert not torch.allclose(other, whole)


def test_the_model_is_left_as_it_was() -> None:
    model, images = smooth().train(), pictures(8)
    model[2].eval()  # a frozen norm inside a training module must stay frozen
    model[1].weight.grad = torch.full_like(model[1].weight, 3.0)
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():  # whoever calls may have switched gradients off
        pgd_attack(model, images, torch.arange(8) % 4, Attack(0.1, 3), starts=starts_of(images, seed=0))
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert bool((model[1].weight.grad == 3).all())
    assert model[5].weight.grad is None
    assert all(held.requires_grad for held in model.parameters())


def test_modes_come_back_when_the_model_fails() -> None:
    model = smooth().train()
    images = pictures(2, side=4)
    with pytest.raises(RuntimeError):
        pgd_attack(model, images, torch.tensor([0, 1]), Attack(0.1), starts=starts_of(images, seed=0))
    assert all(part.training for part in model.modules())


def test_a_very_sure_classifier_is_attacked_as_well_as_an_unsure_one() -> None:
    images, labels = pictures(60), torch.arange(60) % 3
    unsure, sure = linear(3), linear(3, scale=1e5)  # the same decisions
    grad_at = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(sure(grad_at), labels), grad_at)
    assert bool((gradient == 0).flatten(1).all(1).any())  # where the cross-entropy itself has underflowed
    starts = starts_of(images, seed=0)
    fooled = [pgd_attack(model, images, labels, Attack(0.1), starts=starts).fooled for model in (unsure, sure)]
    assert torch.equal(*fooled)
    assert 0.5 < float(fooled[0].double().mean()) < 1


def test_nothing_is_found_where_the_logits_are_constant_or_one() -> None:
    images, labels = pictures(6), torch.arange(6) % 2
    constant = linear(2, scale=0.0)
    starts = starts_of(images, seed=0)
    found, is_wrong = pgd_attack(constant, images, labels, Attack(0.2), starts=starts)
    assert torch.equal(found, images)
    assert is_wrong.tolist() == [False, True] * 3
    found, is_wrong = pgd_attack(linear(1), images, torch.zeros(6).long(), Attack(0.2), starts=starts)
    assert torch.equal(found, images)
    assert not bool(is_wrong.any())


def test_leaving_fooled_images_alone_changes_no_verdict() -> None:
    model, images, labels = smooth(), pictures(60), torch.arange(60) % 4
    starts = starts_of(images, seed=0, restarts=2)
    _, full = pgd_attack(model, images, labels, Attack(0.05), starts=starts)
    found, short = pgd_attack(model, images, labels, Attack(0.05), starts=starts, until_fooled=True)
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
        ({"images": pictures(2)[:, 0]}, r"images \[b, C, H, W\], found \(2, 3, 3\)"),
        ({"labels": torch.tensor([0])}, r"one label each: images \(2, 1, 3, 3\), labels \(1,\)"),
        ({"labels": torch.tensor([0, 4])}, "columns of the logits, 0 to 3; found 0 to 4.*does not know"),
        ({"labels": torch.tensor([-1, 1])}, "columns of the logits, 0 to 3; found -1 to 1"),
        ({"starts": []}, "at least one start, found none; zeros start it at the images"),
    ],
)
def test_the_attack_refuses_what_does_not_fit(change: dict, message: str) -> None:
    given = {"images": pictures(2), "labels": torch.tensor([0, 1]), "starts": [torch.zeros(2, 1, 3, 3)], **change}
    with pytest.raises(ValueError, match=message):
        pgd_attack(smooth(), given["images"], given["labels"], Attack(0.1), starts=given["starts"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eps": 8.0}, r"eps must lie in \[0, 1\].*got 8\.0; 8 / 255 is usual"),
        ({"eps": -0.1}, r"eps must lie in \[0, 1\].*got -0\.1"),
        ({"steps": 0}, "one step or more.*got steps 0"),
        ({"step": -0.1}, r"a length of at least 0; got steps 20, step -0\.1"),
    ],
)
def test_an_attack_checks_its_fields(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attack(**fields)


class Detached(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.detach().flatten(1)


class Breaking(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sub(0.5).sqrt()


def test_the_attack_refuses_classifiers_that_it_cannot_follow() -> None:
    images, labels, starts = pictures(3), torch.zeros(3).long(), [torch.zeros(3, 1, 3, 3)]
    with pytest.raises(ValueError, match=r"no gradient flows .* remove no_grad and detach"):
        pgd_attack(Detached(), images, labels, Attack(0.1), starts=starts)
    with pytest.raises(ValueError, match="must give finite numbers"):
        pgd_attack(Breaking(), images, labels, Attack(0.1), starts=starts)


def test_any_judge_can_be_attacked() -> None:
    images = pictures(6, side=2) * 0.5 + 0.25
    judge = lambda x, rows: (x.flatten(1).mean(1) > 0.6, -((x - 0.9) ** 2).flatten(1).sum(1))  # noqa: E731
    found = worst_in_ball(judge, images, Attack(0.125, 8), starts=[torch.zeros_like(images)])
    torch.testing.assert_close(found.images, (images + 0.125).clamp(max=0.9), atol=0.04, rtol=0)
    assert torch.equal(found.fooled, found.images.flatten(1).mean(1) > 0.6)
