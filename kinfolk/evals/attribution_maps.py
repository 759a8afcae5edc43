"""How much each pixel speaks for a class: a few ways to attribute a logit to its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from kinfolk.data.counter import counter_uniform
from kinfolk.data.optional import import_extra
from kinfolk.nn.grad_cam import grad_cam

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

AttributionMethod = Literal[
    "gradient", "gradient_x_input", "integrated_gradients", "smooth_grad", "grad_cam", "occlusion"
]

_NOISE = 11


@dataclass(frozen=True)
class Attribution:
    """A way to attribute logits to pixels.

    ====================== ============================================================================================
    `gradient`             |d logit / d x|, the largest over the colours
    `gradient_x_input`     x times the gradient, summed over the colours
    `integrated_gradients` (x - x0) times the mean gradient on the straight path from the replacement x0 to x, summed;
                           the sum over all pixels is logit(x) - logit(x0)
    `smooth_grad`          as `gradient`, of the mean gradient over noisy copies of x
    `grad_cam`             of a convolution's output, channels weighted by their mean gradient and summed, negative
                           values kept; enlarged bilinearly
    `occlusion`            by how much the logit falls when a square window around the pixel shows the replacement;
                           the mean over the windows that hold the pixel
    ====================== ============================================================================================

    `occlusion` needs captum (``pip install "kinfolk[explain]"``). Only the images get a gradient: parameters, their
    gradients and running statistics stay as they were.

    Args:
        method: see above.
        samples: points on the path, by the midpoint rule, or noisy copies.
        noise: standard deviation of a noisy copy; images lie in [0, 1].
        layer: the convolution of `grad_cam`, its name in the encoder such as "blocks.2.0"; None takes the last one.
        window: side in pixels of the window of `occlusion`, which moves by half of it.

    Raises:
        ValueError: for a method that does not exist, or numbers out of range.

    Reference: Simonyan, Vedaldi, Zisserman (2014), Deep inside convolutional networks; Sundararajan, Taly, Yan (2017),
        Axiomatic attribution for deep networks; Smilkov, Thorat, Kim, Viegas, Wattenberg (2017), SmoothGrad; Selvaraju,
        Cogswell, Das, Vedantam, Parikh, Batra (2017), Grad-CAM; Zeiler, Fergus (2014), Visualizing and understanding
        convolutional networks.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(4, 2))
        >>> _ = model[2].weight.data.copy_(torch.tensor([[0.0, 0, 0, 0], [3, 0, 0, -1]]))
        >>> image = torch.full((1, 1, 2, 2), 0.5)
        >>> Attribution("gradient_x_input").maps(model, image, torch.tensor([1]), replacement=torch.zeros_like(image))
        tensor([[[ 1.5000,  0.0000],
                 [ 0.0000, -0.5000]]])
    """

    method: AttributionMethod = "integrated_gradients"
    samples: int = 16
    noise: float = 0.15
    layer: str | None = None
    window: int = 4

    def __post_init__(self) -> None:
        if self.method not in get_args(AttributionMethod):
            raise ValueError(f"method must be one of {', '.join(get_args(AttributionMethod))}; found {self.method!r}.")
        for name in ("samples", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.noise >= 0:
            raise ValueError(f"noise must be at least 0, got {self.noise}.")

    def maps(
        self,
        model: nn.Sequential,
        images: Float[Tensor, "b c h w"],
        columns: Int64[Tensor, " b"],
        *,
        replacement: Float[Tensor, "b c h w"],
        ids: Int64[Tensor, " b"] | None = None,
        seed: int = 0,
    ) -> Float[Tensor, "b h w"]:
        """Attribute one logit of every image to its pixels.

        Args:
            model: in evaluation mode, from images in [0, 1] to logits `[b, C]`; its first part is the encoder, in which
                `layer` is looked up.
            images: in [0, 1].
            columns: the logit of each image.
            replacement: what an image shows where it says nothing: the start of the path, what hides a window.
            ids: sample ids, of which the noise is a function; by default the position.
            seed: of the noise.

        Returns:
            One number per pixel, more is more in favour of the class; detached.

        Raises:
            ValueError: when `grad_cam` finds no convolution.
            ImportError: without captum, where it is needed.
        """
        if self.method == "grad_cam":
            return self._grad_cam(model, images, columns)
        if self.method == "occlusion":
            return self._occlusion(model, images, columns, replacement)
        if self.method == "gradient":
            return _gradient(model, images, columns).abs().amax(1)
        if self.method == "gradient_x_input":
            return (images * _gradient(model, images, columns)).sum(1)
        total = torch.zeros_like(images)
        if self.method == "smooth_grad":
            ids = torch.arange(len(images)) if ids is None else ids
            for draw in range(self.samples):
                total += _gradient(model, images + self.noise * _normal((seed, _NOISE, draw), ids, images), columns)
            return (total / self.samples).abs().amax(1)
        for point in range(self.samples):
            total += _gradient(model, torch.lerp(replacement, images, (point + 0.5) / self.samples), columns)
        return ((images - replacement) * total / self.samples).sum(1)

    def convolution(self, encoder: nn.Module) -> nn.Module | None:
        """The layer that `grad_cam` looks at, None when the encoder has no convolution.

        Raises:
            ValueError: for a name that the encoder does not have, where it has convolutions.

        Example:
            >>> Attribution().convolution(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3)))
            Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))
        """
        modules = dict(encoder.named_modules())
        convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
        if self.layer is None:
            return next(reversed(convolutions.values()), None)
        if self.layer in modules:
            return modules[self.layer]
        if not convolutions:  # raw pixels beside the encoder that has the layer
            return None
        raise ValueError(f"the encoder has no layer {self.layer!r}; its convolutions are {', '.join(convolutions)}.")

    def _grad_cam(self, model: nn.Sequential, images: Tensor, columns: Tensor) -> Tensor:
        layer = self.convolution(model[0])
        if layer is None:
            raise ValueError("grad_cam needs an encoder with a convolution, and this one has none; try 'gradient'.")
        return grad_cam(model, layer, images, columns)

    def _occlusion(self, model: nn.Sequential, images: Tensor, columns: Tensor, replacement: Tensor) -> Tensor:
        captum = import_extra("captum.attr", needed_for="occlusion", extra="explain")
        channels, side = images.shape[1], min(self.window, *images.shape[2:])
        found = captum.Occlusion(model).attribute(
            images,
            sliding_window_shapes=(channels, side, side),
            strides=(channels, max(1, side // 2), max(1, side // 2)),
            baselines=replacement,
            target=columns,
        )
        return found.detach().sum(1) / channels  # every colour of a pixel has the same number


def _gradient(model: nn.Module, images: Tensor, columns: Tensor) -> Tensor:
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        score = model(images).gather(1, columns[:, None]).sum()
        # The second term has no part in the value: it gives a model that ignores its input the gradient 0.
        return torch.autograd.grad(score + 0 * images.sum(), images)[0]


def _normal(key: tuple[int, ...], ids: Tensor, like: Tensor) -> Tensor:
    """Standard normal numbers of an image's shape, as a function of key and id."""
    uniform = counter_uniform(key, ids.to(like.device), count=like[0].numel())
    return torch.special.ndtri(uniform.double() + 2.0**-25).to(like.dtype).reshape(like.shape)
