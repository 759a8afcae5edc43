"""Views of several strengths, sizes, channels and hands, and views without their background."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kinfolk.data.views import (
    AnyViewsConfig,
    ColourSpaceViewsConfig,
    MultiViewsConfig,
    ViewMaker,
    ViewsConfig,
    autoaugment_views,
    byol_views,
    cmc_views,
    hard_views,
    moco_v2_views,
    multi_crop_views,
    relic_views,
    rgb_to_lab,
    supcon_views,
    to_float,
    weak_strong_views,
)
from kinfolk.data.views.draws import Draws
from kinfolk.train.serialization import decode, encode

PAPERS: dict[str, AnyViewsConfig] = {
    "supcon": supcon_views(),
    "weak and strong": weak_strong_views(),
    "byol": byol_views(),
    "multi-crop": multi_crop_views(moco_v2_views(), size=(12, 12), small_size=(7, 7)),
    "relic": relic_views(size=(12, 12), small_size=(6, 6), background=0.5),
    "autoaugment": autoaugment_views(),
    "hard": hard_views(),
    "cmc": cmc_views(),
}


def bytes_like(batch: int, channels: int = 3, height: int = 14, width: int = 14) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, channels, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", PAPERS)
def test_papers_views_are_in_range_and_a_function_of_the_sample(name: str) -> None:
    images, ids, masks = bytes_like(16), torch.arange(16) * 5, bytes_like(16, 1)
    maker = ViewMaker(PAPERS[name], seed=0)
    views = maker(images, ids, epoch=3, saliency=masks)
    assert len(views) == PAPERS[name].count
    part = torch.tensor([7, 2])
    for view, again in zip(views, maker(images[part], ids[part], epoch=3, saliency=masks[part]), strict=True):
        assert 0 <= float(view.min()) <= float(view.max()) <= 1
        assert view.dtype == torch.float32
        assert view.is_contiguous()
        torch.testing.assert_close(view[part], again, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", PAPERS)
def test_configs_survive_yaml(name: str) -> None:
    config = PAPERS[name]
    assert decode(AnyViewsConfig, encode(config)) == config  # type: ignore[arg-type]


def test_groups_follow_one_another_with_their_own_sizes() -> None:
    views = ViewMaker(PAPERS["multi-crop"], seed=0)(bytes_like(3), torch.arange(3), epoch=0)
    assert [view.shape[-1] for view in views] == [12, 12, 7, 7, 7, 7, 7, 7]
    relic = ViewMaker(relic_views(size=(12, 12), small_size=(6, 6), large=2, small=1), seed=0)
    assert [view.shape[-1] for view in relic(bytes_like(3), torch.arange(3), epoch=0)] == [12, 12, 6]


def test_the_views_of_a_group_are_those_of_a_plain_config_at_their_number() -> None:
    images, ids = bytes_like(8), torch.arange(8)
    plain = ViewMaker(moco_v2_views(count=3), seed=0)(images, ids, epoch=1)
    weak = ViewsConfig(count=1, crop_scale=(0.2, 1.0))
    mixed = ViewMaker(MultiViewsConfig((weak, moco_v2_views(count=2))), seed=0)(images, ids, epoch=1)
    assert torch.equal(mixed[1], plain[1])
    assert torch.equal(mixed[2], plain[2])
    assert not torch.equal(mixed[0], plain[0])
    assert float((mixed[1] - mixed[2]).abs().mean()) > 0.05  # two views of one group are two


def test_a_weak_view_keeps_its_colours_and_a_strong_one_does_not() -> None:
    images = torch.tensor([200, 40, 90], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(64, 3, 10, 10)
    weak, strong = ViewMaker(weak_strong_views(), seed=0)(images, torch.arange(64), epoch=0)
    torch.testing.assert_close(weak, to_float(images), atol=1e-5, rtol=0)
    assert float((strong - to_float(images)).abs().mean()) > 0.05


def test_byols_second_view_alone_is_solarised() -> None:
    white = torch.full((2000, 3, 4, 4), 255, dtype=torch.uint8)
    first, second = (replace(group, jitter=0.0) for group in byol_views().groups)
    views = ViewMaker(MultiViewsConfig((first, second)), seed=0)(white, torch.arange(2000), epoch=0)
    dark = [float((view.flatten(1).amax(1) < 0.01).float().mean()) for view in views]
    assert dark[0] == 0
    assert abs(dark[1] - 0.2) < 0.04


def test_colour_space_views_split_one_augmented_image() -> None:
    images, ids = bytes_like(5), torch.arange(5)
    base = ViewsConfig(count=2, crop_scale=(0.3, 1.0), flip=0.5)
    light, colour, light_again, _ = ViewMaker(ColourSpaceViewsConfig(base), seed=0)(images, ids, epoch=0)
    assert (light.shape, colour.shape) == ((5, 1, 14, 14), (5, 2, 14, 14))
    rgb = ViewMaker(base, seed=0)(images, ids, epoch=0)
    torch.testing.assert_close(torch.cat([light, colour], 1), rgb_to_lab(rgb[0]))
    torch.testing.assert_close(light_again, rgb_to_lab(rgb[1])[:, :1])
    with pytest.raises(ValueError, match="split RGB images, 3 channels"):
        ViewMaker(cmc_views(), seed=0)(bytes_like(2, 1), torch.arange(2), epoch=0)


def hands(batch: int, count: int) -> Tensor:
    """Renderings whose grey level tells the hand: 10 for the own, then 20, 30, ..."""
    levels = torch.arange(1, count + 1, dtype=torch.uint8) * 10
    return levels.reshape(1, count, 1, 1, 1).expand(batch, count, 3, 4, 4)


def test_later_views_show_another_hand() -> None:
    renderings, counts = hands(3000, 4), torch.full((3000,), 4)
    config = ViewsConfig(count=3, renderings="other")
    own, second, third = ViewMaker(config, seed=0)(
        renderings[:, 0], torch.arange(3000), epoch=0, renderings=renderings, rendering_count=counts
    )
    assert torch.equal(own, to_float(renderings[:, 0]))
    drawn = [(view[:, 0, 0, 0] * 255 / 10).round().long() - 1 for view in (second, third)]
    for hand in drawn:
        shares = torch.bincount(hand, minlength=4) / 3000
        assert float(shares[0]) == 0
        assert float((shares[1:] - 1 / 3).abs().max()) < 0.04
    assert abs(float((drawn[0] == drawn[1]).float().mean()) - 1 / 3) < 0.04


def test_hands_beyond_a_samples_count_are_never_seen() -> None:
    renderings, counts = hands(300, 5), torch.tensor([1, 2, 3]).repeat(100)
    view = ViewMaker(ViewsConfig(count=2, renderings="other"), seed=0)(
        renderings[:, 0], torch.arange(300), epoch=0, renderings=renderings, rendering_count=counts
    )[1]
    hand = (view[:, 0, 0, 0] * 255 / 10).round().long() - 1
    assert hand[counts == 1].unique().tolist() == [0]  # there is no other
    assert hand[counts == 2].unique().tolist() == [1]
    assert hand[counts == 3].unique().tolist() == [1, 2]


def test_own_renderings_ignore_the_others() -> None:
    images, renderings = bytes_like(4, 3, 4, 4), hands(4, 3)
    maker = ViewMaker(moco_v2_views(), seed=0)
    plain = maker(images, torch.arange(4), epoch=0)
    batch = {"images": images, "ids": torch.arange(4), "renderings": renderings, "rendering_count": torch.full((4,), 3)}
    assert all(torch.equal(a, b) for a, b in zip(plain, maker.of_batch(batch, epoch=0), strict=True))


def test_a_mask_moves_with_its_image() -> None:
    """An image that is white where its mask is: without its background it is white where it is not filled."""
    masks = torch.zeros(200, 1, 16, 16, dtype=torch.uint8)
    masks[..., 3:9, 5:13] = 255
    images = masks.expand(-1, 3, -1, -1).contiguous()
    geometry = ViewsConfig(count=1, crop_scale=(0.3, 1.0), flip=0.5, rotation=30)
    plain = ViewMaker(geometry, seed=0)(images, torch.arange(200), epoch=0)[0]
    config = replace(geometry, background=1.0, background_fill="black")
    cut = ViewMaker(config, seed=0)(images, torch.arange(200), epoch=0, saliency=masks)[0]
    torch.testing.assert_close(cut, plain * plain, atol=1e-5, rtol=0)
    inverse = ViewMaker(config, seed=0)(images, torch.arange(200), epoch=0, saliency=255 - masks)[0]
    inner = plain > 0.999
    assert float(inverse[inner].max()) < 0.01


@pytest.mark.parametrize("fill", ["grey", "black", "noise"])
def test_backgrounds_are_removed_as_often_as_asked(fill: str) -> None:
    images = torch.full((1000, 3, 6, 6), 100, dtype=torch.uint8)
    masks = torch.zeros(1000, 1, 6, 6, dtype=torch.uint8)
    config = ViewsConfig(count=1, background=0.3, background_fill=fill)  # type: ignore[arg-type]
    view = ViewMaker(config, seed=0)(images, torch.arange(1000), epoch=0, saliency=masks)[0]
    removed = (view != 100 / 255).flatten(1).any(1)
    assert abs(float(removed.float().mean()) - 0.3) < 4 * (0.21 / 1000) ** 0.5
    filling, spread = view[removed], view[removed].flatten(1).std(1)
    if fill == "black":
        assert float(filling.max()) == 0
    else:
        assert abs(float(filling.mean()) - 0.5) < 0.06
        assert float(spread.max()) < 1e-6 if fill == "grey" else float(spread.min()) > 0.1


def test_what_the_batch_lacks_is_named() -> None:
    images, ids = bytes_like(2), torch.arange(2)
    with pytest.raises(ValueError, match=r"needs batches with `saliency` masks.*`kinfolk data saliency`"):
        ViewMaker(ViewsConfig(background=0.1), seed=0)(images, ids, epoch=0)
    with pytest.raises(ValueError, match=r"saliency must be \[b, 1, H, W\] of the images"):
        ViewMaker(ViewsConfig(background=0.1), seed=0)(images, ids, epoch=0, saliency=bytes_like(2, 1, 3, 3))
    other = ViewMaker(ViewsConfig(renderings="other"), seed=0)
    with pytest.raises(ValueError, match="needs batches with `renderings` and `rendering_count`"):
        other(images, ids, epoch=0)
    with pytest.raises(ValueError, match=r"renderings must be \[b, S, C, H, W\]"):
        other(images, ids, epoch=0, renderings=hands(2, 3), rendering_count=torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MultiViewsConfig(()), ValueError, "groups must hold at least one ViewsConfig"),
        (lambda: MultiViewsConfig((cmc_views(),)), TypeError, "groups must be ViewsConfig"),  # type: ignore[arg-type]
        (lambda: ColourSpaceViewsConfig(byol_views()), TypeError, "base must be a ViewsConfig"),  # type: ignore[arg-type]
        (lambda: relic_views(size=(8, 8), small_size=(4, 4), large=3), ValueError, "large must be an even number"),
        (lambda: ViewsConfig(policy="magic"), ValueError, "policy must be 'none', .* or 'randaugment'; found 'magic'"),  # type: ignore[arg-type]
        (lambda: ViewsConfig(randaugment_ops=0), ValueError, "randaugment_ops must be at least 1; found 0"),
        (lambda: ViewsConfig(randaugment_magnitude=11.0), ValueError, "randaugment_magnitude must be a number within"),
        (lambda: ViewsConfig(jitter_form="x"), ValueError, "jitter_form must be 'matrix' or 'ordered'"),  # type: ignore[arg-type]
        (lambda: ViewsConfig(background_fill="x"), ValueError, "background_fill must be"),  # type: ignore[arg-type]
    ],
)
def test_impossible_configs_are_named(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_new_numbers_leave_the_old_ones_where_they_were() -> None:
    """Drawn when there were 22 of them; a change here changes every view of every past run."""
    draws = Draws(seed=1, epoch=2, view=1, ids=torch.tensor([3]))
    drawn = [round(float(draws.between(name, 0, 1)), 6) for name in ("crop_area", "jitter", "blur", "erasing_y")]
    assert drawn == [0.490752, 0.344411, 0.564824, 0.269576]
