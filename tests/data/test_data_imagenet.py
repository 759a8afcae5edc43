"""ImageNet's folders in the published layouts, class lists, ImageNet-LT lists, and what is missing or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from kinfolk.data import Source
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.imagenet import ImageNetConfig

TENCH, SHARK, BIRD, METAL = "n01440764", "n01491361", "n02012849", "n03126707"


def picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (grey, grey, grey)).save(path, quality=95)


def load(root: Path, **options: object) -> tuple[Source, Source]:
    splits = ImageNetConfig(str(root), image_size=(8, 8), **options).load()  # type: ignore[arg-type]
    return splits.train, splits.test


def greys(source: Source) -> list[int]:
    return source.read(torch.arange(len(source)))[:, 0, 4, 4].tolist()


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Four classes with 1 to 4 training images, whose greys count 10, 20, ..."""
    grey = 0
    for count, synset in enumerate((TENCH, SHARK, BIRD, METAL), start=1):
        for i in range(count):
            grey += 10
            picture(tmp_path / "train" / synset / f"{synset}_{i}.JPEG", grey)
    return tmp_path


@pytest.fixture
def folders(train: Path) -> Path:
    """With a test image per class in class folders, greys 105, 115, ..."""
    for i, synset in enumerate((TENCH, SHARK, BIRD, METAL)):
        picture(train / "val" / synset / f"ILSVRC2012_val_{i + 1:08d}.JPEG", 105 + 10 * i)
    return train


@pytest.fixture
def flat(train: Path) -> Path:
    """With four test images in one folder: shark, tench, metal, bird."""
    for i in range(4):
        picture(train / "val" / f"ILSVRC2012_val_{i + 1:08d}.JPEG", 105 + 10 * i)
    return train


def test_folders_are_classes_in_the_order_of_their_synsets(folders: Path) -> None:
    train, test = load(folders)
    assert train.labels.tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert greys(train) == pytest.approx(range(10, 101, 10), abs=2)
    assert train.ids.tolist() == list(range(10))
    assert test.ids.tolist() == [10, 11, 12, 13]
    assert greys(test) == pytest.approx([105, 115, 125, 135], abs=2)
    assert test.describe(torch.tensor([2]))["synsets"] == [BIRD]
    assert test.class_names == (TENCH, SHARK, BIRD, METAL)  # nothing names them
    assert train[3]["image"].shape == (3, 8, 8)


def test_class_names_come_from_the_mapping_and_stay_different(folders: Path) -> None:
    lines = [
        f"{TENCH} tench, Tinca tinca",
        f"{SHARK} great white shark, white shark",
        f"{BIRD} crane",
        f"{METAL} crane",
    ]
    (folders / "LOC_synset_mapping.txt").write_text("\n".join(lines))
    assert load(folders)[0].class_names == ("tench", "great white shark", f"crane ({BIRD})", f"crane ({METAL})")
    lines[3] = f"{METAL} crane, lifting device"
    lines[2] = f"{BIRD} crane, a bird"
    (folders / "LOC_synset_mapping.txt").write_text("\n".join(lines))
    assert load(folders)[0].class_names[2:] == ("crane, a bird", "crane, lifting device")


def test_kaggles_archive_is_read_from_its_top(flat: Path, tmp_path: Path) -> None:
    top = tmp_path / "kaggle"
    inner = top / "ILSVRC" / "Data" / "CLS-LOC"
    inner.parent.mkdir(parents=True)
    inner.mkdir()
    (flat / "train").rename(inner / "train")
    (flat / "val").rename(inner / "val")
    (top / "LOC_synset_mapping.txt").write_text(f"{TENCH} tench, Tinca tinca\n")
    rows = [f"ILSVRC2012_val_{i + 1:08d},{name} 1 2 3 4 " for i, name in enumerate((SHARK, TENCH, METAL, BIRD))]
    (top / "LOC_val_solution.csv").write_text(
        "\n".join(["ImageId,PredictionString", rows[2], rows[0], rows[1], rows[3]])
    )
    train, test = load(top)
    assert len(train) == 10
    assert test.labels.tolist() == [1, 0, 3, 2]
    assert test.class_names[:2] == ("tench", SHARK)


@pytest.mark.parametrize("form", ["synset", "number"])
def test_flat_test_images_take_their_class_from_a_list(flat: Path, form: str) -> None:
    names = [SHARK, TENCH, METAL, BIRD] if form == "synset" else ["1", "0", "3", "2"]
    path = flat / "val.txt"
    path.write_text("".join(f"ILSVRC2012_val_{i + 1:08d}.JPEG {name}\n" for i, name in enumerate(names)))
    test = load(flat, val_labels=str(path))[1]
    assert test.labels.tolist() == [1, 0, 3, 2]
    assert greys(test) == pytest.approx([105, 115, 125, 135], abs=2)


def test_tiny_imagenet_is_read_as_published(tmp_path: Path) -> None:
    for i, synset in enumerate((TENCH, SHARK)):
        for j in range(2):
            picture(tmp_path / "train" / synset / "images" / f"{synset}_{j}.JPEG", 10 + 20 * i + 5 * j)
        (tmp_path / "train" / synset / f"{synset}_boxes.txt").write_text(f"{synset}_0.JPEG\t0\t62\t0\t62\n")
        picture(tmp_path / "val" / "images" / f"val_{i}.JPEG", 200 + 10 * i)
        picture(tmp_path / "test" / "images" / f"test_{i}.JPEG", 90)
    (tmp_path / "val" / "val_annotations.txt").write_text(
        f"val_0.JPEG\t{SHARK}\t0\t32\t44\t62\nval_1.JPEG\t{TENCH}\t52\t55\t57\t59\n"
    )
    (tmp_path / "words.txt").write_text(f"n00001740\tentity\n{TENCH}\ttench, Tinca tinca\n{SHARK}\tgreat white shark\n")
    train, test = load(tmp_path)
    assert greys(train) == pytest.approx([10, 15, 30, 35], abs=2)
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert test.labels.tolist() == [1, 0]
    assert greys(test) == pytest.approx([200, 210], abs=2)
    assert test.class_names == ("tench", "great white shark")


def test_a_class_list_keeps_its_classes_in_both_parts(folders: Path, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(f"{METAL} crane\n{SHARK}\n")
    train, test = load(folders, class_list=str(path))
    assert train.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert train.class_names == (SHARK, METAL)
    assert greys(test) == pytest.approx([115, 135], abs=2)
    assert test.labels.tolist() == [0, 1]
    path.write_text("n99999999\n")
    with pytest.raises(ValueError, match=r"classes.txt must list different synsets .* not in .*\['n99999999'\]"):
        load(folders, class_list=str(path))
    path.write_text(f"{METAL}\n{METAL}\n")
    with pytest.raises(ValueError, match="2 lines, 1 names"):
        load(folders, class_list=str(path))


def test_a_class_list_selects_from_flat_test_images_and_numbers_count_all_classes(flat: Path, tmp_path: Path) -> None:
    classes, labels = tmp_path / "classes.txt", tmp_path / "val.txt"
    classes.write_text(f"{BIRD}\n")
    labels.write_text("".join(f"ILSVRC2012_val_{i + 1:08d}.JPEG {n}\n" for i, n in enumerate((1, 0, 3, 2))))
    test = load(flat, class_list=str(classes), val_labels=str(labels))[1]
    assert greys(test) == pytest.approx([135], abs=2)
    assert test.labels.tolist() == [0]


def test_without_test_images_a_share_of_each_class_is_held_out(train: Path) -> None:
    kept, held = load(train, test_fraction=0.5, seed=3)
    assert sorted(kept.ids.tolist() + held.ids.tolist()) == list(range(10))
    assert held.labels.bincount(minlength=4).tolist() == [0, 1, 2, 2]  # a class with one image keeps it for training
    assert greys(held) == pytest.approx([10 + 10 * i for i in held.ids.tolist()], abs=2)


def lists(root: Path) -> dict[str, str]:
    """ImageNet-LT's lists: a training image may serve validation, and test images name a folder that may be flat."""
    (root / "LT_train.txt").write_text(
        f"train/{SHARK}/{SHARK}_1.JPEG 1\ntrain/{TENCH}/{TENCH}_0.JPEG 0\ntrain/{SHARK}/{SHARK}_0.JPEG 1\n"
    )
    (root / "LT_test.txt").write_text(
        f"val/{SHARK}/ILSVRC2012_val_00000001.JPEG 1\nval/{TENCH}/ILSVRC2012_val_00000002.JPEG 0\n"
    )
    return {"train_list": str(root / "LT_train.txt"), "test_list": str(root / "LT_test.txt")}


def test_list_files_say_which_images_are_used(flat: Path) -> None:
    train, test = load(flat, **lists(flat))
    assert greys(train) == pytest.approx([30, 10, 20], abs=2)
    assert train.labels.tolist() == [1, 0, 1]
    assert train.ids.tolist() == [0, 1, 2]
    assert test.ids.tolist() == [3, 4]
    assert greys(test) == pytest.approx([105, 115], abs=2)  # they lie flat, whatever the list says
    assert test.labels.tolist() == [1, 0]
    assert test.columns["synsets"] == [SHARK, TENCH]


def test_missing_listed_images_are_named(flat: Path) -> None:
    options = lists(flat)
    (flat / "train" / SHARK / f"{SHARK}_1.JPEG").unlink()
    (flat / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=rf"2 listed images are missing: train/{SHARK}/{SHARK}_1.JPEG, val/"):
        load(flat, **options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/x.JPEG", "line 4: expected PATH NUMBER; found 'train/x.JPEG'"),
        (f"train/{BIRD}/{BIRD}_0.JPEG 1", f"line 4: class 1 was {SHARK} before and is {BIRD} here"),
        (f"train/{BIRD}/{BIRD}_0.JPEG 7", r"must name every class's folder; none is known for \[2, 3, 4, 5, 6\]"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(flat: Path, line: str, message: str) -> None:
    options = lists(flat)
    with Path(options["train_list"]).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        load(flat, **options)


def test_flat_test_images_without_classes_are_refused(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing says their classes: expected val_annotations.txt"):
        load(flat)
    path = tmp_path / "val.txt"
    path.write_text(f"ILSVRC2012_val_00000001.JPEG {TENCH}\n")
    with pytest.raises(ValueError, match=r"3 of 4 images have no label: ILSVRC2012_val_00000002.JPEG"):
        load(flat, val_labels=str(path))
    path.write_text("ILSVRC2012_val_00000001.JPEG 4\n")
    with pytest.raises(
        ValueError, match=r"val.txt, entry 1: expected an image and its synset or number below 4; found"
    ):
        load(flat, val_labels=str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"val.txt must be text in UTF-8"):
        load(flat, val_labels=str(path))


def test_a_damaged_image_raises_or_is_replaced_within_its_part(folders: Path) -> None:
    broken = folders / "train" / METAL / f"{METAL}_3.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    train, _ = load(folders)
    with pytest.raises(UnreadableImage, match=f"{METAL}_3.JPEG"):
        train.fetch(torch.tensor([9]))
    train, _ = load(folders, on_error="skip")
    batch = train.fetch(torch.tensor([8, 9]))
    assert batch["ids"].tolist() == [8, 0]  # the next of the training part, and never a test image
    assert batch["labels"].tolist() == [3, 0]
    assert len(batch["skipped"]) == 1
    assert f"{METAL}_3.JPEG" in batch["skipped"][0]


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold train/<synset>.*found no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"one folder per class, named by synset like n01440764; found none"):
        load(tmp_path)
    (tmp_path / "train" / TENCH).mkdir()
    with pytest.raises(ValueError, match=r"train holds no images"):
        load(tmp_path)


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train_list and test_list go together"):
        ImageNetConfig("there", train_list="a.txt")
    with pytest.raises(ValueError, match=r"leave out class_list and val_labels"):
        ImageNetConfig("there", train_list="a.txt", test_list="b.txt", class_list="c.txt")
    with pytest.raises(ValueError, match=r"at least one pixel each; found \(0, 8\)"):
        ImageNetConfig("there", image_size=[0, 8])  # type: ignore[arg-type]
