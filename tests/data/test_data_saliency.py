"""Masks: what finds a foreground, how masks are stored, and how they come back by id."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinfolk.data import ArraySource, Splits, ViewMaker, ViewsConfig
from kinfolk.data.saliency import attach_saliency, compute_saliency, saliency_masks


def discs_on_texture(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Discs of one colour on noisy ramps of another, and where the discs are."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(size).float()
    centre = torch.randint(size // 3, 2 * size // 3, (count, 2), generator=generator).float()
    radius = size * (0.15 + 0.12 * torch.rand(count, generator=generator))
    far = (rows[None, :, None] - centre[:, :1, None]) ** 2 + (rows[None, None, :] - centre[:, 1:, None]) ** 2
    inside = (far < radius[:, None, None] ** 2)[:, None]
    ground = torch.rand(count, 3, 1, 1, generator=generator) * 100
    ramp = (rows / size * 40)[:, None] + 25 * torch.rand(count, 1, size, size, generator=generator)
    colour = 130 + torch.rand(count, 3, 1, 1, generator=generator) * 100
    return torch.where(inside, colour, ground + ramp).to(torch.uint8), inside


def overlap(found: Tensor, true: Tensor) -> Tensor:
    found = found > 0
    return (found & true).flatten(1).sum(1) / (found | true).flatten(1).sum(1)


@pytest.fixture
def splits() -> Splits:
    images, _ = discs_on_texture(12, size=16)
    train = ArraySource(images[:8], ids=torch.arange(8) * 3, labels=torch.arange(8))
    return Splits(train=train, test=ArraySource(images[8:], ids=torch.arange(4) * 3 + 1, labels=torch.arange(4)))


def test_border_colours_find_discs_on_texture() -> None:
    images, inside = discs_on_texture(40)
    found = overlap(saliency_masks(images), inside)
    assert float(found.mean()) > 0.85
    assert float(overlap(torch.ones_like(images[:, :1]), inside).mean()) < 0.25  # what taking everything would give


def test_a_foreground_may_touch_the_border() -> None:
    images, inside = discs_on_texture(40)
    cut, where = images[..., :20], inside[..., :20]
    share = where[..., -1].flatten(1).sum(1) / (2 * 32 + 2 * 18)
    touching = (share > 0.02) & (share < 0.15)
    assert int(touching.sum()) > 10
    assert float(overlap(saliency_masks(cut), where)[touching].mean()) > 0.7


def test_alpha_and_intensity_are_taken_as_they_are() -> None:
    image = torch.zeros(1, 4, 6, 6, dtype=torch.uint8)
    image[:, 3, 2:4, 2:5] = 255
    assert torch.equal(saliency_masks(image)[0, 0] == 255, image[0, 3] == 255)
    grey = torch.zeros(1, 1, 6, 6, dtype=torch.uint8)
    grey[..., 1:3, :4] = 180
    assert torch.equal(saliency_masks(grey) == 255, grey > 0)


def test_a_flat_image_has_no_foreground() -> None:
    for channels in (1, 3):
        assert int(saliency_masks(torch.full((2, channels, 9, 9), 77, dtype=torch.uint8)).sum()) == 0


def test_a_mask_depends_on_its_image_alone() -> None:
    images, _ = discs_on_texture(6)
    assert torch.equal(saliency_masks(images)[4:], saliency_masks(images[4:]))


def test_wrong_methods_are_refused() -> None:
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="must be one of auto, alpha, intensity, border-colour; found 'magic'"):
        saliency_masks(images, method="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'alpha' needs RGBA images, 4 channels; found 3"):
        saliency_masks(images, method="alpha")


def test_masks_come_back_by_id_in_every_part_and_subset(splits: Splits, tmp_path: Path) -> None:
    folder = compute_saliency(splits, tmp_path / "deep" / "masks", batch_size=3)
    attached = attach_saliency(splits, folder)
    assert attached.probe is None
    for before, after in ((splits.train, attached.train), (splits.test, attached.test)):
        order = torch.tensor([3, 0, 2])
        batch = after.fetch(order)
        assert torch.equal(batch["saliency"], saliency_masks(before.read(order)))
        assert torch.equal(batch["labels"], before.fetch(order)["labels"])
        assert torch.equal(after.subset(order).fetch(torch.tensor([1]))["saliency"], batch["saliency"][1:2])
    facts = json.loads((folder / "saliency.json").read_text())
    assert facts["images"] == 12
    assert 0.05 < facts["mean_share"] < 0.6
    assert not [path for path in folder.parent.iterdir() if path != folder]  # nothing temporary stays


def test_masks_stay_on_disk_and_travel_to_workers_as_a_path(splits: Splits, tmp_path: Path) -> None:
    source = attach_saliency(splits, compute_saliency(splits, tmp_path / "masks")).train
    assert isinstance(np.load(tmp_path / "masks" / "masks.npy", mmap_mode="r"), np.memmap)
    travelled = pickle.loads(pickle.dumps(source))
    assert travelled._masks is None
    everything = torch.arange(8)
    assert torch.equal(travelled.fetch(everything)["saliency"], source.fetch(everything)["saliency"])


def test_a_sample_that_took_anothers_place_has_its_own_mask(splits: Splits, tmp_path: Path) -> None:
    class Skipping(ArraySource):
        def fetch(self, indices: Tensor) -> dict:
            return super().fetch(torch.where(indices == 2, 5, indices)) | {"skipped": ["2.png"]}

    train = Skipping(splits.train.read(torch.arange(8)), ids=splits.train.ids)
    folder = compute_saliency(splits, tmp_path / "masks")
    batch = attach_saliency(Splits(train, splits.test), folder).train.fetch(torch.tensor([2]))
    assert torch.equal(batch["saliency"], saliency_masks(batch["images"]))
    assert batch["skipped"] == ["2.png"]


def test_an_existing_folder_is_kept_unless_it_may_go(splits: Splits, tmp_path: Path) -> None:
    folder = compute_saliency(splits, tmp_path / "masks")
    with pytest.raises(FileExistsError, match="masks exists; choose another folder, or overwrite it"):
        compute_saliency(splits, folder)
    compute_saliency(splits, folder, method="intensity", overwrite=True)
    assert json.loads((folder / "saliency.json").read_text())["method"] == "intensity"


def test_an_interrupted_run_leaves_nothing(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'alpha' needs RGBA"):
        compute_saliency(splits, tmp_path / "masks", method="alpha")
    assert list(tmp_path.iterdir()) == []


def test_masks_that_do_not_fit_are_refused(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"masks\.npy is missing; `kinfolk data saliency`"):
        attach_saliency(splits, tmp_path / "none")
    folder = compute_saliency(splits, tmp_path / "masks")
    images = splits.train.read(torch.arange(8))
    strangers = Splits(ArraySource(images, ids=torch.arange(8) + 100), splits.test)
    with pytest.raises(ValueError, match="has no masks for 8 of 8 samples of 'arrays'"):
        attach_saliency(strangers, folder)
    larger = Splits(ArraySource(images[..., :8], ids=splits.train.ids), splits.test)
    with pytest.raises(ValueError, match=r"masks of \(16, 16\), the images of 'arrays' are \(16, 8\)"):
        attach_saliency(larger, folder)


def test_a_views_background_goes_where_the_mask_says(splits: Splits, tmp_path: Path) -> None:
    source = attach_saliency(splits, compute_saliency(splits, tmp_path / "masks")).train
    batch = source.fetch(torch.arange(8))
    config = ViewsConfig(count=1, background=1.0, background_fill="black")
    view = ViewMaker(config, seed=0).of_batch(batch, epoch=0)[0]
    outside = (batch["saliency"] == 0).expand(-1, 3, -1, -1)
    assert float(view[outside].max()) == 0
    assert torch.equal(view[~outside], (batch["images"].float() / 255)[~outside])
