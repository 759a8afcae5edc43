"""The learnt policies against PIL, operation by operation, and what they choose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from kinfolk.data.views import ViewMaker, ViewsConfig, autoaugment_views, levels
from kinfolk.data.views.draws import Draws
from kinfolk.data.views.policies import OPERATIONS, Choice, apply_choice, apply_policy, choose
from kinfolk.data.views.policy_tables import CIFAR10, IMAGENET


def pictures(count: int = 4, channels: int = 3, height: int = 23, width: int = 31) -> Tensor:
    """Smooth shapes with noise on top, within different ranges."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, channels, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    reach = torch.tensor([1.0, 0.6, 0.3, 0.8])[:count, None, None, None]
    noise = 0.1 * torch.rand(count, channels, height, width, generator=generator)
    return ((smooth * reach + noise).clamp(0, 1) * 255).round()


def as_pil(image: Tensor) -> Image.Image:
    array = image.to(torch.uint8).numpy()
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def from_pil(image: Image.Image) -> Tensor:
    array = np.asarray(image)
    return torch.from_numpy((array[None] if array.ndim == 2 else array.transpose(2, 0, 1)).copy()).float()


Ours = Callable[..., Tensor]
FACTORS = (0.1, 0.64, 1.0, 1.36, 1.9)
ENHANCERS = {
    "brightness": (levels.brightness, ImageEnhance.Brightness),
    "contrast": (levels.contrast, ImageEnhance.Contrast),
    "colour": (levels.colour, ImageEnhance.Color),
    "sharpness": (levels.sharpness, ImageEnhance.Sharpness),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENHANCERS)
def test_enhancers_agree_with_pil_to_one_level(name: str, channels: int) -> None:
    ours, theirs = ENHANCERS[name]
    images = pictures(channels=channels)
    for factor in FACTORS:
        changed = ours(images, torch.full((len(images),), factor))
        for image, result in zip(images, changed, strict=True):
            reference = from_pil(theirs(as_pil(image)).enhance(factor))
            assert float((result - reference).abs().max()) <= 1
            assert float((result != reference).float().mean()) < 0.02
    moved = float((ours(images, torch.full((len(images),), 0.1)) - images).abs().mean())
    assert moved == 0 if (name, channels) == ("colour", 1) else moved > 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (levels.invert, ImageOps.invert),
        (levels.autocontrast, ImageOps.autocontrast),
        (levels.equalize, ImageOps.equalize),
    ],
)
def test_operations_without_strength_agree_with_pil(ours: Ours, theirs: Ours, channels: int) -> None:
    images = pictures(channels=channels)
    flat = torch.full_like(images[:1], 9.0)
    two_levels = torch.where(images[:1] > 100, 200.0, 30.0)
    for image, result in zip(
        torch.cat([images, flat, two_levels]), ours(torch.cat([images, flat, two_levels])), strict=True
    ):
        reference = from_pil(theirs(as_pil(image)))
        assert float((result - reference).abs().max()) <= (ours is levels.autocontrast)
        assert float((result != reference).float().mean()) < 0.02


def test_equalize_agrees_with_pil_where_pixels_outnumber_levels() -> None:
    images = pictures(count=2, height=64, width=64)
    for image, result in zip(images, levels.equalize(images), strict=True):
        assert torch.equal(result, from_pil(ImageOps.equalize(as_pil(image))))
        assert float((result - image).abs().mean()) > 3


def test_posterize_and_solarize_agree_with_pil() -> None:
    images = pictures()
    for bits in (4, 5, 6, 7, 8):
        result = levels.posterize(images, torch.full((len(images),), float(bits)))
        assert torch.equal(result, torch.stack([from_pil(ImageOps.posterize(as_pil(i), bits)) for i in images]))
    for threshold in (0, 77, 128, 256):
        result = levels.solarize(images, torch.full((len(images),), float(threshold)))
        assert torch.equal(result, torch.stack([from_pil(ImageOps.solarize(as_pil(i), threshold)) for i in images]))


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_movements_agree_with_pil(name: str, positive: bool) -> None:
    """PIL takes the nearest pixel too, and leaves what is uncovered to the fill."""
    images, level = pictures(), 7.0
    height, width = images.shape[2:]
    strength = (1 if positive else -1) * level / 10
    choice = Choice(torch.full((4,), OPERATIONS.index(name)), torch.full((4,), level), torch.full((4,), positive))
    moved = images.clone()
    apply_choice(moved, choice, policy="autoaugment-imagenet")
    coefficients = {
        "ShearX": (1, 0.3 * strength, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, 0.3 * strength, 1, 0),
        "TranslateX": (1, 0, math.trunc(150 / 331 * width * strength), 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, math.trunc(150 / 331 * height * strength)),
    }
    for image, result in zip(images, moved, strict=True):
        picture, fill = as_pil(image), (128, 128, 128)
        if name == "Rotate":
            theirs = picture.rotate(30 * strength, fillcolor=fill)
        else:
            theirs = picture.transform(picture.size, Image.Transform.AFFINE, coefficients[name], fillcolor=fill)
        assert float((result != from_pil(theirs)).any(0).float().mean()) < 0.01  # pixels half way between two
        assert float((result != image).float().mean()) > 0.3


def test_the_tables_have_25_pairs_of_known_operations() -> None:
    for table in (CIFAR10, IMAGENET):
        assert len(table) == 25
        for pair in table:
            for name, probability, level in pair:
                assert name in OPERATIONS
                assert 0 <= probability <= 1
                assert 0 <= level <= 9
    # as often as in the published tables
    assert Counter(name for pair in IMAGENET for name, _, _ in pair)["Equalize"] == 17
    assert Counter(name for pair in CIFAR10 for name, _, _ in pair)["TranslateY"] == 5


@pytest.mark.parametrize("policy", ["autoaugment-cifar10", "autoaugment-imagenet"])
def test_autoaugment_chooses_as_its_table_says(policy: str) -> None:
    table = {"autoaugment-cifar10": CIFAR10, "autoaugment-imagenet": IMAGENET}[policy]
    count = 40_000
    draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(count))
    choices = choose(draws, ViewsConfig(policy=policy))  # type: ignore[arg-type]
    for slot, choice in enumerate(choices):
        expected = torch.zeros(len(OPERATIONS))
        for pair in table:
            name, probability, _ = pair[slot]
            expected[OPERATIONS.index(name)] += probability / 25
            expected[0] += (1 - probability) / 25
        found = torch.bincount(choice.operation, minlength=len(OPERATIONS)) / count
        assert float((found - expected).abs().max()) < 4 * 0.5 / math.sqrt(count)
        assert abs(float(choice.positive.float().mean()) - 0.5) < 4 * 0.5 / math.sqrt(count)
    # both operations come from one pair, with its levels
    first, second = choices
    allowed = {(a[0], a[2], b[0], b[2]) for a, b in table}
    both = ((first.operation > 0) & (second.operation > 0)).nonzero().flatten()[:2000].tolist()
    for i in both:
        assert (
            OPERATIONS[int(first.operation[i])], int(first.level[i]),
            OPERATIONS[int(second.operation[i])], int(second.level[i]),
        ) in allowed  # fmt: skip


def test_randaugment_chooses_fourteen_operations_equally_often() -> None:
    count = 28_000
    draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(count))
    choices = choose(draws, ViewsConfig(policy="randaugment", randaugment_ops=3, randaugment_magnitude=6.0))
    assert len(choices) == 3
    for choice in choices:
        found = torch.bincount(choice.operation, minlength=15)
        assert int(found[14]) == 0  # Invert is not among them
        assert float(((found[:14] - 2000.0) ** 2 / 2000).sum()) < 40  # 13 degrees of freedom
        assert choice.level.unique().tolist() == [6.0]
    same = (choices[0].operation == choices[1].operation).float().mean()
    assert abs(float(same) - 1 / 14) < 0.01


def test_more_magnitude_changes_more() -> None:
    images = pictures(4, height=16, width=16).repeat(40, 1, 1, 1) / 255
    draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(160))
    changes = []
    for magnitude in (0.0, 3.0, 6.0, 9.0):
        config = ViewsConfig(policy="randaugment", randaugment_magnitude=magnitude)
        changes.append(float((apply_policy(images, draws, config) - images).abs().mean()))
    assert changes == sorted(changes)
    assert changes[-1] > 1.5 * changes[0]


def test_alpha_moves_with_the_colours_and_is_not_coloured() -> None:
    images = torch.cat([pictures(), torch.full((4, 1, 23, 31), 255.0)], 1)
    kept = images.clone()
    for name in ("Invert", "Equalize", "Brightness"):
        choice = Choice(torch.full((4,), OPERATIONS.index(name)), torch.full((4,), 3.0), torch.ones(4) > 0)
        apply_choice(images, choice, policy="randaugment")
    assert torch.equal(images[:, 3], kept[:, 3])
    shift = Choice(torch.full((4,), OPERATIONS.index("TranslateX")), torch.full((4,), 9.0), torch.ones(4) > 0)
    apply_choice(images, shift, policy="randaugment")
    uncovered = images[:, 3] == 0
    assert 0.3 < float(uncovered.float().mean()) < 0.5
    assert images[:, :3].movedim(1, -1)[uncovered].unique().tolist() == [128.0]


def test_a_policy_is_a_function_of_the_sample_alone() -> None:
    images = pictures(4, height=12, width=12).to(torch.uint8).repeat(16, 1, 1, 1)
    maker = ViewMaker(replace(autoaugment_views(), policy="randaugment", randaugment_ops=4), seed=1)
    ids = torch.arange(64) * 3
    whole = maker(images, ids, epoch=1)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))[:20]
    for view, part in zip(whole, maker(images[order], ids[order], epoch=1), strict=True):
        assert torch.equal(view[order], part)


def test_cutout_takes_a_square_whose_centre_is_anywhere() -> None:
    white = torch.full((4000, 1, 20, 30), 255, dtype=torch.uint8)
    hidden = ViewMaker(ViewsConfig(count=1, cutout=0.5), seed=0)(white, torch.arange(4000), epoch=0)[0] == 0
    rows, columns = hidden.any(3).sum((1, 2)), hidden.any(2).sum((1, 2))
    assert int(rows.max()) == int(columns.max()) == 10
    assert int(rows.min()) == 5  # a centre on the edge
    # of a square of 10 some 5/2 pixels are lost at either edge whenever the centre is within 5 of it
    assert abs(float(columns.float().mean()) - (10 - 2 * 5 / 30 * 2.5)) < 0.1
