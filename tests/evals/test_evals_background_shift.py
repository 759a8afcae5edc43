"""Background shift: what stays in place, and what the accuracies on exchanged backgrounds say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.stats import sem
from torch import Tensor, nn

from kinfolk.data import DigitsConfig
from kinfolk.data.derived import CompositeConfig
from kinfolk.data.derived.composites import Variant
from kinfolk.data.saliency import SaliencySource, compute_saliency
from kinfolk.data.sources.base import ArraySource, Source, Splits
from kinfolk.data.sources.folder import ImageFolderConfig
from kinfolk.evals.background_shift import BackgroundShift
from kinfolk.evals.baselines import RawPixels
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Measurement
from kinfolk.evals.subject import Subject

VARIANTS = get_args(Variant)
COLOURS = torch.cat([torch.eye(3), 1 - torch.eye(3), torch.ones(1, 3), torch.eye(3) / 2]).mul(200).long()
GAPS = ("background gap", "original - mixed-rand", "original - only-fg")


class Corner(nn.Module):
    """Sees a corner of the background."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0]


class Middle(nn.Module):
    """Sees a pixel of the object."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 3, 3]


class Nothing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.new_ones(len(images), 2)


def photos(per_class: int = 6, classes: int = 3, *, first_id: int = 0) -> ArraySource:
    """RGB: a square of a colour of the class on the inverse colour, a little darker from picture to picture."""
    labels = torch.arange(classes).repeat(per_class)
    images = (220 - COLOURS[labels] - torch.arange(len(labels))[:, None])[:, :, None, None].byte().repeat(1, 1, 8, 8)
    images[:, :, 2:4, 2:4] = COLOURS[labels][:, :, None, None].byte()
    saliency = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    saliency[:, :, 2:4, 2:4] = 255
    return ArraySource(images, labels, ids=torch.arange(len(labels)) + first_id, columns={"saliency": saliency})


def column(source: Source, name: str) -> Tensor:
    values = source.columns[name]
    assert isinstance(values, Tensor)
    return values


def labels_of(source: Source) -> Tensor:
    return column(source, "labels")


def shifted(backgrounds: str | None = None, **fields: Any) -> BackgroundShift:
    """With a probe that is quick to fit."""
    return BackgroundShift(backgrounds, **{"probe": LinearProbe(l2=(1e-2,)), **fields})


def measured(encoder: nn.Module, train: Source, test: Source, shift: BackgroundShift) -> dict[str, Measurement]:
    subject = Subject.of("made", encoder, train=train, test=test, batch_size=7)
    return {one.name: one for one in shift.run(subject)}


def values(found: dict[str, Measurement]) -> dict[str, float]:
    return {name: one.value for name, one in found.items()}


def write_textures(folder: Path, families: int) -> str:
    """Every family has a colour of its own, every picture of it is darker than the last."""
    image = pytest.importorskip("PIL.Image")
    for family in range(families):
        (folder / f"family {family}").mkdir()
        for i in range(8):
            pixels = np.zeros((16, 16, 3), dtype=np.uint8)
            pixels[:] = (COLOURS[family] - 5 * i).clamp(min=0).numpy()
            image.fromarray(pixels).save(folder / f"family {family}" / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_textures(tmp_path_factory.mktemp("three"), 3)


def test_an_encoder_of_backgrounds_is_right_where_the_background_is_of_the_class() -> None:
    found = values(measured(Corner(), photos(), photos(first_id=50), shifted(variants=VARIANTS)))
    assert found == pytest.approx(
        {
            "original": 1.0,
            "mixed-same": 1.0,
            "mixed-rand": 1 / 3,  # every class of background equally often
            "mixed-next": 0.0,
            "only-fg": 1 / 3,  # black to all of them: one class is predicted throughout
            "only-bg-b": 1.0,
            "only-bg-t": 1.0,
            "background gap": 2 / 3,
            "original - mixed-rand": 2 / 3,
            "original - only-fg": 2 / 3,
        }
    )


def test_an_encoder_of_objects_does_not_care() -> None:
    found = values(measured(Middle(), photos(), photos(first_id=50), shifted()))
    assert list(found) == ["original", "mixed-same", "mixed-rand", "only-fg", *GAPS]
    assert [found[name] for name in list(found)[:4]] == [1.0] * 4
    assert [found[name] for name in GAPS] == [0.0] * 3


def test_the_original_is_the_picture_itself_and_its_accuracy_the_probe_s() -> None:
    train, test = photos(), photos(first_id=50)
    shift = shifted(variants=("original",))
    subject = Subject.of("made", Corner(), train=train, test=test)
    ((_, source, _),) = shift.sets(subject)
    assert torch.equal(source.read(torch.arange(len(source))), test.images)
    (found,) = shift.run(subject)
    (linear, _) = shift.probe.run(subject.features)
    assert found.value == linear.value


@pytest.mark.parametrize("folder", [False, True], ids=["own", "textures"])
def test_ids_labels_and_object_pixels_survive_in_every_set(textures: str, folder: bool) -> None:
    test = photos(first_id=50).subset(torch.randperm(18, generator=torch.Generator().manual_seed(0)))
    subject = Subject.of("made", Corner(), train=photos(), test=test)
    shift = shifted(textures if folder else None, variants=VARIANTS)
    seen = []
    for variant, source, classes in shift.sets(subject):
        seen.append(variant)
        batch = source.fetch(torch.arange(len(source)))
        assert torch.equal(batch["ids"], test.ids)
        assert torch.equal(classes[batch["labels"]], labels_of(test))
        if not variant.startswith("only-bg"):
            assert torch.equal(batch["images"][..., 2:4, 2:4], test.images[..., 2:4, 2:4])
            assert torch.equal(batch["saliency"], column(test, "saliency"))
        if variant == "only-fg":
            outside = batch["saliency"].expand(-1, 3, -1, -1) == 0
            assert batch["images"][outside].unique().tolist() == [0]
    assert tuple(seen) == VARIANTS


def test_the_order_and_the_batches_of_the_test_part_do_not_matter(textures: str) -> None:
    order = torch.randperm(18, generator=torch.Generator().manual_seed(3))
    straight, shuffled = photos(first_id=50), photos(first_id=50).subset(order)
    for shift in (shifted(seed=4), shifted(textures, seed=4)):
        first = measured(Corner(), photos(), straight, shift)
        again = Subject.of("made", Corner(), train=photos(), test=shuffled, batch_size=100)
        assert {one.name: one for one in shift.run(again)} == first


def composite(textures: str, *, soft: bool = False) -> tuple[Splits, Splits]:
    """Grey squares, and the same on textures of their class."""
    labels = torch.arange(3).repeat(6)
    images = torch.zeros(18, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 2:4, 2:4] = (150 + 20 * labels)[:, None, None, None].byte()
    if soft:
        images[:, :, 1, 1:5] = 32  # half transparent
    parts = [ArraySource(images, labels, ids=torch.arange(18) + first) for first in (0, 50)]
    splits = Splits(*parts)
    return splits, CompositeConfig(textures, train="original", test="original", seed=2).apply(splits)


def test_textures_are_loaded_once_for_all_variants(textures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = ImageFolderConfig.load
    monkeypatch.setattr(ImageFolderConfig, "load", lambda self: loads.append(self.path) or load(self))
    subject = Subject.of("made", Corner(), train=photos(), test=photos(first_id=50))
    assert len(list(shifted(textures).sets(subject))) == 4
    assert loads == [textures]


def test_a_composite_is_composed_anew_as_its_objects_were(textures: str) -> None:
    before, after = composite(textures)
    subject = Subject.of("made", Corner(), train=after.train, test=after.test)
    shift = shifted(textures, variants=VARIANTS, seed=2)
    for variant, source, _ in shift.sets(subject):
        direct = CompositeConfig(textures, train="original", test=variant, seed=2).apply(before).test
        everything = torch.arange(len(source))
        assert torch.equal(source.read(everything), direct.read(everything)), variant
        assert torch.equal(column(source, "saliency"), column(direct, "saliency"))
        assert torch.equal(column(source, "bias_labels"), column(direct, "bias_labels"))
    found = values({one.name: one for one in shift.run(subject)})
    assert found["mixed-same"] == 1.0
    assert found["background gap"] == pytest.approx(2 / 3)


def test_through_a_soft_rim_at_most_a_quarter_of_the_old_background_shines(textures: str) -> None:
    before, after = composite(textures, soft=True)
    subject = Subject.of("made", Corner(), train=after.train, test=after.test)
    everything = torch.arange(18)
    ((_, source, _),) = shifted(textures, variants=("only-fg",), seed=2).sets(subject)
    shown, old = source.read(everything), after.test.fetch(everything)
    direct = CompositeConfig(textures, test="only-fg", seed=2).apply(before).test.read(everything)
    rim = (..., 1, slice(1, 5))
    mask = old["saliency"][rim].float() / 255
    assert 0.4 < float(mask.min()) <= float(mask.max()) < 0.6
    assert torch.equal(shown[rim], (old["images"][rim] * mask).round().byte())
    assert int((shown[rim].int() - direct[rim].int()).max()) <= 200 / 4 + 1
    assert torch.equal(shown[..., 2:, :], direct[..., 2:, :])


def test_masks_on_disk_serve_as_a_column_does(tmp_path: Path) -> None:
    train, test = photos(), photos(first_id=50)
    bare = ArraySource(test.images, test.labels, ids=test.ids)
    compute_saliency(Splits(bare, bare), tmp_path / "masks", method="border-colour")
    found = measured(Corner(), train, SaliencySource(bare, tmp_path / "masks"), shifted())
    assert found["mixed-rand"].value == pytest.approx(1 / 3)
    assert found["mixed-same"].value == 1.0


def test_a_gap_is_a_paired_difference_with_its_standard_error(textures: str) -> None:
    before, after = composite(textures)
    subject = Subject.of("made", RawPixels(channels=3, image_size=(8, 8)), train=after.train, test=after.test)
    shift = shifted(textures, seed=2)
    found = {one.name: one for one in shift.run(subject)}
    head = subject.head(shift.probe)
    right = {}
    for variant in shift.variants:
        part = CompositeConfig(textures, train="original", test=variant, seed=2).apply(before).test
        right[variant] = [
            float(head.predict(part.read(torch.tensor([i])).flatten(1) / 255).item() == labels_of(part)[i])
            for i in range(18)
        ]
        assert found[variant].value == pytest.approx(np.mean(right[variant]))
    differences = np.subtract(right["original"], right["mixed-rand"])
    gap = found["original - mixed-rand"]
    assert gap.value == pytest.approx(differences.mean())
    assert gap.details["standard_error"] == pytest.approx(sem(differences))
    assert 0 < gap.value < 1
    assert gap.better == "lower"
    assert found["original"].better == "higher"


def test_only_gaps_whose_variants_are_measured_are_given() -> None:
    shift = shifted(variants=["mixed-rand", "original"])
    assert list(measured(Corner(), photos(), photos(first_id=50), shift)) == [
        "mixed-rand",
        "original",
        "original - mixed-rand",
    ]
    assert hash(shift) == hash(shifted(variants=("mixed-rand", "original")))


def test_constant_features_give_one_class_everywhere_and_no_gap() -> None:
    found = values(measured(Nothing(), photos(), photos(first_id=50), shifted()))
    assert [found[name] for name in ("original", "mixed-same", "mixed-rand", "only-fg")] == pytest.approx([1 / 3] * 4)
    assert [found[name] for name in GAPS] == [0.0] * 3


def test_a_single_test_sample_gets_its_own_background_and_no_standard_error() -> None:
    found = measured(Corner(), photos(), photos(first_id=50).subset(torch.tensor([4])), shifted())
    assert found["original"].value == found["mixed-same"].value == found["mixed-rand"].value == 1.0
    assert found["background gap"].details == {"n_test": 1, "standard_error": None}


def test_one_class_has_no_gap() -> None:
    found = values(measured(Corner(), photos(classes=1), photos(classes=1, first_id=50), shifted()))
    assert set(found.values()) == {0.0, 1.0}
    assert found["background gap"] == 0.0


def test_unlabelled_samples_are_left_out_and_lend_no_background() -> None:
    test = photos(first_id=50)
    labels = labels_of(test).clone()
    labels[:3] = -1
    partly = ArraySource(test.images, labels, ids=test.ids, columns={"saliency": test.columns["saliency"]})
    found = measured(Corner(), photos(), partly, shifted())
    assert found["original"].details["n_test"] == 15
    known = measured(Corner(), photos(), test.subset(torch.arange(3, 18)), shifted())
    assert values(found) == values(known)


@pytest.mark.parametrize("folder", [False, True], ids=["own", "textures"])
def test_a_class_that_training_lacks_counts_as_errors(textures: str, folder: bool) -> None:
    train = photos()
    few = train.subset((labels_of(train) < 2).nonzero().flatten())
    shift = shifted(textures if folder else None, variants=("original", "only-fg"))
    found = measured(Middle(), few, photos(first_id=50), shift)
    assert found["original"].value == found["only-fg"].value == pytest.approx(2 / 3)


def test_a_class_without_test_pictures_lends_no_background() -> None:
    test = photos(classes=3, first_id=50)
    gap = ArraySource(
        test.images,
        labels_of(test) * 2,
        ids=test.ids,
        columns={"saliency": test.columns["saliency"]},
        class_names="abcde",
    )
    train = ArraySource(photos().images, labels_of(photos()) * 2, class_names="abcde")
    found = values(measured(Corner(), train, gap, shifted(variants=("original", "mixed-rand", "mixed-next"))))
    assert found["original"] == 1.0
    assert found["mixed-rand"] == pytest.approx(1 / 3)
    assert found["mixed-next"] == 0.0


def test_classes_that_only_training_has_keep_the_families_in_place(tmp_path: Path) -> None:
    folder = write_textures(tmp_path, 5)
    labels = torch.arange(5).repeat(6)
    images = torch.full((30, 1, 8, 8), 200, dtype=torch.uint8)
    images[:, :, 0] = 0
    splits = CompositeConfig(folder, train="original", test="original").apply(
        Splits(ArraySource(images, labels), ArraySource(images, labels, ids=torch.arange(30) + 50))
    )
    part = splits.test.subset((labels_of(splits.test) < 3).nonzero().flatten())
    found = values(measured(Corner(), splits.train, part, shifted(folder, variants=("original",))))
    assert found["original"] == 1.0


def test_without_masks_or_colours_nothing_is_measured() -> None:
    full = photos()
    bare = ArraySource(full.images, full.labels)
    grey = ArraySource(full.images[:, :1].contiguous(), full.labels, columns={"saliency": full.columns["saliency"]})
    for source, reason in ((bare, "no masks"), (grey, "no RGB pictures")):
        subject = Subject.of("made", Corner(), train=source, test=source)
        assert shifted().missing(subject) == reason
        assert list(shifted().run(subject)) == []
    assert shifted().missing(Subject.of("made", Corner(), train=full, test=full)) is None


def test_labels_are_needed() -> None:
    full = photos()
    bare = ArraySource(full.images, columns={"saliency": column(full, "saliency")})
    with pytest.raises(ValueError, match="background shift needs labels; source 'arrays' has none"):
        measured(Corner(), full, bare, shifted())


@pytest.mark.parametrize("variants", [(), ("original", "original"), ("mixed",)])
def test_variants_must_exist_and_be_given_once(variants: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"variants must be some of original, mixed-same, .*, each once; found \("):
        shifted(variants=variants)


def test_too_few_families_are_refused(textures: str) -> None:
    test = photos(classes=4)
    with pytest.raises(ValueError, match="every class needs a family of textures of its own: 4 classes"):
        measured(Corner(), test, test, shifted(textures))


def test_digits_on_colours_of_their_class_are_hardly_read_on_those_of_others(tmp_path: Path) -> None:
    folder = write_textures(tmp_path, 10)
    whole = DigitsConfig().load()
    pristine = Splits(whole.train.subset(torch.arange(150)), whole.test.subset(torch.arange(100)))
    splits = CompositeConfig(folder, train="original", test="original").apply(pristine)
    found = values(measured(RawPixels(channels=3, image_size=(8, 8)), splits.train, splits.test, shifted(folder)))
    assert found["original"] > 0.8
    assert found["background gap"] > 0.3
    assert found["mixed-same"] > found["mixed-rand"]
