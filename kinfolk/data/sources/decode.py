"""PIL images of any mode to uint8 tensors of a wanted channel count and size."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.optional import import_extra

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from PIL.Image import Image

Fit = Literal["crop", "pad", "stretch"]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_PIXELS = 64 * 2**20
"""An image with more pixels is refused unless a source is told otherwise; 8192 x 8192."""

_GREY = ("1", "L", "I;16", "I;16L", "I;16B", "I")


class UnreadableImage(ValueError):
    """An image file that is missing, truncated, or no image at all; the message names it."""


def pil_to_uint8(image: Image, *, where: str = "the image", channels: int | None = None) -> UInt8[Tensor, "c h w"]:
    """Convert a PIL image to uint8 ``[C, H, W]``.

    Args:
        image: any mode; 16-bit grey keeps its upper eight bits, transparency of a palette becomes an alpha channel.
        where: how an error names the image.
        channels: 1, 3 or 4; by default what the image has.

    Raises:
        ValueError: for floating-point images, whose range is unknown.

    Example:
        >>> from PIL import Image
        >>> pil_to_uint8(Image.new("RGB", (5, 2), (255, 0, 0)))[:, 0, 0]
        tensor([255,   0,   0], dtype=torch.uint8)
    """
    image = _eight_bit(image, where).convert(_MODES[pil_channels(image) if channels is None else channels])
    array = np.array(image)  # a copy: torch wants writable memory
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def pil_channels(image: Image) -> int:
    """How many channels keep what a PIL image holds: 4 with transparency, 1 when grey, otherwise 3.

    Example:
        >>> from PIL import Image
        >>> [pil_channels(Image.new(mode, (2, 2))) for mode in ("1", "L", "P", "RGB", "CMYK", "LA", "RGBA")]
        [1, 1, 3, 3, 3, 4, 4]
    """
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return 4
    return 1 if image.mode in _GREY else 3


def read_channels(image: Path | bytes, *, where: str | None = None) -> int:
    """Read an image's header only and say how many channels it needs.

    Raises:
        UnreadableImage: when the file is missing or no image.
    """
    with _open(image, _name(image, where), MAX_PIXELS) as opened:
        return pil_channels(opened)


def read_size(image: Path | bytes, *, where: str | None = None) -> tuple[int, int]:
    """Read an image's header only and return its height and width, as stored.

    Raises:
        UnreadableImage: when the file is missing or no image.
    """
    with _open(image, _name(image, where), MAX_PIXELS) as opened:
        return opened.height, opened.width


def read_image(
    image: Path | bytes,
    *,
    channels: int,
    size: tuple[int, int],
    fit: Fit = "crop",
    where: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[Tensor, "c h w"]:
    """Decode an image to uint8 ``[channels, H, W]``: EXIF orientation applied, then fitted to the size by bicubic
    resampling.

    Args:
        image: a file, or its bytes; any format that PIL reads; of an animation the first frame. A JPEG of more than
            twice the size is decoded at a half, a quarter or an eighth, which is several times as fast.
        channels: 1, 3 or 4.
        size: ``(H, W)``.
        fit: `crop` scales until the size is covered and cuts the middle out, `pad` scales until it fits and fills up
            with black (transparent where there is an alpha channel), `stretch` ignores the aspect ratio.
        where: how an error names the image; by default the path.
        max_pixels: an image that says it has more is not decoded: a few bytes can ask for gigabytes.

    Raises:
        UnreadableImage: when the file is missing, truncated, too large, or no image.
    """
    ops = import_extra("PIL.ImageOps", needed_for="decoding image files")
    pil = import_extra("PIL.Image", needed_for="decoding image files")
    where, (height, width), bicubic = _name(image, where), size, pil.Resampling.BICUBIC
    with _open(image, where, max_pixels) as opened:
        try:
            _draft(opened, size, fit)
            opened.load()
            upright = _eight_bit(ops.exif_transpose(opened), where).convert(_MODES[channels])
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, pil.DecompressionBombError) as error:
            raise UnreadableImage(f"{where} cannot be decoded: {error}") from error
    if upright.size != (width, height):
        if fit == "crop":
            upright = ops.fit(upright, (width, height), method=bicubic)
        elif fit == "pad":
            upright = ops.pad(upright, (width, height), method=bicubic)
        else:
            upright = upright.resize((width, height), resample=bicubic)
    return pil_to_uint8(upright, where=where, channels=channels)


def _draft(image: Image, size: tuple[int, int], fit: Fit) -> None:
    """Ask a JPEG's decoder for the smallest scale that still covers the wanted size twice."""
    if image.format != "JPEG" or image.mode == "CMYK":
        return
    longest, shortest = max(size), max(min(image.size), 1)
    # whatever way the picture is turned later, neither side falls below twice the wanted one
    needed = 2 * longest if fit != "pad" else 2 * longest * max(image.size) // shortest
    scale = shortest // max(needed, 1)
    if scale >= 2:
        image.draft(image.mode, (image.width // scale, image.height // scale))


def _open(image: Path | bytes, where: str, max_pixels: int) -> Any:
    pil = import_extra("PIL.Image", needed_for="decoding image files")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pil.DecompressionBombWarning)  # the bound below is ours, and an error
            opened = pil.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, pil.DecompressionBombError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else _reason(error, image)
        raise UnreadableImage(f"{where} cannot be read as an image: {reason}") from error
    if opened.width * opened.height > max_pixels:
        opened.close()
        raise UnreadableImage(
            f"{where} says it has {opened.width}x{opened.height} pixels, more than the bound of {max_pixels:,};"
            " raise max_pixels if that is meant"
        )
    return opened


def _reason(error: Exception, image: Path | bytes) -> str:
    empty = len(image) == 0 if isinstance(image, bytes) else image.is_file() and image.stat().st_size == 0
    if empty:
        return "it is empty (0 bytes)"
    unknown = isinstance(image, bytes) and "BytesIO" in str(error)  # how PIL names bytes says nothing to anyone
    return "unknown format, or damaged at its start" if unknown else str(error)


def _name(image: Path | bytes, where: str | None) -> str:
    return where if where is not None else str(image) if isinstance(image, Path) else "the image"


def _eight_bit(image: Image, where: str) -> Image:
    if image.mode.startswith("I"):  # PIL clips wider integers at 255 instead of scaling them
        values = np.array(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"{where}: integer images must be in 0..65535; found {values.min()} to {values.max()}")
        pil = import_extra("PIL.Image", needed_for="decoding image files")
        return pil.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # PIL warns when it is asked for RGB directly
    if image.mode == "F":
        raise ValueError(f"{where}: floating-point images have no known range; save them as 8- or 16-bit")
    return image
