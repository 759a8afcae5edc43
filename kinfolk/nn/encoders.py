"""A small convolutional encoder for tiny images, made to train on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

from torch import Tensor, nn

from kinfolk.nn.norms import Norm, make_norm
from kinfolk.nn.standardise import Standardise

if TYPE_CHECKING:
    from jaxtyping import Float

Pool = Literal["average", "flatten"]


@final
class SmallConvNet(nn.Module):
    """A few 3x3 convolutions, each with normalisation and ReLU, then pooling.

    A convolution has stride 2 as long as its output stays at least 4x4, so an image of 28x28 ends at 4x4 after three
    and one of 8x8 keeps enough of its layout. The channels double from `width` to at most `4 * width`. With the
    defaults a view of 28x28 costs 4.3 MFLOP.

    Args:
        channels: channels of the images.
        image_size: (H, W) in pixels, meant for 8x8 to 64x64; `pool="flatten"` accepts this size only.
        width: channels of the first convolution.
        depth: number of convolutions.
        norm: `"batch"`, or `"group"` where samples of a batch must not see one another.
        pool: `"average"` forgets where things are (objects that move about), `"flatten"` keeps it (upright digits).
        feature_dim: width of a closing linear layer; None leaves it out.
        mean, std: standardisation of the input, one number or one per channel.

    Attributes:
        feature_dim: length of a feature vector.

    Example:
        >>> import torch
        >>> encoder = SmallConvNet(channels=1, image_size=(28, 28))
        >>> encoder(torch.rand(2, 1, 28, 28)).shape, encoder.feature_dim
        (torch.Size([2, 128]), 128)
    """

    def __init__(
        self,
        *,
        channels: int,
        image_size: tuple[int, int],
        width: int = 32,
        depth: int = 3,
        norm: Norm = "batch",
        pool: Pool = "average",
        feature_dim: int | None = None,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ) -> None:
        super().__init__()
        _check_sizes(image_size, width=width, depth=depth, feature_dim=feature_dim)
        if pool not in ("average", "flatten"):
            raise ValueError(f"pool must be 'average' or 'flatten', found {pool!r}.")
        self.image_size = (image_size[0], image_size[1])
        self.pool = pool
        self.standardise = Standardise(channels, mean=mean, std=std)
        blocks, size, incoming = [], self.image_size, channels
        for layer in range(depth):
            outgoing, stride = width * min(2**layer, 4), 2 if min(size) >= 7 else 1
            convolution = nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False)
            blocks.append(nn.Sequential(convolution, make_norm(norm, outgoing), nn.ReLU(inplace=True)))
            size, incoming = (-(-size[0] // stride), -(-size[1] // stride)), outgoing
        self.blocks = nn.Sequential(*blocks)
        pooled = incoming * (size[0] * size[1] if pool == "flatten" else 1)
        self.out = nn.Identity() if feature_dim is None else nn.Linear(pooled, feature_dim)
        self.feature_dim: int = pooled if feature_dim is None else feature_dim

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b feature_dim"]:
        """Encode float images in [0, 1]."""
        maps = self.blocks(self.standardise(images))
        if self.pool == "average":
            return self.out(maps.mean((2, 3)))
        if images.shape[2:] != self.image_size:
            raise ValueError(
                f"pool='flatten' was built for images of {self.image_size}, found {tuple(images.shape[2:])}; "
                "resize them or build the encoder with pool='average'."
            )
        return self.out(maps.flatten(1))


@dataclass(frozen=True)
class SmallConvConfig:
    """Settings of a `SmallConvNet`.

    Example:
        >>> SmallConvConfig(pool="flatten").build(channels=1, image_size=(8, 8)).feature_dim
        2048
    """

    kind: ClassVar[str] = "small-conv"
    width: int = 32
    """Channels of the first convolution; they double up to four times as many."""
    depth: int = 3
    """Number of convolutions."""
    norm: Norm = "batch"
    """Batch norm, or group norm where samples of a batch must not see one another."""
    pool: Pool = "average"
    """Average forgets where things are (objects that move about), flatten keeps it (upright digits)."""
    feature_dim: int | None = None
    """Width of a closing linear layer; None leaves it out."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from the input; one number or one per channel."""
    std: tuple[float, ...] = (0.25,)
    """Divides the input after that; one number or one per channel."""

    def build(self, *, channels: int, image_size: tuple[int, int]) -> SmallConvNet:
        """Build the encoder for images of this many channels and this (H, W)."""
        return SmallConvNet(
            channels=channels,
            image_size=image_size,
            width=self.width,
            depth=self.depth,
            norm=self.norm,
            pool=self.pool,
            feature_dim=self.feature_dim,
            mean=self.mean,
            std=self.std,
        )


def _check_sizes(image_size: tuple[int, int], *, width: int, depth: int, feature_dim: int | None) -> None:
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size must be (H, W) in pixels, found {image_size}.")
    for name, value in (("width", width), ("depth", depth), ("feature_dim", 1 if feature_dim is None else feature_dim)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}.")
