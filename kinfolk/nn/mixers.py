"""Two images made one: blended, or one cut into the other, with a partner of another class.

What is random comes in as numbers in [0, 1), so that the caller decides what a draw depends on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


def draw_from_other_classes(
    labels: Int64[Tensor, " n"], pool: Int64[Tensor, " m"], numbers: Float[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """Draw for every row a place in a pool that has another class, all such places being equally likely.

    Takes O(n log m) and no n x m matrix. Which place a number stands for depends on the pool's order.

    Args:
        labels: class of every row, -1 being unknown: any known class is another one.
        pool: classes to draw from; places with -1 are never drawn.
        numbers: uniform in [0, 1), one per row.

    Returns:
        Places in the pool; -1 where it has no other class.

    Example:
        >>> draw_from_other_classes(torch.tensor([0, 0, 7]), torch.tensor([0, 7, -1, 7]), torch.tensor([0.1, 0.9, 0.5]))
        tensor([1, 3, 0])
    """
    order = pool.argsort(stable=True)
    order = order[(pool < 0).sum() :]
    if not len(order):
        return torch.full_like(labels, -1)
    known = pool[order]
    # A class is a run of the sorted pool; places are counted as if the own run were not there.
    start, stop = torch.searchsorted(known, labels), torch.searchsorted(known, labels, right=True)
    others = len(known) - (stop - start)
    place = (numbers * others).long().minimum(others - 1)
    place = torch.where(place < start, place, place + stop - start)
    return torch.where(others > 0, order[place.clamp(0, len(known) - 1)], -1)


def mix(
    images: Float[Tensor, "n c h w"], partners: Float[Tensor, "n c h w"], *, share: float
) -> Float[Tensor, "n c h w"]:
    """Blend images pixel by pixel: `share` of the partner, the rest of the image.

    Args:
        images, partners: in pairs.
        share: from 0, the image as it is, to 1, the partner.

    Raises:
        ValueError: for a share outside [0, 1].

    Reference: Zhang, Cisse, Dauphin, Lopez-Paz (2018), mixup: Beyond Empirical Risk Minimization (there the share is
    drawn).

    Example:
        >>> mix(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), share=0.25).item()
        0.25
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0, the image alone, to 1, the partner alone; found {share}")
    return share * partners + (1 - share) * images


def boxes_of_area(
    numbers: Float[Tensor, "n 3"], *, size: tuple[int, int], area: tuple[float, float]
) -> Int64[Tensor, "n 4"]:
    """Return boxes that lie within an image, in its proportions as far as whole pixels allow, anywhere.

    Args:
        numbers: uniform in [0, 1): for the area, the upper edge and the left edge.
        size: height and width of the images.
        area: bounds of a box's share of the image; whole pixels can leave them by half a row.

    Returns:
        Upper, lower, left and right edge of every box; lower and right are the first outside.

    Raises:
        ValueError: for bounds outside (0, 1] or out of order.

    Example:
        >>> boxes_of_area(torch.tensor([[0.5, 0.0, 0.99]]), size=(10, 10), area=(0.45, 0.55)).tolist()
        [[0, 7, 3, 10]]
    """
    least, most = area
    if not 0 < least <= most <= 1:
        raise ValueError(f"area must be two shares of an image in ascending order, above 0 and up to 1; found {area}")
    height, width = size
    share = least + (most - least) * numbers[:, 0]
    rows = (height * share.sqrt()).round().clamp(1, height)
    # The width makes up for what rounding the height took from the area.
    columns = (share * height * width / rows).round().clamp(1, width)
    top = (numbers[:, 1] * (height - rows + 1)).floor()
    left = (numbers[:, 2] * (width - columns + 1)).floor()
    return torch.stack([top, top + rows, left, left + columns], dim=1).long()


def cut_mix(
    images: Float[Tensor, "n c h w"], partners: Float[Tensor, "n c h w"], boxes: Int64[Tensor, "n 4"]
) -> Float[Tensor, "n c h w"]:
    """Return the images with their partners inside the boxes.

    Args:
        images, partners: in pairs.
        boxes: upper, lower, left and right edge, as of `boxes_of_area`.

    Reference: Yun, Han, Oh, Chun, Choe, Yoo (2019), CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features.

    Example:
        >>> cut_mix(torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3), torch.tensor([[0, 1, 1, 3]]))[0, 0].tolist()
        [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    top, bottom, left, right = boxes[:, :, None].unbind(1)
    y, x = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]
    return torch.where(inside[:, None], partners, images)
