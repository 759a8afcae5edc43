"""Colour changes as one matrix and one offset per image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.views.chosen import change_some_
from kinfolk.data.views.config import ViewsConfig
from kinfolk.data.views.draws import Draws
from kinfolk.data.views.jitter import LUMA, jitter_in_order, luma

if TYPE_CHECKING:
    from jaxtyping import Float

_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def recolour(colours: Float[Tensor, "b c h w"], draws: Draws, config: ViewsConfig) -> Float[Tensor, "b c h w"]:
    """Change brightness, contrast, saturation and hue of a batch, or take its colours away.

    Args:
        colours: in [0, 1]; one channel (grey) or three (RGB).
        draws: the view's random numbers.
        config: the strengths.

    Returns:
        The changed images; in the form `matrix` not clamped.
    """
    return (
        _recolour_in_order(colours, draws, config)
        if config.jitter_form == "ordered"
        else _recolour_at_once(colours, draws, config)
    )


def _recolour_in_order(colours: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    strengths = {"brightness": config.brightness, "contrast": config.contrast, "saturation": config.saturation}
    if config.jitter > 0 and max(*strengths.values(), config.hue) > 0:
        colours = jitter_in_order(
            colours,
            draws.choice("jitter_order", 24),
            factors=torch.stack([draws.between(name, 1 - x, 1 + x) for name, x in strengths.items()], dim=1),
            turn=draws.between("hue", -config.hue, config.hue) if config.hue > 0 else None,
            applies=draws.occurs("jitter", config.jitter),
        )
    if config.grey > 0 and colours.shape[1] == 3:
        change_some_(colours, draws.occurs("grey", config.grey), lambda rgb: luma(rgb).expand_as(rgb))
    return colours


def _recolour_at_once(colours: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    applies = draws.occurs("jitter", config.jitter)
    brightness, contrast, saturation = (
        torch.where(applies, draws.between(name, 1 - strength, 1 + strength), 1.0)
        for name, strength in (
            ("brightness", config.brightness),
            ("contrast", config.contrast),
            ("saturation", config.saturation),
        )
    )
    gain = brightness * contrast
    offset = ((brightness - gain) * _mean_grey(colours))[:, None, None, None] if config.contrast > 0 else 0.0
    if colours.shape[1] == 1 or config.saturation == config.hue == config.grey == 0:
        return (colours * gain[:, None, None, None]).add_(offset)
    angle = torch.where(applies, draws.between("hue", -config.hue, config.hue), 0.0) * (2 * math.pi)
    saturation = torch.where(draws.occurs("grey", config.grey), 0.0, saturation)
    return _apply(colour_matrix(saturation, angle) * gain[:, None, None], colours).add_(offset)


def colour_matrix(saturation: Float[Tensor, " b"], angle: Float[Tensor, " b"]) -> Float[Tensor, "b 3 3"]:
    """Return the RGB matrix that scales and turns the chroma plane and leaves the grey value (luma) as it is.

    With Y, I, Q the linear YIQ coordinates, (I, Q) becomes saturation times (I, Q) turned by the angle.

    Args:
        saturation: 1 leaves it, 0 gives grey.
        angle: rotation of the hue, in radians.

    Example:
        >>> matrix = colour_matrix(torch.tensor([0.0]), torch.tensor([0.0]))[0]
        >>> [round(value, 3) for value in matrix[2].tolist()]
        [0.299, 0.587, 0.114]
    """
    to_grey, chroma, turned = _planes(saturation)
    along, across = saturation * torch.cos(angle), saturation * torch.sin(angle)
    return to_grey + along[:, None, None] * chroma + across[:, None, None] * turned


def _planes(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The projection to grey, the projection to chroma, and the latter turned by a right angle."""
    to_yiq = torch.tensor(_RGB_TO_YIQ, dtype=torch.float64)
    luma = to_yiq[0].expand(3, 3)
    right_angle = torch.tensor(((0.0, 0, 0), (0, 0, -1), (0, 1, 0)), dtype=torch.float64)
    turned = torch.linalg.inv(to_yiq) @ right_angle @ to_yiq
    chroma = torch.eye(3, dtype=torch.float64) - luma
    return luma.to(like), chroma.to(like), turned.to(like)


def _apply(matrix: Tensor, colours: Tensor) -> Tensor:
    batch, channels, height, width = colours.shape
    return torch.bmm(matrix, colours.reshape(batch, channels, height * width)).reshape(colours.shape)


def _mean_grey(colours: Tensor) -> Tensor:
    means = colours.mean(dim=(2, 3))
    return means[:, 0] if means.shape[1] == 1 else (means * means.new_tensor(LUMA)).sum(dim=1)
