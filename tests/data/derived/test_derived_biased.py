"""Biased sets: exact numbers of conflicting samples, colours and textures where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kinfolk.data.derived import ColouredConfig, ImbalancedConfig, TexturedConfig
from kinfolk.data.derived.biased import class_colours
from kinfolk.data.derived.cutout import cut_out
from kinfolk.data.sources.base import ArraySource, Source, Splits

TEXTURES = Path(__file__).parents[3] / ".data" / "textures"


def squares(per_class: int, classes: int = 10, *, first_id: int = 0) -> ArraySource:
    """A grey square of 200 on black."""
    labels = torch.arange(classes).repeat(per_class)
    images = torch.zeros(len(labels), 1, 6, 6, dtype=torch.uint8)
    images[:, :, 2:4, 2:4] = 200
    return ArraySource(images, labels, ids=torch.arange(len(labels)) + first_id)


def bias_table(source: Source, classes: int) -> torch.Tensor:
    """Samples by class and bias class."""
    assert source.labels is not None
    assert source.bias_labels is not None
    return (source.labels * classes + source.bias_labels).bincount(minlength=classes**2).reshape(classes, classes)


@pytest.mark.parametrize(("rho", "conflicting"), [(0.99, 20), (0.995, 10), (0.997, 6), (0.999, 2)])
def test_every_class_has_exactly_so_many_conflicting_samples(rho: float, conflicting: int) -> None:
    full = squares(2000)
    table = bias_table(ColouredConfig(rho=rho).apply(Splits(full, full)).train, 10)
    assert table.diagonal().tolist() == [2000 - conflicting] * 10
    off = table[~torch.eye(10, dtype=torch.bool)]
    assert int(off.max()) - int(off.min()) <= 1


def test_the_test_part_is_unbiased() -> None:
    full = squares(100)
    table = bias_table(ColouredConfig(rho=0.999).apply(Splits(full, full)).test, 10)
    assert table.tolist() == [[10] * 10] * 10


def test_a_biased_test_part_can_be_asked_for() -> None:
    full = squares(100)
    table = bias_table(ColouredConfig(test_rho=1.0).apply(Splits(full, full)).test, 10)
    assert torch.equal(table, 100 * torch.eye(10, dtype=torch.int64))


def test_the_background_has_the_colour_that_the_bias_label_names() -> None:
    full = squares(20)
    train = ColouredConfig(rho=0.5).apply(Splits(full, full)).train
    batch = train.fetch(torch.arange(len(train)))
    assert torch.equal(batch["images"][:, :, 0, 0].to(torch.int64), class_colours(10)[batch["bias_labels"]])
    assert batch["images"][:, :, 2:4, 2:4].unique().tolist() == [200]


def test_the_object_has_the_colour_when_it_is_the_target() -> None:
    full = squares(20)
    train = ColouredConfig(rho=0.5, target="foreground").apply(Splits(full, full)).train
    batch = train.fetch(torch.arange(len(train)))
    expected = (class_colours(10)[batch["bias_labels"]] * 200 / 255).round().to(torch.int64)
    assert batch["images"][:, :, 0, 0].unique().tolist() == [0]
    assert torch.equal(batch["images"][:, :, 2, 2].to(torch.int64), expected)


def test_transparent_pictures_show_the_colour_where_they_are_transparent() -> None:
    images = torch.zeros(4, 4, 2, 2, dtype=torch.uint8)
    images[:, :3] = 80
    images[:, 3, 0] = 255
    full = ArraySource(images, torch.tensor([0, 1, 0, 1]))
    train = ColouredConfig(rho=1.0).apply(Splits(full, full)).train
    assert train.read(torch.tensor([0]))[0, :, 0, 0].tolist() == [80, 80, 80]
    assert train.read(torch.tensor([0]))[0, :, 1, 0].tolist() == [255, 0, 0]


def test_faint_edges_let_the_background_through() -> None:
    colour, mask = cut_out({"images": torch.tensor([0, 16, 64, 255], dtype=torch.uint8).reshape(1, 1, 1, 4)})
    assert mask.flatten().tolist() == [0.0, 0.25, 1.0, 1.0]
    assert colour[0, 0].flatten().tolist() == [0, 16, 64, 255]


def test_rgb_pictures_without_a_known_foreground_are_refused() -> None:
    photos = ArraySource(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="foreground of source 'arrays' is not known"):
        ColouredConfig().apply(Splits(photos, photos))


@pytest.mark.parametrize("classes", [2, 10, 37, 100])
def test_every_class_has_a_colour_of_its_own(classes: int) -> None:
    assert len(class_colours(classes).unique(dim=0)) == classes


def test_the_seed_and_ids_decide_who_conflicts() -> None:
    full = squares(50)
    shuffled = full.subset(torch.randperm(500, generator=torch.Generator().manual_seed(0)))

    def conflicting(source: Source, seed: int) -> set[int]:
        train = ColouredConfig(rho=0.8, seed=seed).apply(Splits(source, full)).train
        return set(train.ids[train.bias_labels != train.labels].tolist())

    assert conflicting(full, 0) == conflicting(shuffled, 0)
    assert conflicting(full, 0) != conflicting(full, 1)


def test_the_probe_part_is_biased_as_training_is() -> None:
    full = squares(100)
    splits = ColouredConfig(rho=0.9).apply(ImbalancedConfig().apply(Splits(full, full)))
    assert splits.probe is not None
    assert splits.probe.channels == 3
    assert bias_table(splits.probe, 10).diagonal().tolist() == [90] * 10


@pytest.mark.parametrize(
    ("given", "message"), [({"rho": 1.1}, "rho"), ({"test_rho": -0.1}, "test_rho"), ({"target": "edge"}, "'edge'")]
)
def test_settings_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColouredConfig(**given)


def test_one_class_cannot_be_biased() -> None:
    one = squares(4, classes=1)
    with pytest.raises(ValueError, match="at least two classes; source 'arrays' has 1"):
        ColouredConfig().apply(Splits(one, one))


def flat_textures(folder: Path, families: int, pictures: int) -> Path:
    """A folder of textures; a family's pictures have its red value, and a green value each."""
    image = pytest.importorskip("PIL.Image")
    for family in range(families):
        (folder / f"family {family:02d}").mkdir(parents=True)
        for i in range(pictures):
            pixels = np.zeros((20, 20, 3), dtype=np.uint8)
            pixels[..., 0], pixels[..., 1] = 10 * family + 5, 10 * i + 5
            image.fromarray(pixels).save(folder / f"family {family:02d}" / f"{i}.png")
    return folder


def test_every_bias_class_has_a_family_of_textures(tmp_path: Path) -> None:
    full = squares(40, classes=3)
    splits = TexturedConfig(str(flat_textures(tmp_path, 5, 4)), rho=0.7).apply(Splits(full, full))
    assert bias_table(splits.train, 3).tolist() == [[28, 6, 6], [6, 28, 6], [6, 6, 28]]
    family = splits.train.read(torch.arange(120))[:, 0, 0, 0]
    assert all(len(family[splits.train.bias_labels == c].unique()) == 1 for c in range(3))
    assert len(family.unique()) == 3
    assert splits.train.read(torch.arange(120))[:, :, 2:4, 2:4].unique().tolist() == [200]


@pytest.mark.parametrize("held_out", [False, True])
def test_test_textures_are_those_of_training_unless_held_out(tmp_path: Path, held_out: bool) -> None:
    full = squares(40, classes=3)
    config = TexturedConfig(str(flat_textures(tmp_path, 3, 8)), held_out=held_out)
    splits = config.apply(Splits(full, squares(40, classes=3, first_id=500)))
    there, here = (
        {tuple(colour) for colour in part.read(torch.arange(120))[:, :2, 0, 0].tolist()}
        for part in (splits.train, splits.test)
    )
    assert bool(there & here) != held_out


def test_too_few_families_are_refused(tmp_path: Path) -> None:
    full = squares(4, classes=3)
    with pytest.raises(ValueError, match=r"3 classes, but .* has 2 subfolders \(of 2\)"):
        TexturedConfig(str(flat_textures(tmp_path, 2, 4))).apply(Splits(full, full))


def test_a_missing_folder_of_textures_is_named(tmp_path: Path) -> None:
    full = squares(4, classes=3)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TexturedConfig(str(tmp_path / "nowhere")).apply(Splits(full, full))


@pytest.mark.skipif(not TEXTURES.is_dir(), reason="textures are not prepared: kinfolk data prepare textures")
def test_real_textures_serve_ten_classes() -> None:
    full = squares(3)
    train = TexturedConfig(str(TEXTURES), rho=1.0).apply(Splits(full, full)).train
    assert train.channels == 3
    assert float(train.read(torch.arange(30))[:, :, 0, 0].float().std()) > 20
