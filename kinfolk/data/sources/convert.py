"""One image, or a stack of them, in any usual form, to uint8 with channels first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import UInt8

_CHANNELS = (1, 3, 4)


def to_uint8(image: Any, *, where: str = "the image") -> UInt8[Tensor, "c h w"]:
    """Convert a tensor, NumPy array or PIL image to uint8 ``[C, H, W]``.

    Args:
        image: tensor ``[H, W]`` or ``[C, H, W]``; array ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]``; or a PIL image of
            any mode. Where an array's layout is ambiguous (both ends are 1, 3 or 4 long) channels are last. Bytes are
            taken as they are, bool becomes 0 or 255, floats must lie in [0, 1] and become ``round(255 x)``.
        where: how an error names the image, for example a file or ``"sample 3"``.

    Raises:
        TypeError: for another type of object or numbers.
        ValueError: for another shape, values outside [0, 1], or numbers that are not finite.

    Example:
        >>> to_uint8(np.full((2, 5, 3), 0.5, dtype=np.float32)).shape
        torch.Size([3, 2, 5])
        >>> to_uint8(torch.tensor([[0.0, 1.0]]))
        tensor([[[  0, 255]]], dtype=torch.uint8)
    """
    if isinstance(image, Tensor):
        return _stack_to_uint8(image.detach().cpu().unsqueeze(0), channels_last=False, where=where)[0]
    if hasattr(image, "getbands"):  # a PIL image, recognised without importing PIL
        from kinfolk.data.sources.decode import pil_to_uint8

        return pil_to_uint8(image, where=where)
    if isinstance(image, np.ndarray):
        channels_last = image.ndim == 3 and image.shape[-1] in _CHANNELS
        return _stack_to_uint8(_tensor(image[None], where), channels_last=channels_last, where=where)[0]
    raise TypeError(f"{where} must be a tensor, a NumPy array or a PIL image; found {type(image).__name__}")


def stack_to_uint8(images: np.ndarray, *, where: str = "images") -> UInt8[Tensor, "n c h w"]:
    """Convert an array of images, ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]``, to uint8 ``[N, C, H, W]``.

    Numbers convert as in `to_uint8`; where the layout is ambiguous channels are last.

    Raises:
        TypeError: for numbers that are neither bytes, bool nor floats.
        ValueError: for another shape, values outside [0, 1], or numbers that are not finite.

    Example:
        >>> stack_to_uint8(np.zeros((4, 9, 8), dtype=np.uint8)).shape
        torch.Size([4, 1, 9, 8])
    """
    channels_last = images.ndim == 4 and images.shape[-1] in _CHANNELS
    return _stack_to_uint8(_tensor(images, where), channels_last=channels_last, where=where)


def _stack_to_uint8(images: Tensor, *, channels_last: bool, where: str) -> Tensor:
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.ndim == 4 and channels_last:
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in _CHANNELS:
        raise ValueError(
            f"{where}: expected grey [H, W], or 1, 3 or 4 channels first or last; found"
            f" {tuple(images.shape[1:])} per image"
        )
    return _to_bytes(images, where).contiguous()


def _to_bytes(images: Tensor, where: str) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if images.dtype == torch.bool:
        return images.to(torch.uint8) * 255
    if not images.is_floating_point():
        raise TypeError(
            f"{where}: expected uint8, bool, or floats in [0, 1]; found {images.dtype}. Convert to uint8 first."
        )
    if images.numel() and not bool((images >= 0).logical_and(images <= 1).all()):  # NaN fails both comparisons
        raise ValueError(
            f"{where}: float images must be finite and in [0, 1]; found {float(images.min()):.3g} to"
            f" {float(images.max()):.3g}. Divide by their maximum (255 for bytes stored as floats)."
        )
    return (images * 255).round().to(torch.uint8)


def _tensor(array: np.ndarray, where: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError as error:
        raise TypeError(f"{where}: expected uint8, bool, or floats in [0, 1]; found {array.dtype}") from error
