"""Operations of the learnt policies on 8-bit levels, batched, as PIL computes them.

Images are floats that hold whole numbers from 0 to 255, ``[b, C, H, W]`` with one or three channels; so do results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kinfolk.data.views.jitter import luma

if TYPE_CHECKING:
    from jaxtyping import Float


def brightness(levels: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Multiply by a factor.

    Example:
        >>> brightness(torch.full((1, 1, 1, 1), 100.0), torch.tensor([1.5])).item()
        150.0
    """
    return _blend(torch.zeros_like(levels), levels, factor)


def contrast(levels: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Multiply the distance from the mean grey level by a factor.

    Example:
        >>> contrast(torch.tensor([100.0, 200.0]).reshape(1, 1, 1, 2), torch.tensor([0.5])).flatten().tolist()
        [125.0, 175.0]
    """
    mean = _grey(levels).mean((1, 2, 3), keepdim=True)
    return _blend((mean + 0.5).floor_(), levels, factor)


def colour(levels: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Multiply the distance of every pixel from its grey value by a factor.

    Example:
        >>> colour(torch.tensor([90.0, 90.0, 90.0]).reshape(1, 3, 1, 1), torch.tensor([0.0])).flatten().tolist()
        [90.0, 90.0, 90.0]
    """
    return _blend(_grey(levels), levels, factor)


def sharpness(levels: Float[Tensor, "b c h w"], factor: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Multiply the distance from the image smoothed by a 3x3 kernel by a factor; pixels at the border stay.

    Example:
        >>> sharpness(torch.full((1, 1, 4, 4), 7.0), torch.tensor([1.9])).unique().tolist()
        [7.0]
    """
    batch, channels, height, width = levels.shape
    if min(height, width) < 3:
        return levels
    kernel = torch.ones(3, 3, device=levels.device)
    kernel[1, 1] = 5
    planes = levels.reshape(batch * channels, 1, height, width)
    inner = (F.conv2d(planes, kernel[None, None]) / 13 + 0.5).floor_().clamp_(0, 255)
    smooth = levels.clone()
    smooth[:, :, 1:-1, 1:-1] = inner.reshape(batch, channels, height - 2, width - 2)
    return _blend(smooth, levels, factor)


def posterize(levels: Float[Tensor, "b c h w"], bits: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Keep the upper bits of every level.

    Example:
        >>> posterize(torch.tensor([[[[37.0, 255.0]]]]), torch.tensor([4.0])).flatten().tolist()
        [32.0, 240.0]
    """
    step = torch.exp2(8 - bits)[:, None, None, None]
    return (levels / step).floor_() * step


def solarize(levels: Float[Tensor, "b c h w"], threshold: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Invert the levels that are not below a threshold.

    Example:
        >>> solarize(torch.tensor([[[[37.0, 250.0]]]]), torch.tensor([128.0])).flatten().tolist()
        [37.0, 5.0]
    """
    return torch.where(levels < threshold[:, None, None, None], levels, 255 - levels)


def invert(levels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Turn black into white and white into black.

    Example:
        >>> invert(torch.zeros(1, 1, 1, 1)).item()
        255.0
    """
    return 255 - levels


def autocontrast(levels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Stretch every channel from its darkest and lightest level to 0 and 255; a flat one stays.

    Example:
        >>> autocontrast(torch.tensor([[[[10.0, 20.0, 30.0]]]])).flatten().tolist()
        [0.0, 127.0, 255.0]
    """
    low, high = levels.amin((2, 3), keepdim=True), levels.amax((2, 3), keepdim=True)
    stretched = ((levels - low) * 255 / (high - low).clamp(min=1)).floor_()
    return torch.where(high > low, stretched, levels)


def equalize(levels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Map every channel so that its levels occur about equally often; one with too few pixels for that stays.

    Example:
        >>> equalize(torch.arange(4.0).reshape(1, 1, 2, 2)).flatten().tolist()  # fewer pixels than levels
        [0.0, 1.0, 2.0, 3.0]
    """
    batch, channels, height, width = levels.shape
    indices = levels.reshape(batch * channels, height * width).to(torch.int64)
    counts = torch.zeros(len(indices), 256, dtype=torch.int64, device=levels.device)
    counts.scatter_add_(1, indices, torch.ones_like(indices))
    of_the_lightest = counts.gather(1, indices.amax(1, keepdim=True))
    step = (height * width - of_the_lightest) // 255
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step > 0, table.gather(1, indices), indices).to(levels.dtype).reshape(levels.shape)


def _blend(degenerate: Tensor, levels: Tensor, factor: Tensor) -> Tensor:
    """PIL's blend cuts the fraction off."""
    return torch.lerp(degenerate.expand_as(levels), levels, factor[:, None, None, None]).clamp_(0, 255).floor_()


def _grey(levels: Tensor) -> Tensor:
    return levels if levels.shape[1] == 1 else (luma(levels) + 0.5).floor_()
