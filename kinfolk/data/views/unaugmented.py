"""From decoded bytes to the float images that evaluation sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


def to_float(images: UInt8[Tensor, "b c h w"], *, size: tuple[int, int] | None = None) -> Float[Tensor, "b c h w"]:
    """Turn bytes into the unaugmented view that evaluation uses: float32, value / 255.

    Args:
        images: bytes ``[b, C, H, W]`` with 1, 3 or 4 channels.
        size: height and width of the result, resampled bilinearly with a low-pass filter; None keeps the images' own.

    Raises:
        TypeError: for images that are not uint8.
        ValueError: for another shape.

    Example:
        >>> to_float(torch.full((1, 1, 1, 2), 255, dtype=torch.uint8)).tolist()
        [[[[1.0, 1.0]]]]
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8; found {images.dtype}. Sources decode to uint8; views are made from it.")
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise ValueError(f"images must be [b, C, H, W] with C = 1, 3 or 4; found {tuple(images.shape)}")
    floats = images.to(torch.float32).div_(255)
    if size is None or size == tuple(images.shape[2:]):
        return floats
    return F.interpolate(floats, size=size, mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)
