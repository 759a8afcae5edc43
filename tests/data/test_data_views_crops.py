"""Crops of the papers' presets have the distribution of their code, on square images and on others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kinfolk.data.views import ViewMaker, ViewsConfig, moco_v2_views, simclr_views, supcon_views, weak_views
from kinfolk.data.views.draws import Draws

COUNT = 6000


def reference(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
):
    """The papers' crop, one image at a time: ten attempts, then the largest in the middle; fractions and centre."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = math.sqrt(area * shape), math.sqrt(area / shape)
        if w <= width and h <= height:
            return w / width, h / height, rng.uniform(0, width - w) + w / 2, rng.uniform(0, height - h) + h / 2
    if width / height < ratio[0]:
        return 1.0, width / ratio[0] / height, width / 2, height / 2
    if width / height > ratio[1]:
        return height * ratio[1] / width, 1.0, width / 2, height / 2
    return 1.0, 1.0, width / 2, height / 2


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 96), (90, 30), (20, 300)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0)])
def test_crops_are_those_of_the_papers(height: int, width: int, scale: tuple[float, float]) -> None:
    ratio, rng = (3 / 4, 4 / 3), np.random.default_rng(0)
    draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(COUNT))
    w, h, x, y = (value.numpy() for value in draws.crop(scale, ratio, width / height))
    found = np.stack([w, h, (x + 1) / 2 * width, (y + 1) / 2 * height], axis=1)
    wanted = np.array([reference(height, width, scale, ratio, rng) for _ in range(COUNT)])
    for column in range(4):
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            reach = [1.0, 1.0, width, height][column]
            assert abs(np.quantile(found[:, column], share) - np.quantile(wanted[:, column], share)) < 0.035 * reach
    areas = found[:, 0] * found[:, 1], wanted[:, 0] * wanted[:, 1]
    assert abs(np.median(areas[0]) - np.median(areas[1])) < 0.02
    shapes = found[:, 0] / found[:, 1] * width / height
    assert shapes.min() > 3 / 4 - 1e-3
    assert shapes.max() < 4 / 3 + 1e-3
    assert found[:, :2].max() <= 1 + 1e-6


def test_the_other_form_would_not_pass() -> None:
    """The check above can fail: fitted crops of a wide image are half as large again."""
    draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(COUNT))
    fitted = draws.rectangle("crop", (0.08, 1.0), (3 / 4, 4 / 3), 2.0)
    rejected = draws.crop((0.08, 1.0), (3 / 4, 4 / 3), 2.0)
    assert float((fitted[0] * fitted[1]).median()) > 1.5 * float((rejected[0] * rejected[1]).median())


def test_papers_presets_take_this_form_and_plain_configs_do_not() -> None:
    presets = (simclr_views(), moco_v2_views(), supcon_views(), weak_views())
    assert {preset.crop_form for preset in presets} == {"rejected"}
    assert ViewsConfig().crop_form == "fitted"


def test_a_crop_does_not_depend_on_its_batch() -> None:
    images = torch.randint(0, 255, (6, 3, 20, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maker = ViewMaker(ViewsConfig(crop_scale=(0.2, 1.0), crop_form="rejected"), seed=1)
    together = maker(images, torch.arange(6), epoch=2)[1]
    alone = maker(images[4:5], torch.tensor([4]), epoch=2)[1]
    assert torch.allclose(together[4:5], alone, atol=1e-6)
