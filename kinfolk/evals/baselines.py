"""The encoders every table shows beside the trained one: pixels as they are, and pixels minus their mean.

For the rows of a table they are its features, which have mean 0 already. The third one, an untrained encoder, is any
fresh encoder of the same architecture; it needs no code of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.data.views.table import unaugmented

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.sources import Source


class RawPixels(nn.Module):
    """Flattened pixels in [0, 1], or a table's own features: what a representation has to beat.

    Args:
        channels: colour channels of the images.
        image_size: height and width in pixels.

    Example:
        >>> RawPixels(channels=1, image_size=(2, 2))(torch.ones(3, 1, 2, 2)).shape
        torch.Size([3, 4])
    """

    def __init__(self, *, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.feature_dim = channels * image_size[0] * image_size[1]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b chw"]:
        """Flatten every image."""
        return images.flatten(1)


class CentredRawPixels(nn.Module):
    """Flattened pixels minus the mean image of the training set.

    Centring matters for cosines: images that share a background are all alike until it is taken away.

    Args:
        mean: float `[C, H, W]`, the mean image in [0, 1].

    Example:
        >>> CentredRawPixels(torch.full((1, 2, 2), 0.5))(torch.ones(1, 1, 2, 2))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """

    mean: Tensor

    def __init__(self, mean: Float[Tensor, "c h w"]) -> None:
        super().__init__()
        self.feature_dim = mean.numel()
        self.register_buffer("mean", mean)

    @classmethod
    def fit(cls, source: Source, *, batch_size: int = 256, indices: Tensor | None = None) -> CentredRawPixels:
        """Take the mean image over a source.

        Args:
            source: the training set; each sample counts once.
            batch_size: images per read.
            indices: int64 positions in the source; None takes all.

        Returns:
            The baseline, with a float32 mean that was summed in float64.
        """
        chosen = torch.arange(len(source)) if indices is None else indices
        total = torch.zeros(source.channels, *source.image_size, dtype=torch.float64)
        for part in chosen.split(batch_size):
            total += unaugmented(source.fetch(part)["images"]).double().sum(0)
        return cls((total / len(chosen)).float())

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b chw"]:
        """Subtract the mean image, resized where views have another size than the images, and flatten."""
        mean = self.mean
        if images.shape[-2:] != mean.shape[-2:]:
            mean = F.interpolate(mean[None], size=images.shape[-2:], mode="area")[0]
        return (images - mean).flatten(1)
