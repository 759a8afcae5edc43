"""Weather: snow, frost, fog. Images are floats in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.derived.corruptions.fields import frost, normals, plasma, uniforms
from kinfolk.data.derived.corruptions.filters import motion_blurred, zoomed
from kinfolk.data.derived.corruptions.noise import Key

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_LUMINANCE = (0.299, 0.587, 0.114)


def snow(
    images: Float[Tensor, "b c h w"],
    ids: Int[Tensor, " b"],
    key: Key,
    mean: float,
    sd: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    share: float,
) -> Tensor:
    """Whiten the picture and let flakes fall through it, two layers of them, smeared downwards.

    Args:
        images: any.
        ids: their samples.
        key: of the flakes.
        mean: of the normal noise that flakes are cut out of.
        sd: of that noise.
        zoom: how many times larger than a pixel a flake is.
        threshold: above which there is a flake.
        radius: of the smear, see `motion_blurred`.
        sigma: of the smear.
        share: of the picture; the rest is its whitened copy.
    """
    flakes = zoomed(mean + sd * normals((*key, 0), ids, 1, *images.shape[2:]), zoom)
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    flakes = motion_blurred(flakes, 90 * uniforms((*key, 1), ids, 1)[:, 0] - 135, radius=radius, sigma=sigma)
    white = torch.maximum(images, 1.5 * _grey(images) + 0.5)
    return share * images + (1 - share) * white + flakes + flakes.flip(2, 3)


def procedural_frost(
    images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, share: float, ice: float
) -> Tensor:
    """Add a drawn pane of frost; the published corruption adds photographs of frozen panes."""
    pane = frost(key, ids, size=(images.shape[2], images.shape[3]))
    return share * images + ice * (pane if images.shape[1] == 3 else _grey(pane))


def fog(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, thickness: float, decay: float) -> Tensor:
    """Add clouds and scale back to the brightest value that the picture had."""
    clouds = plasma(key, ids, size=(images.shape[2], images.shape[3]), decay=decay)
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + thickness * clouds[:, None]) * brightest / (brightest + thickness)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)
