"""Grad-CAM: where in an image a layer speaks for a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


def grad_cam(
    logits: Callable[[Tensor], Tensor],
    layer: nn.Module,
    images: Float[Tensor, "b c h w"],
    classes: Int64[Tensor, " b"],
) -> Float[Tensor, "b h w"]:
    """Return how much each pixel speaks for a class: a layer's channels, weighted by their mean gradient and summed.

    Negative values are kept (no ReLU), and the map is enlarged bilinearly. No parameter receives a gradient and no
    graph is kept; put the modules in evaluation mode first, see `evaluating`.

    Args:
        logits: from images to one logit per class `[b, k]`; it runs `layer` exactly once.
        layer: gives maps `[b, channels, h', w']`.
        images: in [0, 1].
        classes: whose logit is explained, from 0.

    Raises:
        ValueError: for a layer that does not run once, or gives no maps.

    Reference: Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra (2017), Grad-CAM: Visual Explanations from Deep
        Networks via Gradient-Based Localization.

    Example:
        >>> layer = nn.Identity()
        >>> image = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
        >>> grad_cam(lambda x: layer(x).sum((2, 3)), layer, image, torch.tensor([0]))
        tensor([[[1., 0.],
                 [0., 2.]]])
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        found.append(output.detach().requires_grad_())
        return found[-1].clone()  # what comes next may work in place

    hook = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            chosen = logits(images).gather(1, classes[:, None]).sum()
    finally:
        hook.remove()
    if len(found) != 1 or found[0].ndim != 4:
        shapes = [tuple(maps.shape) for maps in found]
        raise ValueError(f"Grad-CAM needs a layer that gives maps [b, channels, h, w] once, found {shapes}.")
    maps = found[0]
    weights = torch.autograd.grad(chosen, maps)[0].mean((2, 3), keepdim=True)
    heat = (weights * maps.detach()).sum(1, keepdim=True)
    heat = heat.to(torch.promote_types(heat.dtype, torch.float32))
    return F.interpolate(heat, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def above_middle(maps: Float[Tensor, "b h w"]) -> Tensor:
    """Return which pixels lie above the middle between their map's least and largest value, all where these are equal.

    Args:
        maps: one number per pixel.

    Returns:
        bool `[b, h, w]`.

    Example:
        >>> above_middle(torch.tensor([[[0.0, 1.0, 4.0]], [[3.0, 3.0, 3.0]]])).tolist()
        [[[False, False, True]], [[True, True, True]]]
    """
    least, largest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (2 * (maps - least) > largest - least) | (largest == least)
