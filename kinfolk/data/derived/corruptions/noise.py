"""Noise: Gaussian, of photons, and of broken pixels. Images are floats in [0, 1]; results are clipped by the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.derived.corruptions.fields import normals, uniforms

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Key = tuple[int, ...]


def gaussian_noise(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, sd: float) -> Tensor:
    """Add normal noise of a standard deviation."""
    return images + sd * normals(key, ids, *images.shape[1:])


def shot_noise(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, photons: float) -> Tensor:
    """Count photons, so many on average where the picture is white."""
    rates = images * photons
    counts = [
        torch.poisson(rate, generator=counter_generator(*key, sample))
        for rate, sample in zip(rates, ids.tolist(), strict=True)
    ]
    return torch.stack(counts) / photons


def impulse_noise(images: Float[Tensor, "b c h w"], ids: Int[Tensor, " b"], key: Key, share: float) -> Tensor:
    """Make a share of the values black or white, half of it each."""
    drawn = uniforms(key, ids, *images.shape[1:])
    return images.masked_fill(drawn < share / 2, 0.0).masked_fill(drawn >= 1 - share / 2, 1.0)
