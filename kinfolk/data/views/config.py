"""How strongly views are augmented."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from kinfolk.data.views.geometry import Padding

Range = tuple[float, float]
JitterForm = Literal["matrix", "ordered"]
CropForm = Literal["fitted", "rejected"]
Policy = Literal["none", "autoaugment-cifar10", "autoaugment-imagenet", "randaugment"]
Renderings = Literal["own", "other"]
BackgroundFill = Literal["grey", "black", "noise"]
_CHOICES = {
    "padding": ("zeros", "border", "reflection"),
    "jitter_form": ("matrix", "ordered"),
    "crop_form": ("fitted", "rejected"),
    "policy": ("none", "autoaugment-cifar10", "autoaugment-imagenet", "randaugment"),
    "renderings": ("own", "other"),
    "background_fill": ("grey", "black", "noise"),
}


@dataclass(frozen=True)
class ViewsConfig:
    """The number of views and the strength of every augmentation; the default strengths leave the image as it is.

    What is done, in this order: another hand's rendering taken, where the batch has some; geometry (one resampling):
    a crop, mirrored, turned, zoomed and shifted; the background removed, where the batch has masks; a learnt policy;
    colour, for RGB and the colours of RGBA, where grey images take brightness and contrast; blur; solarising; erasing;
    cutout. The alpha channel of RGBA follows the geometry only.

    Args:
        count: number of views of every image, at least 1.
        size: height and width of a view; None keeps the image's.
        crop_scale: share of the image's area that a crop covers, uniform in this range.
        crop_ratio: width over height of a crop in pixels, log-uniform in this range as far as a crop of that area fits.
        flip: probability of a horizontal flip.
        rotation: largest rotation either way, in degrees.
        zoom: magnification of the content, uniform in this range; below 1 the surroundings are seen.
        shift: largest shift either way along each axis, as a fraction of the image's size.
        padding: what is seen outside of the image: `zeros`, `border` or `reflection`.
        jitter: probability that the four colour changes below are applied; factors are uniform in ``[1 - x, 1 + x]``.
        brightness: all colours times a factor.
        contrast: the distance from the view's mean grey level times a factor.
        saturation: the distance of every pixel from its grey value times a factor.
        hue: largest rotation of the hue either way, as a fraction of the full circle, at most 0.5.
        grey: probability that all colour is removed.
        blur: probability of a Gaussian blur.
        blur_sigma: its standard deviation in pixels of the view, uniform in this range.
        erasing: probability that a rectangle is erased (set to 0).
        erasing_area: share of the view's area that it covers, uniform in this range.
        erasing_ratio: its width over its height in pixels, log-uniform in this range as far as it fits.
        jitter_form: `matrix` makes the four colour changes one matrix per image and keeps the grey value while the hue
            turns (without clamping between them their order would not matter); `ordered` is the form of the papers'
            code: one after another in random order, each clamped to [0, 1], the hue turned in HSV.
        crop_form: `fitted` draws the ratio among those that fit, so that the area stays uniform; `rejected` is the form
            of the papers' code: of ten draws of area and ratio the first that fits, so that large crops are rarer.
        solarize: probability that values of at least a half are inverted.
        cutout: side of a square that is set to 0, as a fraction of the view's shorter side; its centre is anywhere, so
            that part of it may lie outside.
        policy: `none`, a published table of `autoaugment-cifar10` or `autoaugment-imagenet`, or `randaugment`.
        randaugment_ops: operations that RandAugment applies one after another.
        randaugment_magnitude: their strength, 0 to 10.
        renderings: from which drawing of the same thing a view is made where the batch has several: each image's `own`,
            or, from the second view on, that of an `other` hand.
        background: probability that everything but the foreground is removed; needs a batch with saliency masks.
        background_fill: what takes its place: one `grey` level per view, `black`, or `noise`.

    Raises:
        ValueError: for a value outside its range; the message names it.

    Example:
        >>> ViewsConfig(crop_scale=(0.2, 1.0), flip=0.5).count
        2
    """

    kind: ClassVar[str] = "views"
    count: int = 2
    size: tuple[int, int] | None = None
    crop_scale: Range = (1.0, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    flip: float = 0.0
    rotation: float = 0.0
    zoom: Range = (1.0, 1.0)
    shift: float = 0.0
    padding: Padding = "zeros"
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: Range = (0.1, 2.0)
    erasing: float = 0.0
    erasing_area: Range = (0.02, 0.33)
    erasing_ratio: Range = (0.3, 3.3)
    jitter_form: JitterForm = "matrix"
    crop_form: CropForm = "fitted"
    solarize: float = 0.0
    cutout: float = 0.0
    policy: Policy = "none"
    randaugment_ops: int = 2
    randaugment_magnitude: float = 9.0
    renderings: Renderings = "own"
    background: float = 0.0
    background_fill: BackgroundFill = "grey"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # as YAML reads a pair
                object.__setattr__(self, field.name, tuple(value))
        _require(self, ("flip", "jitter", "grey", "blur", "erasing", "solarize", "background", "cutout"), 0, 1)
        _require(self, ("brightness", "contrast", "saturation"), 0, 1)
        _require(self, ("hue",), 0, 0.5)
        _require(self, ("rotation",), 0, 180)
        _require(self, ("randaugment_magnitude",), 0, 10)
        _require(self, ("shift",), 0, 1)
        _require(self, ("crop_scale", "erasing_area"), 1e-4, 1)
        _require(self, ("crop_ratio", "erasing_ratio", "zoom"), 1e-2, 1e2)
        _require(self, ("blur_sigma",), 1e-2, 1e2)
        if self.count < 1:
            raise ValueError(f"count must be at least 1 view; found {self.count}")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be (H, W), at least one pixel each, or None; found {self.size}")
        if self.randaugment_ops < 1:
            raise ValueError(f"randaugment_ops must be at least 1; found {self.randaugment_ops}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
                raise ValueError(f"{name} must be {known}; found {getattr(self, name)!r}")

    @property
    def groups(self) -> tuple[ViewsConfig, ...]:
        """The groups of views of one strength: this one."""
        return (self,)

    @property
    def resamples(self) -> bool:
        """Whether pixels are read at other places than their own, a plain flip apart."""
        still = self.crop_scale == (1.0, 1.0) and self.zoom == (1.0, 1.0) and self.rotation == self.shift == 0
        return self.size is not None or not still

    @property
    def recolours(self) -> bool:
        """Whether any colour can change."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        return self.grey > 0 or (self.jitter > 0 and max(strengths) > 0)


def _require(config: ViewsConfig, names: tuple[str, ...], low: float, high: float) -> None:
    """Check numbers, and both ends of ranges, against what is possible."""
    for name in names:
        value = getattr(config, name)
        low_end, high_end = value if isinstance(value, tuple) else (value, value)
        if not (math.isfinite(high_end) and low <= low_end <= high_end <= high):
            form = "a range (low, high)" if isinstance(value, tuple) else "a number"
            raise ValueError(f"{name} must be {form} within {low:g} to {high:g}; found {value}")
