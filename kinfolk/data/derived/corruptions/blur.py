"""Blur: out of focus, through frosted glass, by motion, by zooming. Images are floats in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.derived.corruptions.fields import uniforms
from kinfolk.data.derived.corruptions.filters import disk_kernel, filtered, gaussian_blurred, motion_blurred, zoomed
from kinfolk.data.derived.corruptions.noise import Key

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def defocus_blur(
    images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, radius: float, sigma: float
) -> Tensor:
    """Spread every point over a disk."""
    return filtered(images, disk_kernel(radius, sigma))


def glass_blur(
    images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, sigma: float, reach: float, rounds: float
) -> Tensor:
    """Blur, give every pixel the value of a random near one, and blur again.

    Pixels take their values one after another, from the lower right. The published code means to exchange the two and
    overwrites one instead; so does this, since the published pictures were made that way.
    """
    batch, _, height, width = images.shape
    reach = int(reach)
    places = [(y, x) for y in range(height - reach, reach, -1) for x in range(width - reach, reach, -1)]
    order = np.tile(np.arange(height * width, dtype=np.int32), (batch, 1))
    rows = np.arange(batch)
    for turn in range(int(rounds) if places else 0):
        drawn = uniforms((*key, turn), ids, len(places), 2)
        shift = (drawn * 2 * reach).floor().to(torch.int32) - reach
        there = (shift[..., 0] * width + shift[..., 1]).T.contiguous().numpy()
        for (y, x), offset in zip(places, there, strict=True):
            here = y * width + x
            order[:, here] = order[rows, here + offset]
    blurred = gaussian_blurred(images, sigma, edge="nearest").flatten(2)
    index = torch.from_numpy(order).to(torch.int64)[:, None].expand_as(blurred)
    return gaussian_blurred(blurred.gather(2, index).reshape(images.shape), sigma, edge="nearest")


def motion_blur(
    images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, radius: float, sigma: float
) -> Tensor:
    """Smear in a direction within 45 degrees of the horizontal."""
    return motion_blurred(images, 90 * uniforms(key, ids, 1)[:, 0] - 45, radius=radius, sigma=sigma)


def zoom_blur(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, extent: float, step: float) -> Tensor:
    """Average the picture with enlarged copies of it, by 1, 1 + step, ... up to 1 + extent, which is left out."""
    factors = np.arange(1, 1 + extent, step).tolist()
    total = images.clone()
    for factor in factors:
        total += zoomed(images, factor)
    return total / (len(factors) + 1)
