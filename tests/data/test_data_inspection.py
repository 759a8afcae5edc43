"""What is said about a data set, and the sheet that shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinfolk.data.inspection import format_inspection, inspect_source
from kinfolk.data.shard_writer import ShardWriter
from kinfolk.data.sheet import sample_sheet
from kinfolk.data.sources.base import ArraySource, Source, Splits
from kinfolk.data.sources.shards import ShardsConfig


def images(*values: int, channels: int = 3) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, channels, 8, 9).contiguous()


def pets() -> Splits:
    names = ["cat", "dog", "cow"]
    train = ArraySource(
        images(1, 2, 1, 1),
        torch.tensor([0, 1, 0, -1]),
        class_names=names,
        text=["a b", "c", "a b", "d e f"],
        name="pets",
    )
    return Splits(train, ArraySource(images(2, 3), torch.tensor([1, 0]), class_names=names, text=["x", " "]))


def test_inspection_counts_what_is_there() -> None:
    report = inspect_source(pets())
    assert report == {
        "name": "pets",
        "image": [3, 8, 9],
        "table": False,
        "classes": 3,
        "duplicates_across": 1,
        "train": {
            "images": 4,
            "unlabelled": 1,
            "class_histogram": {"cat": 2, "dog": 1, "cow": 0},
            "duplicates": 2,
            "unreadable": [],
            "columns": {"labels": "2 different, 1 unknown", "text": "3 different texts"},
            "sizes": None,
            "captions": 4,
            "empty_captions": 0,
            "distinct_captions": 3,
            "mean_caption_words": 2.0,
            "caption_words": [1, 2, 3],
        },
        "test": {
            "images": 2,
            "unlabelled": 0,
            "class_histogram": {"cat": 1, "dog": 1, "cow": 0},
            "duplicates": 0,
            "unreadable": [],
            "columns": {"labels": "2 different", "text": "2 different texts"},
            "sizes": None,
            "captions": 2,
            "empty_captions": 1,
            "distinct_captions": 2,
            "mean_caption_words": 0.5,
            "caption_words": [0, 0, 1],
        },
    }
    assert json.loads(json.dumps(report)) == report
    text = format_inspection(report)
    for line in (
        "pets: images 3x8x9",
        "4 images, 1 unlabelled, 2 duplicates",
        "4 captions, 3 distinct, 0 empty, 2.0 words",
        "1 empty",
        "in train too: 1",
        "text (3 different texts)",
    ):
        assert line in text
    assert text.splitlines()[-1].split() == ["cow", "0", "0"]


def test_unlabelled_sources_and_empty_parts_can_be_inspected() -> None:
    empty = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    report = inspect_source(Splits(ArraySource(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), ArraySource(empty)))
    assert report["train"]["class_histogram"] is None
    assert report["train"]["unlabelled"] == 2
    assert "no class names" in format_inspection(report)


def test_a_part_for_probes_is_inspected_as_well() -> None:
    splits = pets()
    report = inspect_source(Splits(splits.train, splits.test, splits.train.subset(torch.tensor([0]))))
    assert report["probe"]["images"] == 1
    assert "probe: 1 images" in format_inspection(report)


def test_columns_say_what_they_hold() -> None:
    columns: dict[str, Any] = {
        "groups": torch.tensor([4, 4, -1]),
        "times": torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64),
        "hierarchy": ["a/b", "a/b", "a/c"],
        "attributes": torch.zeros(3, 7),
    }
    source = ArraySource(images(1, 2, 3), columns=columns)
    report = inspect_source(Splits(source, source))
    assert report["train"]["columns"] == {
        "groups": "1 different, 1 unknown",
        "times": "0.5 to 2",
        "hierarchy": "2 different texts",
        "attributes": "float32 7",
    }
    assert "attributes (float32 7); groups (1 different, 1 unknown)" in format_inspection(report)


def picture(width: int, height: int, value: int) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def shards(tmp_path: Path, **options: Any) -> Splits:
    sizes = [(10, 20), (30, 40), (50, 12), (70, 80), (16, 16)]
    with ShardWriter(tmp_path / "set") as writer:
        for i, (width, height) in enumerate(sizes):
            writer.write(f"{i}", picture(width, height, i), metadata={"label": i % 2})
            if i in (1, 3):
                writer.write(f"bad{i}", picture(30, 30, 9)[:-40], metadata={"label": 0})
    return ShardsConfig(str(tmp_path / "set"), image_size=(16, 16), test_fraction=0, channels=3, **options).load()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_all_unreadable_images_are_listed_whatever_the_source_does_with_them(tmp_path: Path, on_error: Any) -> None:
    report = inspect_source(shards(tmp_path, on_error=on_error))
    listed = report["train"]["unreadable"]
    assert len(listed) == 2
    assert "train-000000.tar, member bad1.png cannot be decoded" in listed[0]
    assert "member bad3.png" in listed[1]
    assert report["train"]["images"] == 7
    text = format_inspection(report)
    assert "2 unreadable" in text
    assert "unreadable: " + listed[1] in text


@pytest.mark.parametrize(("fit", "upscaled"), [("crop", 0.4), ("stretch", 0.4), ("pad", 0.0)])
def test_sizes_are_those_of_the_stored_images(tmp_path: Path, fit: Any, upscaled: float) -> None:
    sizes = inspect_source(shards(tmp_path, fit=fit))["train"]["sizes"]
    assert sizes == {"height": [12, 20, 80], "width": [10, 30, 70], "upscaled": upscaled}


def test_many_unreadable_images_are_counted_and_the_first_shown() -> None:
    report = inspect_source(pets())
    report["train"]["unreadable"] = [f"file {i}" for i in range(25)]
    text = format_inspection(report)
    assert "25 unreadable" in text
    assert "file 9" in text
    assert "file 10" not in text
    assert "... and 15 more" in text


def test_of_many_classes_the_most_and_the_least_frequent_are_shown() -> None:
    labels = torch.arange(100).repeat_interleave(torch.arange(1, 101))
    source = ArraySource(torch.zeros(len(labels), 1, 1, 2, dtype=torch.uint8), labels)
    lines = format_inspection(inspect_source(Splits(source, source))).splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("class")) + 1 :]
    assert table[0].split()[:3] == ["99", "100", "100"]
    assert table[30] == "... (60 classes between)" or table[30].split() == ["...", "(60", "classes", "between)"]
    assert table[-1].split()[:3] == ["0", "1", "1"]
    assert len(table) == 41


class Table(Source):
    """Rows of features, as tables give them."""

    name, channels, image_size, class_names, in_memory = "wine", 3, (1, 1), None, True

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.ids = rows, torch.arange(len(rows))
        self.columns = {"labels": torch.arange(len(rows)) % 2}

    def read(self, indices: Tensor) -> Tensor:
        return self.rows[indices][:, :, None, None]


def test_of_a_table_the_features_are_counted() -> None:
    table = Table(torch.tensor([[1.0, 5.0, 0.5], [1.0, -2.0, torch.nan], [1.0, 5.0, 0.5]]))
    report = inspect_source(Splits(table, table))
    assert report["table"] is True
    assert report["train"]["duplicates"] == 1
    assert report["train"]["features"] == {
        "number": 3,
        "smallest": -2.0,
        "largest": 5.0,
        "constant": 1,
        "not_finite": 1,
    }
    text = format_inspection(report)
    assert text.startswith("wine: a table of 3 features")
    assert "3 rows" in text
    assert "values -2.0 to 5.0, 1 features constant, 1 values not finite" in text


def pixels(path: Path) -> Tensor:
    import numpy as np
    from PIL import Image

    with Image.open(path) as opened:
        return torch.from_numpy(np.array(opened))


def has_colour(sheet: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """Rows of the sheet in which the colour occurs."""
    return (sheet == torch.tensor(colour, dtype=torch.uint8)).all(-1).any(-1).nonzero().flatten()


def coloured(labels: list[int]) -> ArraySource:
    """Samples whose red says their class."""
    pictures = torch.zeros(len(labels), 3, 16, 16, dtype=torch.uint8)
    pictures[:, 0] = (100 + 10 * torch.tensor(labels))[:, None, None].to(torch.uint8)
    return ArraySource(pictures, torch.tensor(labels), class_names=[f"class {i}" for i in range(max(labels) + 1)])


def test_a_sheet_has_a_row_per_class(tmp_path: Path) -> None:
    source = coloured([0] * 5 + [1] * 3 + [2])
    sheet = pixels(sample_sheet(Splits(source, source), tmp_path / "deep" / "sheet.png", columns=4, tile=32))
    spans = [has_colour(sheet, (100 + 10 * label, 0, 0)) for label in range(3)]
    assert all(len(span) == 32 for span in spans)
    assert spans[0].max() < spans[1].min() < spans[1].max() < spans[2].min()
    reds = [int((sheet[span[0]] == torch.tensor([100 + 10 * i, 0, 0])).all(-1).sum()) for i, span in enumerate(spans)]
    assert reds == [4 * 32, 3 * 32, 32]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["sheet.png"]


def test_of_more_classes_than_rows_both_ends_are_shown(tmp_path: Path) -> None:
    source = coloured([label for label in range(10) for _ in range(20 - 2 * label)])
    sheet = pixels(sample_sheet(Splits(source, source), tmp_path / "sheet.png", columns=2, rows=3, tile=32))
    shown = [label for label in range(10) if len(has_colour(sheet, (100 + 10 * label, 0, 0)))]
    assert shown[0] == 0
    assert shown[-1] == 9
    assert len(shown) == 3


def test_captions_take_room_below_and_long_ones_are_cut(tmp_path: Path) -> None:
    source = coloured([0, 0])
    told = ArraySource(
        source.images, source.labels, class_names=["x"], text=["an endless caption " * 50, "Käfer κ"], name="told"
    )
    without = pixels(sample_sheet(Splits(source, source), tmp_path / "a.png", tile=64))
    with_text = pixels(sample_sheet(Splits(told, told), tmp_path / "b.png", tile=64))
    assert with_text.shape[0] > without.shape[0]
    assert with_text.shape[1] == without.shape[1]
    below = with_text[with_text.shape[0] - 20 - 30 + 2 : -20, 170:300]
    assert (below < 200).any()  # there is ink


def test_transparent_pixels_show_a_checkerboard(tmp_path: Path) -> None:
    source = ArraySource(torch.zeros(1, 4, 16, 16, dtype=torch.uint8))
    sheet = pixels(sample_sheet(Splits(source, source), tmp_path / "a.png", columns=1, tile=32))
    assert len(has_colour(sheet, (226, 226, 226))) == 32
    assert len(has_colour(sheet, (0, 0, 0))) == 0


def test_an_unreadable_image_leaves_a_marked_tile(tmp_path: Path) -> None:
    sheet = pixels(sample_sheet(shards(tmp_path), tmp_path / "a.png", columns=5, tile=32))
    assert len(has_colour(sheet, (200, 60, 50))) >= 32


def test_the_seed_says_which_samples_are_drawn(tmp_path: Path) -> None:
    source = ArraySource(torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous())
    splits = Splits(source, source)
    one, again, other = (
        sample_sheet(splits, tmp_path / f"{i}.png", columns=2, rows=2, seed=seed).read_bytes()
        for i, seed in enumerate((0, 0, 1))
    )
    assert one == again != other


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    splits = pets()
    with pytest.raises(ValueError, match=r"'pets' has no samples in the part 'probe'; show another one"):
        sample_sheet(splits, tmp_path / "a.png", part="probe")
    with pytest.raises(ValueError, match=r"columns, rows and tile must be at least 1; found 0, 12, 128"):
        sample_sheet(splits, tmp_path / "a.png", columns=0)
    table = Table(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"'wine' is a table and has no images to show"):
        sample_sheet(Splits(table, table), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
