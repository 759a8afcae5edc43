"""Image folders: their forms, their stable ids, bad files, and the two ways of reading them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Exif

from kinfolk.data import ImageFolderConfig, Source
from kinfolk.data.sources.hold_out import image_digests


def picture(
    path: Path, colour: int | tuple[int, ...] = 0, *, mode: str = "RGB", size: tuple[int, int] = (10, 8)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "RGB" and isinstance(colour, int):
        colour = (colour, 255 - colour, 7)
    Image.new(mode, size, colour).save(path)
    return path


def everything(source: Source) -> dict:
    return source.fetch(torch.arange(len(source)))


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes, ten and five images, every image another red."""
    for i in range(15):
        picture(tmp_path / ("dog" if i % 3 else "ant") / f"{i:02d}.png", i)
    return tmp_path


def test_subfolders_are_classes_and_ids_follow_the_sorted_paths(classes: Path) -> None:
    splits = ImageFolderConfig(str(classes), image_size=(8, 10)).load()
    paths = sorted(path.relative_to(classes).as_posix() for path in classes.rglob("*.png"))
    for source in (splits.train, splits.test):
        batch = everything(source)
        for image, sample, label in zip(batch["images"], batch["ids"].tolist(), batch["labels"].tolist(), strict=True):
            assert source.class_names[label] == paths[sample].split("/")[0]
            assert int(image[0, 0, 0]) == int(Path(paths[sample]).stem)
    assert sorted(splits.train.ids.tolist() + splits.test.ids.tolist()) == list(range(15))
    assert splits.test.labels.bincount().tolist() == [1, 2]
    assert splits.train.class_names == ("ant", "dog")


def test_reading_from_files_gives_the_same_as_memory(classes: Path) -> None:
    picture(classes / "ant" / "wide.png", 90, size=(30, 8))
    picture(classes / "ant" / "tall.jpg", 91, size=(9, 31))
    for fit in ("crop", "pad", "stretch"):
        memory, files = (
            ImageFolderConfig(str(classes), image_size=(9, 11), fit=fit, memory_limit_mb=limit).load()
            for limit in (2048, 0)
        )
        assert memory.train.in_memory
        assert not files.train.in_memory
        for held, lazy in ((memory.train, files.train), (memory.test, files.test)):
            ours, theirs = everything(held), everything(lazy)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
            assert held.class_names == lazy.class_names
            assert torch.equal(held.labels, lazy.labels)


def test_fits_differ_as_they_say(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    array = np.zeros((8, 16, 3), dtype=np.uint8)
    array[:, :4] = 255  # the left quarter, which the middle square does not reach
    Image.fromarray(array).save(path)
    white = {
        fit: float((everything(_only(tmp_path, fit))["images"] > 127).float().mean())
        for fit in ("crop", "pad", "stretch")
    }
    assert white["crop"] == 0
    assert abs(white["pad"] - 1 / 8) < 0.04
    assert abs(white["stretch"] - 1 / 4) < 0.04


def _only(folder: Path, fit: str) -> Source:
    return ImageFolderConfig(str(folder), image_size=(8, 8), fit=fit, test_fraction=0.0).load().train  # type: ignore[arg-type]


def test_train_and_test_folders_are_the_parts(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2), ("other", 3)):
        for i in range(count):
            picture(tmp_path / part / "ab"[i % 2] / f"{i}.png", i)
    splits = ImageFolderConfig(str(tmp_path)).load()
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.train.ids.tolist() == [0, 1, 2, 3]
    assert splits.test.ids.tolist() == [4, 5]
    assert splits.test.labels.tolist() == [0, 1]
    (tmp_path / "test").mkdir()
    picture(tmp_path / "test" / "b" / "x.png", 9)
    assert ImageFolderConfig(str(tmp_path)).load().test.labels.tolist() == [1]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_metadata_bring_labels_and_captions(tmp_path: Path, form: str) -> None:
    records = [("deep/b.png", "10", "a b"), ("a.png", "9", "ü, é"), ("./c.png", "", "c")]
    for i, (name, _, _) in enumerate(records):
        picture(tmp_path / name, i)
    picture(tmp_path / "not-listed.png", 99)
    if form == "csv":
        lines = ["file_name,label,text"] + [f'{name},{label},"{text}"' for name, label, text in records]
        (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    else:
        lines = [json.dumps({"file_name": n, "label": int(v) if v else None, "caption": t}) for n, v, t in records]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    for limit in (2048, 0):
        source = ImageFolderConfig(str(tmp_path), test_fraction=0.0, memory_limit_mb=limit).load().train
        batch = everything(source)
        assert batch["images"][:, 0, 0, 0].tolist() == [1, 2, 0]
        assert source.class_names == ("9", "10")  # numbers are sorted as numbers
        assert batch["labels"].tolist() == [0, -1, 1]
        assert batch["text"] == ["ü, é", "c", "a b"]


def test_metadata_in_the_parts(tmp_path: Path) -> None:
    for part in ("train", "test"):
        picture(tmp_path / part / "x.png", 5)
        (tmp_path / part / "metadata.csv").write_text(f"file_name,label\nx.png,{part}-class\n")
    splits = ImageFolderConfig(str(tmp_path)).load()
    assert splits.train.class_names == ("test-class", "train-class")
    assert (splits.train.labels.tolist(), splits.test.labels.tolist()) == ([1], [0])


def test_a_file_listed_twice_counts_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,first\n./a.png,second\n")
    with pytest.warns(UserWarning, match=r"1 repeated entries left out.*a\.png"):
        source = ImageFolderConfig(str(tmp_path), test_fraction=0.0).load().train
    assert everything(source)["text"] == ["first"]
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,cat\na.png,dog\n")
    with pytest.raises(ValueError, match=r"a.png is listed with two labels, 'cat' and 'dog'"):
        ImageFolderConfig(str(tmp_path)).load()


def test_images_without_classes_are_unlabelled(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"{i}.png", i)
    splits = ImageFolderConfig(str(tmp_path)).load()
    assert splits.train.labels is None
    assert splits.train.class_names is None
    assert "labels" not in everything(splits.train)
    picture(tmp_path / "cat" / "x.png", 9)
    assert sorted(ImageFolderConfig(str(tmp_path), test_fraction=0).load().train.labels.tolist()) == [-1] * 5 + [0]


@pytest.mark.parametrize(("modes", "channels"), [(("L", "1"), 1), (("L", "RGB"), 3), (("L", "RGB", "RGBA"), 4)])
def test_channels_are_the_most_that_any_image_has(tmp_path: Path, modes: tuple[str, ...], channels: int) -> None:
    for mode in modes:
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode}.png")
    source = ImageFolderConfig(str(tmp_path), test_fraction=0.0).load().train
    assert source.channels == channels
    assert everything(source)["images"].shape == (len(modes), channels, 64, 64)
    assert ImageFolderConfig(str(tmp_path), channels=3).load().train.channels == 3


def test_transparency_survives(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (10, 20, 30, 0), mode="RGBA")
    assert everything(_only(tmp_path, "crop"))["images"][0, 3].unique().tolist() == [0]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "a.png", transparency=1)
    assert everything(_only(tmp_path, "crop"))["images"].shape[1] == 4


def test_orientation_is_applied(tmp_path: Path) -> None:
    array = np.zeros((8, 8, 3), dtype=np.uint8)
    array[:4] = 255  # bright above
    exif = Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=100)
    image = everything(_only(tmp_path, "crop"))["images"][0, 0]
    assert float(image[:, 5:].float().mean()) > 200
    assert float(image[:, :3].float().mean()) < 55


@pytest.fixture
def damaged(classes: Path) -> Path:
    """Three bad files among fifteen: no image, a truncated one, and one that is empty."""
    (classes / "ant" / "00.png").write_text("no image")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(classes / "ant" / "cut.jpg")
    content = (classes / "ant" / "cut.jpg").read_bytes()
    (classes / "ant" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (classes / "dog" / "01.png").write_bytes(b"")
    return classes


def test_bad_files_raise_by_default(damaged: Path) -> None:
    with pytest.raises(ValueError, match=r"ant/00.png cannot be read as an image.*on_error='skip'"):
        ImageFolderConfig(str(damaged)).load()


@pytest.mark.parametrize("limit", [2048, 0])
def test_bad_files_are_skipped_counted_and_listed(damaged: Path, limit: int) -> None:
    with pytest.warns(UserWarning, match=r"3 of 16 images skipped") as caught:
        splits = ImageFolderConfig(str(damaged), on_error="skip", memory_limit_mb=limit).load()
    for name in ("ant/00.png", "ant/cut.jpg", "dog/01.png"):
        assert name in str(caught[0].message)
    assert sorted(splits.train.ids.tolist() + splits.test.ids.tolist()) == list(range(13))
    assert len(everything(splits.train)["images"]) == len(splits.train)


def test_a_file_that_breaks_later_is_named(classes: Path) -> None:
    source = ImageFolderConfig(str(classes), memory_limit_mb=0, test_fraction=0.0).load().train
    (classes / "dog" / "04.png").unlink()
    with pytest.raises(ValueError, match=r"dog/04.png cannot be read as an image: it is missing"):
        everything(source)


def test_captions_must_not_be_empty(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    rows = [{"file_name": "a.png", "text": "fine"}, {"file_name": "b.png", "text": " "}, {"file_name": "c.png"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"b.png has no caption"):
        ImageFolderConfig(str(tmp_path)).load()
    with pytest.warns(UserWarning, match="2 of 3 images skipped"):
        source = ImageFolderConfig(str(tmp_path), on_error="skip", test_fraction=0.0).load().train
    assert everything(source)["text"] == ["fine"]
    rows = [{"file_name": f"{name}.png", "text": "", "caption": f"told of {name}"} for name in "abc"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = ImageFolderConfig(str(tmp_path), test_fraction=0.0).load().train
    assert everything(source)["text"] == ["told of a", "told of b", "told of c"]


def test_copies_of_a_file_stay_on_one_side(tmp_path: Path) -> None:
    for i in range(12):
        for copy in "xyz":
            picture(tmp_path / f"{copy}{i}.png", i)
    splits = ImageFolderConfig(str(tmp_path), test_fraction=0.3).load()
    train, test = (set(image_digests(everything(source)["images"])) for source in (splits.train, splits.test))
    assert len(train | test) == 12
    assert not train & test


def test_the_hold_out_is_seeded(classes: Path) -> None:
    first, again, other = (ImageFolderConfig(str(classes), seed=seed).load().test.ids.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_hidden_files_and_other_files_are_left_out(classes: Path) -> None:
    (classes / "readme.txt").write_text("no image")
    (classes / ".DS_Store").write_bytes(b"x")
    picture(classes / ".cache" / "x.png")
    (classes / "ant" / "._00.png").write_bytes(b"x")
    splits = ImageFolderConfig(str(classes)).load()
    assert len(splits.train) + len(splits.test) == 15


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        ImageFolderConfig(str(tmp_path / "none")).load()
    with pytest.raises(ValueError, match=r"holds no images .*metadata.jsonl with a file_name"):
        ImageFolderConfig(str(tmp_path)).load()
    (tmp_path / "metadata.csv").write_text("name\na.png\n")
    with pytest.raises(ValueError, match="record 1: no file_name"):
        ImageFolderConfig(str(tmp_path)).load()
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text("{broken")
    with pytest.raises(ValueError, match=r"metadata.jsonl cannot be read"):
        ImageFolderConfig(str(tmp_path)).load()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png"}')
    with pytest.raises(ValueError, match=r"gone.png cannot be read as an image: it is missing"):
        ImageFolderConfig(str(tmp_path)).load()
    with pytest.raises(ValueError, match="none of its 1 images is usable"):
        ImageFolderConfig(str(tmp_path), on_error="skip").load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (0, 8)}, "image_size must be"),
        ({"fit": "squeeze"}, "fit must be one of"),
        ({"channels": 2}, "channels must be one of"),
        ({"on_error": "ignore"}, "on_error must be one of"),
        ({"test_fraction": 1.5}, "test_fraction must be"),
    ],
)
def test_impossible_options_are_named(classes: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderConfig(str(classes), **options).load()
