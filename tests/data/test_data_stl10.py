"""STL-10 in its published form, written here byte by byte, its folds and unlabelled part, and damaged files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from kinfolk.data import ArraySource
from kinfolk.data.sources.stl10 import MappedSource, STL10Config

NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def picture(sample: int) -> bytes:
    """Column by column: red is the column, green is the row, blue the sample's number."""
    red = bytes(column for column in range(96) for _ in range(96))
    green = bytes(row for _ in range(96) for row in range(96))
    return red + green + bytes([sample]) * 96 * 96


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six labelled images, two for testing, three unlabelled, and two folds."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for name, samples in (("train", range(6)), ("test", range(6, 8)), ("unlabeled", range(8, 11))):
        (folder / f"{name}_X.bin").write_bytes(b"".join(map(picture, samples)))
    (folder / "train_y.bin").write_bytes(bytes([1, 10, 3, 4, 5, 6]))
    (folder / "test_y.bin").write_bytes(bytes([2, 9]))
    (folder / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "fold_indices.txt").write_text("1 3 5 \n4 0 \n")
    return folder


def test_images_lie_column_by_column_and_labels_count_from_one(folder: Path) -> None:
    splits = STL10Config(str(folder)).load()
    assert isinstance(splits.train, ArraySource)
    batch = splits.train.fetch(torch.tensor([4, 1]))
    assert batch["images"][0, :, 5, 70].tolist() == [70, 5, 4]
    assert batch["labels"].tolist() == [4, 9]
    assert splits.test.ids.tolist() == [6, 7]
    assert splits.test.labels.tolist() == [1, 8]
    assert splits.test.class_names == tuple(NAMES)
    assert splits.probe is None
    assert len(STL10Config(str(folder.parent)).load().train) == 6  # the folder above will do


def test_a_fold_keeps_the_listed_images_and_their_ids(folder: Path) -> None:
    train = STL10Config(str(folder), fold=1).load().train
    batch = train.fetch(torch.arange(2))
    assert batch["ids"].tolist() == [4, 0]
    assert batch["images"][:, 2, 0, 0].tolist() == [4, 0]
    assert batch["labels"].tolist() == [4, 0]


@pytest.mark.parametrize("fold", [None, 0])
def test_unlabelled_images_train_and_labelled_ones_are_for_probes(folder: Path, fold: int | None) -> None:
    both = STL10Config(str(folder), part="train+unlabeled", fold=fold).load()
    labelled = list(range(6)) if fold is None else [1, 3, 5]
    batch = both.train.fetch(torch.arange(len(both.train)))
    assert batch["ids"].tolist() == [*labelled, 8, 9, 10]
    assert batch["images"][:, 2, 50, 60].tolist() == [*labelled, 8, 9, 10]
    assert batch["images"][-1, :, 5, 70].tolist() == [70, 5, 10]
    assert batch["labels"].tolist() == [*([0, 9, 2, 3, 4, 5][i] for i in labelled), -1, -1, -1]
    assert both.reference.ids.tolist() == labelled
    only = STL10Config(str(folder), part="unlabeled", fold=fold).load()
    assert only.train.ids.tolist() == [8, 9, 10]
    assert only.train.labels.tolist() == [-1] * 3
    assert only.train.read(torch.tensor([2, 0]))[:, 2, 0, 0].tolist() == [10, 8]
    assert only.reference.ids.tolist() == labelled


def test_a_mapped_source_is_small_to_pickle_and_reads_after_it(folder: Path) -> None:
    train = STL10Config(str(folder), part="train+unlabeled").load().train
    assert isinstance(train, MappedSource)
    part = train.subset(torch.tensor([7, 2]))
    expected = part.read(torch.tensor([0, 1]))  # opens the maps
    data = pickle.dumps(part)
    assert len(data) < 20_000
    assert torch.equal(pickle.loads(data).read(torch.tensor([0, 1])), expected)
    expected[:] = 0  # what is read is the reader's own
    assert int(part.read(torch.tensor([0]))[0, 2, 0, 0]) == 9


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train_X.bin", picture(0)[:-1], r"images of 27648 bytes; it has 27647 bytes, 1.00 images"),
        ("test_X.bin", b"", "it has 0 bytes"),
        ("unlabeled_X.bin", picture(0) + b"1", "it has 27649 bytes"),
        ("train_y.bin", bytes([1, 2]), "one byte per image of train_X.bin, 6; it has 2"),
        ("train_y.bin", bytes([1, 2, 0, 3, 4, 5]), "from 1 to 10; found 0 at position 2"),
        ("test_y.bin", bytes([1, 11]), "found 11 at position 1"),
        ("class_names.txt", b"cat\ndog\n", "must name 10 classes; found 2"),
        ("fold_indices.txt", b"0 1\n0 1 7\n", "line 2: positions must be different and from 0 to 5; found 0 to 7"),
        ("fold_indices.txt", b"0 1\n1 1\n", "1 different of 2"),
        ("fold_indices.txt", b"0 1\n1 x\n", "line 2: must list positions"),
        ("fold_indices.txt", b"0 1\n", "1 lines for fold 1"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        STL10Config(str(folder), part="unlabeled", fold=1).load()


@pytest.mark.parametrize(
    "file", ["train_y.bin", "test_X.bin", "unlabeled_X.bin", "class_names.txt", "fold_indices.txt"]
)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        STL10Config(str(folder), part="train+unlabeled", fold=0).load()


def test_a_folder_of_something_else_is_refused(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold train_X.bin.*found no such folder. Unpack"):
        STL10Config(str(folder / "nowhere")).load()


def test_choices_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"part must be .*found 'test'"):
        STL10Config("there", part="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fold must be from 0 to 9.*found 10"):
        STL10Config("there", fold=10)
