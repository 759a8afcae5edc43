"""Corruptions: the published constants, what each does to a picture, and that it is a function of seed and id."""

from __future__ import annotations

import colorsys
import itertools
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kinfolk.data.derived import CORRUPTIONS, CorruptedConfig, corrupt
from kinfolk.data.derived.corruptions import Corruption
from kinfolk.data.derived.corruptions.filters import disk_kernel, filtered, gaussian_blurred, motion_blurred
from kinfolk.data.derived.corruptions.severities import LARGE, SMALL, constants
from kinfolk.data.sources.base import ArraySource, Splits

# the published constants themselves do not let the distance grow with every step for these
UNSTEADY = {"glass_blur", "motion_blur", "procedural_frost", "elastic_transform", "pixelate"}


def pictures(count: int = 8, channels: int = 3, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """Smooth patches with edges."""
    coarse = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size=size, mode="bicubic", align_corners=True).clamp(0, 1)
    smooth[:, :, : size[0] // 3, : size[1] // 3] = 0.9
    return (smooth * 255).round().to(torch.uint8)


def distance(corruption: str, severity: int, images: torch.Tensor, *, seed: int = 0) -> float:
    ids = torch.arange(len(images))
    changed = corrupt(images, ids, corruption=corruption, severity=severity, seed=seed)
    return float((changed.float() - images.float()).square().mean().sqrt())


def test_there_are_fifteen_and_frost_is_named_as_drawn() -> None:
    assert len(CORRUPTIONS) == 15
    assert set(get_args(Corruption)) == set(CORRUPTIONS) == set(SMALL) == set(LARGE)
    assert "frost" not in CORRUPTIONS


def test_constants_follow_the_size() -> None:
    assert constants("gaussian_noise", 5, (64, 64)) == (0.10,)
    assert constants("gaussian_noise", 5, (64, 65)) == (0.38,)
    assert [given[0] for given in SMALL["jpeg_compression"]] == [80, 65, 58, 50, 40]
    assert [given[0] for given in LARGE["jpeg_compression"]] == [25, 18, 15, 10, 7]
    assert all(len(table[name]) == 5 for table in (SMALL, LARGE) for name in CORRUPTIONS)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_form_stays(corruption: str, channels: int) -> None:
    images = pictures(3, channels, (28, 20))
    changed = corrupt(images, torch.arange(3), corruption=corruption, severity=5)
    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    assert not torch.equal(changed[:, :3], images[:, :3])
    assert torch.equal(changed[:, 3:], images[:, 3:])


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corruption_is_a_function_of_seed_and_id(corruption: str) -> None:
    images, ids = pictures(4).roll(1, 0), torch.tensor([9, 4, 7, 1])
    whole = corrupt(images, ids, corruption=corruption, severity=4, seed=3)
    alone = corrupt(images[2:3], ids[2:3], corruption=corruption, severity=4, seed=3)
    assert int((whole[2:3].int() - alone.int()).abs().max()) <= 1  # a transform's rounding may depend on the batch
    other = corrupt(images, ids, corruption=corruption, severity=4, seed=4)
    twins = corrupt(images[:1].repeat(2, 1, 1, 1), torch.tensor([3, 8]), corruption=corruption, severity=4)
    drawn = corruption not in {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert torch.equal(whole, other) != drawn
    assert torch.equal(twins[0], twins[1]) != drawn


@pytest.mark.parametrize("corruption", [name for name in CORRUPTIONS if name not in UNSTEADY])
def test_distance_grows_with_severity(corruption: str) -> None:
    distances = [distance(corruption, severity, pictures(16)) for severity in range(1, 6)]
    assert all(less < more for less, more in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("corruption", ["motion_blur", "procedural_frost", "pixelate", "glass_blur"])
def test_the_severest_is_farther_than_the_mildest(corruption: str) -> None:
    assert distance(corruption, 5, pictures(16)) > 1.1 * distance(corruption, 1, pictures(16))


def test_elastic_severity_goes_from_the_whole_picture_to_its_detail() -> None:
    reach = [given[2] for given in SMALL["elastic_transform"]]
    detail = [given[0] / max(given[1], 1e-9) if given[0] else 0 for given in SMALL["elastic_transform"]]
    assert reach == sorted(reach, reverse=True)
    assert detail == sorted(detail)


def test_normal_noise_has_its_standard_deviation() -> None:
    grey = torch.full((16, 3, 32, 32), 128, dtype=torch.uint8)
    for severity, sd in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        noise = corrupt(grey, torch.arange(16), corruption="gaussian_noise", severity=severity).float() - 128
        assert abs(float(noise.mean())) < 0.5
        assert float(noise.std()) == pytest.approx(255 * sd, rel=0.03)


def test_photons_have_the_variance_of_their_number() -> None:
    grey = torch.full((16, 3, 32, 32), 128, dtype=torch.uint8)
    values = corrupt(grey, torch.arange(16), corruption="shot_noise", severity=3).float() / 255
    assert float(values.mean()) == pytest.approx(128 / 255, rel=0.01)
    assert float(values.var()) == pytest.approx(128 / 255 / 100, rel=0.05)


def test_impulses_are_black_and_white_alike() -> None:
    grey = torch.full((16, 3, 32, 32), 128, dtype=torch.uint8)
    values = corrupt(grey, torch.arange(16), corruption="impulse_noise", severity=5)
    assert values.unique().tolist() == [0, 128, 255]
    for extreme in (0, 255):
        assert float((values == extreme).float().mean()) == pytest.approx(0.035, rel=0.1)


def test_brightness_raises_the_value_of_hsv() -> None:
    images = pictures(2)
    changed = corrupt(images, torch.arange(2), corruption="brightness", severity=3)
    for before, after in zip(images[0, :, ::7, ::5].flatten(1).T, changed[0, :, ::7, ::5].flatten(1).T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255).tolist())
        expected = torch.tensor(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1))) * 255
        assert float((after - expected).abs().max()) <= 0.51


def test_contrast_keeps_the_mean() -> None:
    images = pictures(2)
    changed = corrupt(images, torch.arange(2), corruption="contrast", severity=5).float()
    assert torch.allclose(changed.mean((2, 3)), images.float().mean((2, 3)), atol=0.5)
    assert torch.allclose(changed.std((2, 3)), 0.15 * images.float().std((2, 3)), rtol=0.05)


def test_pixelation_is_that_of_pil_but_for_rounding() -> None:
    image = pytest.importorskip("PIL.Image")
    box = image.Resampling.BOX
    for size, side in (((32, 32), 24), ((96, 96), 28)):
        images = pictures(1, 3, size)
        small = image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((side, side), box)
        expected = torch.from_numpy(np.array(small.resize(size, box))).permute(2, 0, 1)
        severity = 4
        changed = corrupt(images, torch.tensor([0]), corruption="pixelate", severity=severity)[0]
        assert int((changed.int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize(("edge", "sigma"), [("nearest", 1.5), ("reflect", 0.7), ("reflect", 40.0)])
def test_blur_by_matrices_is_that_of_scipy(edge: str, sigma: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    images = pictures(1, 1, (12, 17)).double()
    expected = ndimage.gaussian_filter(images[0, 0].numpy(), sigma, mode=edge, truncate=3.0)
    blurred = gaussian_blurred(images.float(), sigma, edge=edge, truncate=3.0)[0, 0]  # type: ignore[arg-type]
    assert float(np.abs(blurred.numpy() - expected).max()) < 1e-3


def test_the_disk_is_spread_around_a_point() -> None:
    dot = torch.zeros(1, 1, 15, 15)
    dot[..., 7, 7] = 1
    kernel = disk_kernel(3, 0.1)
    spread = filtered(dot, kernel)[0, 0]
    reach = kernel.shape[0] // 2
    assert torch.allclose(spread[7 - reach : 8 + reach, 7 - reach : 8 + reach], kernel, atol=1e-6)
    assert int((spread > 1e-3).sum()) == 29  # whole pixels within a radius of 3
    assert torch.allclose(filtered(torch.ones(1, 1, 9, 9), kernel), torch.ones(1, 1, 9, 9), atol=1e-5)


def test_motion_goes_one_way_along_its_angle() -> None:
    dot = torch.zeros(1, 1, 21, 21)
    dot[..., 10, 10] = 1
    for angle, row, column in ((0.0, 0, -1), (90.0, -1, 0), (45.0, -1, -1)):
        smear = motion_blurred(dot, torch.tensor([angle]), radius=3, sigma=3)[0, 0]
        assert float(smear.sum()) == pytest.approx(1, abs=1e-3)
        assert float(smear[10 + 2 * row, 10 + 2 * column]) > 0.05
        assert float(smear[10 - row, 10 - column]) == 0


def test_glass_moves_pixels_without_inventing_any() -> None:
    images = (torch.arange(28 * 28).reshape(1, 1, 28, 28) % 251).to(torch.uint8)
    changed = corrupt(images, torch.tensor([0]), corruption="glass_blur", severity=1)  # its blur is below a pixel
    near = F.unfold(F.pad(images.float(), (1, 1, 1, 1), mode="replicate"), 3)[0]
    assert bool((near == changed.float().flatten()).any(0).all())
    assert float((changed != images).float().mean()) > 0.5


def test_fog_and_frost_vary_over_the_picture_and_snow_falls_down() -> None:
    grey = torch.full((8, 3, 64, 64), 100, dtype=torch.uint8)
    for corruption in ("fog", "procedural_frost"):
        changed = corrupt(grey, torch.arange(8), corruption=corruption, severity=4).float()
        assert float(changed.std((1, 2, 3)).min()) > 5
    snow = corrupt(grey, torch.arange(8), corruption="snow", severity=3).float()
    along, across = snow.diff(dim=2).abs().mean(), snow.diff(dim=3).abs().mean()
    assert float(along) < 0.8 * float(across)


def test_only_the_test_part_is_corrupted_unless_told() -> None:
    clean = ArraySource(pictures(4), torch.tensor([0, 1, 0, 1]))
    splits = CorruptedConfig("contrast").apply(Splits(clean, clean, probe=clean))
    assert splits.train is clean
    assert splits.probe is clean
    assert not torch.equal(splits.test.read(torch.arange(4)), clean.images)
    both = CorruptedConfig("contrast", train=True).apply(Splits(clean, clean, probe=clean))
    assert torch.equal(both.train.read(torch.arange(4)), both.test.read(torch.arange(4)))
    assert both.probe is not None
    assert both.test.labels is not None
    assert both.test.labels.tolist() == [0, 1, 0, 1]


def test_larger_pictures_are_done_in_parts_that_do_not_show() -> None:
    images = pictures(20, 3, (224, 224))
    whole = corrupt(images, torch.arange(20), corruption="contrast", severity=2)
    assert torch.equal(whole[17:], corrupt(images[17:], torch.arange(17, 20), corruption="contrast", severity=2))


def test_no_pictures_are_no_pictures() -> None:
    assert corrupt(pictures(2)[:0], torch.arange(0), corruption="fog", severity=1).shape == (0, 3, 32, 32)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"corruption must be one of gaussian_noise, .*; found 'frost'"):
        CorruptedConfig("frost")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="severity must be 1 to 5; found 6"):
        CorruptedConfig("fog", severity=6)
    with pytest.raises(TypeError, match=r"images must be uint8; found torch\.float32"):
        corrupt(torch.zeros(1, 1, 8, 8), torch.tensor([0]), corruption="fog", severity=1)
