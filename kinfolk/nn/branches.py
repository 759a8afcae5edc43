"""An encoder of two branches: one sees an image's lightness, the other its colours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.nn.encoders import SmallConvConfig
from kinfolk.nn.resnet import ResNet18Config
from kinfolk.nn.resnet50 import ResNet50Config
from kinfolk.ops.lab import rgb_to_lab

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class ColourBranches(nn.Module):
    """Two encoders side by side, of lightness and of colours, whose features are concatenated.

    In evaluation and after export it takes plain RGB images and splits them itself. A method that trains each branch on
    a view of its own calls ``branches[0]`` and ``branches[1]``.

    Args:
        lightness: encoder of images with 1 channel.
        colours: encoder of images with 2 channels.

    Attributes:
        branches: the two, in this order.
        feature_dim: the sum of theirs.

    Reference: Tian, Krishnan, Isola (2020), Contrastive Multiview Coding.

    Example:
        >>> encoder = ColourBranchesConfig(SmallConvConfig(width=4)).build(channels=3, image_size=(8, 8))
        >>> encoder(torch.rand(2, 3, 8, 8)).shape, encoder.branches[1](torch.rand(2, 2, 8, 8)).shape
        (torch.Size([2, 32]), torch.Size([2, 16]))
    """

    def __init__(self, lightness: nn.Module, colours: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList([lightness, colours])
        self.feature_dim: int = lightness.feature_dim + colours.feature_dim  # type: ignore[operator, assignment]

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b feature_dim"]:
        """Encode float RGB images in [0, 1].

        Raises:
            ValueError: for images of other than 3 channels.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"ColourBranches takes RGB images [b, 3, H, W], found {tuple(images.shape)}; a single branch takes the "
                "lightness [b, 1, H, W] or the colours [b, 2, H, W]."
            )
        # a half-precision cube root of a dark pixel is far off, so the split is made in float32
        with torch.autocast(images.device.type, enabled=False):
            lab = rgb_to_lab(images.to(torch.promote_types(images.dtype, torch.float32))).to(images.dtype)
        return torch.cat([self.branches[0](lab[:, :1]), self.branches[1](lab[:, 1:])], 1)


@dataclass(frozen=True)
class ColourBranchesConfig:
    """Settings of `ColourBranches`: two encoders of one kind, usually of half the width.

    Example:
        >>> ColourBranchesConfig().build(channels=3, image_size=(32, 32)).feature_dim
        128
    """

    kind: ClassVar[str] = "colour-branches"
    base: SmallConvConfig | ResNet18Config | ResNet50Config = field(default_factory=lambda: SmallConvConfig(width=16))
    """Each branch; one number of mean and std serves both, whose channels differ."""

    def build(self, *, channels: int, image_size: tuple[int, int]) -> ColourBranches:
        """Build both branches for images of 3 channels.

        Raises:
            ValueError: for another number of channels.
        """
        if channels != 3:
            raise ValueError(f"colour branches need RGB images, 3 channels; found {channels}.")
        lightness, colours = (self.base.build(channels=count, image_size=image_size) for count in (1, 2))
        return ColourBranches(lightness, colours)
