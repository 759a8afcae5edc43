"""From decoded bytes to augmented views, a batch at a time, on the device the bytes are on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.data.views.background import remove_background
from kinfolk.data.views.chosen import change_some_
from kinfolk.data.views.colour import recolour
from kinfolk.data.views.config import ViewsConfig
from kinfolk.data.views.draws import Draws
from kinfolk.data.views.filters import erase, gaussian_blur
from kinfolk.data.views.geometry import resample, window
from kinfolk.data.views.groups import AnyViewsConfig, ColourSpaceViewsConfig
from kinfolk.data.views.policies import apply_policy
from kinfolk.data.views.unaugmented import to_float
from kinfolk.ops.lab import rgb_to_lab

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8


class ViewMaker:
    """Make the augmented views of a batch.

    A view is a function of (seed, epoch, id, view number) alone: it does not depend on the batch, the place in it,
    the worker or the rank (blur's convolution may round differently with the batch). Every augmentation draws its own
    numbers, so changing one strength leaves the others' draws as they were.

    Args:
        config: number of views and strengths: a `ViewsConfig`, several in a `MultiViewsConfig`, or a
            `ColourSpaceViewsConfig`.
        seed: of the run.

    Example:
        >>> maker = ViewMaker(ViewsConfig(count=3, rotation=20), seed=0)
        >>> views = maker(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), epoch=0)
        >>> len(views), views[0].shape, views[0].dtype
        (3, torch.Size([4, 1, 8, 8]), torch.float32)
    """

    def __init__(self, config: AnyViewsConfig, *, seed: int) -> None:
        self.config = config
        self.seed = seed

    def __call__(
        self,
        images: UInt8[Tensor, "b c h w"],
        ids: Int[Tensor, " b"],
        *,
        epoch: int,
        renderings: UInt8[Tensor, "b s c h w"] | None = None,
        rendering_count: Int[Tensor, " b"] | None = None,
        saliency: UInt8[Tensor, "b 1 h w"] | None = None,
    ) -> list[Float[Tensor, "b c out_h out_w"]]:
        """Return `count` views, each float32 in [0, 1]; sizes and channels differ where the config says so.

        Args:
            images: bytes; 1, 3 or 4 channels.
            ids: the samples' ids.
            epoch: from 0; another epoch gives other views.
            renderings: drawings of the same thing by several hands, each image's own first; for
                ``renderings="other"``. A sample that has no other is seen by its own.
            rendering_count: how many of them each sample has, at least 1; the rest is not looked at.
            saliency: 255 where the foreground is; for `background`.

        Raises:
            TypeError: for images that are not uint8.
            ValueError: for another shape, ids that are not one per image, or renderings or masks that the config
                asks for and the batch lacks.
        """
        floats = to_float(images)
        if ids.shape != images.shape[:1]:
            raise ValueError(f"ids must have one entry per image: images {tuple(images.shape)}, ids {tuple(ids.shape)}")
        self._check(images, renderings, rendering_count, saliency)
        ids = ids.to(images.device)
        masks = None if saliency is None else saliency.to(images.device, torch.float32).div_(255)
        views: list[Tensor] = []
        number = 0
        for group in self.config.groups:
            for _ in range(group.count):
                draws = Draws(seed=self.seed, epoch=epoch, view=number, ids=ids)
                source = floats
                if group.renderings == "other" and number > 0 and renderings is not None:
                    source = to_float(_another_hand(renderings, rendering_count, draws))
                views += self._split(_view(source, masks if group.background > 0 else None, draws, group))
                number += 1
        return views

    def of_batch(self, batch: Mapping[str, Any], *, epoch: int) -> list[Float[Tensor, "b c out_h out_w"]]:
        """Return the views of a batch as a source gave it, with the renderings and masks it may hold.

        Example:
            >>> batch = {"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "ids": torch.arange(2), "text": ["", ""]}
            >>> len(ViewMaker(ViewsConfig(), seed=0).of_batch(batch, epoch=0))
            2
        """
        extra = {name: batch.get(name) for name in ("renderings", "rendering_count", "saliency")}
        return self(batch["images"], batch["ids"], epoch=epoch, **extra)

    def _split(self, view: Tensor) -> list[Tensor]:
        if not isinstance(self.config, ColourSpaceViewsConfig):
            return [view]
        lab = rgb_to_lab(view)
        return [lab[:, :1].contiguous(), lab[:, 1:].contiguous()]

    def _check(
        self, images: Tensor, renderings: Tensor | None, rendering_count: Tensor | None, saliency: Tensor | None
    ) -> None:
        """Compare what the config asks for with what the batch has."""
        groups = self.config.groups
        if isinstance(self.config, ColourSpaceViewsConfig) and images.shape[1] != 3:
            raise ValueError(f"colour-space views split RGB images, 3 channels; found {tuple(images.shape)}")
        if any(group.renderings == "other" for group in groups):
            expected = (images.shape[0], *images.shape[1:])
            if renderings is None or rendering_count is None:
                raise ValueError(
                    "renderings='other' needs batches with `renderings` and `rendering_count`, which this one lacks;"
                    " give the source its renderings, or set renderings='own'."
                )
            if (renderings.shape[0], *renderings.shape[2:]) != expected or rendering_count.shape != images.shape[:1]:
                raise ValueError(
                    f"renderings must be [b, S, C, H, W] with the images' b, C, H, W and one count each: images"
                    f" {tuple(images.shape)}, renderings {tuple(renderings.shape)}, counts"
                    f" {tuple(rendering_count.shape)}"
                )
        if any(group.background > 0 for group in groups):
            if saliency is None:
                raise ValueError(
                    "background > 0 needs batches with `saliency` masks, which this one lacks; compute them once with"
                    " `kinfolk data saliency` and attach them, or set background=0."
                )
            if saliency.shape != (len(images), 1, *images.shape[2:]):
                raise ValueError(
                    f"saliency must be [b, 1, H, W] of the images: images {tuple(images.shape)}, saliency"
                    f" {tuple(saliency.shape)}"
                )


def _another_hand(renderings: Tensor, counts: Tensor | None, draws: Draws) -> Tensor:
    """Take each sample's drawing by a hand other than its own, or its own where there is no other."""
    assert counts is not None
    others = counts.to(renderings.device) - 1
    which = torch.where(others > 0, 1 + draws.choice("rendering", others.clamp(min=1)), 0)
    return renderings[torch.arange(len(renderings), device=renderings.device), which]


def _view(images: Tensor, masks: Tensor | None, draws: Draws, config: ViewsConfig) -> Tensor:
    channels = images.shape[1]
    whole = images if masks is None else torch.cat([images, masks], dim=1)  # the mask moves with its image
    placed = _place(whole, draws, config)
    if placed is images:
        placed = images.clone()  # from here on it is written to, and views never share memory
    view = placed[:, :channels]
    colours, alpha = view[:, :3], view[:, 3:]
    if masks is not None:
        colours = remove_background(colours, placed[:, channels:], draws, config)
    if config.policy != "none":
        view = apply_policy(torch.cat([colours, alpha], dim=1), draws, config)
        colours, alpha = view[:, :3], view[:, 3:]
    if config.recolours:
        colours = recolour(colours, draws, config).clamp_(0, 1)
    elif config.resamples:
        colours.clamp_(0, 1)  # bilinear weights may add up to a rounding error more than 1
    if config.resamples and alpha.shape[1] > 0:
        alpha.clamp_(0, 1)
    if config.blur > 0:
        sigma = draws.between("blur_sigma", *config.blur_sigma)
        change_some_(colours, draws.occurs("blur", config.blur), _blur(config.blur_sigma[1]), sigma)
    if config.solarize > 0:
        change_some_(colours, draws.occurs("solarize", config.solarize), _solarize)
    if config.erasing > 0:
        colours = _erase(colours, draws, config)
    if config.cutout > 0:
        colours = _cutout(colours, draws, config)
    return torch.cat([colours, alpha], dim=1) if alpha.shape[1] > 0 else colours.contiguous()


def _place(images: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    """Crop, mirror, turn, zoom and shift, in one resampling; a flip alone moves whole pixels and stays exact."""
    mirrored = draws.occurs("flip", config.flip)
    if not config.resamples:
        return torch.where(mirrored[:, None, None, None], images.flip(3), images) if config.flip > 0 else images
    height, width = images.shape[2:]
    aspect = width / height
    if config.crop_form == "rejected":
        crop_width, crop_height, centre_x, centre_y = draws.crop(config.crop_scale, config.crop_ratio, aspect)
    else:
        crop_width, crop_height, centre_x, centre_y = draws.rectangle(
            "crop", config.crop_scale, config.crop_ratio, aspect
        )
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


def _blur(max_sigma: float) -> Any:
    return lambda colours, sigma: gaussian_blur(colours, sigma, max_sigma=max_sigma).clamp_(0, 1)


def _solarize(colours: Tensor) -> Tensor:
    return torch.where(colours < 0.5, colours, 1 - colours)


def _erase(colours: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    height, width = colours.shape[2:]
    box_width, box_height, x, y = draws.rectangle("erasing", config.erasing_area, config.erasing_ratio, width / height)
    chosen = draws.occurs("erasing", config.erasing)
    return erase(colours, width=torch.where(chosen, box_width, 0.0), height=box_height, centre_x=x, centre_y=y)


def _cutout(colours: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    height, width = colours.shape[2:]
    side = config.cutout * min(height, width)
    x, y = draws.between("cutout_x", -1, 1), draws.between("cutout_y", -1, 1)
    like = torch.ones_like(x)
    return erase(colours, width=like * (side / width), height=like * (side / height), centre_x=x, centre_y=y)
