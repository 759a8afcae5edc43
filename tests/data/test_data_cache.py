"""The cache of decoded images: the same batches, decoded once, shared by workers, safe on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.data import BatchReader, CachedSource, DigitsConfig, ImageFolderConfig, PlainSampler, Source, cached
from kinfolk.data.cache import fingerprint
from kinfolk.data.folders import cache_folder
from kinfolk.data.sources.base import Subset
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.files import FileSource
from kinfolk.data.sources.listing import list_folder


def write_pictures(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", 12)
    return tmp_path / "pictures"


def source_of(folder: Path, on_error: str = "raise") -> FileSource:
    return FileSource(folder, list_folder(folder), channels=3, image_size=(8, 8), on_error=on_error)  # type: ignore[arg-type]


def count_decoding(source: FileSource, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded: list[int] = []
    decode = source.decode
    monkeypatch.setattr(source, "decode", lambda index: (decoded.append(index), decode(index))[1])
    return decoded


def test_every_image_is_decoded_once_and_comes_back_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = source_of(folder)
    whole = plain.read(torch.arange(12))
    decoded = count_decoding(plain, monkeypatch)
    source = CachedSource(plain)
    for positions in ([3, 1, 3], [1, 2], list(range(12)), list(range(12))):
        batch = source.fetch(torch.tensor(positions))
        assert batch["images"].equal(whole[positions])
        assert batch["ids"].tolist() == positions
    assert sorted(set(decoded)) == list(range(12))
    assert len(decoded) == 13  # one batch asked for 3 twice before it was kept
    assert source.is_complete


def test_workers_share_what_they_decode(folder: Path) -> None:
    source, sampler = CachedSource(source_of(folder)), PlainSampler(12, batch_size=4, seed=0)
    with BatchReader(source, sampler, workers=2) as reader:
        first = [batch["ids"].tolist() for batch in reader.epoch(0)]
        assert source.is_complete
        for path in folder.iterdir():
            path.unlink()
        again = list(reader.epoch(0))  # read in this process, from what the workers decoded
        assert reader._loader is None
    assert [batch["ids"].tolist() for batch in again] == first


def test_a_cache_on_disk_is_found_again_and_belongs_to_its_files(folder: Path, tmp_path: Path) -> None:
    whole = source_of(folder).read(torch.arange(12))
    source = CachedSource(source_of(folder), tmp_path / "cache")
    source.read(torch.tensor([0, 5]))
    assert CachedSource(source_of(folder), tmp_path / "cache").filled == 0  # nothing counts before it is flushed
    source.flush()
    again = CachedSource(source_of(folder), tmp_path / "cache")
    assert again.filled == 2
    assert again.read(torch.arange(12)).equal(whole)
    os.utime(folder / "00.png", (1, 1))
    assert CachedSource(source_of(folder), tmp_path / "cache").filled == 0


def test_flags_without_their_images_say_nothing(folder: Path, tmp_path: Path) -> None:
    source = CachedSource(source_of(folder), tmp_path / "cache")
    whole = source.read(torch.arange(12)).clone()
    source.flush()
    next((tmp_path / "cache").glob("*.images")).unlink()
    again = CachedSource(source_of(folder), tmp_path / "cache")
    assert again.filled == 0
    assert again.read(torch.arange(12)).equal(whole)


def test_parts_of_one_source_have_caches_of_their_own(folder: Path) -> None:
    source = source_of(folder)
    names = {fingerprint(part) for part in (source, source.subset(torch.arange(6)), source.subset(torch.arange(6, 12)))}
    assert len(names) == 3


def test_an_unreadable_image_is_skipped_and_listed_every_time(folder: Path) -> None:
    (folder / "03.png").write_bytes(b"broken")
    source = CachedSource(source_of(folder, on_error="skip"))
    for _ in range(2):
        batch = source.fetch(torch.tensor([2, 3, 7]))
        assert batch["ids"].tolist() == [2, 4, 7]  # the next readable one takes its place, with its own id
        assert batch["images"].equal(source_of(folder).read(torch.tensor([2, 4, 7])))
        assert len(batch["skipped"]) == 1
        assert "03.png cannot be read as an image" in batch["skipped"][0]
    assert source.filled == 2


def test_an_unreadable_image_raises_where_it_should(folder: Path) -> None:
    (folder / "03.png").write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"03.png cannot be read as an image: it is empty \(0 bytes\)"):
        CachedSource(source_of(folder)).fetch(torch.tensor([2, 3]))


def test_the_place_of_an_unreadable_image_is_taken_within_the_part(folder: Path) -> None:
    (folder / "03.png").write_bytes(b"broken")
    whole = source_of(folder, on_error="skip")
    part = whole.subset(torch.tensor([1, 3, 9]))  # 4 would come next, and belongs to another part
    again = Subset(whole, part.indices)  # type: ignore[attr-defined]
    for source in (part, CachedSource(part), part.subset(torch.tensor([1, 2])), again, cached(again)):
        batch = source.fetch(torch.arange(len(source)))
        assert set(batch["ids"].tolist()) <= {1, 9}
        assert batch["images"].equal(torch.stack([whole.decode(i) for i in batch["ids"].tolist()]))
        assert len(batch["skipped"]) == 1


def test_too_many_unreadable_images_in_a_row_raise(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match=r"12 samples in a row cannot be decoded.*kinfolk data inspect"):
        source_of(folder, on_error="skip").fetch(torch.tensor([0]))


def test_only_what_must_be_decoded_and_fits_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KINFOLK_CACHE", str(tmp_path / "kept"))
    files, digits = source_of(folder), DigitsConfig().load().train
    assert isinstance(cached(files), CachedSource)
    assert isinstance(cached(files.subset(torch.arange(3))), CachedSource)
    assert cached(files, limit_mb=0) is files
    assert cached(files, where="none") is files
    assert cached(digits, where="memory") is digits
    selected = cached(Subset(files, torch.arange(3)))
    assert isinstance(selected, Subset)
    assert isinstance(selected.source, CachedSource)
    on_disk = cached(files, where="disk")
    assert isinstance(on_disk, CachedSource)
    assert len(list((cache_folder("images")).glob("*.images"))) == 1
    with pytest.raises(ValueError, match="cache must be 'auto', 'memory', 'disk' or 'none'; found 'ram'"):
        cached(files, where="ram")


def test_a_folder_that_is_too_large_for_memory_trains_through_the_cache(folder: Path) -> None:
    splits = ImageFolderConfig(str(folder), image_size=(8, 8), memory_limit_mb=0).load()
    kept: Source = cached(splits.train)
    assert kept.fetch(torch.arange(3))["images"].equal(splits.train.fetch(torch.arange(3))["images"])
