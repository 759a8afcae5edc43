"""Linear filters on batches of pictures: separable ones as small matrices, directed ones as sums of shifted copies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

_NEGLIGIBLE = 1e-4


def gaussian_blurred(
    images: Float[Tensor, "b c h w"], sigma: float, *, edge: Literal["nearest", "reflect"], truncate: float = 4.0
) -> Float[Tensor, "b c h w"]:
    """Blur by a normal density in pixels; any width, since each axis is one product with a matrix.

    Args:
        images: any range.
        sigma: standard deviation in pixels; 0 changes nothing.
        edge: beyond the edge lies its last pixel (`nearest`) or the picture mirrored, the last pixel twice (`reflect`).
        truncate: where the density ends, in standard deviations.

    Example:
        >>> flat = torch.ones(1, 1, 4, 6)
        >>> bool(torch.allclose(gaussian_blurred(flat, 9.0, edge="reflect"), flat))
        True
    """
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return images
    down, across = (_blur_matrix(side, sigma, reach, edge) for side in images.shape[2:])
    return down @ images @ across.T


def _blur_matrix(side: int, sigma: float, reach: int, edge: str) -> Float[Tensor, "n n"]:
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.softmax(-0.5 * (offsets.to(torch.float64) / sigma) ** 2, dim=0)
    places = torch.arange(side)[:, None] + offsets
    if edge == "nearest":
        places = places.clamp(0, side - 1)
    else:
        places = places.remainder(2 * side)
        places = torch.minimum(places, 2 * side - 1 - places)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, places, weights.expand(side, -1)).to(torch.float32)


def box_resized(images: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Resize as PIL's BOX filter does: means of the pixels whose centres fall into a box, or copies of the nearest.

    Example:
        >>> box_resized(torch.tensor([[[[0.0, 2.0, 4.0, 6.0]]]]), (1, 2)).flatten().tolist()
        [1.0, 5.0]
    """
    # Means of few levels often lie half-way between two; in float32 the batch's size would decide how they round.
    down, across = (_box_matrix(old, new).double() for old, new in zip(images.shape[2:], size, strict=True))
    return (down @ images.double() @ across.T).to(images.dtype)


def _box_matrix(old: int, new: int) -> Float[Tensor, "new old"]:
    scale = old / new
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * scale
    if scale < 1:
        return F.one_hot(centres[:, 0].to(torch.int64), old).to(torch.float32)
    distance = (torch.arange(old, dtype=torch.float64) + 0.5 - centres) / scale
    inside = ((distance > -0.5) & (distance <= 0.5)).to(torch.float32)
    return inside / inside.sum(1, keepdim=True)


def disk_kernel(radius: float, sigma: float) -> Float[Tensor, "k k"]:
    """A disk whose edge is softened by a normal density, sums to one.

    Example:
        >>> kernel = disk_kernel(1, 0.2)
        >>> kernel.shape, round(kernel.sum().item(), 5)
        (torch.Size([5, 5]), 1.0)
    """
    soft = 1 if radius <= 8 else 2
    reach = math.floor(radius) + soft
    line = torch.arange(-reach, reach + 1)
    disk = (line[:, None] ** 2 + line**2 <= radius**2).to(torch.float32)
    edge = torch.softmax(-0.5 * (torch.arange(-soft, soft + 1) / sigma) ** 2, dim=0)
    softened = F.conv2d(disk[None, None], torch.outer(edge, edge)[None, None], padding=soft)[0, 0]
    return softened / softened.sum()


def filtered(images: Float[Tensor, "b c h w"], kernel: Float[Tensor, "k k"]) -> Float[Tensor, "b c h w"]:
    """Filter every channel by one symmetric kernel; the picture is mirrored at its edges, the last pixel once.

    Example:
        >>> filtered(torch.ones(1, 2, 4, 4), torch.full((3, 3), 1 / 9)).shape
        torch.Size([1, 2, 4, 4])
    """
    height, width = images.shape[2:]
    reach = kernel.shape[0] // 2
    rows, columns = (_mirrored(torch.arange(-reach, side + reach), side) for side in (height, width))
    padded = images[:, :, rows][:, :, :, columns]
    size = (height + 2 * reach, width + 2 * reach)
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=size)
    return torch.fft.irfft2(spectrum, s=size)[:, :, 2 * reach :, 2 * reach :]


def _mirrored(places: Tensor, side: int) -> Tensor:
    period = max(2 * side - 2, 1)
    places = places.remainder(period)
    return torch.minimum(places, period - places).clamp(max=side - 1)


def motion_blurred(
    images: Float[Tensor, "b c h w"], angle: Float[Tensor, " b"], *, radius: float, sigma: float
) -> Float[Tensor, "b c h w"]:
    """Smear every picture in a direction of its own, one way, as ImageMagick's motion blur does.

    Args:
        images: any range; beyond the edge lies its last pixel.
        angle: of each picture, in degrees, clockwise from the right.
        radius: the smear has 2 radius + 1 taps.
        sigma: of the half normal density that weighs them, in pixels.

    Example:
        >>> dot = torch.zeros(1, 1, 1, 4)
        >>> dot[..., 3] = 1
        >>> (motion_blurred(dot, torch.tensor([0.0]), radius=1, sigma=1.0) > 0).flatten().tolist()
        [False, True, True, True]
    """
    height, width = images.shape[2:]
    steps = torch.arange(2 * math.ceil(radius) + 1)
    shares = torch.softmax(-0.5 * (steps / sigma) ** 2, dim=0)
    steps, weights = steps[shares > _NEGLIGIBLE], shares[shares > _NEGLIGIBLE].tolist()
    reach = len(weights)
    right, down = (
        (share[:, None] * steps - 0.5).ceil().to(torch.int64).tolist()
        for share in (angle.deg2rad().cos(), angle.deg2rad().sin())
    )
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate").numpy()
    result = np.zeros(images.shape, dtype=np.float32)
    for row, (picture, rights, downs) in enumerate(zip(padded, right, down, strict=True)):
        for weight, x, y in zip(weights, rights, downs, strict=True):  # slices are far faster than one gather
            result[row] += weight * picture[:, reach + y : reach + y + height, reach + x : reach + x + width]
    return torch.from_numpy(result)


def zoomed(images: Float[Tensor, "b c h w"], factor: float) -> Float[Tensor, "b c h w"]:
    """Enlarge the middle to the whole picture, bilinearly.

    Example:
        >>> zoomed(torch.arange(5.0).reshape(1, 1, 1, 5), 2.0).flatten().tolist()
        [1.0, 1.5, 2.0, 2.5, 3.0]
    """
    if factor == 1:
        return images
    down, across = (_zoom_matrix(side, factor) for side in images.shape[2:])
    return down @ images @ across.T


def _zoom_matrix(side: int, factor: float) -> Float[Tensor, "n n"]:
    middle = (side - 1) / 2
    places = middle + (torch.arange(side, dtype=torch.float64) - middle) / factor
    return (1 - (places[:, None] - torch.arange(side)).abs()).clamp(min=0).to(torch.float32)
