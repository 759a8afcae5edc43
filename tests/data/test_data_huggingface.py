"""Hugging Face data sets in the forms they come in, what their columns mean, and bad rows."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.data.cache import fingerprint
from kinfolk.data.sources.base import Splits
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.huggingface import HuggingFaceConfig


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, kept from looking for a hub."""
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_HUB_OFFLINE", True)
    module.disable_progress_bars()
    return module


def png(grey: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    colour: Any = grey if mode == "L" else (grey,) * len(mode)
    Image.new(mode, (6, 5), colour).save(file, "PNG")
    return file.getvalue()


def photos(datasets: Any, greys: list[int], **columns: Any) -> Any:
    """Make a data set with the features that published ones have."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "ant"])}
    values = {
        "image": [{"bytes": png(grey), "path": None} for grey in greys],
        "label": [grey % 2 for grey in greys],
        **columns,
    }
    made = datasets.Dataset.from_dict({name: values[name] for name in features}, datasets.Features(features))
    for name in columns.keys() - features.keys():
        made = made.add_column(name, columns[name])
    return made


def load(path: Path, **options: Any) -> Splits:
    return HuggingFaceConfig(str(path), cache=str(path.parent / "cache"), **{"image_size": (5, 6), **options}).load()


def greys(source: Any) -> list[int]:
    return source.read(torch.arange(len(source)))[:, 0, 2, 2].tolist()


def parquet(path: Path, **columns: Any) -> Path:
    """Write a table that says nothing about features."""
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(arrow.table(columns), path)
    return path


def invalid_text(several: bool = False) -> Any:
    """Three captions of which the second is not UTF-8, as text columns that nobody checked have them."""
    arrow = pytest.importorskip("pyarrow")
    ends = arrow.py_buffer(np.array([0, 2, 4, 6], np.int32).tobytes())
    text = arrow.Array.from_buffers(arrow.string(), 3, [None, ends, arrow.py_buffer(b"ok\xff\xfeso")])
    return arrow.ListArray.from_arrays(arrow.array([0, 1, 2, 3], arrow.int32()), text) if several else text


class TestForms:
    @pytest.mark.parametrize("form", ["flat", "data", "saved", "split saved"])
    def test_every_form_gives_the_same_samples(self, datasets: Any, tmp_path: Path, form: str) -> None:
        train, test = photos(datasets, [10, 11, 13, 20]), photos(datasets, [91, 90])
        path = tmp_path / "birds"
        if form == "split saved":
            datasets.DatasetDict(train=train, validation=test).save_to_disk(path)
        elif form == "saved":
            datasets.concatenate_datasets([train, test]).save_to_disk(path)
        else:
            folder = path / "data" if form == "data" else path
            folder.mkdir(parents=True)
            train.to_parquet(folder / "train-00000-of-00001.parquet")
            test.to_parquet(folder / "test-00000-of-00001.parquet")
        splits = load(path, test_fraction=0.3)
        found = sorted(
            (sample, grey, label)
            for source in (splits.train, splits.test)
            for sample, grey, label in zip(source.ids.tolist(), greys(source), source.labels.tolist(), strict=True)
        )
        assert found == [(i, grey, grey % 2) for i, grey in enumerate([10, 11, 13, 20, 91, 90])]
        assert splits.train.class_names == splits.test.class_names == ("cat", "ant")
        if form != "saved":
            assert greys(splits.train) == [10, 11, 13, 20]
            assert splits.train.name == "birds train"
        batch = splits.train.fetch(torch.tensor([1, 0]))
        assert batch["images"].shape == (2, 3, 5, 6)
        assert batch["ids"].tolist() == splits.train.ids[[1, 0]].tolist()
        assert torch.equal(pickle.loads(pickle.dumps(splits.train)).read(torch.tensor([1])), batch["images"][:1])

    @pytest.mark.parametrize("ending", ["parquet", "arrow"])
    def test_one_file_is_split_by_class_with_equal_images_together(
        self, datasets: Any, tmp_path: Path, ending: str
    ) -> None:
        made = photos(datasets, [10, 12, 14, 16, 18, 10, 11, 13, 15, 17, 19, 19])
        if ending == "parquet":
            made.to_parquet(path := tmp_path / "birds.parquet")
        else:
            made.save_to_disk(tmp_path / "saved")
            path = next((tmp_path / "saved").glob("*.arrow"))
        for seed in range(5):
            splits = load(path, test_fraction=0.4, seed=seed)
            assert not set(greys(splits.train)) & set(greys(splits.test))
            assert sorted(splits.train.ids.tolist() + splits.test.ids.tolist()) == list(range(12))
            assert splits.test.labels.unique().tolist() == [0, 1]

    def test_a_shuffled_and_selected_set_keeps_rows_together(self, datasets: Any, tmp_path: Path) -> None:
        photos(datasets, [10, 11, 12, 13, 14, 15]).shuffle(seed=0).select(range(4)).save_to_disk(tmp_path / "birds")
        splits = load(tmp_path / "birds", test_fraction=0)
        assert [grey % 2 for grey in greys(splits.train)] == splits.train.labels.tolist()
        assert len(splits.test) == 0

    def test_a_name_that_the_hub_does_not_give_says_what_to_do(
        self, datasets: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(*args: Any, **options: Any) -> Any:
            raise ConnectionError("no route")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(FileNotFoundError, match=r"'some/birds' is no local path, .*no route.*save_to_disk\(FOLDER"):
            HuggingFaceConfig("some/birds").load()

    def test_missing_and_truncated_files_are_named(self, datasets: Any, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere.parquet"):
            load(tmp_path / "nowhere.parquet")
        photos(datasets, [10, 11]).to_parquet(path := tmp_path / "birds.parquet")
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match=r"birds.parquet cannot be read as a Hugging Face data set: .*[Pp]arquet"):
            load(path)

    def test_splits_that_are_not_there_are_named(self, datasets: Any, tmp_path: Path) -> None:
        datasets.DatasetDict(training=photos(datasets, [1])).save_to_disk(tmp_path / "birds")
        with pytest.raises(ValueError, match=r"has no split 'train'; it has training. Name it with train_split"):
            load(tmp_path / "birds")
        with pytest.raises(ValueError, match="no split 'held'"):
            load(tmp_path / "birds", train_split="training", test_split="held")

    def test_splits_must_be_alike(self, datasets: Any, tmp_path: Path) -> None:
        other = photos(datasets, [1]).cast_column("label", datasets.ClassLabel(names=["ant", "cat"]))
        datasets.DatasetDict(train=photos(datasets, [1]), test=other).save_to_disk(tmp_path / "birds")
        with pytest.raises(ValueError, match="name the classes of 'label' differently"):
            load(tmp_path / "birds")
        other = photos(datasets, [1]).remove_columns("label")
        datasets.DatasetDict(train=photos(datasets, [1]), test=other).save_to_disk(tmp_path / "fish")
        with pytest.raises(ValueError, match="the test split has no column 'label'"):
            load(tmp_path / "fish")


class TestColumns:
    @pytest.mark.parametrize("form", ["struct", "bytes", "path", "pixels", "colour", "flat", "floats"])
    def test_images_are_read_however_they_are_stored(self, datasets: Any, tmp_path: Path, form: str) -> None:
        values = [10, 200, 30]
        for grey in values:
            (tmp_path / f"{grey}.png").write_bytes(png(grey))
        cells: list[Any] = {
            "struct": [{"bytes": png(grey), "path": f"{grey}.png"} for grey in values],
            "bytes": [png(grey) for grey in values],
            "path": [{"bytes": None, "path": str(tmp_path / f"{grey}.png")} for grey in values],
            "pixels": [[[grey] * 6] * 5 for grey in values],
            "colour": [[[[grey, 0, 0]] * 6] * 5 for grey in values],
            "flat": [[grey] * 36 for grey in values],
            "floats": [[[grey / 255] * 6] * 5 for grey in values],
        }[form]
        splits = load(parquet(tmp_path / "a.parquet", img=cells, category=["b", "a", ""]), test_fraction=0)
        assert greys(splits.train) == values
        assert splits.train.channels == (1 if form in ("pixels", "flat", "floats") else 3)
        assert splits.train.labels.tolist() == [1, 0, -1]
        assert splits.train.class_names == ("a", "b")

    def test_names_win_over_guesses_and_empty_means_none(self, datasets: Any, tmp_path: Path) -> None:
        path = parquet(
            tmp_path / "a.parquet",
            image=[png(1), png(2)],
            thumb=[png(3), png(4)],
            label=[0, 1],
            coarse=[5, None],
            text=["x", "y"],
        )
        splits = load(path, test_fraction=0)
        assert set(splits.train.columns) == {"labels", "text"}
        splits = load(path, test_fraction=0, image_column="thumb", label_column="coarse", text_column="")
        assert greys(splits.train) == [3, 4]
        assert splits.train.labels.tolist() == [5, -1]
        assert splits.train.class_names is None
        assert set(splits.train.columns) == {"labels"}
        with pytest.raises(ValueError, match="image_column: there is no column 'photo'; the columns are image, thumb"):
            load(path, image_column="photo")
        with pytest.raises(ValueError, match=r"columns may name id, .*; found colour"):
            load(path, columns=[("colour", "coarse")])
        with pytest.raises(
            ValueError, match=r"no column holds images; the columns are label. Name it with image_column"
        ):
            load(parquet(tmp_path / "b.parquet", label=[1]))

    def test_kept_images_belong_to_their_column_and_file(self, datasets: Any, tmp_path: Path) -> None:
        values = {"image": [png(1), png(2)], "thumb": [png(3), png(4)]}
        path = parquet(tmp_path / "a.parquet", **values)
        names = [fingerprint(load(path, image_column=c, test_fraction=0).train) for c in ("image", "thumb", "image")]
        assert names[0] == names[2] != names[1]
        parquet(path, **{**values, "image": [png(1), png(9)]})
        assert fingerprint(load(path, image_column="image", test_fraction=0).train) != names[0]

    def test_what_else_is_known_comes_with_a_batch(self, datasets: Any, tmp_path: Path) -> None:
        path = parquet(
            tmp_path / "a.parquet",
            image=[png(i) for i in range(3)],
            id=[70, 50, 60],
            hand=["b", "a", "b"],
            hierarchy=["animal/cat", "animal/ant", "animal/cat"],
            time=[1.5, 2, 3],
            attribute_size=[1, 2, 3],
            text_embedding=[[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]],
        )
        train = load(path, test_fraction=0, columns=(("bias_label", "hand"),)).train
        batch = train.fetch(torch.tensor([2, 1]))
        assert batch["ids"].tolist() == [60, 50]
        assert batch["bias_labels"].tolist() == [1, 0]
        assert batch["hierarchy"] == ["animal/cat", "animal/ant"]
        assert batch["times"].tolist() == [3.0, 2.0]
        assert batch["attributes"].tolist() == [[3.0], [2.0]]
        assert batch["text_embedding"].tolist() == [[4.0, 5.0], [2.0, 3.0]]

    def test_names_are_numbered_over_both_parts_together(self, datasets: Any, tmp_path: Path) -> None:
        parquet(tmp_path / "a" / "train.parquet", image=[png(1), png(2)], label=["dog", "ant"], bias_label=["y", "z"])
        parquet(tmp_path / "a" / "test.parquet", image=[png(3), png(4)], label=["cat", "dog"], bias_label=["x", "z"])
        splits = load(tmp_path / "a")
        assert splits.test.class_names == ("ant", "cat", "dog")
        assert splits.train.labels.tolist() == [2, 0]
        assert splits.test.labels.tolist() == [1, 2]
        assert splits.train.bias_labels.tolist() == [1, 2]
        assert splits.test.bias_labels.tolist() == [0, 2]
        named = load(tmp_path / "a", class_names=["dog", "cat", "ant"])
        assert named.test.labels.tolist() == [1, 0]
        with pytest.raises(ValueError, match="column label: 'ant' is not among the 2 class names, dog, cat"):
            load(tmp_path / "a", class_names=("dog", "cat"))

    def test_one_of_several_captions_is_taken_by_rule(self, datasets: Any, tmp_path: Path) -> None:
        captions = [["", f"first {i}", f"second {i}"] for i in range(40)]
        path = parquet(tmp_path / "a.parquet", image=[png(i) for i in range(40)], captions=captions)
        assert load(path, test_fraction=0).train.text == [f"first {i}" for i in range(40)]
        random, again, other = (
            load(path, test_fraction=0, caption="random", seed=seed).train.text for seed in (0, 0, 1)
        )
        assert random == again != other
        assert 8 < sum(text.startswith("second") for text in random) < 32
        parts = load(path, test_fraction=0.5, caption="random")
        assert {
            i: text for part in (parts.train, parts.test) for i, text in zip(part.ids.tolist(), part.text, strict=True)
        } == dict(enumerate(random))


class TestBadRows:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (["a", " ", "c"], "a train, row 1 has no caption"),
            (["a", None, "c"], "a train, row 1 has no caption"),
            ([["a"], ["", None], ["c"]], "a train, row 1 has no caption"),
            ([["a"], [], ["c"]], "a train, row 1 has no caption"),
            (None, "a train, row 1: the caption is not UTF-8"),
            ([], "a train, row 1: the caption is not UTF-8"),
        ],
    )
    def test_bad_captions_raise_or_are_left_out(self, datasets: Any, tmp_path: Path, text: Any, message: str) -> None:
        text = text or invalid_text(several=text is not None)
        path = parquet(tmp_path / "a.parquet", image=[png(1), png(2), png(3)], text=text, label=[0, 1, 0])
        with pytest.raises(UnreadableImage, match=f"{message}.*on_error='skip'"):
            load(path, test_fraction=0)
        with pytest.warns(UserWarning, match=f"1 of 3 rows skipped:\n  {message}"):
            splits = load(path, test_fraction=0, on_error="skip")
        assert splits.train.ids.tolist() == [0, 2]
        assert greys(splits.train) == [1, 3]
        assert splits.train.labels.tolist() == [0, 0]
        assert all(splits.train.text)

    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            (png(5)[:40], "a test, row 1 cannot be"),
            (b"", "a test, row 1 cannot be"),
            (b"no image", "a test, row 1 cannot be"),
            (None, "a test, row 1 has no image"),
        ],
    )
    def test_bad_images_raise_or_are_replaced(
        self, datasets: Any, tmp_path: Path, cell: bytes | None, message: str
    ) -> None:
        parquet(tmp_path / "a" / "train.parquet", image=[png(1), png(2)])
        parquet(tmp_path / "a" / "test.parquet", image=[png(3), cell, png(5)])
        test = load(tmp_path / "a").test
        with pytest.raises(UnreadableImage, match=message):
            test.fetch(torch.tensor([0, 1]))
        batch = load(tmp_path / "a", on_error="skip").test.fetch(torch.tensor([0, 1]))
        assert batch["ids"].tolist() == [2, 4]
        assert batch["images"][:, 0, 0, 0].tolist() == [3, 5]
        assert len(batch["skipped"]) == 1
        assert message in batch["skipped"][0]

    @pytest.mark.parametrize(
        ("cell", "message"),
        [([[300, 0], [0, 0]], "in 0..255; found 0 to 300"), ([[1, 2], [3]], "holds no image"), ([1, 2, 3], "found")],
    )
    def test_pixels_that_are_no_image_are_named(self, datasets: Any, tmp_path: Path, cell: Any, message: str) -> None:
        path = parquet(tmp_path / "a.parquet", pixels=[cell])
        with pytest.raises(UnreadableImage, match=f"a train, row 0 holds no image.*{message}|row 0 {message}"):
            load(path, test_fraction=0).train.fetch(torch.tensor([0]))

    def test_a_bad_image_in_the_last_row_is_replaced_within_its_part(self, datasets: Any, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", image=[*(png(i) for i in range(8)), b"no image"])
        for seed in range(4):
            splits = load(path, on_error="skip", test_fraction=0.5, seed=seed)
            part = splits.train if 8 in splits.train.ids else splits.test
            batch = part.fetch(torch.tensor([len(part) - 1]))
            assert batch["ids"].tolist() == [int(part.ids[0])]

    def test_labels_must_be_numbers_or_names(self, datasets: Any, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", image=[png(1)], kind=[0.5])
        with pytest.raises(
            TypeError, match="column kind: labels must be integers or names, one per sample; found float"
        ):
            load(path, label_column="kind")
        path = parquet(tmp_path / "b.parquet", image=[png(1)], label=[-3])
        with pytest.raises(ValueError, match="labels must be at least -1"):
            load(path, test_fraction=0)

    def test_an_empty_split_is_refused(self, datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        parts = {"train": photos(datasets, [1]), "test": photos(datasets, [1]).select([])}
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.DatasetDict(parts))
        with pytest.raises(ValueError, match="some/birds: a split is empty; train 1 rows, test 0 rows"):
            HuggingFaceConfig("some/birds").load()

    def test_names_that_are_not_utf_8_are_refused(self, datasets: Any, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", image=[png(1), png(2), png(3)], label=invalid_text())
        with pytest.raises(ValueError, match=r"a.parquet, column label: text must be UTF-8"):
            load(path)

    def test_a_class_with_one_sample_stays_in_training(self, datasets: Any, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", image=[png(i) for i in range(5)], label=["a", "b", "a", "a", "a"])
        for seed in range(4):
            assert 1 in load(path, test_fraction=0.5, seed=seed).train.ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption": "longest"}, "caption must be one of"),
        ({"channels": 2}, "channels must be one of"),
        ({"image_size": [0, 4]}, r"at least one pixel each; found \(0, 4\)"),
        ({"held_out": 0}, "held_out must be at least 1"),
        ({"samples_per_epoch": 0}, "samples_per_epoch must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HuggingFaceConfig("there", **options)


def test_lists_from_yaml_become_tuples() -> None:
    config = HuggingFaceConfig("there", columns=[["group", "g"]], image_size=[3, 4], class_names=["a"])  # type: ignore[arg-type]
    assert config == HuggingFaceConfig("there", columns=(("group", "g"),), image_size=(3, 4), class_names=("a",))
