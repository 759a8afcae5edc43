"""Where a view looks: every geometric augmentation is one rectangular window of the source image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

Padding = Literal["zeros", "border", "reflection"]


def window(
    *,
    width: Float[Tensor, " b"],
    height: Float[Tensor, " b"],
    angle: Float[Tensor, " b"],
    centre_x: Float[Tensor, " b"],
    centre_y: Float[Tensor, " b"],
    aspect: float,
) -> Float[Tensor, "b 2 3"]:
    """Describe one window per image as the affine map from view to source coordinates, both in [-1, 1].

    The rotation is rigid in pixels, whatever the image's aspect ratio.

    Args:
        width: the window's width as a fraction of the image's; negative mirrors the view.
        height: likewise.
        angle: by which the window is turned about its centre, in radians.
        centre_x: the window's centre, -1 at the image's left edge and 1 at the right one.
        centre_y: likewise, -1 at the top.
        aspect: the image's width over its height, in pixels.

    Example:
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> window(width=one, height=one, angle=zero, centre_x=zero, centre_y=zero, aspect=1.0).tolist()
        [[[1.0, -0.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    row_x = torch.stack([cos * width, -sin * height / aspect, centre_x], dim=1)
    row_y = torch.stack([sin * width * aspect, cos * height, centre_y], dim=1)
    return torch.stack([row_x, row_y], dim=1)


def resample(
    images: Float[Tensor, "b c h w"],
    theta: Float[Tensor, "b 2 3"],
    *,
    size: tuple[int, int],
    padding: Padding,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Tensor, "b c out_h out_w"]:
    """Read one window per image at the wanted size.

    Args:
        images: any range; what lies outside is filled as `padding` says.
        theta: from `window`.
        size: height and width of the result. There is no low-pass filter: a window more than about twice as large as
            `size` aliases.
        padding: `zeros`, `border` (the nearest pixel) or `reflection`.
        mode: `bilinear`, or the `nearest` pixel.

    Example:
        >>> images = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> mirror = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> resample(images, mirror, size=(2, 2), padding="zeros")[0, 0].tolist()
        [[1.0, 0.0], [3.0, 2.0]]
    """
    x, y = (pixel_centres(length, like=theta) for length in (size[1], size[0]))
    along_x, along_y = theta[:, :, 0, None] * x + theta[:, :, 2, None], theta[:, :, 1, None] * y
    # one plane per coordinate: a third of the time of F.affine_grid, which multiplies a matrix per pixel
    grid = (along_x[:, :, None, :] + along_y[:, :, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)


def pixel_centres(size: int, *, like: Tensor) -> Float[Tensor, " size"]:
    """Return the coordinates of the pixels' centres along an axis whose edges are at -1 and 1.

    Example:
        >>> pixel_centres(4, like=torch.zeros(())).tolist()
        [-0.75, -0.25, 0.25, 0.75]
    """
    return (torch.arange(size, device=like.device, dtype=like.dtype) * 2 + 1) / size - 1
