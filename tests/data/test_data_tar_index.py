"""Indexing tar files: what is found, what is refused, and what is said about damaged ones."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from kinfolk.data.sources.tar_cache import INDEX_FILE, index_shards, read_index
from kinfolk.data.sources.tar_index import DamagedShard, ShardIndex, index_shard

PLAIN = [("a.png", b"A" * 700), ("a.json", b"{}"), ("b.png", b"B" * 3), ("b.json", b'{"label":1}')]


def write_tar(
    path: Path, members: Sequence[tuple[str, bytes] | tarfile.TarInfo], *, form: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def contents(path: Path, index: ShardIndex) -> dict[str, dict[str, bytes]]:
    data = path.read_bytes()
    return {
        key: {
            ending: data[index.offset[number] : index.offset[number] + index.length[number]]
            for ending, number in members.items()
        }
        for key, members in index.members()
    }


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_member_is_found_where_it_lies(tmp_path: Path, form: int) -> None:
    path = write_tar(tmp_path / "x.tar", PLAIN, form=form)
    index = index_shard(path)
    assert contents(path, index) == {
        "a": {"png": b"A" * 700, "json": b"{}"},
        "b": {"png": b"BBB", "json": b'{"label":1}'},
    }
    assert index.texts == {1: b"{}", 3: b'{"label":1}'}
    assert index.problems == ()


def test_names_are_cut_at_the_first_dot_of_their_last_part_and_need_not_be_neighbours(tmp_path: Path) -> None:
    names = ["./d.x/one.PNG", "two.left.jpg", "noending", ".hidden.png", "d.x/one.cls", "./._one.png", "grüße.png"]
    members: list[tuple[str, bytes] | tarfile.TarInfo] = [(name, name.encode()) for name in names]
    folder = tarfile.TarInfo("d.x")
    folder.type = tarfile.DIRTYPE
    long = f"{'n' * 150}.png"
    path = write_tar(tmp_path / "x.tar", [folder, *members, (long, b"long")])
    assert contents(path, index_shard(path)) == {
        "d.x/one": {"png": b"./d.x/one.PNG", "cls": b"d.x/one.cls"},
        "two": {"left.jpg": b"two.left.jpg"},
        "grüße": {"png": "grüße.png".encode()},
        "n" * 150: {"png": b"long"},
    }


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


EVIL = {
    "absolute": ("/tmp/evil.png", b"x"),
    "climbs": ("../../evil.png", b"x"),
    "climbs inside": ("good/../../evil.json", b"{}"),
    "windows": ("..\\..\\evil.png", b"x"),
    "drive": ("C:\\evil.png", b"x"),
    "symbolic link": special("evil.png", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": special("evil.png", tarfile.LNKTYPE, "/etc/passwd"),
    "device": special("evil.png", tarfile.CHRTYPE),
    "pipe": special("evil.png", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL.keys())
def test_a_member_that_no_shard_should_have_is_refused_and_touches_nothing(
    tmp_path: Path, evil: tuple[str, bytes] | tarfile.TarInfo
) -> None:
    home = tmp_path / "deep" / "deeper"
    home.mkdir(parents=True)
    path = write_tar(home / "x.tar", [*PLAIN[:2], evil, *PLAIN[2:]])
    with pytest.raises(DamagedShard, match=r"x\.tar: member '.*evil.*' is refused: .*Mend it, or pass on_error='skip'"):
        index_shard(path)
    index = index_shard(path, on_error="skip")
    assert index.keys == ("a", "b")
    assert [problem for problem in index.problems if "evil" in problem]
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == [path]
    assert not Path("/tmp/evil.png").exists()


def test_a_sample_with_a_refused_member_is_left_out_whole(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [*PLAIN, special("b.txt", tarfile.SYMTYPE, "/etc/passwd")])
    index = index_shard(path, on_error="skip")
    assert index.keys == ("a",)
    assert index.problems[-1].endswith("samples left out: b")


@pytest.mark.parametrize("size", range(512, 5120, 256))
def test_a_tar_that_ends_early_says_where_and_keeps_what_is_whole(tmp_path: Path, size: int) -> None:
    path = write_tar(tmp_path / "x.tar", PLAIN, form=tarfile.USTAR_FORMAT)
    # headers at 0, 1536, 2560, 3584; the end at 4608
    assert index_shard(path).offset.tolist() == [512, 2048, 3072, 4096]
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    last = "a.png" if size >= 1212 else None
    last = "a.json" if size >= 2050 else last
    last = "b.png" if size >= 3075 else last
    last = "b.json" if size >= 4107 else last
    expected = "no member is whole" if last is None else f"the last whole member is '{last}'"
    with pytest.raises(DamagedShard, match=rf"x\.tar ends early \(.*\); {expected}"):
        index_shard(path)
    kept = index_shard(path, on_error="skip")
    # of a first sample that is the last one too nobody knows whether it is whole
    assert kept.keys == ("a", "b")[: (size >= 3072) + (size >= 4107)]


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", PLAIN, form=tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[3584:3624] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(DamagedShard, match=r"damaged or cut header at byte 3584\); the last whole member is 'b\.png'"):
        index_shard(path)
    assert index_shard(path, on_error="skip").keys == ("a",)


def test_a_member_that_is_there_twice_is_named_and_the_first_counts(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [*PLAIN, ("a.png", b"second")])
    with pytest.raises(DamagedShard, match=r"member 'a\.png' is there twice, the first one counts"):
        index_shard(path)
    assert contents(path, index_shard(path, on_error="skip"))["a"]["png"] == b"A" * 700


def test_compressed_empty_and_other_files_are_named(tmp_path: Path) -> None:
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(write_tar(tmp_path / "x.tar", PLAIN).read_bytes()))
    with pytest.raises(DamagedShard, match=r"is compressed; .* Unpack it once: `gzip -d x\.tar\.gz`"):
        index_shard(packed)
    for content in (b"", b"no tar at all" * 100, b"short"):
        (tmp_path / "y.tar").write_bytes(content)
        with pytest.raises(DamagedShard, match=r"y\.tar is not a tar file"):
            index_shard(tmp_path / "y.tar", on_error="skip")
    with pytest.raises(FileNotFoundError, match=r"no shard .*z\.tar'; it may have been moved"):
        index_shard(tmp_path / "z.tar")


def test_an_archive_without_members_has_no_samples(tmp_path: Path) -> None:
    assert index_shard(write_tar(tmp_path / "x.tar", [])).keys == ()


def test_a_name_that_is_not_utf_8_can_be_printed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a\udcff.png", b"x")], form=tarfile.GNU_FORMAT)
    assert index_shard(path).keys == ("a\\xff",)


def same(one: ShardIndex, other: ShardIndex) -> bool:
    return (
        (one.name, one.size, one.modified, one.keys, one.endings, one.texts)
        == (other.name, other.size, other.modified, other.keys, other.endings, other.texts)
        and one.offset.tolist() == other.offset.tolist()
        and one.length.tolist() == other.length.tolist()
        and one.sample.tolist() == other.sample.tolist()
    )


def test_an_index_is_kept_and_made_again_for_a_shard_that_changed(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{i}.tar", PLAIN[:2] if i else PLAIN) for i in range(3)]
    first = dict(index_shards(paths, problems=[]))
    kept = read_index(tmp_path)
    assert sorted(kept) == ["0.tar", "1.tar", "2.tar"]
    assert all(same(first[path], kept[path.name]) for path in paths)
    stamp = (tmp_path / INDEX_FILE).stat().st_mtime_ns
    dict(index_shards(paths[:2], problems=[]))
    assert (tmp_path / INDEX_FILE).stat().st_mtime_ns == stamp  # nothing new, nothing written
    write_tar(paths[1], [("c.png", b"C")])
    os.utime(paths[1], ns=(1, 1))
    again = dict(index_shards(paths, problems=[]))
    assert again[paths[1]].keys == ("c",)
    assert sorted(read_index(tmp_path)) == ["0.tar", "1.tar", "2.tar"]
    assert read_index(tmp_path)["1.tar"].keys == ("c",)


@pytest.mark.parametrize("content", [b"", b"not an npz", b"PK\x03\x04 broken"])
def test_a_damaged_index_file_is_made_again(tmp_path: Path, content: bytes) -> None:
    path = write_tar(tmp_path / "0.tar", PLAIN)
    (tmp_path / INDEX_FILE).write_bytes(content)
    assert dict(index_shards([path], problems=[]))[path].keys == ("a", "b")
    assert list(read_index(tmp_path)) == ["0.tar"]


def test_an_index_that_cannot_be_written_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "0.tar", PLAIN)

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", refuse)  # root may write anywhere, so the folder's mode would not do
    assert dict(index_shards([path], problems=[]))[path].keys == ("a", "b")
    assert not (tmp_path / INDEX_FILE).exists()


def test_a_damaged_shard_is_looked_at_again_each_time(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", PLAIN, form=tarfile.USTAR_FORMAT)
    path.write_bytes(path.read_bytes()[:3200])
    for _ in range(2):
        index = dict(index_shards([path], on_error="skip", problems=[]))[path]
        assert index.problems
    with pytest.raises(DamagedShard):
        dict(index_shards([path], problems=[]))
