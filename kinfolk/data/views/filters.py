"""What is done to the pixels of a view after geometry and colour: blur and erasing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kinfolk.data.views.geometry import pixel_centres

if TYPE_CHECKING:
    from jaxtyping import Float


def gaussian_blur(
    images: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"], *, max_sigma: float
) -> Float[Tensor, "b c h w"]:
    """Blur every image with a Gaussian of its own width; borders are reflected.

    Two depthwise convolutions, one per axis, with one kernel per image.

    Args:
        images: any range.
        sigma: standard deviations in pixels, above 0.
        max_sigma: none is larger; fixes the kernels' radius at three of it, less where the image is smaller.

    Example:
        >>> flat = torch.full((1, 1, 8, 8), 0.5)
        >>> bool(torch.allclose(gaussian_blur(flat, torch.tensor([1.0]), max_sigma=2.0), flat))
        True
    """
    if len(images) == 0:  # reflection refuses empty batches
        return images
    batch, channels, height, width = images.shape
    rows = images.reshape(1, batch * channels, height, width)
    for axis, size in ((2, height), (3, width)):
        radius = min(math.ceil(3 * max_sigma), size - 1)
        if radius == 0:
            continue
        steps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
        kernel = torch.softmax(-0.5 * (steps / sigma[:, None]) ** 2, dim=1)
        kernel = F.threshold(kernel, 1e-8, 0.0)  # denormal weights would slow the convolution five times
        kernel = kernel.repeat_interleave(channels, dim=0)[:, None]
        if axis == 2:
            rows = F.pad(rows, (0, 0, radius, radius), mode="reflect")
            rows = F.conv2d(rows, kernel[:, :, :, None], groups=batch * channels)
        else:
            rows = F.pad(rows, (radius, radius, 0, 0), mode="reflect")
            rows = F.conv2d(rows, kernel[:, :, None, :], groups=batch * channels)
    return rows.reshape(images.shape)


def erase(
    images: Float[Tensor, "b c h w"],
    *,
    width: Float[Tensor, " b"],
    height: Float[Tensor, " b"],
    centre_x: Float[Tensor, " b"],
    centre_y: Float[Tensor, " b"],
) -> Float[Tensor, "b c h w"]:
    """Set one rectangle per image to 0.

    A pixel is erased when its centre lies in the rectangle.

    Args:
        images: any range.
        width: the rectangle's width as a fraction of the image's; 0 erases nothing.
        height: likewise.
        centre_x: the rectangle's centre, -1 at the left edge and 1 at the right one.
        centre_y: likewise, -1 at the top.

    Example:
        >>> half, one, zero = torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([0.0])
        >>> erase(torch.ones(1, 1, 2, 4), width=half, height=one, centre_x=zero, centre_y=zero)[0, 0].tolist()
        [[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]]
    """
    inside_x = _inside(images.shape[3], width, centre_x)
    inside_y = _inside(images.shape[2], height, centre_y)
    return images.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)


def _inside(size: int, extent: Tensor, centre: Tensor) -> Tensor:
    return (pixel_centres(size, like=extent) - centre[:, None]).abs() < extent[:, None]
