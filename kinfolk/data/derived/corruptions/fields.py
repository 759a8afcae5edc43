"""Random fields, each a function of key and sample id alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_uniform
from kinfolk.data.derived.corruptions.filters import motion_blurred, zoomed

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def uniforms(key: tuple[int, ...], ids: Int[Tensor, " b"], *shape: int) -> Tensor:
    """Draw numbers in [0, 1) for every id, ``[b, *shape]``.

    Example:
        >>> uniforms((0,), torch.tensor([4, 7]), 3, 5).shape
        torch.Size([2, 3, 5])
    """
    return counter_uniform(key, ids, count=math.prod(shape)).reshape(len(ids), *shape)


def normals(key: tuple[int, ...], ids: Int[Tensor, " b"], *shape: int) -> Tensor:
    """Draw standard normal numbers for every id, ``[b, *shape]``.

    Reference: Box, Muller (1958), A note on the generation of random normal deviates.

    Example:
        >>> normals((0,), torch.tensor([4, 7]), 3, 5).shape
        torch.Size([2, 3, 5])
    """
    count = math.prod(shape)
    radius, angle = counter_uniform(key, ids, count=2 * (-(-count // 2))).chunk(2, dim=1)
    radius, angle = (-2 * torch.log1p(-radius)).sqrt(), 2 * math.pi * angle
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].reshape(len(ids), *shape)


def plasma(
    key: tuple[int, ...], ids: Int[Tensor, " b"], *, size: tuple[int, int], decay: float
) -> Float[Tensor, "b h w"]:
    """Draw clouds in [0, 1] by the diamond-square rule on a torus.

    Args:
        key: any integers.
        ids: sample ids.
        size: ``(H, W)``; the clouds are made on the next larger square whose side is a power of two.
        decay: by how much the randomness falls from one level to the next; less makes finer clouds.

    Reference: Fournier, Fussell, Carpenter (1982), Computer rendering of stochastic models.

    Example:
        >>> clouds = plasma((0,), torch.tensor([4, 7]), size=(6, 5), decay=2.0)
        >>> clouds.shape, clouds.min().item() >= 0, clouds.max().item() <= 1
        (torch.Size([2, 6, 5]), True, True)
    """
    side = 1 << max(1, (max(size) - 1).bit_length())
    field = torch.zeros(len(ids), side, side)
    step, wobble, level = side, 100.0, 0

    def wobbling(total: Tensor, stream: int) -> Tensor:
        return total / 4 + wobble**2 * (2 * uniforms((*key, level, stream), ids, *total.shape[1:]) - 1)

    while step >= 2:
        half, corners = step // 2, field[:, ::step, ::step]
        below = corners + corners.roll(-1, 1)
        middles = wobbling(below + below.roll(-1, 2), 0)
        field[:, half::step, half::step] = middles
        field[:, ::step, half::step] = wobbling(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2), 1)
        field[:, half::step, ::step] = wobbling(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1), 2)
        step, wobble, level = half, wobble / decay, level + 1
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    return ((field - low) / (high - low))[:, : size[0], : size[1]]


def frost(key: tuple[int, ...], ids: Int[Tensor, " b"], *, size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """Draw a pane of frost: clouds of rime with needles of ice in three directions, 60 degrees apart, bluish white.

    It stands in for the photographs of frozen panes that the published set uses, and is not them.

    Example:
        >>> frost((0,), torch.tensor([4, 7]), size=(6, 5)).shape
        torch.Size([2, 3, 6, 5])
    """
    rime = plasma((*key, 0), ids, size=size, decay=1.8)
    turn = 60 * uniforms((*key, 1), ids, 1)[:, 0]
    reach = max(3, max(size) // 12)
    needles = torch.zeros(len(ids), 1, *size)
    for third in range(3):
        seeds = (uniforms((*key, 2, third), ids, 1, *size) > 0.94).to(torch.float32)
        seeds = zoomed(seeds, max(1.0, max(size) / 96))  # a needle is wider than a pixel on larger panes
        angle = turn + 60 * third
        both_ways = (motion_blurred(seeds, angle + way, radius=reach, sigma=reach) for way in (0, 180))
        needles = torch.maximum(needles, sum(both_ways, torch.zeros(())))
    strength = (0.25 + 0.55 * rime[:, None] + 1.2 * needles * (0.4 + rime[:, None])).clamp(0, 1)
    return strength * torch.tensor([0.82, 0.92, 1.0])[:, None, None]
