"""Input standardisation that lives inside an encoder, so that every caller hands over plain images in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


class Standardise(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel.

    Args:
        channels: channels of the images.
        mean: one number for all channels or one per channel, in units of the image ([0, 1]).
        std: likewise, positive.

    The two are buffers: they are saved with the weights and follow the module to its device. Images that are not
    floating point raise `TypeError`, a wrong number of channels `ValueError`.

    Example:
        >>> Standardise(1, mean=(0.5,), std=(0.25,))(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, *, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.25,)) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, found {channels}.")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} must have 1 or {channels} entries (one per channel), found {len(values)}.")
        if min(std) <= 0:
            raise ValueError(f"std must be positive, found {tuple(std)}.")
        self.channels = channels
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).expand(channels).clone().view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).expand(channels).clone().view(-1, 1, 1))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return `(images - mean) / std`."""
        if not images.is_floating_point():
            raise TypeError(
                f"an encoder takes floating-point images in [0, 1], found {images.dtype}; "
                "divide bytes by 255 first (kinfolk.data.to_float does)."
            )
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"this encoder takes images [b, {self.channels}, H, W], found {tuple(images.shape)}; "
                "build it with the channels of the source."
            )
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the number of channels."""
        return f"channels={self.channels}"
