"""Any `nn.Module` from images to vectors as an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class AdaptedEncoder(nn.Module):
    """A module whose output is flattened to `[b, feature_dim]`; made by `as_encoder`.

    Args:
        module: maps images `[b, C, H, W]` to a tensor `[b, ...]`.
        feature_dim: length of the flattened output of one image.

    Example:
        >>> AdaptedEncoder(nn.Flatten(), feature_dim=64)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 64])
    """

    def __init__(self, module: nn.Module, *, feature_dim: int) -> None:
        super().__init__()
        self.module = module
        self.feature_dim = feature_dim

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b feature_dim"]:
        """Run the module and flatten what it returns."""
        return self.module(images).flatten(1)


def as_encoder(module: nn.Module, *, channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Turn a module from images to a tensor into an encoder with a `feature_dim`.

    The length is found by a dry run on two grey images, in eval mode, without gradient and on copies of the buffers:
    weights, statistics, random state and the train/eval mode of every submodule are afterwards what they were. A
    module that already keeps the contract comes back unchanged.

    Args:
        module: takes float images `[b, C, H, W]` in [0, 1] (put a `Standardise` in front if it expects other numbers).
        channels: C.
        image_size: (H, W) in pixels.

    Returns:
        A module from `[b, C, H, W]` to `[b, feature_dim]` with an attribute `feature_dim`.

    Raises:
        TypeError: the output is not a floating-point tensor.
        ValueError: the module does not accept such images, or its output is not `[b, ...]`.

    Example:
        >>> as_encoder(nn.Conv2d(3, 2, 3, padding=1), channels=3, image_size=(8, 8)).feature_dim
        128
    """
    out = dry_run(module, channels=channels, image_size=image_size)
    if not isinstance(out, Tensor) or not out.is_floating_point():
        found = out.dtype if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(
            f"an encoder returns one floating-point tensor, {type(module).__name__} returned {found}; "
            "wrap it in a module whose forward picks the features (for instance `return model(x).pooler_output`)."
        )
    if out.ndim < 2 or len(out) != 2 or out.numel() == 0:
        raise ValueError(
            f"an encoder maps images [2, {channels}, {image_size[0]}, {image_size[1]}] to [2, ...], "
            f"{type(module).__name__} returned {tuple(out.shape)}; the first dimension must stay the batch."
        )
    feature_dim = out[0].numel()
    if out.ndim == 2 and getattr(module, "feature_dim", None) == feature_dim:
        return module
    return AdaptedEncoder(module, feature_dim=feature_dim)


def encoder_dim(encoder: nn.Module) -> int:
    """Return `encoder.feature_dim`, with an error that names `as_encoder` where it is missing.

    Example:
        >>> encoder_dim(AdaptedEncoder(nn.Flatten(), feature_dim=64))
        64
    """
    dim = getattr(encoder, "feature_dim", None)
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(
            f"an encoder has an integer attribute feature_dim, {type(encoder).__name__} has {dim!r}; "
            "adapt it with kinfolk.nn.as_encoder(module, channels=..., image_size=...)."
        )
    return dim


def dry_run(module: nn.Module, *, channels: int, image_size: tuple[int, int]) -> object:
    """Return what a module makes of two grey images, in eval mode, and leave the module as it was.

    Raises:
        ValueError: the module does not accept such images.

    Example:
        >>> dry_run(nn.Flatten(), channels=3, image_size=(2, 2)).shape
        torch.Size([2, 12])
    """
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    images = torch.full((2, channels, *image_size), 0.5, dtype=like.dtype, device=like.device)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    modes = [(part, part.training) for part in module.modules()]
    devices = [like.device] if like.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            return functional_call(module.eval(), buffers, (images,))
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} does not accept images {tuple(images.shape)}: {error}. "
            "Check channels and image_size, or adapt the module's first layer."
        ) from error
    finally:
        for part, training in modes:
            part.training = training
