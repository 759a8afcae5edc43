"""Writing shards: what is in them, that they are whole or not there, and that they read back as they were."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinfolk.data.shard_writer import ShardWriter
from kinfolk.data.sharding import shard
from kinfolk.data.sources.base import ArraySource, Source, Splits
from kinfolk.data.sources.folder import ImageFolderConfig
from kinfolk.data.sources.shards import ShardsConfig


def images(count: int, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, 6, 5), generator=generator, dtype=torch.uint8)


def everything(count: int = 23, channels: int = 3) -> ArraySource:
    """A source with every column there is, and one more."""
    numbers = torch.arange(count)
    columns: dict[str, Any] = {
        "groups": numbers // 3 - 1,
        "times": numbers.double() / 7,
        "attributes": torch.stack([numbers / 3, -numbers / 9], dim=1),
        "hierarchy": [f"tier/hund/{i % 4}" for i in range(count)],
        "true_labels": numbers % 3,
        "saliency": images(count, 1, seed=2),
        "style": [f"hand {i}" for i in range(count)],
    }
    return ArraySource(
        images(count, channels),
        numbers % 3 - 1,
        ids=numbers * 7 + 3,
        class_names=("Hund", "Käfer"),
        text=[f'caption {i}: "ü", \n 猫' for i in range(count)],
        text_embedding=torch.randn(count, 4, generator=torch.Generator().manual_seed(1)).half(),
        bias_labels=numbers % 5 - 1,
        columns=columns,
        name="everything",
    )


def assert_same(found: Source, expected: Source) -> None:
    rows = torch.arange(len(expected))
    assert found.ids.equal(expected.ids)
    assert found.class_names == expected.class_names
    assert found.read(rows).equal(expected.read(rows))
    assert found.columns.keys() == expected.columns.keys()
    for name, values in expected.columns.items():
        if isinstance(values, Tensor):
            assert found.columns[name].dtype == values.dtype, name  # type: ignore[union-attr]
            assert torch.equal(found.columns[name], values), name  # type: ignore[arg-type]
        else:
            assert found.columns[name] == values, name


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_tar_shards_give_back_every_pixel_and_every_column(tmp_path: Path, channels: int, image_format: Any) -> None:
    whole = everything(channels=channels)
    splits = Splits(
        whole.subset(torch.arange(15)), whole.subset(torch.arange(15, 23)), whole.subset(torch.tensor([4, 2]))
    )
    out = shard(splits, tmp_path / "out", max_samples=4, image_format=image_format)
    found = ShardsConfig(str(out), image_size=(6, 5)).load()
    assert_same(found.train, splits.train)
    assert_same(found.test, splits.test)
    assert found.probe is not None
    assert splits.probe is not None
    assert_same(found.probe, splits.probe)
    assert len(list(out.glob("train-*.tar"))) == 4


def test_parquet_files_are_what_hugging_face_s_library_decodes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = everything()
    splits = Splits(whole.subset(torch.arange(15)), whole.subset(torch.arange(15, 23)))
    out = shard(splits, tmp_path / "out", form="parquet", max_samples=6)
    assert [file.name for file in sorted((out / "data").iterdir())] == [
        "test-00000-of-00002.parquet",
        "test-00001-of-00002.parquet",
        *(f"train-{i:05d}-of-00003.parquet" for i in range(3)),
    ]
    found = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert found["train"].features["label"].names == ["Hund", "Käfer"]
    first = found["train"][4]
    assert torch.from_numpy(np.array(first["image"])).permute(2, 0, 1).equal(whole.images[4])
    assert found["test"]["id"][:] == splits.test.ids.tolist()
    assert found["train"]["text"][:] == splits.train.text
    assert first["label"] == 0
    assert first["text_embedding"] == whole.text_embedding[4].tolist()  # type: ignore[index]
    assert first["style"] == "hand 4"


def test_parquet_files_give_back_every_pixel_and_column_to_their_source(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    from kinfolk.data.sources.huggingface import HuggingFaceConfig

    whole = everything()
    del (
        whole.columns["saliency"],
        whole.columns["style"],
        whole.columns["true_labels"],
    )  # what that source does not read
    splits = Splits(whole.subset(torch.arange(15)), whole.subset(torch.arange(15, 23)))
    out = shard(splits, tmp_path / "out", form="parquet")
    found = HuggingFaceConfig(str(out), image_size=(6, 5), cache=str(tmp_path / "cache")).load()
    for part, expected in ((found.train, splits.train), (found.test, splits.test)):
        rows = torch.arange(len(expected))
        assert part.read(rows).equal(expected.read(rows))
        assert part.ids.equal(expected.ids)
        assert part.class_names == expected.class_names
        assert part.text == expected.text
        assert part.columns.keys() == expected.columns.keys()
        for name in ("labels", "bias_labels", "groups", "times", "attributes", "text_embedding"):
            assert torch.equal(part.columns[name].double(), expected.columns[name].double()), name  # type: ignore[union-attr]


def write_folder(root: Path) -> None:
    from PIL import Image

    for number, image in enumerate(images(6)):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.resize((40, 30)).save(root / "ab"[number % 2] / f"{number}.jpg", quality=70)


def test_encoded_images_pass_on_byte_by_byte(tmp_path: Path) -> None:
    write_folder(tmp_path / "in")
    splits = ImageFolderConfig(str(tmp_path / "in"), image_size=(8, 8), test_fraction=0.4, memory_limit_mb=0).load()
    out = shard(splits, tmp_path / "out")
    with tarfile.open(out / "train-000000.tar") as tar:
        contents = {tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")}  # type: ignore[union-attr]
    assert len(contents) == len(splits.train) > 0
    assert contents < {file.read_bytes() for file in (tmp_path / "in").rglob("*.jpg")}
    found = ShardsConfig(str(out), image_size=(8, 8)).load()
    assert_same(found.train, splits.train)
    assert_same(found.test, splits.test)
    small = shard(splits, tmp_path / "small", image_format="png")  # the fitted pixels instead
    assert_same(ShardsConfig(str(small), image_size=(8, 8)).load().train, splits.train)


def test_an_unreadable_image_stops_the_writing_or_is_left_out_as_its_source_says(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_folder(folder)
    config = ImageFolderConfig(str(folder), image_size=(8, 8), test_fraction=0, memory_limit_mb=0)
    strict = config.load()
    lenient = ImageFolderConfig(
        str(folder), image_size=(8, 8), test_fraction=0, memory_limit_mb=0, on_error="skip"
    ).load()
    (folder / "b" / "3.jpg").write_bytes(b"no longer an image")
    with pytest.raises(ValueError, match=r"3\.jpg cannot be read as an image"):
        shard(strict, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]  # nothing half-written stays
    with pytest.warns(UserWarning, match=r"1 images left out\n.*3\.jpg"):
        out = shard(lenient, tmp_path / "out")
    found = ShardsConfig(str(out), image_size=(8, 8), test_fraction=0).load()
    assert set(strict.train.ids.tolist()) - set(found.train.ids.tolist()) == {4}  # a/0 a/2 a/4 b/1 b/3 b/5
    assert len(found.train) == 5


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    source = everything()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"not empty; give another folder"):
        shard(Splits(source, source), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_choices_that_do_not_exist_are_named(tmp_path: Path) -> None:
    splits = Splits(everything(), everything())
    with pytest.raises(ValueError, match=r"form must be one of \('tar', 'parquet'\); found 'zip'"):
        shard(splits, tmp_path / "out", form="zip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image_format must be one of .* found 'gif'"):
        shard(splits, tmp_path / "out", image_format="gif")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_samples must be at least 1; found 0"):
        shard(splits, tmp_path / "out", max_samples=0)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    splits = Splits(everything(), everything())
    said: list[str] = []
    one, other = (shard(splits, tmp_path / name, progress=said.append) for name in ("one", "other"))
    assert said == 2 * ["train: 23 of 23 written", "test: 23 of 23 written"]
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()


def test_members_of_a_sample_are_neighbours_and_belong_to_nobody(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, max_samples=2) as writer:
        for i in range(3):
            writer.write(f"k{i}", b"x" * i, metadata={"id": i, "label": "猫"}, extra={"saliency.png": b"m"})
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [f"k{i}.{end}" for i in (0, 1) for end in ("png", "saliency.png", "json")]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
    index = json.loads((tmp_path / "kinfolk.json").read_text())
    assert index["class_names"] == ["猫"]
    assert index["parts"]["train"] == {"samples": 3, "shards": ["train-000000.tar", "train-000001.tar"]}


def test_parts_fill_one_folder_and_its_index(tmp_path: Path) -> None:
    for part in ("train", "test"):
        with ShardWriter(tmp_path, part=part, class_names=("a", "b"), channels=3, info={"licence": "CC0"}) as writer:
            writer.write("one", b"x", metadata={"label": 1})
    index = json.loads((tmp_path / "kinfolk.json").read_text())
    assert sorted(index["parts"]) == ["test", "train"]
    assert (index["licence"], index["channels"], index["class_names"]) == ("CC0", 3, ["a", "b"])
    with pytest.raises(ValueError, match=r"class_names \['a', 'b'\], this part \['a', 'c'\]; parts of one data set"):
        ShardWriter(tmp_path, part="val", class_names=("a", "c"))
    with pytest.raises(FileExistsError, match=r"has 1 shards of the part 'train' already"):
        ShardWriter(tmp_path)


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../x", "a\\b", "a\nb", "-x"])
def test_keys_that_would_break_a_shard_are_refused(tmp_path: Path, key: str) -> None:
    writer = ShardWriter(tmp_path)
    with pytest.raises(ValueError, match=r"key must be a name without dots, slashes and control characters"):
        writer.write(key, b"x")


def test_wrong_samples_are_named(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.write("a", b"x")
    with pytest.raises(ValueError, match=r"key must be unique in the part 'train'; 'a' was written before"):
        writer.write("a", b"x")
    with pytest.raises(ValueError, match=r"ending must be one of .*png.*; found 'svg'"):
        writer.write("b", b"x", ending="svg")
    with pytest.raises(TypeError, match=r"image must be encoded bytes; found str for key 'b'"):
        writer.write("b", "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"metadata of 'b' must hold strings, numbers and lists.*Use \.tolist\(\)"):
        writer.write("b", b"x", metadata={"attributes": torch.ones(2)})
    writer.close()


def test_after_an_error_nothing_of_the_part_stays(tmp_path: Path) -> None:
    def fail_midway() -> None:
        with ShardWriter(tmp_path, max_samples=1) as writer:
            writer.write("a", b"x")
            writer.write("b", b"x")
            raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        fail_midway()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"nothing was written"), ShardWriter(tmp_path):
        pass
    with (
        pytest.raises(ValueError, match=r"labels without a class name: \['c'\]"),
        ShardWriter(tmp_path, class_names=("a",)) as writer,
    ):
        writer.write("a", b"x", metadata={"label": "c"})
    assert list(tmp_path.iterdir()) == []


def test_a_table_has_no_images_to_shard(tmp_path: Path) -> None:
    table = Table()
    with pytest.raises(ValueError, match=r"'table' is a table and has no images to shard"):
        shard(Splits(table, table), tmp_path / "out")


class Table(Source):
    name, channels, image_size, class_names = "table", 3, (1, 1), None
    ids, columns = torch.arange(2), {}

    def read(self, indices: Tensor) -> Tensor:
        return torch.zeros(len(indices), 3, 1, 1)
