"""Views: what they are a function of, what leaves them alone, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kinfolk.data.views import (
    ViewMaker,
    ViewsConfig,
    digits_views,
    drawing_views,
    fashion_views,
    photo_views,
    simclr_photo_views,
    simclr_views,
    to_float,
)

PRESETS = {
    "simclr": simclr_views(),
    "simclr photo": simclr_photo_views(),
    "photo": photo_views(),
    "digits": digits_views(),
    "fashion": fashion_views(),
    "drawing": drawing_views(),
}
EVERYTHING = replace(photo_views(), rotation=20, zoom=(0.7, 1.3), shift=0.1, erasing=0.5, padding="reflection", count=3)


def bytes_like(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28)])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_work_on_every_kind_of_image(preset: str, channels: int, size: tuple[int, int]) -> None:
    images = bytes_like(7, channels, *size)
    views = ViewMaker(PRESETS[preset], seed=0)(images, torch.arange(7), epoch=0)
    assert len(views) == 2
    for view in views:
        assert view.shape == images.shape
        assert view.dtype == torch.float32
        assert 0 <= float(view.min()) <= float(view.max()) <= 1
        assert float(view.flatten(1).std(1).min()) > 0.01  # something is left to see
    assert float((views[0] - views[1]).abs().mean()) > 0.01


@pytest.mark.parametrize("blur", [0.0, 0.5])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_view_depends_on_its_sample_alone(channels: int, blur: float) -> None:
    """Not on the batch, its size, or the place in it: to the last bit, but for the rounding of blur's convolution."""
    images, ids = bytes_like(64, channels, 17, 20), torch.arange(64) * 7
    maker = ViewMaker(replace(EVERYTHING, blur=blur), seed=3)
    whole = maker(images, ids, epoch=2)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for chosen in (order, order[:5], torch.tensor([63])):
        for view, part in zip(whole, maker(images[chosen], ids[chosen], epoch=2), strict=True):
            torch.testing.assert_close(view[chosen], part, atol=1e-6 if blur else 0.0, rtol=0)


def test_a_call_leaves_nothing_behind() -> None:
    images, ids = bytes_like(6, 3, 12, 12), torch.arange(6)
    maker, state = ViewMaker(EVERYTHING, seed=0), torch.get_rng_state()
    kept = images.clone()
    first = maker(images, ids, epoch=0)
    maker(images, ids, epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(first, maker(images, ids, epoch=0), strict=True))
    assert torch.equal(images, kept)
    assert torch.equal(state, torch.get_rng_state())


def test_another_seed_epoch_view_or_id_gives_another_view() -> None:
    image = bytes_like(1, 3, 16, 16).expand(2, -1, -1, -1)
    base, other_view, _ = ViewMaker(EVERYTHING, seed=0)(image, torch.tensor([4, 5]), epoch=0)
    others = [
        other_view[0],
        base[1],
        ViewMaker(EVERYTHING, seed=1)(image, torch.tensor([4, 5]), epoch=0)[0][0],
        ViewMaker(EVERYTHING, seed=0)(image, torch.tensor([4, 5]), epoch=1)[0][0],
    ]
    for other in others:
        assert float((base[0] - other).abs().mean()) > 0.01


def test_one_strength_leaves_the_draws_of_the_others_alone() -> None:
    images, ids = bytes_like(20, 1, 16, 16), torch.arange(20)
    plain = ViewMaker(ViewsConfig(rotation=30, erasing=0.0), seed=0)(images, ids, epoch=0)[0]
    erased = ViewMaker(ViewsConfig(rotation=30, erasing=1.0), seed=0)(images, ids, epoch=0)[0]
    same = (plain == erased).flatten(1).float().mean(1)
    assert float(same.min()) > 0.5
    assert float(same.max()) < 1
    assert bool((erased[plain != erased] == 0).all())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_without_strengths_the_image_comes_back_exactly(channels: int) -> None:
    images = bytes_like(5, channels, 9, 11)
    for view in ViewMaker(ViewsConfig(count=3), seed=0)(images, torch.arange(5), epoch=0):
        assert torch.equal(view, images.float() / 255)


def test_views_without_strengths_do_not_share_memory() -> None:
    first, second = ViewMaker(ViewsConfig(), seed=0)(bytes_like(2, 1, 8, 8), torch.arange(2), epoch=0)
    first.zero_()
    assert float(second.sum()) > 0


def test_strengths_that_cannot_be_seen_change_nothing() -> None:
    """Colour on grey, jitter without a probability, a resampling that reads every pixel at its place."""
    images, ids = bytes_like(5, 1, 9, 11), torch.arange(5)
    colour = ViewsConfig(jitter=1.0, saturation=0.5, hue=0.5, grey=1.0)
    assert torch.equal(ViewMaker(colour, seed=0)(images, ids, epoch=0)[0], to_float(images))
    never = ViewsConfig(jitter=0.0, brightness=0.9)
    assert torch.equal(ViewMaker(never, seed=0)(images, ids, epoch=0)[0], to_float(images))
    same_size = ViewsConfig(size=(9, 11))
    torch.testing.assert_close(
        ViewMaker(same_size, seed=0)(images, ids, epoch=0)[0], to_float(images), atol=1e-5, rtol=0
    )


def test_flips_move_whole_pixels() -> None:
    images, ids = bytes_like(40, 3, 8, 9), torch.arange(40)
    view = ViewMaker(ViewsConfig(flip=0.5, count=1), seed=0)(images, ids, epoch=0)[0]
    plain = to_float(images)
    kept = (view == plain).flatten(1).all(1)
    mirrored = (view == plain.flip(3)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    assert 8 < int(kept.sum()) < 32
    always = ViewMaker(ViewsConfig(flip=1.0, count=1), seed=0)(images, ids, epoch=0)[0]
    assert torch.equal(always, plain.flip(3))


def test_alpha_follows_the_geometry_and_nothing_else() -> None:
    images, ids = bytes_like(30, 4, 16, 16), torch.arange(30)
    colours = ViewsConfig(
        jitter=1.0, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2, grey=0.3, blur=1.0, erasing=1.0
    )
    view = ViewMaker(colours, seed=0)(images, ids, epoch=0)[0]
    assert torch.equal(view[:, 3], to_float(images)[:, 3])
    moved = ViewsConfig(rotation=30, crop_scale=(0.3, 0.9), flip=0.5)
    alone = ViewMaker(moved, seed=0)(images[:, 3:], ids, epoch=0)[0]
    torch.testing.assert_close(ViewMaker(moved, seed=0)(images, ids, epoch=0)[0][:, 3:], alone)


def test_the_output_size_is_what_the_config_says() -> None:
    view = ViewMaker(simclr_views(size=(16, 24), count=1), seed=0)(bytes_like(3, 3, 32, 40), torch.arange(3), epoch=0)
    assert view[0].shape == (3, 3, 16, 24)


def test_an_empty_batch_gives_empty_views() -> None:
    views = ViewMaker(EVERYTHING, seed=0)(bytes_like(0, 3, 8, 8), torch.arange(0), epoch=0)
    assert [view.shape for view in views] == [(0, 3, 8, 8)] * 3


def test_to_float_resizes_with_a_low_pass_filter() -> None:
    stripes = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    stripes[..., ::2] = 255
    small = to_float(stripes, size=(4, 4))
    torch.testing.assert_close(small[..., 1:3], torch.full((1, 1, 4, 2), 0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"flip": 1.5}, "flip must be a number within 0 to 1; found 1.5"),
        ({"hue": 0.6}, "hue must be"),
        ({"crop_scale": (0.9, 0.2)}, "crop_scale must be a range"),
        ({"zoom": (0.0, 1.0)}, "zoom must be a range"),
        ({"rotation": float("nan")}, "rotation must be"),
        ({"size": (0, 8)}, "size must be"),
        ({"padding": "mirror"}, "padding must be 'zeros', 'border' or 'reflection'; found 'mirror'"),
    ],
)
def test_impossible_strengths_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ViewsConfig(**values)


def test_lists_from_a_yaml_file_become_ranges() -> None:
    config = ViewsConfig(crop_scale=[0.2, 1.0], size=[8, 8])  # type: ignore[arg-type]
    assert config == ViewsConfig(crop_scale=(0.2, 1.0), size=(8, 8))


def test_wrong_images_are_refused() -> None:
    maker = ViewMaker(ViewsConfig(), seed=0)
    with pytest.raises(TypeError, match=r"must be uint8; found torch.float32"):
        maker(torch.zeros(2, 1, 8, 8), torch.arange(2), epoch=0)
    with pytest.raises(ValueError, match="C = 1, 3 or 4"):
        maker(torch.zeros(2, 2, 8, 8, dtype=torch.uint8), torch.arange(2), epoch=0)
    with pytest.raises(ValueError, match="one entry per image"):
        maker(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(3), epoch=0)
