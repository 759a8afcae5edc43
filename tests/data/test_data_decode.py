"""Decoding at a reduced scale, and the bound on pixels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinfolk.data.sources.decode import UnreadableImage, read_channels, read_image, read_size


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 1000), (1000, 130), (65, 64), (33, 900)])
def test_a_large_jpeg_decoded_at_a_reduced_scale_looks_the_same(fit: str, width: int, height: int) -> None:
    image = smooth(width, height)
    jpeg, png = encoded(image, "JPEG", quality=95, subsampling=0), encoded(image, "PNG")
    small, exact = (
        read_image(data, channels=3, size=(24, 40), fit=fit).numpy().astype(int)  # type: ignore[arg-type]
        for data in (jpeg, png)
    )
    assert np.abs(small - exact).mean() < 2  # of 255
    assert np.abs(small - exact).max() < 24


def test_a_turned_jpeg_keeps_enough_pixels() -> None:
    image, exif = smooth(1200, 90), Image.Exif()
    exif[0x0112] = 6  # turned by a right angle
    jpeg = encoded(image, "JPEG", quality=95, exif=exif)
    found = read_image(jpeg, channels=3, size=(80, 8), fit="stretch").numpy().astype(int)
    upright = image.transpose(Image.Transpose.ROTATE_270).resize((8, 80), Image.Resampling.BICUBIC)
    assert np.abs(found - np.asarray(upright).transpose(2, 0, 1).astype(int)).mean() < 2


def png_that_says(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 12_000, 30_000])  # PIL would accept, warn, and refuse
def test_an_image_that_asks_for_gigabytes_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(UnreadableImage, match=r"bomb\.png.*(more than the bound of 67,108,864|decompression bomb)"):
        read_image(png_that_says(side, side), channels=1, size=(8, 8), where="bomb.png")


def test_the_bound_can_be_moved() -> None:
    data = encoded(smooth(100, 80), "PNG")
    with pytest.raises(UnreadableImage, match="says it has 100x80 pixels, more than the bound of 7,999"):
        read_image(data, channels=3, size=(8, 8), max_pixels=7_999)
    assert read_image(data, channels=3, size=(8, 8), max_pixels=8_000).shape == (3, 8, 8)


def test_headers_are_read_without_the_image(tmp_path: Path) -> None:
    data = encoded(smooth(100, 80), "PNG")[:200]  # cut off after the header
    (tmp_path / "cut.png").write_bytes(data)
    for place in (data, tmp_path / "cut.png"):
        assert read_size(place) == (80, 100)
        assert read_channels(place) == 3
        with pytest.raises(UnreadableImage, match="cannot be decoded"):
            read_image(place, channels=3, size=(8, 8))


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", r"x\.png cannot be read as an image: it is empty \(0 bytes\)"), (b"no image", r"x\.png.*unknown format")],
)
def test_what_is_no_image_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableImage, match=message):
        read_image(data, channels=3, size=(8, 8), where="x.png")
