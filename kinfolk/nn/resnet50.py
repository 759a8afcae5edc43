"""ResNet-50, the encoder of most published results on ImageNet, without a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.nn.norms import Norm, make_norm
from kinfolk.nn.resnet import Stem, initialise_convolutions, make_stem, own_name
from kinfolk.nn.standardise import Standardise

if TYPE_CHECKING:
    from jaxtyping import Float

_BLOCKS = (3, 4, 6, 3)


@final
class BottleneckBlock(nn.Module):
    """A 3x3 convolution between two of 1x1, beside a shortcut; the 3x3 one has the stride.

    Args:
        incoming: channels of the input.
        inner: channels of the 3x3 convolution; the block gives four times as many.
        stride: of the 3x3 convolution and of the shortcut.
        norm: `"batch"` or `"group"`.

    Example:
        >>> import torch
        >>> BottleneckBlock(8, 4, stride=2, norm="batch")(torch.rand(2, 8, 6, 6)).shape
        torch.Size([2, 16, 3, 3])
    """

    def __init__(self, incoming: int, inner: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        outgoing = 4 * inner
        self.conv1 = nn.Conv2d(incoming, inner, 1, bias=False)
        self.norm1 = make_norm(norm, inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.norm2 = make_norm(norm, inner)
        self.conv3 = nn.Conv2d(inner, outgoing, 1, bias=False)
        self.norm3 = make_norm(norm, outgoing)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or incoming != outgoing:
            projection = nn.Conv2d(incoming, outgoing, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, make_norm(norm, outgoing))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the block's output map."""
        out = F.relu(self.norm1(self.conv1(maps)), inplace=True)
        out = F.relu(self.norm2(self.conv2(out)), inplace=True)
        return F.relu(self.norm3(self.conv3(out)) + self.shortcut(maps), inplace=True)


@final
class ResNet50(nn.Module):
    """ResNet-50 up to its average pooling, with the stride in the 3x3 convolutions.

    Args:
        channels: channels of the images.
        stem: `"small"` or `"imagenet"`, as in `ResNet18`.
        norm: `"batch"` or `"group"`.
        width: inner channels of the first stage; the four stages have 1, 2, 4 and 8 times as many. 64 is ResNet-50.
        mean, std: standardisation of the input, one number or one per channel.

    Attributes:
        feature_dim: `32 * width`, 2048 by default.

    Reference: He, Zhang, Ren, Sun (2016), Deep Residual Learning for Image Recognition.

    Example:
        >>> import torch
        >>> ResNet50(channels=3, width=4)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        *,
        channels: int,
        stem: Stem = "imagenet",
        norm: Norm = "batch",
        width: int = 64,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, found {width}.")
        self.feature_dim: int = 32 * width
        self.standardise = Standardise(channels, mean=mean, std=std)
        self.stem = make_stem(stem, channels, width, norm)
        stages, incoming = [], width
        for stage, count in enumerate(_BLOCKS):
            inner, blocks = width * 2**stage, []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BottleneckBlock(incoming, inner, stride=stride, norm=norm))
                incoming = 4 * inner
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        initialise_convolutions(self)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b feature_dim"]:
        """Encode float images in [0, 1]."""
        return self.stages(self.stem(self.standardise(images))).mean((2, 3))

    def own_name(self, name: str) -> str:
        """Return what this encoder calls a tensor of a published ResNet; see `kinfolk.nn.resnet.own_name`."""
        return own_name(name)


@dataclass(frozen=True)
class ResNet50Config:
    """Settings of a `ResNet50`.

    Published weights (torchvision's, timm's, MoCo's) load into it with the imagenet stem, width 64, 3 channels and
    the standardisation that they were trained with, mostly mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225).

    Example:
        >>> ResNet50Config(width=4).build(channels=3, image_size=(64, 64)).feature_dim
        128
    """

    kind: ClassVar[str] = "resnet50"
    stem: Stem = "imagenet"
    """Small: 3x3, stride 1, no pooling (8x8 to 64x64 pixels); imagenet: 7x7, stride 2 and max-pooling."""
    norm: Norm = "batch"
    """Batch norm, or group norm where samples of a batch must not see one another."""
    width: int = 64
    """Inner channels of the first stage; 64 is ResNet-50, and features are 32 times as long."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from the input; one number or one per channel."""
    std: tuple[float, ...] = (0.25,)
    """Divides the input after that; one number or one per channel."""

    def build(self, *, channels: int, image_size: tuple[int, int]) -> ResNet50:
        """Build the encoder; any image size from 8x8 up works, so `image_size` only has to be a size."""
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(f"image_size must be (H, W) in pixels, found {image_size}.")
        return ResNet50(
            channels=channels, stem=self.stem, norm=self.norm, width=self.width, mean=self.mean, std=self.std
        )
