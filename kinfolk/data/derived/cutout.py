"""Foregrounds cut out of pictures: by transparency, by a saliency column, or by intensity where pictures are grey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.data.sources.base import Source

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_SOLID = 64.0
"""Intensity from which a grey object hides what lies behind it; below, it fades."""

_VISIBLE = 0.05


def require_foreground(source: Source) -> None:
    """Refuse a source whose foreground is not known.

    Raises:
        ValueError: for RGB pictures without a saliency column.
    """
    if source.channels == 3 and not has_saliency(source):
        raise ValueError(
            f"the foreground of source {source.name!r} is not known: it must have grey pictures on black, transparent"
            " ones (RGBA), or a `saliency` column (`kinfolk data saliency` computes one)"
        )


def has_saliency(source: Source) -> bool:
    """Whether a source knows its foreground masks: as a column, or from disk as `attach_saliency` gives them.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> has_saliency(ArraySource(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)))
        False
    """
    return "saliency" in source.describe(torch.arange(min(1, len(source))))


def cut_out(batch: dict[str, Any]) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
    """Cut the foreground out of a batch's pictures.

    The mask is the `saliency` column where there is one, else the alpha channel, else, for grey pictures, the
    intensity: nothing at 0, solid from 64 on.

    Args:
        batch: ``images`` uint8 and, where known, ``saliency``.

    Returns:
        The colour times the mask, in [0, 255], and the mask, in [0, 1]. Grey objects fade towards their edges by
        themselves, so theirs is the intensity as it is.

    Example:
        >>> colour, mask = cut_out({"images": torch.tensor([0, 32, 200], dtype=torch.uint8).reshape(1, 1, 1, 3)})
        >>> mask.flatten().tolist(), colour[0, :, 0, 2].tolist()
        ([0.0, 0.5, 1.0], [200.0, 200.0, 200.0])
    """
    images = batch["images"].to(torch.float32)
    if batch.get("saliency") is not None:
        mask = batch["saliency"].to(torch.float32) / 255
    elif images.shape[1] == 4:
        mask = images[:, 3:] / 255
    elif images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1), (images / _SOLID).clamp(max=1)
    else:
        raise ValueError("RGB pictures have a foreground only with a `saliency` column")
    return images[:, :3].expand(-1, 3, -1, -1) * mask, mask


def compose(
    colour: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"], background: Float[Tensor, "b 3 h w"]
) -> UInt8[Tensor, "b 3 h w"]:
    """Put a foreground on a background; both in [0, 255], the foreground already times its mask.

    Example:
        >>> grey = torch.full((1, 3, 1, 1), 100.0)
        >>> compose(grey * 0.5, torch.full((1, 1, 1, 1), 0.5), grey).flatten().tolist()
        [100, 100, 100]
    """
    return (colour + (1 - mask) * background).round().clamp(0, 255).to(torch.uint8)


def bounding_boxes(mask: Float[Tensor, "b 1 h w"]) -> Int[Tensor, "b 4"]:
    """Box of what a mask shows: top, bottom, left, right, the ends exclusive; all 0 for an empty mask.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 5)
        >>> mask[0, 0, 1:3, 2] = 1
        >>> bounding_boxes(mask).tolist()
        [[1, 3, 2, 3]]
    """
    seen = mask[:, 0] > _VISIBLE
    ends = []
    for axis in (2, 1):
        line = seen.any(axis).to(torch.int64)
        some = line.amax(1)
        ends += [line.argmax(1) * some, (line.shape[1] - line.flip(1).argmax(1)) * some]
    return torch.stack(ends, dim=1)


def black_boxes(images: UInt8[Tensor, "b c h w"], boxes: Int[Tensor, "b 4"]) -> UInt8[Tensor, "b c h w"]:
    """Blacken a box in every image.

    Example:
        >>> black_boxes(torch.ones(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([[0, 1, 0, 2]])).flatten().tolist()
        [0, 0, 1, 1]
    """
    result = images.clone()
    for image, (top, bottom, left, right) in zip(result, boxes.tolist(), strict=True):
        image[:, top:bottom, left:right] = 0
    return result


def tile_boxes(images: UInt8[Tensor, "b c h w"], boxes: Int[Tensor, "b 4"]) -> UInt8[Tensor, "b c h w"]:
    """Cover a box in every image with copies of the largest strip above, below, left or right of it.

    A box that leaves no strip becomes black.

    Reference: Xiao, Engstrom, Ilyas, Madry (2021), Noise or signal: the role of image backgrounds in object
        recognition (only-bg-t).

    Example:
        >>> image = torch.tensor([[1, 2, 9, 9, 9]], dtype=torch.uint8)[None, None]
        >>> tile_boxes(image, torch.tensor([[0, 1, 2, 5]])).flatten().tolist()
        [1, 2, 1, 2, 1]
    """
    result = images.clone()
    for image, (top, bottom, left, right) in zip(result, boxes.tolist(), strict=True):
        strips = [image[:, :top], image[:, bottom:], image[:, :, :left], image[:, :, right:]]
        strip = max(strips, key=lambda part: part.numel())
        if strip.numel() == 0:
            image[:, top:bottom, left:right] = 0
            continue
        down, across = -(-(bottom - top) // strip.shape[1]), -(-(right - left) // strip.shape[2])
        image[:, top:bottom, left:right] = strip.repeat(1, down, across)[:, : bottom - top, : right - left]
    return result
