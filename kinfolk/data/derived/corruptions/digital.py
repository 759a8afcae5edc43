"""Brightness, contrast, and what processing does: elastic deformation, coarse pixels, JPEG. Images are in [0, 1]."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kinfolk.data.derived.corruptions.fields import uniforms
from kinfolk.data.derived.corruptions.filters import box_resized, gaussian_blurred
from kinfolk.data.derived.corruptions.noise import Key
from kinfolk.data.optional import import_extra

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def brightness(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, amount: float) -> Tensor:
    """Raise the value of hue, saturation and value; black becomes grey."""
    value = images.amax(1, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised)


def contrast(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, share: float) -> Tensor:
    """Keep a share of every channel's distance from its mean."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + share * (images - mean)


def elastic_transform(
    images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, amount: float, sigma: float, reach: float
) -> Tensor:
    """Move three points at random and the picture with them, then every pixel by a smooth random field.

    Both maps are applied by one bilinear resampling (two in the published code); beyond the edge the picture is
    mirrored.

    Args:
        images: any.
        ids: their samples.
        key: of the points and the field.
        amount: largest displacement before smoothing, as a share of the shorter side.
        sigma: of the smoothing, likewise.
        reach: largest move of a point, likewise.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    middle = torch.tensor([width // 2, height // 2], dtype=torch.float32)
    arm = max(side // 3, 1)
    points = middle + arm * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = points + reach * side * (2 * uniforms((*key, 0), ids, 3, 2) - 1)
    # where a pixel comes from: the affine map that takes the moved points back
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1.0), points.expand_as(moved))
    field = amount * side * (2 * uniforms((*key, 1), ids, 2, height, width) - 1)
    field = gaussian_blurred(field, sigma * side, edge="reflect", truncate=3.0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x + field[:, 0], y + field[:, 1], torch.ones_like(field[:, 0])], dim=-1)
    source = place.flatten(1, 2) @ back
    grid = 2 * source / torch.tensor([max(width - 1, 1), max(height - 1, 1)]) - 1
    return F.grid_sample(images, grid.reshape(-1, height, width, 2), padding_mode="reflection", align_corners=True)


def pixelate(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, share: float) -> Tensor:
    """Shrink to a share of the side and enlarge again, both by boxes."""
    height, width = images.shape[2:]
    return box_resized(box_resized(images, (max(int(height * share), 1), max(int(width * share), 1))), (height, width))


def jpeg_compression(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, quality: float) -> Tensor:
    """Encode as JPEG and decode again, one by one with PIL."""
    pil = import_extra("PIL.Image", needed_for="JPEG compression")
    stored = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = np.empty_like(stored)
    for row, picture in enumerate(stored):
        buffer = io.BytesIO()
        pil.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
            buffer, "JPEG", quality=int(quality)
        )
        decoded[row] = np.asarray(pil.open(buffer)).reshape(picture.shape)
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(torch.float32) / 255
