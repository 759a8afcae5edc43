"""Handwritten digits: 1,797 real images of 8x8 pixels that come with scikit-learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.counter import counter_uniform
from kinfolk.data.optional import import_extra
from kinfolk.data.sources.base import ArraySource, Splits
from kinfolk.data.sources.hold_out import hold_out
from kinfolk.data.views.geometry import resample, window

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

_CLASSIC_TEST = 360
_CLASSES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class DigitsConfig:
    """Which digits, and how they are split.

    The images are scans of 8x8 pixels with values 0..16, scaled to bytes. `moved` places each digit, rotated and
    shifted at random, on a larger canvas: the class stays, the pixels do not, so that nearest neighbours and linear
    probes on raw pixels lose most of what they had. The movement is drawn once per sample from `seed` and its id; it
    is a property of the data, not an augmentation.

    Args:
        split: `classic` tests on the last 360 samples (other writers), `stratified` on a seeded fifth of each class.
        seed: of the stratified split and of the movement.
        moved: whether the digits are rotated and shifted on a canvas.
        canvas: side of the canvas in pixels, at least 8; only used when moved.
        rotation: largest rotation either way, in degrees.
        shift: largest shift either way along each axis, in pixels; the default keeps an unrotated digit on the canvas.

    Raises:
        ValueError: for a canvas below 8, or a negative rotation or shift.

    Example:
        >>> splits = DigitsConfig().load()
        >>> len(splits.train), len(splits.test), splits.train.image_size
        (1437, 360, (8, 8))
    """

    kind: ClassVar[str] = "digits"
    split: Literal["classic", "stratified"] = "classic"
    seed: int = 0
    moved: bool = False
    canvas: int = 12
    rotation: float = 20.0
    shift: float | None = None

    def __post_init__(self) -> None:
        if self.split not in ("classic", "stratified"):
            raise ValueError(f"split must be 'classic' or 'stratified'; found {self.split!r}")
        if self.canvas < 8 or self.rotation < 0 or (self.shift is not None and self.shift < 0):
            raise ValueError(
                "canvas must be at least 8, rotation and shift at least 0; found"
                f" canvas={self.canvas}, rotation={self.rotation}, shift={self.shift}"
            )

    def load(self) -> Splits:
        """Read the digits.

        Raises:
            ImportError: without scikit-learn.
        """
        digits = import_extra("sklearn.datasets", needed_for="the digits data set").load_digits()
        images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(digits.target).to(torch.int64)
        ids = torch.arange(len(images))
        if self.moved:
            images = self._move(images, ids)
        name = "digits, moved" if self.moved else "digits"
        source = ArraySource(images, labels, ids=ids, class_names=_CLASSES, name=name)
        if self.split == "classic":
            train, test = ids[:-_CLASSIC_TEST], ids[-_CLASSIC_TEST:]
        else:
            train, test = hold_out(len(ids), fraction=0.2, seed=self.seed, labels=labels)
        return Splits(source.subset(train), source.subset(test))

    def _move(self, images: UInt8[Tensor, "n 1 8 8"], ids: Int[Tensor, " n"]) -> UInt8[Tensor, "n 1 s s"]:
        size = images.shape[-1]
        reach = (self.canvas - size) / 2 if self.shift is None else self.shift
        turn, across, down = (2 * counter_uniform((self.seed,), ids, count=3) - 1).unbind(1)
        scale = torch.full_like(turn, self.canvas / size)  # the canvas is a window larger than the scan
        theta = window(
            width=scale,
            height=scale,
            angle=turn * math.radians(self.rotation),
            centre_x=across * (2 * reach / size),
            centre_y=down * (2 * reach / size),
            aspect=1.0,
        )
        moved = resample(images.to(torch.float32), theta, size=(self.canvas, self.canvas), padding="zeros")
        return moved.round().clamp(0, 255).to(torch.uint8)
