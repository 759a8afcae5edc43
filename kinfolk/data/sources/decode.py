"""PIL images of any mode to uint8 tensors of a wanted channel count and size."""

from __future__ import annotations

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


def read_channels(path: Path) -> int:
    """Read a file's header only and say how many channels it needs.

    Raises:
        UnreadableImage: when the file is missing or no image.
    """
    with _open(path) as image:
        return pil_channels(image)


def read_image(path: Path, *, channels: int, size: tuple[int, int], fit: Fit = "crop") -> UInt8[Tensor, "c h w"]:
    """Decode a file to uint8 ``[channels, H, W]``: EXIF orientation applied, then fitted to the size by bicubic
    resampling.

    Args:
        path: any format that PIL reads; of an animation the first frame.
        channels: 1, 3 or 4.
        size: ``(H, W)``.
        fit: `crop` scales until the size is covered and cuts the middle out, `pad` scales until it fits and fills up
            with black (transparent where there is an alpha channel), `stretch` ignores the aspect ratio.

    Raises:
        UnreadableImage: when the file is missing, truncated, or no image.
    """
    ops = import_extra("PIL.ImageOps", needed_for="decoding image files")
    pil = import_extra("PIL.Image", needed_for="decoding image files")
    height_width, width_height, bicubic = tuple(size), (size[1], size[0]), pil.Resampling.BICUBIC
    with _open(path) as image:
        try:
            image.load()
            upright = _eight_bit(ops.exif_transpose(image), str(path)).convert(_MODES[channels])
        except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
            raise UnreadableImage(f"{path} cannot be decoded: {error}") from error
    if (upright.height, upright.width) != height_width:
        if fit == "crop":
            upright = ops.fit(upright, width_height, method=bicubic)
        elif fit == "pad":
            upright = ops.pad(upright, width_height, method=bicubic)
        else:
            upright = upright.resize(width_height, resample=bicubic)
    return pil_to_uint8(upright, where=str(path))


def _open(path: Path) -> Any:
    pil = import_extra("PIL.Image", needed_for="decoding image files")
    try:
        return pil.open(path)
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise UnreadableImage(f"{path} cannot be read as an image: {reason}") from error


def _eight_bit(image: Image, where: str) -> Image:
    if image.mode.startswith("I"):  # PIL clips wider integers at 255 instead of scaling them
        values = np.array(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"{where}: integer images must be in 0..65535; found {values.min()} to {values.max()}")
        pil = import_extra("PIL.Image", needed_for="decoding image files")
        return pil.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError(f"{where}: floating-point images have no known range; save them as 8- or 16-bit")
    return image
