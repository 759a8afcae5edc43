"""Composites: which background lies behind which object."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from kinfolk.data.derived import CompositeConfig
from kinfolk.data.derived.composites import Variant
from kinfolk.data.derived.cutout import black_boxes, bounding_boxes, tile_boxes
from kinfolk.data.sources.base import ArraySource, Source, Splits

VARIANTS = get_args(Variant)


def squares(per_class: int, classes: int = 3) -> ArraySource:
    """A grey square of 200 on black, in rows and columns 2 and 3 of 8."""
    labels = torch.arange(classes).repeat(per_class)
    images = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    images[:, :, 2:4, 2:4] = 200
    return ArraySource(images, labels)


def photos(per_class: int, classes: int = 3) -> ArraySource:
    """A square of 250 on a flat background that has 10 (class + 1) in red and the sample's number in blue."""
    labels = torch.arange(classes).repeat(per_class)
    images = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    images[:, 0], images[:, 2] = 10 * (labels[:, None, None] + 1), torch.arange(len(labels))[:, None, None]
    images[:, :, 2:4, 2:4] = 250
    saliency = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    saliency[:, :, 2:4, 2:4] = 255
    return ArraySource(images, labels, columns={"saliency": saliency})


@pytest.fixture
def textures(tmp_path: Path) -> str:
    """Three families; a picture has its family's red value and a green value of its own."""
    image = pytest.importorskip("PIL.Image")
    for family in range(3):
        (tmp_path / f"family {family}").mkdir()
        for i in range(8):
            pixels = np.zeros((16, 16, 3), dtype=np.uint8)
            pixels[..., 0], pixels[..., 1] = 50 * family + 30, 20 * i
            image.fromarray(pixels).save(tmp_path / f"family {family}" / f"{i}.png")
    return str(tmp_path)


def everything(source: Source) -> dict[str, torch.Tensor]:
    return source.fetch(torch.arange(len(source)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bias_label_is_the_class_of_the_background(textures: str, variant: Variant) -> None:
    full = squares(30)
    train = CompositeConfig(textures, train=variant).apply(Splits(full, full)).train
    labels, bias = train.labels, train.bias_labels
    assert labels is not None
    assert bias is not None
    if variant == "only-fg":
        assert bias.unique().tolist() == [-1]
    elif variant == "mixed-next":
        assert torch.equal(bias, (labels + 1) % 3)
    elif variant == "mixed-rand":
        assert (labels * 3 + bias).bincount().tolist() == [10] * 9
    else:
        assert torch.equal(bias, labels)


@pytest.mark.parametrize("variant", ["original", "mixed-same", "mixed-rand", "mixed-next"])
def test_a_class_s_background_comes_from_its_family(textures: str, variant: Variant) -> None:
    full = squares(30)
    batch = everything(CompositeConfig(textures, train=variant).apply(Splits(full, full)).train)
    red, bias = batch["images"][:, 0, 0, 0], batch["bias_labels"]
    assert all(len(red[bias == c].unique()) == 1 for c in range(3))
    assert len(red.unique()) == 3
    assert batch["images"][:, :, 2:4, 2:4].unique().tolist() == [200]


def test_mixed_same_is_another_background_than_the_original(textures: str) -> None:
    full = squares(30)
    green = [
        everything(CompositeConfig(textures, train=variant).apply(Splits(full, full)).train)["images"][:, 1, 0, 0]
        for variant in ("original", "mixed-same")
    ]
    assert float((green[0] != green[1]).float().mean()) > 0.5


def test_test_backgrounds_were_never_seen_in_training(textures: str) -> None:
    full = squares(60)
    splits = CompositeConfig(textures, test="mixed-rand").apply(Splits(full, full))
    seen, unseen = (
        {tuple(colour) for colour in everything(part)["images"][:, :2, 0, 0].tolist()}
        for part in (splits.train, splits.test)
    )
    assert len(seen) > 9
    assert len(unseen) == 6
    assert not seen & unseen


def test_the_saliency_column_is_the_object(textures: str) -> None:
    full = squares(3)
    for variant in VARIANTS:
        train = CompositeConfig(textures, train=variant).apply(Splits(full, full)).train
        shown = train.columns["saliency"]
        assert isinstance(shown, torch.Tensor)
        assert shown.dtype == torch.uint8
        assert shown.shape == (9, 1, 8, 8)
        inside = 0 if variant.startswith("only-bg") else 255
        assert shown[:, :, 2:4, 2:4].unique().tolist() == [inside]
        assert int(shown.sum()) == inside * 4 * 9


def test_without_background_the_object_lies_on_black(textures: str) -> None:
    full = squares(3)
    images = everything(CompositeConfig(textures, train="only-fg").apply(Splits(full, full)).train)["images"]
    assert torch.equal(images, full.images.expand(-1, 3, -1, -1))


def test_without_the_object_its_box_is_black_or_tiled(textures: str) -> None:
    full = squares(3)
    parts = {
        variant: everything(CompositeConfig(textures, train=variant).apply(Splits(full, full)).train)["images"]
        for variant in ("original", "only-bg-b", "only-bg-t")
    }
    black, tiled = parts["only-bg-b"], parts["only-bg-t"]
    assert black[:, :, 2:4, 2:4].unique().tolist() == [0]
    assert torch.equal(tiled, tiled[:, :, :1, :1].expand_as(tiled))  # the textures are flat
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:4, 2:4] = False
    assert torch.equal(black[..., outside], parts["original"][..., outside])


def test_photos_keep_their_own_background() -> None:
    full = photos(4)
    train = CompositeConfig(train="original").apply(Splits(full, full)).train
    assert torch.equal(everything(train)["images"], full.images)
    assert torch.equal(train.columns["saliency"], full.columns["saliency"])


@pytest.mark.parametrize("variant", ["mixed-same", "mixed-rand", "mixed-next"])
def test_photos_exchange_backgrounds_without_the_objects_on_them(variant: Variant) -> None:
    full = photos(12)
    batch = everything(CompositeConfig(train=variant).apply(Splits(full, full)).train)
    images = batch["images"]
    assert torch.equal(images[:, 0, 0, 0].to(torch.int64), 10 * (batch["bias_labels"] + 1))
    assert images[:, :, 2:4, 2:4].unique().tolist() == [250]
    outside = images.clone()
    outside[:, :, 2:4, 2:4] = images[:, :, :1, :1]
    assert torch.equal(outside, images[:, :, :1, :1].expand_as(images))
    assert float((images[:, 2, 0, 0] != full.images[:, 2, 0, 0]).float().mean()) > 0.5


def test_grey_pictures_need_textures() -> None:
    full = squares(3)
    with pytest.raises(ValueError, match="has no backgrounds of its own"):
        CompositeConfig().apply(Splits(full, full))


def test_the_seed_decides_the_backgrounds(textures: str) -> None:
    full = squares(20)
    first, again, other = (
        everything(CompositeConfig(textures, seed=s).apply(Splits(full, full)).train)["images"] for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_variant_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"test must be one of original, mixed-same, .*; found 'mixed'"):
        CompositeConfig(test="mixed")  # type: ignore[arg-type]


def test_labels_are_needed() -> None:
    bare = ArraySource(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="a composite set needs labels"):
        CompositeConfig("anywhere").apply(Splits(bare, bare))


def test_boxes_bound_what_is_seen() -> None:
    mask = torch.zeros(3, 1, 5, 6)
    mask[0, 0, 1, 2] = mask[0, 0, 3, 4] = 1
    mask[1] = 1
    assert bounding_boxes(mask).tolist() == [[1, 4, 2, 5], [0, 5, 0, 6], [0, 0, 0, 0]]


def test_tiles_come_from_the_largest_strip() -> None:
    image = torch.arange(20, dtype=torch.uint8).reshape(1, 1, 4, 5)
    tiled = tile_boxes(image, torch.tensor([[1, 3, 2, 5]]))[0, 0]
    assert tiled.tolist() == [[0, 1, 2, 3, 4], [5, 6, 0, 1, 0], [10, 11, 5, 6, 5], [15, 16, 17, 18, 19]]
    covered = torch.tensor([[0, 4, 0, 5]])
    assert int(tile_boxes(image, covered).max()) == int(black_boxes(image, covered).max()) == 0
