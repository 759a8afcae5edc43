"""RGB to lightness and colour opponents, so that one image makes two views with different channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_WHITE = (0.95047, 1.0, 1.08883)  # D65, as the rows above add up
_LINEAR_BELOW = 6 / 29


def rgb_to_lab(colours: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Convert sRGB to CIELAB under D65, scaled into [0, 1].

    Args:
        colours: sRGB in [0, 1].

    Returns:
        ``L / 100``, ``(a + 128) / 255`` and ``(b + 128) / 255``, so that a grey pixel has about 0.502 in the last two;
        every sRGB colour stays inside.

    Reference: CIE (2004), Colorimetry, publication 15; IEC 61966-2-1 (1999), Default RGB colour space.

    Example:
        >>> rgb_to_lab(torch.ones(1, 3, 1, 1)).flatten().round(decimals=2).tolist()
        [1.0, 0.5, 0.5]
    """
    linear = torch.where(colours > 0.04045, ((colours + 0.055) / 1.055) ** 2.4, colours / 12.92)
    to_xyz = linear.new_tensor(_TO_XYZ) / linear.new_tensor(_WHITE)[:, None]
    xyz = torch.einsum("ij,bjhw->bihw", to_xyz, linear)
    response = torch.where(
        xyz > _LINEAR_BELOW**3, xyz.clamp(min=_LINEAR_BELOW**3) ** (1 / 3), xyz / (3 * _LINEAR_BELOW**2) + 4 / 29
    )
    x, y, z = response.unbind(1)
    lab = torch.stack([(116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255], dim=1)
    return lab.clamp_(0, 1)
