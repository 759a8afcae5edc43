"""ResNet-18 with the stem for small images or the one for ImageNet, without a classifier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.nn.norms import Norm, make_norm
from kinfolk.nn.standardise import Standardise

if TYPE_CHECKING:
    from jaxtyping import Float

Stem = Literal["small", "imagenet"]


@final
class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: `relu(conv(conv(x)) + shortcut(x))`.

    Args:
        incoming: channels of the input.
        outgoing: channels of the output.
        stride: of the first convolution and of the shortcut.
        norm: `"batch"` or `"group"`.

    Example:
        >>> import torch
        >>> BasicBlock(8, 16, stride=2, norm="batch")(torch.rand(2, 8, 6, 6)).shape
        torch.Size([2, 16, 3, 3])
    """

    def __init__(self, incoming: int, outgoing: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False)
        self.norm1 = make_norm(norm, outgoing)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.norm2 = make_norm(norm, outgoing)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or incoming != outgoing:
            projection = nn.Conv2d(incoming, outgoing, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, make_norm(norm, outgoing))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the block's output map."""
        out = F.relu(self.norm1(self.conv1(maps)), inplace=True)
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(maps), inplace=True)


@final
class ResNet18(nn.Module):
    """ResNet-18 up to its average pooling.

    Args:
        channels: channels of the images.
        stem: `"small"` is a 3x3 convolution of stride 1 without max-pooling (8x8 to about 64x64 pixels);
            `"imagenet"` a 7x7 convolution of stride 2 and a 3x3 max-pooling of stride 2.
        norm: `"batch"` or `"group"`.
        width: channels of the first stage; the four stages have 1, 2, 4 and 8 times as many. 64 is ResNet-18.
        mean, std: standardisation of the input, one number or one per channel.

    Attributes:
        feature_dim: `8 * width`, 512 by default.

    Reference: He, Zhang, Ren, Sun (2016), Deep Residual Learning for Image Recognition.

    Example:
        >>> import torch
        >>> ResNet18(channels=3, width=4)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        *,
        channels: int,
        stem: Stem = "small",
        norm: Norm = "batch",
        width: int = 64,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, found {width}.")
        self.feature_dim: int = 8 * width
        self.standardise = Standardise(channels, mean=mean, std=std)
        self.stem = make_stem(stem, channels, width, norm)
        stages, incoming = [], width
        for outgoing, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            first = BasicBlock(incoming, outgoing, stride=stride, norm=norm)
            stages.append(nn.Sequential(first, BasicBlock(outgoing, outgoing, stride=1, norm=norm)))
            incoming = outgoing
        self.stages = nn.Sequential(*stages)
        initialise_convolutions(self)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b feature_dim"]:
        """Encode float images in [0, 1]."""
        return self.stages(self.stem(self.standardise(images))).mean((2, 3))

    def own_name(self, name: str) -> str:
        """Return what this encoder calls a tensor of a published ResNet; see `own_name` of this module."""
        return own_name(name)


@dataclass(frozen=True)
class ResNet18Config:
    """Settings of a `ResNet18`.

    Example:
        >>> ResNet18Config(width=4).build(channels=1, image_size=(28, 28)).feature_dim
        32
    """

    kind: ClassVar[str] = "resnet18"
    stem: Stem = "small"
    """Small: 3x3, stride 1, no pooling (8x8 to 64x64 pixels); imagenet: 7x7, stride 2 and max-pooling."""
    norm: Norm = "batch"
    """Batch norm, or group norm where samples of a batch must not see one another."""
    width: int = 64
    """Channels of the first stage; 64 is ResNet-18, and features are 8 times as long."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from the input; one number or one per channel."""
    std: tuple[float, ...] = (0.25,)
    """Divides the input after that; one number or one per channel."""

    def build(self, *, channels: int, image_size: tuple[int, int]) -> ResNet18:
        """Build the encoder; any image size from 8x8 up works, so `image_size` only has to be a size."""
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(f"image_size must be (H, W) in pixels, found {image_size}.")
        return ResNet18(
            channels=channels, stem=self.stem, norm=self.norm, width=self.width, mean=self.mean, std=self.std
        )


def make_stem(stem: Stem, channels: int, width: int, norm: Norm) -> nn.Sequential:
    """Return what comes before a ResNet's stages.

    Args:
        stem: `"small"` or `"imagenet"`, as in `ResNet18`.
        channels: of the images.
        width: channels of the map that it gives.
        norm: `"batch"` or `"group"`.

    Raises:
        ValueError: for any other stem.

    Example:
        >>> import torch
        >>> make_stem("imagenet", 3, 8, "batch")(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 8, 8, 8])
    """
    if stem == "small":
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        return nn.Sequential(convolution, make_norm(norm, width), nn.ReLU(inplace=True))
    if stem == "imagenet":
        convolution = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        return nn.Sequential(convolution, make_norm(norm, width), nn.ReLU(inplace=True), pool)
    raise ValueError(f"stem must be 'small' or 'imagenet', found {stem!r}.")


def initialise_convolutions(module: nn.Module) -> None:
    """Draw the weights of all convolutions so that maps keep their variance on the way back.

    Reference: He, Zhang, Ren, Sun (2015), Delving Deep into Rectifiers.

    Example:
        >>> convolution = nn.Conv2d(4, 50, 3)
        >>> initialise_convolutions(convolution)
        >>> round(convolution.weight.std().item() * (9 * 50 / 2) ** 0.5, 1)
        1.0
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


# What torchvision and timm, and with them most checkpoints, call the parts of a ResNet; the prefix may be a wrapper's.
_PUBLISHED = (
    (re.compile(r"(^|\.)layer([1-4])\.(\d+)\.downsample\.([01])\."), r"\1stages.<\2>.\3.shortcut.\4."),
    (re.compile(r"(^|\.)layer([1-4])\.(\d+)\.bn(\d)\."), r"\1stages.<\2>.\3.norm\4."),
    (re.compile(r"(^|\.)layer([1-4])\.(\d+)\.conv(\d)\."), r"\1stages.<\2>.\3.conv\4."),
    (re.compile(r"^((?:[a-z_]+\.)*)conv1\."), r"\1stem.0."),
    (re.compile(r"^((?:[a-z_]+\.)*)bn1\."), r"\1stem.1."),
)


def own_name(name: str) -> str:
    """Return what `ResNet18` and `ResNet50` call a tensor of torchvision's or timm's ResNet; other names stay.

    Example:
        >>> own_name("module.encoder_q.layer2.0.downsample.1.weight"), own_name("conv1.weight")
        ('module.encoder_q.stages.1.0.shortcut.1.weight', 'stem.0.weight')
        >>> own_name("stages.0.1.conv1.weight"), own_name("fc.bias")
        ('stages.0.1.conv1.weight', 'fc.bias')
    """
    for pattern, new in _PUBLISHED:
        name, changes = pattern.subn(new, name)
        if changes:  # their stages count from 1, ours from 0
            return re.sub(r"<(\d)>", lambda found: str(int(found[1]) - 1), name)
    return name
