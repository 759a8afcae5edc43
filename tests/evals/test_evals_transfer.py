"""Transfer to other sources: how images are fitted, that numbers are the probes' own, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from kinfolk.data import (
    ArraysConfig,
    ArraySource,
    DigitsConfig,
    FashionMNISTConfig,
    FewLabelsConfig,
    ImbalancedConfig,
    Splits,
    TableConfig,
    to_float,
)
from kinfolk.evals import KNN, CentredRawPixels, FeatureSplits, LinearProbe, RawPixels, Subject, extract
from kinfolk.evals.transfer import FittedImages, Transfer
from kinfolk.train import from_yaml, to_yaml

PROBE, NEIGHBOURS = LinearProbe(l2=(1e-1,)), KNN(k=10)
HOME = Path(__file__).parents[2] / ".data"


def pictures(n: int, *, channels: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, *size), generator=generator, dtype=torch.uint8)


def own_source(*, channels: int = 1, size: tuple[int, int] = (8, 8)) -> ArraySource:
    return ArraySource(pictures(12, channels=channels, size=size), torch.arange(12) % 3)


def raw_subject(*, channels: int = 1, size: tuple[int, int] = (8, 8)) -> Subject:
    own = own_source(channels=channels, size=size)
    return Subject.of("raw pixels", RawPixels(channels=channels, image_size=size), train=own, test=own)


def transfer(*targets: object, **settings: object) -> Transfer:
    return Transfer(targets, **{"probe": PROBE, "knn": NEIGHBOURS, **settings})  # type: ignore[arg-type]


def values(evaluator: Transfer, subject: Subject) -> dict[str, float]:
    return {m.name: m.value for m in evaluator.run(subject)}


def archive(folder: Path, images: torch.Tensor, labels: torch.Tensor | None, *, name: str = "tiny") -> ArraysConfig:
    """Half of the pictures train, half test."""
    half = len(images) // 2
    parts = {"images": images[:half].numpy(), "test_images": images[half:].numpy()}
    if labels is not None:
        parts |= {"labels": labels[:half].numpy(), "test_labels": labels[half:].numpy()}
    np.savez(folder / f"{name}.npz", **parts)
    return ArraysConfig(str(folder / f"{name}.npz"))


@pytest.fixture(scope="module")
def digits() -> Splits:
    return DigitsConfig().load()


def fitted(images: torch.Tensor, *, channels: int, size: tuple[int, int] | None = None) -> torch.Tensor:
    return FittedImages(channels=channels, image_size=size or tuple(images.shape[2:]))(to_float(images))


def test_grey_becomes_equal_channels_and_opaque() -> None:
    grey = pictures(3, channels=1, size=(5, 4))
    assert torch.equal(fitted(grey, channels=3), to_float(grey).repeat(1, 3, 1, 1))
    assert torch.equal(fitted(grey, channels=4)[:, 3], torch.ones(3, 5, 4))
    assert torch.equal(fitted(grey, channels=4)[:, :3], to_float(grey).repeat(1, 3, 1, 1))


def test_colours_become_the_luma_that_pil_computes() -> None:
    colours = pictures(1, channels=3, size=(9, 7))
    theirs = np.array(Image.fromarray(colours[0].permute(1, 2, 0).numpy()).convert("L"))
    ours = fitted(colours, channels=1)[0, 0] * 255
    assert (ours - torch.from_numpy(theirs)).abs().max() <= 1  # PIL rounds


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_laid_on_white(channels: int) -> None:
    clear = pictures(1, channels=4, size=(9, 7))
    picture = Image.fromarray(clear[0].permute(1, 2, 0).numpy(), mode=None)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    theirs = np.array(Image.alpha_composite(white, picture).convert("L" if channels == 1 else "RGB"))
    ours = fitted(clear, channels=channels)[0].permute(1, 2, 0).squeeze(-1) * 255
    assert (ours - torch.from_numpy(theirs)).abs().max() <= 2


def test_what_fits_stays_as_it_is() -> None:
    for channels in (1, 3, 4):
        images = pictures(2, channels=channels, size=(6, 6))
        assert torch.equal(fitted(images, channels=channels), to_float(images))


def test_images_are_resized_as_evaluation_does_and_stay_within_range() -> None:
    images = pictures(2, channels=3, size=(20, 10))
    assert torch.equal(fitted(images, channels=3, size=(8, 8)), to_float(images, size=(8, 8)))
    larger = fitted(images, channels=1, size=(31, 17))
    assert larger.shape == (2, 1, 31, 17)
    assert 0 <= larger.min() <= larger.max() <= 1
    whole = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    torch.testing.assert_close(fitted(whole, channels=1, size=(3, 5)), torch.full((1, 1, 3, 5), 128 / 255))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_encoder_of_another_precision_gets_its_images_in_it(dtype: torch.dtype) -> None:
    images, fitted = torch.rand(2, 1, 8, 8), FittedImages(channels=3, image_size=(5, 5))
    found = fitted(images.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), fitted(images), atol=0.01)


def test_numbers_are_those_of_the_probes_on_the_target_itself(digits: Splits) -> None:
    """Digits have the images that the encoder takes, so transfer changes nothing about its features."""
    raw = RawPixels(channels=1, image_size=(8, 8))
    features = FeatureSplits(extract(raw, digits.train), extract(raw, digits.test))
    found = {m.name: m for m in transfer(DigitsConfig()).run(raw_subject())}
    assert tuple(found) == ("linear probe, digits", "kNN, digits")
    for name, probe in (("linear probe, digits", PROBE), ("kNN, digits", NEIGHBOURS)):
        theirs = {m.name: m for m in probe.run(features)}
        assert found[name].value == theirs["accuracy"].value
        assert found[name].details["balanced_accuracy"] == theirs["balanced accuracy"].value
        assert found[name].better == "higher"
    assert found["kNN, digits"].details["k_used"] == 10
    assert found["kNN, digits"].details["images"] == "1x8x8, as they are"


def test_knn_on_fitted_digits_against_scikit_learn(digits: Splits) -> None:
    """Digits in colour at 12 x 12: three equal channels leave every cosine what it is at that size."""
    x, queries = (
        to_float(part.read(torch.arange(len(part))), size=(12, 12)).flatten(1).numpy()
        for part in (digits.train, digits.test)
    )
    assert digits.train.labels is not None
    assert digits.test.labels is not None
    theirs = KNeighborsClassifier(10, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
    expected = theirs.fit(x, digits.train.labels.numpy()).score(queries, digits.test.labels.numpy())
    subject = raw_subject(channels=3, size=(12, 12))
    found = {m.name: m for m in transfer(DigitsConfig()).run(subject)}["kNN, digits"]
    assert found.value == pytest.approx(expected, abs=1 / 360)
    assert found.details["images"] == "1x8x8 to 3x12x12: colours, bilinear with a low-pass filter, stretched"


def test_records_say_what_was_used(tmp_path: Path) -> None:
    labels = torch.arange(80) % 4
    labels[::10] = -1
    target = archive(tmp_path, pictures(80, channels=4, size=(8, 8)), labels)
    details = next(iter(transfer(target).run(raw_subject()))).details
    assert {name: details[name] for name in details if name.startswith(("n_", "unlabelled", "target", "images"))} == {
        "n_train": 36,
        "n_test": 36,
        "target_classes": 4,
        "unlabelled_dropped": 8,
        "images": "4x8x8 to 1x8x8: on white, then luma",
    }


def test_subsets_are_seeded_and_recorded() -> None:
    def details(seed: int) -> dict:
        found = {m.name: m for m in transfer(DigitsConfig(), max_train_rows=100, max_test_rows=50, seed=seed).run(own)}
        return {"value": found["kNN, digits"].value, **found["kNN, digits"].details}

    own = raw_subject()
    first, again, other = details(0), details(0), details(1)
    assert first == again
    assert (first["n_train"], first["n_test"]) == (100, 50)
    assert first["value"] != other["value"]


def test_centred_pixels_are_centred_by_the_target(digits: Splits) -> None:
    """The own mean image is noise; with it as the centre, kNN would be measured around a wrong origin."""
    own = own_source()
    subject = Subject.of("centred raw pixels", CentredRawPixels.fit(own), train=own, test=own)
    centred = CentredRawPixels.fit(digits.train)
    expected = NEIGHBOURS.run(FeatureSplits(extract(centred, digits.train), extract(centred, digits.test)))
    wrong = NEIGHBOURS.run(FeatureSplits(*(extract(subject.encoder, part) for part in (digits.train, digits.test))))
    found = values(transfer(DigitsConfig()), subject)["kNN, digits"]
    assert found == pytest.approx(next(iter(expected)).value, abs=1 / 360)
    assert found != next(iter(wrong)).value


def test_the_encoder_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 6))
    encoder[1].eval()
    own = own_source(channels=3)
    subject = Subject.of("trained", encoder, train=own, test=own)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first, second = (values(transfer(DigitsConfig(), max_train_rows=60), subject) for _ in range(2))
    assert first == second  # no dropout, no new statistics
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert (encoder.training, encoder[1].training, encoder[2].training) == (True, False, True)


def test_targets_of_one_name_are_numbered() -> None:
    targets = (DigitsConfig(), DigitsConfig(split="stratified"), DigitsConfig(moved=True))
    found = values(transfer(*targets, max_train_rows=60, max_test_rows=40), raw_subject())
    assert tuple(found) == tuple(
        f"{probe}, {name}" for name in ("digits", "digits (2)", "digits, moved") for probe in ("linear probe", "kNN")
    )


@pytest.mark.parametrize(("first", "second", "expected"), [
    ("cifar-100 train", "cifar-100 test", "cifar-100"),
    ("fashion-mnist train", "fashion-mnist t10k", "fashion-mnist"),
    ("left", "right", "right"),
])  # fmt: skip
def test_a_target_is_called_by_what_its_parts_share(first: str, second: str, expected: str) -> None:
    class Named:
        kind = "named"

        def load(self) -> Splits:
            images, labels = pictures(20, channels=1, size=(8, 8)), torch.arange(20) % 2
            return Splits(*(ArraySource(images, labels, name=name) for name in (first, second)))

    assert tuple(values(transfer(Named()), raw_subject())) == (f"linear probe, {expected}", f"kNN, {expected}")


@pytest.mark.parametrize("targets", [(), None])
def test_without_targets_nothing_is_yielded_and_it_says_why(targets: tuple | None) -> None:
    evaluator = Transfer(targets)  # type: ignore[arg-type]
    assert list(evaluator.run(raw_subject())) == []
    assert evaluator.missing(raw_subject()) == "no other sources (give them as `targets`)"
    assert transfer(DigitsConfig()).missing(raw_subject()) is None


def test_a_class_that_the_targets_training_part_lacks_counts_as_errors(tmp_path: Path) -> None:
    bright = torch.tensor([0, 0, 1, 1, 0, 0, 1, 2])
    images = (bright > 0)[:, None, None, None].to(torch.uint8).expand(8, 1, 8, 8).clone() * 200
    images[:, :, ::2] += 50  # a pattern, so that directions differ
    found = values(transfer(archive(tmp_path, images, bright), knn=KNN(k=1)), raw_subject())
    assert found == {"linear probe, tiny": 0.75, "kNN, tiny": 0.75}


def test_one_class_constant_pictures_and_single_samples_are_measured(tmp_path: Path) -> None:
    grey = torch.full((20, 1, 8, 8), 90, dtype=torch.uint8)
    one = archive(tmp_path, pictures(20, channels=1, size=(8, 8)), torch.full((20,), 3), name="one")
    flat = archive(tmp_path, grey, torch.tensor([0, 0, 0, 1, 1] * 4), name="flat")
    single = archive(tmp_path, grey[:2], torch.tensor([0, 0]), name="single")
    found = values(transfer(one, flat, single), raw_subject())
    assert (found["linear probe, one"], found["kNN, one"]) == (1.0, 1.0)
    assert (found["linear probe, flat"], found["kNN, flat"]) == (0.6, 0.6)
    assert (found["linear probe, single"], found["kNN, single"]) == (1.0, 1.0)


def test_a_target_without_labels_is_refused(tmp_path: Path) -> None:
    target = archive(tmp_path, pictures(20, channels=1, size=(8, 8)), None, name="bare")
    with pytest.raises(ValueError, match="transfer needs labels, and 'bare' has none; leave it out of `targets`"):
        list(transfer(target).run(raw_subject()))


def test_a_target_that_is_not_there_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        list(transfer(ArraysConfig(str(tmp_path / "nowhere.npz"))).run(raw_subject()))


def table(path: Path, *, scale: float, seed: int) -> TableConfig:
    generator = np.random.default_rng(seed)
    kind = np.arange(60) % 2
    numbers = scale * (generator.normal(size=(60, 2)) + 2 * kind[:, None])
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["height", "width", "kind"])
        writer.writerows([*map(str, row), "ab"[k]] for row, k in zip(numbers.tolist(), kind, strict=True))
    return TableConfig(str(path), label="kind")


def test_an_encoder_of_tables_takes_other_tables_as_it_knows_them(tmp_path: Path) -> None:
    own, other = table(tmp_path / "own.csv", scale=1, seed=0), table(tmp_path / "other.csv", scale=10, seed=1)
    splits = FewLabelsConfig(per_class=5).apply(own.load())
    subject = Subject.of(
        "raw features", RawPixels(channels=2, image_size=(1, 1)), train=splits.reference, test=splits.test
    )
    whole = own.load().train
    like = other.load(like=whole.features)  # type: ignore[attr-defined]
    rows = extract(subject.encoder, like.train), extract(subject.encoder, like.test)
    assert rows[0].rows.std() > 3  # in the units of the encoder's own table
    found = {m.name: m for m in transfer(other).run(subject)}
    assert found["kNN, other"].value == next(iter(NEIGHBOURS.run(FeatureSplits(*rows)))).value
    assert found["kNN, other"].details["images"] == "none: rows of a table, in the features of the encoder's own"
    with pytest.raises(ValueError, match="takes a table's rows, and the transfer target 'digits' has images"):
        list(transfer(DigitsConfig()).run(subject))
    with pytest.raises(ValueError, match="takes images, and the transfer target 'table' has a table's rows"):
        list(transfer(other).run(raw_subject()))


def test_probes_are_fitted_on_the_targets_probe_part(digits: Splits) -> None:
    class Rare:
        kind = "rare"

        def load(self) -> Splits:
            return ImbalancedConfig(rule="exponential").apply(digits)

    details = next(iter(transfer(Rare()).run(raw_subject()))).details
    assert details["n_train"] == len(digits.train)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"targets": (DigitsConfig(), DigitsConfig())}, "targets must differ from one another"),
        ({"max_train_rows": 0}, "max_train_rows must be at least 1, or None for all, got 0"),
        ({"max_test_rows": -1}, "max_test_rows must be at least 1"),
    ],
)
def test_unfit_settings_are_refused(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Transfer(**settings)


def test_settings_pass_through_yaml() -> None:
    config = transfer(DigitsConfig(moved=True), ArraysConfig("x.npz"), max_train_rows=7)
    assert from_yaml(to_yaml(config), Transfer) == config
    assert isinstance(hash(config), int)
    with pytest.raises(ValueError, match=r"targets\.0\.kind is 'mnist'; known kinds: arrays, cifar, digits"):
        from_yaml("targets: [{kind: mnist}]", Transfer)
    with pytest.raises(ValueError, match=r"targets\.0\.splt|no key 'splt' \(did you mean 'split'\?\)"):
        from_yaml("targets: [{kind: digits, splt: classic}]", Transfer)


def test_real_garments_beside_real_digits() -> None:
    if not (HOME / "fashion-mnist").is_dir():
        pytest.skip("fashion-mnist is not prepared")
    target = FashionMNISTConfig(root=str(HOME / "fashion-mnist"))
    found = values(transfer(target, max_train_rows=1000, max_test_rows=500), raw_subject())
    assert set(found) == {"linear probe, fashion-mnist", "kNN, fashion-mnist"}
    assert all(0.6 < value < 0.8 for value in found.values())  # on 8x8 pixels; chance 0.1
