"""Tar shards as a source: parts, metadata, reading at random in any process, and shards by other hands."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kinfolk.data.loader import BatchReader
from kinfolk.data.samplers.shards import ShardSampler, shard_numbers
from kinfolk.data.shard_writer import ShardWriter
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.shard_listing import expand_braces, list_shards
from kinfolk.data.sources.shards import ShardsConfig, ShardSource

Sample = tuple[str, Mapping[str, bytes]]


def picture(number: int, *, form: str = "png", mode: str = "RGB") -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    colour = (number * 40 % 256, number, 255 - number, 128)[: len(mode)] if mode != "L" else number
    Image.new(mode, (6, 6), colour).save(buffer, form)
    return buffer.getvalue()


def write(path: Path, samples: Sequence[Sample]) -> Path:
    """A shard as somebody packs it by hand."""
    import tarfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def plain(first: int, count: int) -> list[Sample]:
    return [(f"{i:04d}", {"png": picture(i), "cls": str(i % 2).encode()}) for i in range(first, first + count)]


def load(path: Path | str, **options: Any) -> Any:
    return ShardsConfig(str(path), **{"image_size": (6, 6), **options}).load()


def first_pixel(source: Any) -> list[int]:
    return source.read(torch.arange(len(source)))[:, 1, 0, 0].tolist()


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "train-1.tar", plain(10, 3))
    write(tmp_path / "train-0.tar", plain(0, 3))
    write(tmp_path / "val-0.tar", plain(20, 2))
    splits = load(tmp_path)
    assert first_pixel(splits.train) == [0, 1, 2, 10, 11, 12]
    assert first_pixel(splits.test) == [20, 21]
    assert splits.train.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert splits.test.ids.tolist() == [6, 7]
    assert splits.train.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert shard_numbers(splits.train).tolist() == [0, 0, 0, 1, 1, 1]
    assert shard_numbers(splits.train.subset(torch.tensor([4, 2])).subset(torch.tensor([1]))).tolist() == [0]
    assert splits.train.channels == 3


def test_without_a_test_part_a_seeded_share_of_every_class_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", plain(0, 20))
    splits = load(tmp_path, test_fraction=0.2)
    assert (len(splits.train), len(splits.test)) == (16, 4)
    assert splits.test.labels.bincount().tolist() == [2, 2]
    assert sorted(splits.train.ids.tolist() + splits.test.ids.tolist()) == list(range(20))
    other = load(tmp_path, test_fraction=0.2, seed=1)
    assert set(other.test.ids.tolist()) != set(splits.test.ids.tolist())
    assert first_pixel(other.test) == other.test.ids.tolist()  # ids do not depend on the split


def test_groups_and_copies_stay_on_one_side_of_the_hold_out(tmp_path: Path) -> None:
    copies = [(f"{i:04d}", {"png": picture(i % 10)}) for i in range(20)]
    write(tmp_path / "copies" / "a.tar", copies)
    splits = load(tmp_path / "copies")
    assert set(first_pixel(splits.train)).isdisjoint(first_pixel(splits.test))
    grouped = [(f"{i:04d}", {"png": picture(i), "json": json.dumps({"group": i // 4}).encode()}) for i in range(20)]
    write(tmp_path / "groups" / "a.tar", grouped)
    splits = load(tmp_path / "groups")
    train, test = (set(part.columns["groups"].tolist()) for part in (splits.train, splits.test))
    assert train.isdisjoint(test)
    assert train | test == set(range(5))


def test_a_path_may_be_a_folder_a_file_or_a_pattern(tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path / f"s-{i:06d}.tar", plain(i, 1))
    write(tmp_path / "other" / "t.tar", plain(50, 1))
    assert len(load(tmp_path, test_fraction=0).train) == 12
    assert first_pixel(load(f"{tmp_path}/s-{{000008..000011}}.tar", test_fraction=0).train) == [8, 9, 10, 11]
    assert first_pixel(load(f"{tmp_path}/s-00000[23].tar", test_fraction=0).train) == [2, 3]
    splits = load(tmp_path / "s-000004.tar", test_path=str(tmp_path / "other"))
    assert (first_pixel(splits.train), first_pixel(splits.test)) == ([4], [50])


def test_braces_are_written_out_as_a_shell_does() -> None:
    assert expand_braces("a{1..3}b{x,y}") == ["a1bx", "a1by", "a2bx", "a2by", "a3bx", "a3by"]
    assert expand_braces("{009..011}") == ["009", "010", "011"]
    assert expand_braces("{x}/{}") == ["{x}/{}"]


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["imagenet-train-0.tar", "imagenet-val-0.tar"], ["imagenet-train-0.tar"], ["imagenet-val-0.tar"]),
        (["train/0.tar", "train/1.tar", "validation/0.tar"], ["0.tar", "1.tar"], ["0.tar"]),
        (["train_0.tar", "test_0.tar", "val_0.tar", "x.tar"], ["train_0.tar"], ["test_0.tar"]),
        (["constrain-0.tar", "latest-0.tar"], ["constrain-0.tar", "latest-0.tar"], []),
        (["test-0.tar", "test-1.tar"], ["test-0.tar", "test-1.tar"], []),
    ],
)
def test_parts_are_told_by_words_of_the_names(
    tmp_path: Path, names: list[str], train: list[str], test: list[str]
) -> None:
    for name in names:
        write(tmp_path / name, plain(0, 1))
    listing = list_shards(str(tmp_path))
    assert [path.name for path in listing.train] == train
    assert [path.name for path in listing.test] == test


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder or file .*nowhere'; give the folder of the tar shards"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no \.tar files"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file fits .*a-\*\.tar"):
        load(f"{tmp_path}/a-*.tar")
    (tmp_path / "a.tar.gz").touch()
    with pytest.raises(ValueError, match=r"compressed shards only, such as a\.tar\.gz; .* `gzip -d`"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"fit must be one of .* found 'squeeze'"):
        load(tmp_path, fit="squeeze")
    with pytest.raises(ValueError, match=r"image_size must be \(H, W\), at least one pixel each; found \(0, 6\)"):
        load(tmp_path, image_size=(0, 6))


def test_a_shard_that_the_index_lists_and_nobody_has_raises_or_is_listed(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, max_samples=2) as writer:
        for i in range(6):
            writer.write(f"{i}", picture(i), metadata={"id": i})
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"no shard .*train-000001\.tar'; it may have been moved"):
        load(tmp_path)
    with pytest.warns(UserWarning, match=r"left out\n.*train-000001\.tar"):
        splits = load(tmp_path, on_error="skip", test_fraction=0)
    assert first_pixel(splits.train) == splits.train.ids.tolist() == [0, 1, 4, 5]


def test_a_tar_that_ends_early_raises_or_loses_its_last_sample_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", plain(0, 4))
    write(tmp_path / "b.tar", plain(10, 2))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"0003.png") + 600])
    with pytest.raises(ValueError, match=r"a\.tar ends early .* the last whole member is '0003\.png'\. Mend it"):
        load(tmp_path)
    with pytest.warns(UserWarning, match=r"left out\n.*a\.tar ends early"):
        splits = load(tmp_path, on_error="skip", test_fraction=0)
    assert first_pixel(splits.train) == [0, 1, 2, 10, 11]


def test_a_planted_member_never_reaches_the_file_system(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "set"
    write(home / "a.tar", [*plain(0, 2), ("../../planted", {"png": picture(9), "cls": b"1"})])
    with pytest.raises(ValueError, match=r"member '\.\./\.\./planted\.png' is refused: its name leads out of"):
        load(home)
    with pytest.warns(UserWarning, match=r"planted\.png' is refused"):
        splits = load(home, on_error="skip", test_fraction=0)
    assert first_pixel(splits.train) == [0, 1]
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files - {"deep/set/.kinfolk-index.npz"} == {"deep/set/a.tar"}


def test_metadata_become_columns(tmp_path: Path) -> None:
    records = [
        {
            "label": "dog",
            "caption": "a dog",
            "group": "g",
            "time": 2,
            "attributes": [1, 2.5],
            "hierarchy": "a/b",
            "x": 1,
        },
        {"label": "cat", "caption": ["", "a cat", "else"], "time": 3.5, "attributes": [3, 4], "hierarchy": "a/c"},
    ]
    write(
        tmp_path / "a.tar",
        [(f"{i}", {"jpg": picture(i, form="jpeg"), "json": json.dumps(r).encode()}) for i, r in enumerate(records)],
    )
    train = load(tmp_path, test_fraction=0).train
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [1, 0]
    assert train.text == ["a dog", "a cat"]
    assert train.columns["groups"].tolist() == [0, -1]
    assert train.columns["times"].tolist() == [2.0, 3.5]
    assert train.columns["attributes"].tolist() == [[1.0, 2.5], [3.0, 4.0]]
    assert train.columns["hierarchy"] == ["a/b", "a/c"]
    assert "x" not in train.columns


def test_text_members_serve_where_there_is_no_json_and_other_keys_can_be_named(tmp_path: Path) -> None:
    samples: list[Sample] = [
        (f"{i}", {"png": picture(i), "cls": b"7\n", "txt": "Käfer\n".encode(), "json": b'{"fine": "x", "alt": "y"}'})
        for i in range(2)
    ]
    write(tmp_path / "a.tar", samples)
    train = load(tmp_path, test_fraction=0).train
    assert (train.labels.tolist(), train.class_names, train.text) == ([7, 7], None, ["Käfer", "Käfer"])
    train = load(tmp_path, test_fraction=0, label_key="fine", text_key="alt").train
    assert (train.labels.tolist(), train.class_names, train.text) == ([0, 0], ("x",), ["y", "y"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"json": b"{"}, r"a\.tar, sample '0001': its \.json member is no JSON"),
        ({"json": b"[1]"}, r"sample '0001': its \.json member must hold an object; found list"),
        ({"json": b'{"text": "\xff"}'}, r"sample '0001': its \.json member is not UTF-8"),
        ({"cls": b"\xff"}, r"sample '0001': its \.cls member is not UTF-8"),
        ({"json": b'{"label": 1.5}'}, r"sample '0001': its label must be a whole number or a name; found 1\.5"),
        ({"cls": b"-2"}, r"sample '0001': its label must be a class counted from 0, or -1 for unlabelled; found -2"),
        ({"json": b'{"label": 1000000000000000000000}'}, r"its label must be a class counted from 0.*; found 10+"),
        ({"json": b"[" * 100_000}, r"sample '0001': its \.json member is no JSON"),
        ({"json": b'{"text": 5}'}, r"sample '0001': its caption must be a text, or a list of texts; found 5"),
        ({"jpg": b"x"}, r"sample '0001': it has two images, png and jpg"),
    ],
)
def test_a_sample_with_bad_metadata_raises_or_is_left_out(tmp_path: Path, bad: dict[str, bytes], message: str) -> None:
    samples = plain(0, 3)
    samples[1] = (samples[1][0], {"png": picture(1), **bad})
    write(tmp_path / "a.tar", samples)
    with pytest.raises(ValueError, match=message + r".*Mend it, or pass on_error='skip'"):
        load(tmp_path)
    with pytest.warns(UserWarning, match=message):
        splits = load(tmp_path, on_error="skip", test_fraction=0)
    assert first_pixel(splits.train) == [0, 2]


def test_names_with_more_dots_say_why_their_sample_has_no_image(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [("photo.1", {"png": picture(1)}), ("photo.2", {"png": picture(2)})])
    with pytest.raises(
        ValueError, match=r"sample 'photo': it has no image; its members end in 1\.png, 2\.png \(a name is cut"
    ):
        load(tmp_path)


def test_labels_are_numbers_or_names(tmp_path: Path) -> None:
    samples: list[Sample] = [("0", {"png": picture(0), "cls": b"3"}), ("1", {"png": picture(1), "cls": b"cat"})]
    write(tmp_path / "a.tar", samples)
    with pytest.raises(ValueError, match=r"labels are numbers or names, not both; found 3 and 'cat'"):
        load(tmp_path)


def test_an_id_counts_only_when_every_sample_has_another_whole_number(tmp_path: Path) -> None:
    for name, ids in (
        ("good", [5, 3, 9]),
        ("twice", [5, 3, 5]),
        ("text", ["a", "b", "c"]),
        ("some", [5, None, 3]),
        ("huge", [5, 3, 10**30]),
    ):
        records = [b"{}" if i is None else json.dumps({"id": i}).encode() for i in ids]
        write(tmp_path / name / "a.tar", [(f"{n}", {"png": picture(n), "json": r}) for n, r in enumerate(records)])
    ids_of = {name: load(tmp_path / name, test_fraction=0).train.ids.tolist() for name in os.listdir(tmp_path)}
    assert ids_of == {"good": [5, 3, 9], "twice": [0, 1, 2], "text": [0, 1, 2], "some": [0, 1, 2], "huge": [0, 1, 2]}


def test_channels_are_the_most_that_any_image_has(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [(f"{i}", {"png": picture(i, mode=mode)}) for i, mode in enumerate(["L", "RGBA", "RGB"])])
    assert load(tmp_path).train.channels == 4
    assert load(tmp_path, channels=1).train.channels == 1


def source_of(tmp_path: Path, count: int = 40) -> ShardSource:
    with ShardWriter(tmp_path / "shards", max_samples=7) as writer:
        for i in range(count):
            writer.write(f"{i:04d}", picture(i), metadata={"id": i, "label": i % 2})
    return load(tmp_path / "shards", test_fraction=0).train


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_processes_read_what_this_one_reads(tmp_path: Path, workers: int) -> None:
    source = source_of(tmp_path)
    source.read(torch.tensor([0]))  # a file is open before the processes fork
    sampler = ShardSampler(shard_numbers(source), batch_size=8, seed=0, buffer=5)
    with BatchReader(source, sampler, workers=workers) as reader:
        seen = list(reader.epoch(0))
    assert len(seen) == 5
    for batch in seen:
        assert batch["images"][:, 1, 0, 0].tolist() == batch["ids"].tolist()
    assert sorted(torch.cat([batch["ids"] for batch in seen]).tolist()) == list(range(40))


def test_a_source_travels_to_another_process(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    source.read(torch.tensor([3]))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(torch.tensor([3, 9])).equal(source.read(torch.tensor([3, 9])))


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    source = source_of(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: int(source.decode(i % 40)[1, 0, 0]), range(400)))
    assert found == [i % 40 for i in range(400)]


def test_a_shard_that_changes_after_it_was_indexed_is_not_read_as_if_it_had_not(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    shard = tmp_path / "shards" / "train-000002.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(
        UnreadableImage, match=r"train-000002\.tar, member 0015\.png cannot be read: .* has changed since"
    ):
        source.read(torch.tensor([15]))
    shard.unlink()
    source = pickle.loads(pickle.dumps(source))  # without the open file
    with pytest.raises(UnreadableImage, match=r"member 0015\.png cannot be read: .*No such file"):
        source.read(torch.tensor([15]))
    assert first_pixel(source.subset(torch.arange(14))) == list(range(14))


def test_an_index_left_behind_gives_the_same_source(tmp_path: Path) -> None:
    first = source_of(tmp_path)
    assert (tmp_path / "shards" / ".kinfolk-index.npz").is_file()
    again = load(tmp_path / "shards", test_fraction=0).train
    assert (again.place == first.place).all()
    assert again.ids.equal(first.ids)
    assert again.labels.equal(first.labels)
    assert again.read(torch.arange(40)).equal(first.read(torch.arange(40)))


def test_shards_of_the_webdataset_library_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(f"file:{tmp_path}/train-%06d.tar", maxcount=4, verbose=0) as sink:
        for i in range(10):
            image = torch.full((6, 6, 3), i, dtype=torch.uint8).numpy()
            sink.write({"__key__": f"s{i:03d}", "png": image, "cls": i % 3, "txt": f"nr {i} ü", "json": {"time": i}})
    train = load(tmp_path, test_fraction=0).train
    assert first_pixel(train) == list(range(10))
    assert train.labels.tolist() == [i % 3 for i in range(10)]
    assert train.text == [f"nr {i} ü" for i in range(10)]
    assert train.columns["times"].tolist() == [float(i) for i in range(10)]


@pytest.mark.filterwarnings("ignore")  # what that library warns of is not ours
def test_the_webdataset_library_reads_our_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    source = source_of(tmp_path)
    shards = sorted(str(path) for path in (tmp_path / "shards").glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [sample["json"]["id"] for sample in samples] == list(range(40))
    found = torch.stack([torch.from_numpy(sample["png"]).permute(2, 0, 1) for sample in samples])
    assert found.equal(source.read(torch.arange(40)))
