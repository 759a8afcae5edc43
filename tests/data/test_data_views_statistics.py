"""What views do to pixels, against other implementations: PIL and SciPy, or arithmetic."""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from kinfolk.data.views import ViewMaker, ViewsConfig, simclr_views, to_float, weak_views
from kinfolk.data.views.colour import colour_matrix
from kinfolk.data.views.draws import Draws
from kinfolk.data.views.filters import gaussian_blur
from kinfolk.data.views.geometry import resample, window


def smooth_image(height: int = 33, width: int = 33) -> torch.Tensor:
    """An asymmetric pattern without sharp edges, so that resampling kernels hardly matter; the border is black."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    bump = torch.exp(-8 * ((x - 0.2) ** 2 + (y + 0.3) ** 2)) + 0.6 * torch.exp(-12 * ((x + 0.4) ** 2 + (y - 0.1) ** 2))
    return (bump.clamp(0, 1) * 255).round().to(torch.uint8)


def one_window(image: torch.Tensor, **given: float) -> torch.Tensor:
    values = {"width": 1.0, "height": 1.0, "angle": 0.0, "centre_x": 0.0, "centre_y": 0.0} | given
    height, width = image.shape
    theta = window(**{name: torch.tensor([value]) for name, value in values.items()}, aspect=width / height)
    return resample(image[None, None].float() / 255, theta, size=(height, width), padding="zeros")[0, 0]


@pytest.mark.parametrize("size", [(33, 33), (24, 41)])
def test_turning_agrees_with_pil(size: tuple[int, int]) -> None:
    image = smooth_image(*size)
    # the window turns one way, so the content turns the other, which is PIL's direction
    ours = one_window(image, angle=math.radians(30))
    theirs = np.asarray(Image.fromarray(image.numpy()).rotate(30, resample=Image.Resampling.BILINEAR)) / 255
    assert float((ours - torch.from_numpy(theirs)).abs().mean()) < 0.004
    assert float((ours - image / 255).abs().mean()) > 0.03


def test_cropping_agrees_with_pil() -> None:
    image = smooth_image(32, 32)
    ours = one_window(image, width=0.5, height=0.75, centre_x=0.25, centre_y=-0.25)
    box = (12, 0, 28, 24)  # 16 x 24 pixels around x = 20, y = 12
    theirs = Image.fromarray(image.numpy()).resize((32, 32), Image.Resampling.BILINEAR, box=box)
    torch.testing.assert_close(ours, torch.from_numpy(np.asarray(theirs) / 255).float(), atol=0.02, rtol=0)


def test_crop_areas_are_uniform_and_crops_lie_inside() -> None:
    draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(20_000))
    for aspect in (1.0, 1.7):
        width, height, x, y = draws.rectangle("crop", (0.2, 1.0), (3 / 4, 4 / 3), aspect)
        area, ratio = width * height, width / height * aspect
        counts = torch.histc(area, bins=20, min=0.2, max=1.0)
        assert float(((counts - 1000) ** 2 / 1000).sum()) < 50  # 19 degrees of freedom
        assert float((x.abs() + width).max()) <= 1 + 1e-5
        assert float((y.abs() + height).max()) <= 1 + 1e-5
        small = area < 0.4
        assert 0.75 - 1e-4 <= float(ratio[small].min()) < 0.77
        assert 1.31 < float(ratio[small].max()) <= 4 / 3 + 1e-4


def test_a_ratio_that_never_fits_gives_the_nearest_that_does() -> None:
    draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(500))
    width, height, _, _ = draws.rectangle("crop", (1.0, 1.0), (0.5, 0.6), 2.0)
    torch.testing.assert_close(width, torch.ones(500))
    torch.testing.assert_close(height, torch.ones(500))


def test_crops_see_as_much_as_a_reference_by_rejection() -> None:
    """A ramp's mean and spread over a crop, against random boxes that are drawn again until they fit."""
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(64, 64)
    images = ramp.expand(4000, 1, 64, 64)
    config = ViewsConfig(count=1, crop_scale=(0.1, 0.5))
    view = ViewMaker(config, seed=0)(images, torch.arange(4000), epoch=0)[0]
    ours = torch.stack([view.mean((1, 2, 3)), view[:, 0, 0, -1] - view[:, 0, 0, 0]])
    rng = np.random.default_rng(0)
    theirs = []
    while len(theirs) < 4000:
        area, ratio = rng.uniform(0.1, 0.5), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= 1 and height <= 1:
            left = rng.uniform(0, 1 - width)
            theirs.append((252 / 255 * (left + width / 2), width * 252 / 255))
    theirs = torch.tensor(theirs).T
    assert torch.allclose(ours.mean(1), theirs.mean(1).float(), atol=0.015)
    assert torch.allclose(ours.std(1), theirs.std(1).float(), atol=0.015)


def test_the_mean_of_turned_views_agrees_with_pil() -> None:
    image = smooth_image()
    maker = ViewMaker(ViewsConfig(count=1, rotation=60), seed=0)
    ours = maker(image.expand(3000, 1, 33, 33), torch.arange(3000), epoch=0)[0].mean((0, 1))
    picture = Image.fromarray(image.numpy())
    angles = np.linspace(-60, 60, 241)
    theirs = np.mean(
        [np.asarray(picture.rotate(a, resample=Image.Resampling.BILINEAR)) / 255.0 for a in angles], axis=0
    )
    assert float((ours - torch.from_numpy(theirs)).abs().max()) < 0.02
    assert float((ours - ours.flip(1)).abs().max()) > 0.1  # the pattern's asymmetry survives


def test_crops_of_the_papers_do_not_darken_at_the_images_edge() -> None:
    white = torch.full((300, 3, 12, 12), 255, dtype=torch.uint8)
    for config in (weak_views(), replace(simclr_views(), jitter=0.0)):
        assert float(ViewMaker(config, seed=0)(white, torch.arange(300), epoch=0)[0].min()) > 0.999


def test_flips_happen_as_often_as_asked() -> None:
    image = smooth_image().expand(5000, 1, 33, 33)
    view = ViewMaker(ViewsConfig(count=1, flip=0.3), seed=0)(image, torch.arange(5000), epoch=0)[0]
    rate = float((view != to_float(image)).flatten(1).any(1).float().mean())
    assert abs(rate - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 5000)


def test_shifts_move_the_content_uniformly() -> None:
    dot = torch.zeros(1, 1, 41, 41, dtype=torch.uint8)
    dot[..., 20, 20] = 255
    view = ViewMaker(ViewsConfig(count=1, shift=0.2), seed=0)(
        dot.expand(3000, -1, -1, -1), torch.arange(3000), epoch=0
    )[0]
    columns = (view.sum((1, 2)) @ torch.arange(41.0)) / view.sum((1, 2, 3)) - 20
    assert 8.0 < float(columns.max()) <= 8.21
    assert -8.21 <= float(columns.min()) < -8.0
    assert abs(float(columns.mean())) < 0.35
    assert abs(float(columns.std()) - 8.2 / math.sqrt(3)) < 0.2


def test_zoom_below_one_shows_the_surroundings() -> None:
    white = torch.full((500, 1, 20, 20), 255, dtype=torch.uint8)
    view = ViewMaker(ViewsConfig(count=1, zoom=(0.5, 0.5)), seed=0)(white, torch.arange(500), epoch=0)[0]
    assert abs(float(view.mean()) - 0.25) < 0.01
    bordered = ViewMaker(ViewsConfig(count=1, zoom=(0.5, 0.5), padding="border"), seed=0)
    assert float(bordered(white, torch.arange(500), epoch=0)[0].min()) > 0.999


def rgb_image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(60, 180, (1, 3, 12, 12), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
def test_saturation_agrees_with_pil(factor: float) -> None:
    image = rgb_image()
    ours = torch.einsum("ij,jhw->ihw", colour_matrix(torch.tensor([factor]), torch.zeros(1))[0], to_float(image)[0])
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    theirs = torch.from_numpy(np.asarray(ImageEnhance.Color(picture).enhance(factor)) / 255).permute(2, 0, 1)
    torch.testing.assert_close(ours, theirs.float(), atol=0.01, rtol=0)


def test_brightness_and_contrast_agree_with_pil_over_their_range() -> None:
    """PIL at the drawn factors, which are read back from a black and a white pixel."""
    image = torch.full((200, 3, 10, 10), 120, dtype=torch.uint8)
    image[..., :5, :] = 80
    config = ViewsConfig(count=1, jitter=1.0, brightness=0.3, contrast=0.3)
    view = ViewMaker(config, seed=0)(image, torch.arange(200), epoch=0)[0]
    brightness = view.mean((1, 2, 3)) / (100 / 255)  # contrast leaves the mean
    contrast = (view[:, 0, 9, 0] - view[:, 0, 0, 0]) / (40 / 255) / brightness
    for factors in (brightness, contrast):
        assert 0.7 <= float(factors.min()) < 0.72
        assert 1.28 < float(factors.max()) <= 1.3001
    assert abs(float(torch.corrcoef(torch.stack([brightness, contrast]))[0, 1])) < 0.25
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    for i in range(5):
        changed = ImageEnhance.Brightness(picture).enhance(float(brightness[i]))
        changed = ImageEnhance.Contrast(changed).enhance(float(contrast[i]))
        theirs = torch.from_numpy(np.asarray(changed) / 255).permute(2, 0, 1).float()
        torch.testing.assert_close(view[i], theirs, atol=0.012, rtol=0)


def test_hue_turns_the_colours_and_keeps_the_grey_value() -> None:
    matrices = colour_matrix(torch.ones(3), torch.tensor([0.0, 2 * math.pi / 3, math.pi]))
    torch.testing.assert_close(matrices[0], torch.eye(3), atol=1e-6, rtol=0)
    luma = torch.tensor([0.299, 0.587, 0.114])
    for matrix in matrices:
        torch.testing.assert_close(luma @ matrix, luma, atol=1e-5, rtol=0)
        torch.testing.assert_close(matrix @ torch.ones(3), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(matrices[2] @ matrices[2], torch.eye(3), atol=1e-4, rtol=0)
    hues = [colorsys.rgb_to_hsv(*(matrix @ torch.tensor([0.6, 0.4, 0.4])).tolist())[0] for matrix in matrices]
    turns = [(hues[i] - hues[0]) % 1 for i in (1, 2)]
    assert min(abs(turns[0] - 1 / 3), abs(turns[0] - 2 / 3)) < 0.08
    assert abs(turns[1] - 0.5) < 0.08


def test_grey_takes_all_colour_from_its_share() -> None:
    image = rgb_image().expand(3000, -1, -1, -1)
    view = ViewMaker(ViewsConfig(count=1, grey=0.2), seed=0)(image, torch.arange(3000), epoch=0)[0]
    is_grey = (view.amax(1) - view.amin(1)).flatten(1).amax(1) < 1e-5
    assert abs(float(is_grey.float().mean()) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 3000)
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy()).convert("L")
    theirs = torch.from_numpy(np.asarray(picture) / 255).float()
    torch.testing.assert_close(view[is_grey][0, 0], theirs, atol=0.005, rtol=0)
    assert torch.equal(view[~is_grey][0], to_float(image)[0])


def test_blur_agrees_with_scipy_for_every_image_of_a_batch() -> None:
    images = torch.rand(3, 3, 21, 30, generator=torch.Generator().manual_seed(0))
    sigmas = (0.4, 0.9, 2.0)
    ours = gaussian_blur(images, torch.tensor(sigmas), max_sigma=2.0)
    for image, blurred, sigma in zip(images, ours, sigmas, strict=True):
        theirs = gaussian_filter(image.double().numpy(), sigma, axes=(1, 2), radius=6, mode="mirror")
        torch.testing.assert_close(blurred, torch.from_numpy(theirs).float(), atol=1e-5, rtol=0)


def test_blur_happens_as_often_as_asked() -> None:
    images = torch.randint(0, 256, (2000, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = ViewsConfig(count=1, blur=0.3, blur_sigma=(0.5, 2.0))
    view = ViewMaker(config, seed=0)(images, torch.arange(2000), epoch=0)[0]
    changed = (view != to_float(images)).flatten(1).any(1)
    assert abs(float(changed.float().mean()) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)
    never = ViewMaker(ViewsConfig(count=1, blur=1e-6), seed=0)(images[:3], torch.arange(3), epoch=0)[0]
    assert torch.equal(never, to_float(images[:3]))


def test_blur_of_a_point_is_its_gaussian() -> None:
    point = torch.zeros(1, 2, 31, 31)
    point[..., 15, 15] = 1
    blurred = gaussian_blur(point, torch.tensor([1.7]), max_sigma=3.0)[0, 1]
    steps = torch.arange(31.0) - 15
    torch.testing.assert_close(blurred.sum(), torch.tensor(1.0))
    torch.testing.assert_close((blurred.sum(0) * steps**2).sum().sqrt(), torch.tensor(1.7), atol=0.01, rtol=0)
    assert gaussian_blur(torch.ones(2, 1, 1, 1), torch.ones(2), max_sigma=2.0).flatten().tolist() == [1.0, 1.0]


def test_erasing_covers_the_area_it_says() -> None:
    white = torch.full((4000, 1, 40, 40), 255, dtype=torch.uint8)
    config = ViewsConfig(count=1, erasing=0.6, erasing_area=(0.1, 0.3))
    erased = (ViewMaker(config, seed=0)(white, torch.arange(4000), epoch=0)[0] == 0).float().mean((1, 2, 3))
    hit = erased > 0
    assert abs(float(hit.float().mean()) - 0.6) < 4 * math.sqrt(0.6 * 0.4 / 4000)
    assert abs(float(erased[hit].mean()) - 0.2) < 0.005
    assert float(erased[hit].min()) > 0.08
    assert float(erased[hit].max()) < 0.33


def test_views_of_one_image_are_independent_over_views_and_epochs() -> None:
    image = smooth_image().expand(4000, 1, 33, 33)
    maker = ViewMaker(ViewsConfig(jitter=1.0, brightness=0.5), seed=0)
    ids = torch.arange(4000)
    (first, second), (later, _) = maker(image, ids, epoch=0), maker(image, ids, epoch=1)
    means = torch.stack([view.mean((1, 2, 3)) for view in (first, second, later)])
    neighbours = torch.stack([means[0, :-1], means[0, 1:]])
    limit = 4 / math.sqrt(4000)
    assert float((torch.corrcoef(means) - torch.eye(3)).abs().max()) < limit
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < limit
