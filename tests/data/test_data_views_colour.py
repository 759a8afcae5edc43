"""Colour in the papers' form against PIL: each change, their order, and what they do to the statistics of images."""

from __future__ import annotations

import colorsys
import functools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from kinfolk.data.views import ViewMaker, ViewsConfig, moco_v2_views, rgb_to_lab, simclr_photo_views, to_float
from kinfolk.data.views.jitter import jitter_in_order, luma, turn_hue

ORDERS = [
    (a, b, c, d) for a in range(4) for b in range(4) for c in range(4) for d in range(4) if len({a, b, c, d}) == 4
]


@functools.cache
def photographs(count: int = 120, size: int = 16) -> Tensor:
    """Crops of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    generator, pictures = random.Random(0), [Image.fromarray(array) for array in load_sample_images().images]
    crops = []
    for i in range(count):
        picture, side = pictures[i % 2], generator.randint(64, 256)
        x, y = generator.randint(0, picture.width - side), generator.randint(0, picture.height - side)
        crop = picture.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BILINEAR)
        crops.append(torch.from_numpy(np.asarray(crop).transpose(2, 0, 1).copy()))
    return torch.stack(crops)


def pil_hue(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = Image.fromarray(((np.asarray(hue).astype(np.int16) + round(turn * 255)) % 256).astype(np.uint8))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def pil_changes(picture: Image.Image, order: tuple[int, ...], factors: list[float], turn: float) -> Image.Image:
    for change in order:
        if change == 3:
            picture = pil_hue(picture, turn)
        else:
            enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[change]
            picture = enhancer(picture).enhance(factors[change])
    return picture


def as_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy()).float() / 255


def test_every_order_agrees_with_pil() -> None:
    """Within what PIL loses by rounding to bytes after every change, hue most of all."""
    images = photographs(24)
    factors = torch.tensor([1.5, 1.4, 0.6]).expand(24, 3)
    ours = jitter_in_order(
        to_float(images), torch.arange(24), factors=factors, turn=torch.full((24,), 0.1), applies=torch.ones(24) > 0
    )
    theirs = torch.stack(
        [from_pil(pil_changes(as_pil(i), order, [1.5, 1.4, 0.6], 0.1)) for i, order in zip(images, ORDERS, strict=True)]
    )
    assert float((ours - theirs).abs().mean()) < 0.006
    assert float((ours - theirs).abs().mean((1, 2, 3)).max()) < 0.01
    wrong = theirs.roll(1, 0)
    assert float((ours - wrong).abs().mean()) > 0.1


def test_the_order_matters_where_values_are_clamped() -> None:
    image = to_float(photographs(1)).expand(24, -1, -1, -1).clone()
    factors = torch.tensor([1.8, 1.8, 0.4]).expand(24, 3)
    result = jitter_in_order(
        image, torch.arange(24), factors=factors, turn=torch.full((24,), 0.2), applies=torch.ones(24) > 0
    )
    apart = (result[:, None] - result[None]).abs().mean((2, 3, 4))
    assert float(apart.max()) > 0.05


def test_images_that_are_not_chosen_stay() -> None:
    images = to_float(photographs(6))
    applies = torch.tensor([True, False] * 3)
    changed = jitter_in_order(
        images.clone(), torch.arange(6), factors=torch.full((6, 3), 0.5), turn=torch.full((6,), 0.3), applies=applies
    )
    torch.testing.assert_close(changed[~applies], images[~applies], atol=1e-6, rtol=0)
    assert float((changed[applies] - images[applies]).abs().mean()) > 0.05


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 0.37, 0.5])
def test_hue_agrees_with_colorsys(turn: float) -> None:
    colours = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    colours[:3] = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.3, 0.3, 0.3]])
    colours[3:9] = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]])
    ours = turn_hue(colours.T.reshape(1, 3, 20, 10), torch.tensor([turn])).reshape(3, 200).T
    for colour, result in zip(colours.tolist(), ours.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        assert colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value) == pytest.approx(result, abs=1e-5)


def test_grey_images_take_brightness_and_contrast_only() -> None:
    grey = torch.rand(30, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images = (grey * 255).to(torch.uint8)
    config = replace(moco_v2_views(count=1), crop_scale=(1.0, 1.0), flip=0.0, blur=0.0, jitter=1.0)
    ours = ViewMaker(config, seed=0)(images, torch.arange(30), epoch=0)[0]
    without = ViewMaker(replace(config, saturation=0.0, grey=0.0), seed=0)(images, torch.arange(30), epoch=0)[0]
    torch.testing.assert_close(ours, without)
    assert float((ours - to_float(images)).abs().mean()) > 0.02


def statistics(images: Tensor) -> dict[str, float]:
    named = {f"mean {name}": images[:, i].mean() for i, name in enumerate("RGB")}
    named |= {f"variance {name}": images[:, i].var() for i, name in enumerate("RGB")}
    named["chroma"] = (images.amax(1) - images.amin(1)).mean()
    named["contrast within"] = images.std((1, 2, 3)).mean()
    named["gradient"] = (images[..., 1:] - images[..., :-1]).abs().mean()
    return {name: float(value) for name, value in named.items()}


@pytest.mark.parametrize(("preset", "strength"), [(moco_v2_views, 0.4), (simclr_photo_views, 0.8)])
def test_statistics_equal_those_of_transforms_written_with_pil(preset, strength: float) -> None:
    """Colour jitter in random order, and grey; over 120 photographs, 16 times each: within 5 percent."""
    images, generator = photographs(), random.Random(1)
    config = replace(preset(count=1), crop_scale=(1.0, 1.0), flip=0.0, blur=0.0)

    def reference(picture: Image.Image) -> Image.Image:
        if generator.random() < 0.8:
            factors = [generator.uniform(1 - strength, 1 + strength) for _ in range(3)]
            turn = generator.uniform(-strength / 4, strength / 4)
            picture = pil_changes(picture, tuple(generator.sample(range(4), 4)), factors, turn)
        return picture.convert("L").convert("RGB") if generator.random() < 0.2 else picture

    theirs = statistics(torch.stack([from_pil(reference(as_pil(i))) for _ in range(16) for i in images]))
    maker = ViewMaker(config, seed=0)
    ours = statistics(torch.cat([maker(images, torch.arange(120), epoch=epoch)[0] for epoch in range(16)]))
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=0.05), name
    weaker = replace(config, saturation=strength / 2, contrast=strength / 2, hue=0.0)
    other = statistics(torch.cat([ViewMaker(weaker, seed=0)(images, torch.arange(120), epoch=e)[0] for e in range(16)]))
    assert any(other[name] != pytest.approx(value, rel=0.05) for name, value in theirs.items())  # 5 percent can tell


def test_solarising_inverts_the_lighter_half() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1000, -1, -1, -1)
    view = ViewMaker(ViewsConfig(count=1, solarize=0.2), seed=0)(images, torch.arange(1000), epoch=0)[0]
    inverted = view.flatten(1).amax(1) < 0.51
    assert abs(float(inverted.float().mean()) - 0.2) < 0.05
    plain = to_float(images[:1])[0]
    torch.testing.assert_close(view[inverted][0], torch.where(plain < 0.5, plain, 1 - plain))
    assert torch.equal(view[~inverted][0], plain)


def lab_by_the_book(red: float, green: float, blue: float) -> tuple[float, float, float]:
    def linear(value: float) -> float:
        return ((value + 0.055) / 1.055) ** 2.4 if value > 0.04045 else value / 12.92

    def response(value: float) -> float:
        return value ** (1 / 3) if value > 216 / 24389 else (24389 / 27 * value + 16) / 116

    r, g, b = linear(red), linear(green), linear(blue)
    x = response((0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047)
    y = response(0.212671 * r + 0.715160 * g + 0.072169 * b)
    z = response((0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_lab_agrees_with_its_definition() -> None:
    colours = torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) ** 2
    colours[0], colours[1] = 0, 1
    lab = rgb_to_lab(colours[:, :, None, None])[:, :, 0, 0]
    for colour, (light, a, b) in zip(colours.tolist(), lab.tolist(), strict=True):
        found = (light * 100, a * 255 - 128, b * 255 - 128)
        assert found == pytest.approx(lab_by_the_book(*colour), abs=0.05)


def test_no_srgb_colour_leaves_the_unit_cube() -> None:
    steps = torch.linspace(0, 1, 18)
    cube = torch.cartesian_prod(steps, steps, steps)
    lab = rgb_to_lab(cube[:, :, None, None])[:, :, 0, 0]
    light, a, b = (lab * torch.tensor([100.0, 255, 255]) - torch.tensor([0.0, 128, 128])).T
    assert float(lab.min()) >= 0
    assert float(lab.max()) <= 1
    assert (round(float(a.min())), round(float(a.max()))) == (-86, 98)  # nothing was clamped
    assert (round(float(b.min())), round(float(b.max()))) == (-108, 94)
    assert float(light.max()) == pytest.approx(100, abs=0.01)


def test_luma_is_pils_grey() -> None:
    images = photographs(3)
    for image, grey in zip(images, luma(to_float(images)), strict=True):
        theirs = torch.from_numpy(np.asarray(as_pil(image).convert("L")).copy()).float() / 255
        torch.testing.assert_close(grey[0], theirs, atol=0.51 / 255, rtol=0)
