"""Colour changes one after another in random order, each clamped, as the papers' code has them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.views.chosen import change_some_

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

LUMA = (0.299, 0.587, 0.114)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_ORDERS = tuple(itertools.permutations(range(4)))
# of each order: the three changes that blend with something grey, and before which of them the hue is turned
_BLENDS = tuple(tuple(change for change in order if change != _HUE) for order in _ORDERS)
_HUE_PLACES = tuple(order.index(_HUE) for order in _ORDERS)


def jitter_in_order(
    colours: Float[Tensor, "b c h w"],
    order: Int[Tensor, " b"],
    *,
    factors: Float[Tensor, "b 3"],
    turn: Float[Tensor, " b"] | None,
    applies: Bool[Tensor, " b"],
) -> Float[Tensor, "b c h w"]:
    """Change brightness, contrast, saturation and hue in an order of each image's own, clamping after every change.

    Args:
        colours: in [0, 1]; one channel (grey) or three (RGB). Their memory is used for intermediate results.
        order: which of the 24 orders, from 0.
        factors: of brightness, contrast and saturation; 1 leaves them.
        turn: of the hue, as a fraction of the circle; None leaves the hue of all.
        applies: which images are changed.

    Example:
        >>> image = torch.tensor([0.2, 0.4, 0.6]).reshape(1, 3, 1, 1)
        >>> twice, always = torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([True])
        >>> changed = jitter_in_order(image, torch.tensor([0]), factors=twice, turn=None, applies=always)
        >>> [round(value, 3) for value in changed.flatten().tolist()]
        [0.4, 0.8, 1.0]
    """
    blends = torch.tensor(_BLENDS, device=order.device)[order]
    hue_place = torch.tensor(_HUE_PLACES, device=order.device)[order]
    factors = torch.where(applies[:, None], factors, 1.0).gather(1, blends)
    pixels = colours.flatten(2)
    spare = torch.empty_like(pixels)
    for place in range(4):
        if turn is not None and colours.shape[1] == 3:
            change_some_(pixels, (hue_place == place) & applies, turn_hue, turn)
        if place < 3:
            _blend(pixels, factors[:, place], blends[:, place], out=spare)
            pixels, spare = spare, pixels
    return pixels.reshape(colours.shape)


def turn_hue(colours: Float[Tensor, "b 3 ..."], turn: Float[Tensor, " b"]) -> Float[Tensor, "b 3 ..."]:
    """Turn the hue in HSV; the largest and the smallest of a pixel's three values stay what they are.

    Args:
        colours: RGB in [0, 1], any number of pixels.
        turn: fraction of the circle, from -0.5 to 1.

    Reference: Smith (1978), Color gamut transform pairs.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
        >>> turn_hue(red, torch.tensor([1 / 3])).flatten().round(decimals=3).tolist()
        [0.0, 1.0, 0.0]
    """
    planes = colours.flatten(2).transpose(0, 1).contiguous()  # twice as fast as planes that lie apart
    red, green, blue = planes.unbind(0)
    least, chroma, hue, side = torch.empty(4, *red.shape, dtype=planes.dtype, device=planes.device).unbind(0)
    torch.minimum(torch.minimum(red, green, out=least), blue, out=least)
    torch.maximum(torch.maximum(red, green, out=chroma), blue, out=chroma).sub_(least)
    # With the values scaled to 0..1 the hue, in sixths of the circle from -3 to 3, is 1 + green + blue - red where
    # green is above blue, and the same below 0 where it is not.
    torch.add(green, blue, out=hue).sub_(red).sub_(least).div_(torch.clamp(chroma, min=1e-6, out=side)).add_(1)
    hue.copysign_(torch.sub(green, blue, out=side)).mul_(1 / 6).add_((turn + 1)[:, None])
    # A channel is high for a third of the circle, low for a half, and linear between.
    low, steepness = least.sub_(chroma), chroma.mul_(6)
    offsets = hue.new_tensor((0, 2 / 3, 1 / 3))[:, None, None]
    high = torch.add(hue, offsets, out=planes).frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    high.mul_(steepness).add_(low)
    return planes.transpose(0, 1).reshape(colours.shape)


def luma(colours: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """Return the grey value of every pixel, as PIL's mode L weighs the colours.

    Example:
        >>> luma(torch.ones(1, 3, 1, 1)).item()
        1.0
    """
    if colours.shape[1] == 1:
        return colours
    grey = colours[:, 0:1] * LUMA[0]
    return grey.add_(colours[:, 1:2], alpha=LUMA[1]).add_(colours[:, 2:3], alpha=LUMA[2])


def _blend(pixels: Tensor, factor: Tensor, kind: Tensor, *, out: Tensor) -> None:
    """Move ``[b, channels, pixels]`` from black, their mean grey, or their own grey by a factor; one product each."""
    weights = pixels.new_tensor(LUMA if pixels.shape[1] == 3 else (1.0,))
    rest = 1 - factor
    own_grey = torch.where(kind == _SATURATION, rest, 0.0)[:, None, None] * weights
    matrix = torch.diag_embed(factor[:, None].expand(-1, len(weights))) + own_grey
    mean_grey = torch.where(kind == _CONTRAST, rest, 0.0) * (pixels.mean(2) * weights).sum(1)
    # not baddbmm, which rounds differently in a batch of one
    torch.bmm(matrix, pixels, out=out).add_(mean_grey[:, None, None]).clamp_(0, 1)
