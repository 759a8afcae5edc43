"""Sources in memory: digits, arrays, IDX files, mappings, and what they refuse."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from kinfolk.data import ArraysConfig, ArraySource, DigitsConfig, FashionMNISTConfig, MappingSource, Splits
from kinfolk.data.sources import hold_out, read_idx, stack_to_uint8, to_uint8
from kinfolk.data.sources.fashion_mnist import IDX_STEMS
from kinfolk.data.sources.hold_out import image_digests


def check_contract(splits: Splits) -> None:
    """What the rest of the library relies on, for any source."""
    ids = torch.cat([splits.train.ids, splits.test.ids])
    assert len(ids.unique()) == len(ids)
    for source in (splits.train, splits.test):
        batch = source.fetch(torch.tensor([len(source) - 1, 0]))
        assert batch["images"].dtype == torch.uint8
        assert batch["images"].shape == (2, source.channels, *source.image_size)
        assert batch["ids"].tolist() == [int(source.ids[-1]), int(source.ids[0])]
        assert batch["ids"].dtype == torch.int64
        if source.labels is not None:
            assert batch["labels"].tolist() == [int(source.labels[-1]), int(source.labels[0])]
        sample = source[0]
        assert torch.equal(sample["image"], batch["images"][1])
        assert sample["id"] == source.ids[0]
        assert torch.equal(pickle.loads(pickle.dumps(source)).fetch(torch.tensor([0]))["images"][0], sample["image"])
        with pytest.raises(IndexError, match="out of range"):
            source[len(source)]
    assert splits.train.image_size == splits.test.image_size
    assert splits.train.class_names == splits.test.class_names


class TestDigits:
    def test_the_classic_split_is_scikit_learns_order(self) -> None:
        from sklearn.datasets import load_digits

        splits, raw = DigitsConfig().load(), load_digits()
        check_contract(splits)
        assert splits.test.ids.tolist() == list(range(1437, 1797))
        assert torch.equal(splits.train.labels, torch.from_numpy(raw.target[:1437]))
        back = splits.test.fetch(torch.arange(360))["images"][:, 0].double() * 16 / 255
        assert np.abs(back.numpy() - raw.images[1437:]).max() < 0.04

    def test_the_stratified_split_keeps_class_shares(self) -> None:
        splits = DigitsConfig(split="stratified", seed=3).load()
        check_contract(splits)
        shares = splits.test.labels.bincount() / (splits.train.labels.bincount() + splits.test.labels.bincount())
        assert float((shares - 0.2).abs().max()) < 0.01
        other = DigitsConfig(split="stratified", seed=4).load()
        assert splits.test.ids.tolist() != other.test.ids.tolist()

    def test_moving_is_seeded_and_keeps_the_ink(self) -> None:
        still, moved, again, other = (
            DigitsConfig(**options).load().train.fetch(torch.arange(200))["images"].double()
            for options in ({}, {"moved": True}, {"moved": True}, {"moved": True, "seed": 1})
        )
        assert moved.shape == (200, 1, 12, 12)
        assert torch.equal(moved, again)
        assert float((moved - other).abs().mean()) > 20
        ink = moved.sum((1, 2, 3)) / still.sum((1, 2, 3))
        assert 0.9 < float(ink.mean()) < 1.02  # corners of turned digits leave the canvas
        inside = DigitsConfig(moved=True, rotation=0).load().train.fetch(torch.arange(200))["images"].double()
        assert float((inside.sum((1, 2, 3)) / still.sum((1, 2, 3))).min()) > 0.97

    def test_a_digit_does_not_depend_on_the_split(self) -> None:
        classic, stratified = (
            DigitsConfig(moved=True, split=split).load().train for split in ("classic", "stratified")
        )
        shared = sorted(set(classic.ids.tolist()) & set(stratified.ids.tolist()))[:50]
        for i in shared:
            first, second = (source[source.ids.tolist().index(i)]["image"] for source in (classic, stratified))
            assert torch.equal(first, second)

    def test_without_movement_the_digit_stands_in_the_middle(self) -> None:
        moved = DigitsConfig(moved=True, rotation=0, shift=0).load().train.fetch(torch.arange(20))["images"]
        still = DigitsConfig().load().train.fetch(torch.arange(20))["images"]
        assert torch.equal(moved[:, :, 2:10, 2:10], still)
        assert int(moved.sum()) == int(still.sum())

    def test_movement_takes_the_ground_from_raw_pixels(self) -> None:
        from sklearn.linear_model import RidgeClassifier

        scores = []
        for moved in (False, True):
            splits = DigitsConfig(moved=moved).load()
            (x, y), (x_test, y_test) = (
                (s.fetch(torch.arange(len(s)))["images"].flatten(1).numpy() / 255.0, s.labels.numpy())
                for s in (splits.train, splits.test)
            )
            scores.append(RidgeClassifier().fit(x, y).score(x_test, y_test))
        assert scores[0] > 0.85
        assert scores[1] < 0.45

    def test_impossible_movement_is_refused(self) -> None:
        with pytest.raises(ValueError, match="canvas=7"):
            DigitsConfig(canvas=7)
        with pytest.raises(ValueError, match="'classic' or 'stratified'"):
            DigitsConfig(split="random")  # type: ignore[arg-type]


class TestArraySource:
    def test_everything_known_comes_with_a_batch(self) -> None:
        source = ArraySource(
            torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
            torch.tensor([0, -1, 1], dtype=torch.int32),
            ids=torch.tensor([9, 4, 7]),
            class_names=["a", "b"],
            text=["x", "y", "z"],
            text_embedding=torch.eye(3),
            bias_labels=torch.tensor([1, 0, 1]),
        )
        part = source.subset(torch.tensor([2, 0]))
        batch = part.fetch(torch.tensor([1, 0, 1]))
        assert batch["ids"].tolist() == [9, 7, 9]
        assert batch["labels"].tolist() == [0, 1, 0]
        assert batch["text"] == ["x", "z", "x"]
        assert batch["text_embedding"].argmax(1).tolist() == [0, 2, 0]
        assert batch["bias_labels"].tolist() == [1, 1, 1]
        assert part[0]["text"] == "z"
        assert part.class_names == ("a", "b")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"labels": torch.tensor([0, 1])}, r"3 images, labels \(2,\)"),
            ({"labels": torch.tensor([0, -2, 1])}, "at least -1"),
            ({"labels": torch.tensor([0, 2, 1]), "class_names": ["a", "b"]}, "only 2 class names"),
            ({"ids": torch.tensor([5, 5, 6])}, r"more than once: \[5\]"),
            ({"text": ["a"]}, "text must have one entry per image"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ArraySource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), **options)

    def test_wrong_types_are_refused(self) -> None:
        images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
        with pytest.raises(TypeError, match="uint8"):
            ArraySource(images.float())
        for labels in (torch.zeros(3), torch.zeros(3, dtype=torch.bool), [0, 1, 2]):
            with pytest.raises(TypeError, match="integers"):
                ArraySource(images, labels)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="C = 1"):
            ArraySource(torch.zeros(3, 2, 8, 8, dtype=torch.uint8))


class TestConversion:
    def test_every_form_of_one_image_is_the_same_image(self) -> None:
        array = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
        expected = torch.from_numpy(array).permute(2, 0, 1)
        forms = [
            array,
            array.transpose(2, 0, 1),
            expected,
            Image.fromarray(array),
            array / 255.0,
            expected.float() / 255,
            (expected.double() / 255).half(),
        ]
        for form in forms:
            assert torch.equal(to_uint8(form), expected)
        grey = array[..., 0]
        for form in (grey, torch.from_numpy(grey), Image.fromarray(grey), grey[..., None], grey[None]):
            assert torch.equal(to_uint8(form), torch.from_numpy(grey)[None])

    def test_stacks_of_every_layout(self) -> None:
        for shape in ((7, 6, 5), (7, 6, 5, 1), (7, 1, 6, 5)):
            assert stack_to_uint8(np.zeros(shape, dtype=np.uint8)).shape == (7, 1, 6, 5)
        assert stack_to_uint8(np.zeros((7, 4, 5, 3), dtype=np.uint8)).shape == (7, 3, 4, 5)  # both ends fit: last wins
        assert stack_to_uint8(np.ones((2, 3, 3), dtype=bool)).unique().tolist() == [255]

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA", "I;16", "I"])
    def test_pil_modes(self, mode: str) -> None:
        channels = {"1": 1, "L": 1, "I;16": 1, "I": 1, "LA": 4, "RGBA": 4}.get(mode, 3)
        assert to_uint8(Image.new(mode, (5, 3))).shape == (channels, 3, 5)

    def test_sixteen_bit_grey_is_scaled_not_clipped(self) -> None:
        values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
        assert to_uint8(Image.fromarray(values)).tolist() == [[[0, 1, 128, 255]]]

    @pytest.mark.parametrize(
        ("image", "error", "message"),
        [
            (np.full((4, 4), 1.5), ValueError, r"b.png: float images must be finite and in \[0, 1\]; found 1.5"),
            (np.full((4, 4), np.nan), ValueError, "must be finite"),
            (np.zeros((4, 4), dtype=np.int32), TypeError, "int32"),
            (np.zeros((4, 4), dtype=np.complex64), TypeError, "complex64"),
            (np.array([["a"]]), TypeError, "b.png: expected uint8"),
            (torch.zeros(2, 4, 4), ValueError, "channels first or last"),
            ("picture", TypeError, "found str"),
            (Image.new("F", (2, 2)), ValueError, "floating-point"),
        ],
    )
    def test_what_is_no_image_is_named(self, image: object, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            to_uint8(image, where="b.png")


class TestArrays:
    def save(self, folder: Path, **arrays: np.ndarray) -> str:
        np.savez(folder / "set.npz", **arrays)
        return str(folder / "set.npz")

    def test_a_given_test_part_is_used(self, tmp_path: Path) -> None:
        path = self.save(
            tmp_path,
            images=np.zeros((6, 9, 8, 3), dtype=np.uint8),
            labels=np.array([0, 1, 0, 1, 0, -1], dtype=np.int8),
            text_embedding=np.eye(6),
            text=np.array(list("abcdef")),
            class_names=np.array(["cat", "dog"]),
            test_images=np.ones((2, 9, 8, 3), dtype=np.uint8),
            test_labels=np.array([1, 1]),
        )
        splits = ArraysConfig(path).load()
        check_contract(splits)
        assert splits.test.ids.tolist() == [6, 7]
        assert splits.train.class_names == ("cat", "dog")
        assert splits.train.fetch(torch.tensor([2]))["text"] == ["c"]
        assert splits.train.fetch(torch.tensor([2]))["text_embedding"].dtype == torch.float32

    def test_a_hold_out_keeps_copies_together(self, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8)
        path = self.save(tmp_path, images=np.concatenate([images, images, images]), labels=np.arange(90) % 3)
        splits = ArraysConfig(path, test_fraction=0.3, seed=1).load()
        check_contract(splits)
        assert len(splits.train) + len(splits.test) == 90
        train, test = (set(image_digests(s.fetch(torch.arange(len(s)))["images"])) for s in (splits.train, splits.test))
        assert not train & test
        assert len(test) > 3

    @pytest.mark.parametrize(
        ("arrays", "error", "message"),
        [
            ({"labels": np.zeros(2)}, ValueError, "must hold `images`"),
            ({"images": np.zeros((2, 8, 8)), "label": np.zeros(2)}, ValueError, "found images, label"),
            ({"images": np.zeros((2, 8, 8)), "labels": np.zeros(3, dtype=int)}, ValueError, "2 images, labels"),
            ({"images": np.zeros((2, 8, 8)), "labels": np.array(["a", "b"])}, TypeError, "labels must hold numbers"),
            ({"images": np.zeros((2, 8, 8)) + 7}, ValueError, "float images must be"),
            ({"images": np.zeros((2, 8, 8)), "test_labels": np.zeros(2)}, ValueError, "without test_images"),
            ({"images": np.zeros((2, 8, 8)), "test_images": np.zeros((2, 9, 8))}, ValueError, "must be alike"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, tmp_path: Path, arrays: dict, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            ArraysConfig(self.save(tmp_path, **arrays)).load()

    def test_missing_and_damaged_files(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="give the path"):
            ArraysConfig(str(tmp_path / "no.npz")).load()
        (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
        with pytest.raises(ValueError, match="not a readable"):
            ArraysConfig(str(tmp_path / "bad.npz")).load()
        np.save(tmp_path / "plain.npy", np.zeros(3))
        with pytest.raises(ValueError, match="not a readable"):
            ArraysConfig(str(tmp_path / "plain.npy")).load()


def test_hold_out_takes_some_of_every_class() -> None:
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 2 + [3])
    train, test = hold_out(113, fraction=0.2, seed=0, labels=labels)
    assert labels[test].bincount(minlength=4).tolist() == [20, 2, 1, 0]
    assert sorted(train.tolist() + test.tolist()) == list(range(113))
    assert hold_out(113, fraction=0.2, seed=0, labels=labels)[1].tolist() == test.tolist()
    assert hold_out(113, fraction=0.2, seed=1, labels=labels)[1].tolist() != test.tolist()
    assert len(hold_out(5, fraction=0.0, seed=0)[1]) == 0
    with pytest.raises(ValueError, match="test_fraction"):
        hold_out(5, fraction=1.0, seed=0)


def write_idx(path: Path, array: np.ndarray, *, compressed: bool = False) -> None:
    code = {"uint8": 8, "int32": 0x0C, "float32": 0x0D}[array.dtype.name]
    data = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data += array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if compressed else data)


class TestIDX:
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
    def test_what_is_written_is_read(self, tmp_path: Path, dtype: type, compressed: bool) -> None:
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)
        write_idx(tmp_path / "a", array, compressed=compressed)
        read = read_idx(tmp_path / "a")
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"PNG....", "not an IDX file"),
            (b"\0\0\x08\x02\0\0", "truncated"),
            (b"\0\0\x08\x01\0\0\0\x05abc", "should hold 13 bytes"),
            (gzip.compress(bytes(100), mtime=0)[:-12], "damaged gzip"),
        ],
    )
    def test_damaged_files_are_named(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_idx(tmp_path / "file")


class TestFashionMNIST:
    def write_set(self, folder: Path, *, compressed: bool = False, classes: int = 10) -> None:
        rng = np.random.default_rng(0)
        for stem, count in zip(IDX_STEMS, (20, 20, 6, 6), strict=True):
            name = stem + ".gz" * compressed
            if "images" in stem:
                array = rng.integers(0, 256, (count, 9, 7), dtype=np.uint8)
            else:
                array = (np.arange(count) % classes).astype(np.uint8)
            write_idx(folder / name, array, compressed=compressed)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_any_folder_of_the_same_form(self, tmp_path: Path, compressed: bool) -> None:
        self.write_set(tmp_path, compressed=compressed)
        splits = FashionMNISTConfig(root=str(tmp_path)).load()
        check_contract(splits)
        assert splits.test.ids.tolist() == list(range(20, 26))
        assert splits.train.image_size == (9, 7)

    def test_other_classes_need_other_names_or_none(self, tmp_path: Path) -> None:
        self.write_set(tmp_path, classes=12)
        with pytest.raises(ValueError, match="only 10 class names"):
            FashionMNISTConfig(root=str(tmp_path)).load()
        assert FashionMNISTConfig(root=str(tmp_path), class_names=None).load().train.class_names is None

    def test_the_places_it_is_looked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "sets" / "fashion-mnist").mkdir(parents=True)
        (tmp_path / ".data" / "fashion-mnist").mkdir(parents=True)
        self.write_set(tmp_path / ".data" / "fashion-mnist")
        monkeypatch.delenv("KINFOLK_DATA", raising=False)
        assert len(FashionMNISTConfig().load().train) == 20
        monkeypatch.setenv("KINFOLK_DATA", str(tmp_path / "sets"))
        with pytest.raises(FileNotFoundError, match=r"must hold train-images-idx3-ubyte or .*\.gz; found \[\]"):
            FashionMNISTConfig().load()

    @pytest.mark.skipif(Path("/usr/share/datasets/fashion-mnist").exists(), reason="the system has the data set")
    def test_a_missing_set_says_how_to_get_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("KINFOLK_DATA", raising=False)
        with pytest.raises(FileNotFoundError, match="kinfolk data prepare fashion-mnist"):
            FashionMNISTConfig().load()

    def test_the_real_data(self) -> None:
        folder = Path(__file__).parents[2] / ".data" / "fashion-mnist"
        if not folder.is_dir():
            pytest.skip("fashion-mnist is not there; `kinfolk data prepare fashion-mnist --out .data/fashion-mnist`")
        splits = FashionMNISTConfig(root=str(folder)).load()
        assert (len(splits.train), len(splits.test), splits.train.image_size) == (60_000, 10_000, (28, 28))
        assert splits.train.labels.bincount().tolist() == [6000] * 10
        mean = splits.train.fetch(torch.arange(60_000))["images"].double().mean() / 255
        assert abs(float(mean) - 0.2860) < 1e-4  # the published mean of the training images


class Coloured(Dataset):
    """A data set as users have them: other keys, PIL images, no ids."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> dict:
        return {"img": Image.new("RGB", self.sizes[index], (index, 0, 0)), "fine": index % 2, "text": f"no {index}"}


class TestMapping:
    @pytest.mark.parametrize("limit", [0, 100])
    def test_a_users_data_set(self, limit: int) -> None:
        keys = {"image": "img", "label": "fine"}
        source = MappingSource(Coloured([(9, 7)] * 5), keys=keys, class_names=["x", "y"], memory_limit_mb=limit)
        check_contract(
            Splits(
                source,
                MappingSource(
                    [{"image": torch.zeros(3, 7, 9), "id": i + 5, "label": 0} for i in range(2)], class_names=["x", "y"]
                ),
            )
        )
        assert source.in_memory == (limit > 0)
        batch = source.fetch(torch.tensor([3, 1]))
        assert batch["images"][:, 0, 0, 0].tolist() == [3, 1]
        assert batch["labels"].tolist() == [1, 1]
        assert batch["text"] == ["no 3", "no 1"]

    def test_ids_and_embeddings(self) -> None:
        rows = [{"image": np.zeros((8, 8)), "id": 10 - i, "text_embedding": [float(i), 1.0]} for i in range(3)]
        source = MappingSource(rows)
        assert source.ids.tolist() == [10, 9, 8]
        assert source.labels is None
        assert source.fetch(torch.tensor([2]))["text_embedding"].tolist() == [[2.0, 1.0]]

    def test_one_source_wraps_another(self) -> None:
        digits = DigitsConfig().load().test
        wrapped = MappingSource(digits, class_names=digits.class_names)
        everything = torch.arange(len(digits))
        for name, values in digits.fetch(everything).items():
            assert torch.equal(wrapped.fetch(everything)[name], values)

    @pytest.mark.parametrize(
        ("dataset", "error", "message"),
        [
            ([], ValueError, "empty"),
            ([(1, 2)], TypeError, "sample 0 of 'mapping' must be a mapping"),
            ([{"img": 1}], ValueError, "has no 'image'; it has"),
            ([{"image": torch.zeros(8, 8)}, {"image": torch.zeros(9, 8)}], ValueError, "sample 1 is 1x9x8"),
            ([{"image": torch.zeros(8, 8)}, {"image": torch.zeros(3, 8, 8)}], ValueError, "sample 1 is 3x8x8"),
            ([{"image": torch.zeros(8, 8), "label": 1}, {"image": torch.zeros(8, 8)}], ValueError, "same keys"),
            ([{"image": torch.zeros(8, 8), "label": "cat"}], TypeError, "label must be an integer; found 'cat'"),
            ([{"image": torch.zeros(8, 8), "text": " "}], ValueError, "sample 0 of 'mapping': text must be"),
            ([{"image": torch.zeros(8, 8), "id": 1}, {"image": torch.zeros(8, 8), "id": 1}], ValueError, "unique"),
            ([{"image": torch.full((8, 8), 2.0)}], ValueError, "sample 0 of 'mapping': float images"),
        ],
    )
    def test_bad_samples_are_named(self, dataset: list, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            MappingSource(dataset)

    def test_unknown_keys_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"found \['picture'\]"):
            MappingSource([{"image": torch.zeros(8, 8)}], keys={"picture": "image"})
