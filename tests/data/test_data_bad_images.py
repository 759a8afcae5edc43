"""Bad and unusual images over every kind of source that decodes: named, or skipped and listed; nothing else is lost."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinfolk.data.sources.base import Source
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.folder import ImageFolderConfig
from kinfolk.data.sources.shards import ShardsConfig

SIZE = (8, 8)
KINDS = ["folder in memory", "folder", "shards", "parquet"]


@dataclass(frozen=True)
class Sample:
    """One image of a small data set; its name says its class."""

    data: bytes | None
    ending: str = "png"
    about: Mapping[str, Any] = field(default_factory=dict)


def encoded(image: Any, form: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def plain(value: int) -> bytes:
    from PIL import Image

    return encoded(Image.new("RGB", SIZE, (value, value, value)))


def noise(form: str) -> bytes:
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return encoded(Image.fromarray(array), form)


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


BAD = {
    "corrupt": lambda: Sample(noise("PNG")[:60] + b"\x13\x37" * 400 + noise("PNG")[860:]),
    "truncated PNG": lambda: Sample(noise("PNG")[:1500]),
    "truncated JPEG": lambda: Sample(noise("JPEG")[:900], "jpg"),
    "zero bytes": lambda: Sample(b""),
    "text": lambda: Sample(b"<html>404 not found</html>", "jpg"),
    "decompression bomb": lambda: Sample(bomb()),
}


def write(kind: str, root: Path, samples: Sequence[Sample]) -> None:
    """Lay samples out as `kind` has them: `s0`, `s1`, ... in this order, with a label and what is known."""
    root.mkdir()
    about = [{"label": f"c{i % 2}", **sample.about} for i, sample in enumerate(samples)]
    names = [f"s{i}.{sample.ending}" for i, sample in enumerate(samples)]
    if kind.startswith("folder"):
        for name, sample in zip(names, samples, strict=True):
            if sample.data is not None:
                (root / name).write_bytes(sample.data)
        records = [{"file_name": name, **record} for name, record in zip(names, about, strict=True)]
        (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    elif kind == "shards":
        with tarfile.open(root / "train-0.tar", "w") as tar:
            for number, (name, sample) in enumerate(zip(names, samples, strict=True)):
                _add(tar, name, sample.data)
                _add(tar, f"s{number}.json", json.dumps(about[number]).encode())
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pytest.importorskip("datasets")
        images = [{"bytes": s.data, "path": name} for name, s in zip(names, samples, strict=True)]
        columns = {key: [record[key] for record in about] for key in about[0]}
        table = pa.table({"image": images, **columns})
        features = {"info": {"features": {"image": {"_type": "Image"}}}}
        parquet.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps(features)}), root / "train.parquet"
        )


def _add(tar: tarfile.TarFile, name: str, data: bytes | None) -> None:
    if data is not None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def load(kind: str, root: Path, **options: Any) -> Source:
    options = {"image_size": SIZE, "channels": 3, "test_fraction": 0.0, **options}
    if kind == "parquet":
        from kinfolk.data.sources.huggingface import HuggingFaceConfig

        return HuggingFaceConfig(str(root / "train.parquet"), cache=str(root.parent / "cache"), **options).load().train
    if kind == "shards":
        return ShardsConfig(str(root), **options).load().train
    return (
        ImageFolderConfig(str(root), memory_limit_mb=2048 if kind == "folder in memory" else 0, **options).load().train
    )


def name_in_messages(kind: str, number: int) -> str:
    return f"row {number}" if kind == "parquet" else f"s{number}."


def read_all(kind: str, root: Path, **options: Any) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Every sample that can be had, by its grey value, and everything that was said about the others."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        source = load(kind, root, **options)
        batches = [source.fetch(torch.tensor([i])) for i in range(len(source))]
    samples = {int(batch["images"][0, 0, 0, 0]): batch for batch in batches}
    listed = [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]
    return samples, listed + [message for batch in batches for message in batch.get("skipped", [])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_an_unreadable_image_is_named_or_skipped_and_listed(tmp_path: Path, kind: str, make: Any) -> None:
    write(kind, tmp_path / "set", [Sample(plain(10)), Sample(plain(20)), make(), Sample(plain(40)), Sample(plain(50))])
    with pytest.raises(UnreadableImage) as error:
        read_all(kind, tmp_path / "set")
    assert name_in_messages(kind, 2) in str(error.value)
    samples, listed = read_all(kind, tmp_path / "set", on_error="skip")
    assert sorted(samples) == [10, 20, 40, 50]
    assert [int(samples[value]["labels"]) for value in (10, 20, 40, 50)] == [0, 1, 1, 0]
    assert any(name_in_messages(kind, 2) in message for message in listed)
    assert not any(name_in_messages(kind, number) in message for number in (0, 1, 3, 4) for message in listed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_told_by_its_header(tmp_path: Path, kind: str) -> None:
    write(kind, tmp_path / "set", [Sample(plain(10)), Sample(bomb())])
    with pytest.raises(UnreadableImage, match=r"40000x40000 pixels, more than the bound|decompression bomb"):
        read_all(kind, tmp_path / "set")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "shards"])  # a member without content is no member
def test_a_missing_file_is_named_or_skipped_and_listed(tmp_path: Path, kind: str) -> None:
    write(kind, tmp_path / "set", [Sample(plain(10)), Sample(None), Sample(plain(30))])
    with pytest.raises(UnreadableImage) as error:
        read_all(kind, tmp_path / "set")
    assert name_in_messages(kind, 1) in str(error.value)
    samples, listed = read_all(kind, tmp_path / "set", on_error="skip")
    assert sorted(samples) == [10, 30]
    assert any(name_in_messages(kind, 1) in message for message in listed)


def test_a_sample_of_a_shard_without_its_image_is_named_or_skipped_and_listed(tmp_path: Path) -> None:
    write("shards", tmp_path / "set", [Sample(plain(10)), Sample(None), Sample(plain(30))])
    with pytest.raises(ValueError, match=r"sample 's1': it has no image; its members end in json"):
        read_all("shards", tmp_path / "set")
    samples, listed = read_all("shards", tmp_path / "set", on_error="skip")
    assert sorted(samples) == [10, 30]
    assert "sample 's1'" in listed[0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_caption_is_named_or_skipped_and_listed(tmp_path: Path, kind: str) -> None:
    texts = ["a cat", "  ", "ein Käfer 猫"]
    samples = [Sample(plain(10 * i + 10), about={"text": text}) for i, text in enumerate(texts)]
    write(kind, tmp_path / "set", samples)
    with pytest.raises(ValueError, match=r"caption|empty") as error:
        read_all(kind, tmp_path / "set")
    assert name_in_messages(kind, 1) in str(error.value)
    found, listed = read_all(kind, tmp_path / "set", on_error="skip")
    assert {value: batch["text"] for value, batch in found.items()} == {10: ["a cat"], 30: ["ein Käfer 猫"]}
    assert any(name_in_messages(kind, 1) in message for message in listed)


def test_metadata_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    write("folder", tmp_path / "set", [Sample(plain(10)), Sample(plain(20))])
    path = tmp_path / "set" / "metadata.jsonl"
    path.write_bytes(path.read_bytes().replace(b"c1", b"K\xe4fer"))
    with pytest.raises(ValueError, match=r"metadata\.jsonl cannot be read: 'utf-8' codec can't decode"):
        load("folder", tmp_path / "set")
    with tarfile.open(tmp_path / "set" / "a.tar", "w") as tar:
        for number, text in enumerate((b"a cat", b"ein K\xe4fer", b"a dog")):
            _add(tar, f"s{number}.png", plain(10 * number + 10))
            _add(tar, f"s{number}.txt", text)
    with pytest.raises(ValueError, match=r"a\.tar, sample 's1': its \.txt member is not UTF-8"):
        load("shards", tmp_path / "set")
    found, listed = read_all("shards", tmp_path / "set", on_error="skip")
    assert {value: batch["text"] for value, batch in found.items()} == {10: ["a cat"], 30: ["a dog"]}
    assert "'s1'" in listed[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_with_one_sample_stays_in_the_training_part(tmp_path: Path, kind: str) -> None:
    labels = ["a"] * 6 + ["b"] + ["c"] * 4
    write(kind, tmp_path / "set", [Sample(plain(i * 20), about={"label": name}) for i, name in enumerate(labels)])
    train = load(kind, tmp_path / "set", test_fraction=0.5)
    assert train.class_names == ("a", "b", "c")
    assert train.labels is not None
    assert train.labels.bincount().tolist() == [3, 1, 2]


def frames() -> list[Any]:
    from PIL import Image

    return [Image.new("RGB", SIZE, colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]


def sixteen_bit() -> Any:
    from PIL import Image

    return Image.fromarray(np.full(SIZE, 0x80FF, dtype=np.uint16))


def palette() -> bytes:
    from PIL import Image

    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.paste(0, (0, 0, 8, 4))
    return encoded(image, transparency=0)


def turned() -> bytes:
    """Stored lying on its side: upright, its upper half is white."""
    from PIL import Image

    image, exif = Image.new("L", SIZE, 0), Image.Exif()
    image.paste(255, (0, 0, 4, 8))
    exif[0x0112] = 6
    return encoded(image, "JPEG", quality=95, exif=exif)


def animation(form: str) -> bytes:
    first, *rest = frames()
    return encoded(first, form, save_all=True, append_images=rest, duration=50)


def cmyk() -> bytes:
    from PIL import Image

    return encoded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG", quality=95)


def one_pixel() -> bytes:
    from PIL import Image

    return encoded(Image.new("RGB", (1, 1), (1, 2, 3)))


# what it is -> (its bytes, its ending, RGB of the upper and of the lower half)
UNUSUAL = {
    "animated GIF": (lambda: animation("GIF"), "gif", (255, 0, 0), (255, 0, 0)),
    "animated PNG": (lambda: animation("PNG"), "png", (255, 0, 0), (255, 0, 0)),
    "animated WebP": (lambda: animation("WEBP"), "webp", (255, 0, 0), (255, 0, 0)),
    "16-bit PNG": (lambda: encoded(sixteen_bit()), "png", (128, 128, 128), (128, 128, 128)),
    "CMYK JPEG": (cmyk, "jpg", (255, 0, 0), (255, 0, 0)),
    "palette with transparency": (palette, "png", (0, 0, 0), (200, 100, 50)),
    "EXIF-rotated JPEG": (turned, "jpg", (255, 255, 255), (0, 0, 0)),
    "one pixel": (one_pixel, "png", (1, 2, 3), (1, 2, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("make", "ending", "upper", "lower"), UNUSUAL.values(), ids=UNUSUAL.keys())
def test_an_unusual_image_is_decoded_as_it_looks(
    tmp_path: Path, kind: str, make: Any, ending: str, upper: tuple[int, int, int], lower: tuple[int, int, int]
) -> None:
    write(kind, tmp_path / "set", [Sample(plain(10)), Sample(make(), ending)])
    source = load(kind, tmp_path / "set")
    image = source.fetch(torch.tensor([1]))["images"][0].int()
    tolerance = 6 if ending in ("jpg", "webp") else 0
    assert (image[:, 1, 4] - torch.tensor(upper)).abs().max() <= tolerance
    assert (image[:, 6, 4] - torch.tensor(lower)).abs().max() <= tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_transparency_of_a_palette_is_kept_where_channels_are_found_out(tmp_path: Path, kind: str) -> None:
    write(kind, tmp_path / "set", [Sample(plain(10)), Sample(palette())])
    source = load(kind, tmp_path / "set", channels=None)
    assert source.channels == 4
    image = source.fetch(torch.tensor([1]))["images"][0]
    assert (image[3, 1, 4], image[3, 6, 4]) == (0, 255)
    assert source.fetch(torch.tensor([0]))["images"][0, 3].min() == 255
