"""From decoded bytes to augmented views, a batch at a time, on the device the bytes are on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kinfolk.data.views.colour import recolour
from kinfolk.data.views.config import ViewsConfig
from kinfolk.data.views.draws import Draws
from kinfolk.data.views.filters import erase, gaussian_blur
from kinfolk.data.views.geometry import resample, window

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8


class ViewMaker:
    """Make the augmented views of a batch.

    A view is a function of (seed, epoch, id, view number) alone: it does not depend on the batch, the place in it,
    the worker or the rank (blur's convolution may round differently with the batch). Every augmentation draws its own
    numbers, so changing one strength leaves the others'
    draws as they were.

    Args:
        config: number of views and strengths.
        seed: of the run.

    Example:
        >>> maker = ViewMaker(ViewsConfig(count=3, rotation=20), seed=0)
        >>> views = maker(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), epoch=0)
        >>> len(views), views[0].shape, views[0].dtype
        (3, torch.Size([4, 1, 8, 8]), torch.float32)
    """

    def __init__(self, config: ViewsConfig, *, seed: int) -> None:
        self.config = config
        self.seed = seed

    def __call__(
        self, images: UInt8[Tensor, "b c h w"], ids: Int[Tensor, " b"], *, epoch: int
    ) -> list[Float[Tensor, "b c out_h out_w"]]:
        """Return `count` views, each float32 in [0, 1].

        Args:
            images: bytes; 1, 3 or 4 channels.
            ids: the samples' ids.
            epoch: from 0; another epoch gives other views.

        Raises:
            TypeError: for images that are not uint8.
            ValueError: for another shape, or ids that are not one per image.
        """
        floats = to_float(images)
        if ids.shape != images.shape[:1]:
            raise ValueError(f"ids must have one entry per image: images {tuple(images.shape)}, ids {tuple(ids.shape)}")
        ids = ids.to(images.device)
        return [
            self._view(floats, Draws(seed=self.seed, epoch=epoch, view=view, ids=ids))
            for view in range(self.config.count)
        ]

    def _view(self, images: Tensor, draws: Draws) -> Tensor:
        config = self.config
        view = _place(images, draws, config)
        colours, alpha = view[:, :3], view[:, 3:]
        if config.recolours:
            colours = recolour(colours, draws, config).clamp_(0, 1)
        if config.blur > 0:
            colours = _blur(colours, draws, config)
        if config.erasing > 0:
            colours = _erase(colours, draws, config)
        if alpha.shape[1] > 0:
            return torch.cat([colours, alpha], dim=1)
        return colours.clone() if colours.data_ptr() == images.data_ptr() else colours  # views never share memory


def to_float(images: UInt8[Tensor, "b c h w"], *, size: tuple[int, int] | None = None) -> Float[Tensor, "b c h w"]:
    """Turn bytes into the unaugmented view that evaluation uses: float32, value / 255.

    Args:
        images: bytes ``[b, C, H, W]`` with 1, 3 or 4 channels.
        size: height and width of the result, resampled bilinearly with a low-pass filter; None keeps the images' own.

    Raises:
        TypeError: for images that are not uint8.
        ValueError: for another shape.

    Example:
        >>> to_float(torch.full((1, 1, 1, 2), 255, dtype=torch.uint8)).tolist()
        [[[[1.0, 1.0]]]]
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8; found {images.dtype}. Sources decode to uint8; views are made from it.")
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise ValueError(f"images must be [b, C, H, W] with C = 1, 3 or 4; found {tuple(images.shape)}")
    floats = images.to(torch.float32).div_(255)
    if size is None or size == tuple(images.shape[2:]):
        return floats
    return F.interpolate(floats, size=size, mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)


def _place(images: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    """Crop, mirror, turn, zoom and shift, in one resampling; a flip alone moves whole pixels and stays exact."""
    mirrored = draws.occurs("flip", config.flip)
    if not config.resamples:
        return torch.where(mirrored[:, None, None, None], images.flip(3), images) if config.flip > 0 else images
    height, width = images.shape[2:]
    aspect = width / height
    crop_width, crop_height, centre_x, centre_y = draws.rectangle("crop", config.crop_scale, config.crop_ratio, aspect)
    zoom = draws.between("zoom", *config.zoom)
    turn = draws.between("rotation", -1, 1) * math.radians(config.rotation)
    theta = window(
        width=torch.where(mirrored, -crop_width, crop_width) / zoom,
        height=crop_height / zoom,
        angle=turn,
        centre_x=centre_x - 2 * draws.between("shift_x", -config.shift, config.shift),
        centre_y=centre_y - 2 * draws.between("shift_y", -config.shift, config.shift),
        aspect=aspect,
    )
    return resample(images, theta, size=config.size or (height, width), padding=config.padding)


def _blur(colours: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    """Blur those that are drawn, and spend nothing on the others."""
    chosen = draws.occurs("blur", config.blur).nonzero().flatten()
    sigma = draws.between("blur_sigma", *config.blur_sigma)[chosen]
    blurred = gaussian_blur(colours[chosen], sigma, max_sigma=config.blur_sigma[1])
    return colours.index_copy(0, chosen, blurred)


def _erase(colours: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    height, width = colours.shape[2:]
    box_width, box_height, x, y = draws.rectangle("erasing", config.erasing_area, config.erasing_ratio, width / height)
    chosen = draws.occurs("erasing", config.erasing)
    return erase(colours, width=torch.where(chosen, box_width, 0.0), height=box_height, centre_x=x, centre_y=y)
