"""Corrupted copies of a data set: 15 corruptions at 5 severities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.derived.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from kinfolk.data.derived.corruptions.digital import (
    brightness,
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
)
from kinfolk.data.derived.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from kinfolk.data.derived.corruptions.severities import CORRUPTIONS, constants
from kinfolk.data.derived.corruptions.weather import fog, procedural_frost, snow
from kinfolk.data.derived.wrapper import with_images
from kinfolk.data.sources.base import Source, Splits

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "procedural_frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        procedural_frost,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
    )
}
_VALUES_AT_ONCE = 2**21


@dataclass(frozen=True)
class CorruptedConfig:
    """Corrupt the test part, by default it alone: robustness is measured on corruptions that training has not seen.

    Args:
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        train: whether the training part, and the probe part where there is one, is corrupted too.
        seed: of the noise; the same for all severities, so that a severer copy has the same noise, only more.

    Raises:
        ValueError: for a corruption or a severity that does not exist.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> clean = ArraySource(torch.full((2, 1, 8, 8), 100, dtype=torch.uint8))
        >>> splits = CorruptedConfig("brightness", severity=5).apply(Splits(clean, clean))
        >>> int(splits.train.read(torch.tensor([0])).max()), int(splits.test.read(torch.tensor([0])).max())
        (100, 177)
    """

    kind: ClassVar[str] = "corrupted"
    corruption: Corruption
    severity: int = 3
    train: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.corruption, self.severity)

    def apply(self, splits: Splits) -> Splits:
        """Corrupt.

        Raises:
            ValueError: for a table.
            ImportError: for `jpeg_compression` without Pillow.
        """

        def corrupted(source: Source) -> Source:
            change = _Corrupt(self.corruption, self.severity, self.seed)
            return with_images(source, change, name=f"{source.name}, {self.corruption} {self.severity}")

        if not self.train:
            return Splits(splits.train, corrupted(splits.test), probe=splits.probe)
        probe = None if splits.probe is None else corrupted(splits.probe)
        return Splits(corrupted(splits.train), corrupted(splits.test), probe=probe)


def corrupt(
    images: UInt8[Tensor, "b c h w"], ids: Int[Tensor, " b"], *, corruption: str, severity: int, seed: int = 0
) -> UInt8[Tensor, "b c h w"]:
    """Corrupt images, each as a function of seed and id.

    The severities have the published constants: for pictures whose longer side is at most 64 pixels those of
    CIFAR-10-C, for larger ones those of ImageNet-C. The code is ours, works on batches and rounds where the published
    one cuts off; zooms are not rounded to whole pixels, elastic deformation resamples once, and frost is drawn.

    Args:
        images: any size; grey, RGB, or RGBA, whose transparency stays.
        ids: their samples.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the noise.

    Raises:
        ValueError: for a corruption or a severity that does not exist.
        TypeError: for images that are not uint8.

    Reference: Hendrycks, Dietterich (2019), Benchmarking neural network robustness to common corruptions and
        perturbations.

    Example:
        >>> grey = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)
        >>> corrupt(grey, torch.tensor([0]), corruption="brightness", severity=2).unique().tolist()
        [126]
    """
    _check(corruption, severity)
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8; found {images.dtype}. `to_uint8` converts other forms.")
    size = (images.shape[2], images.shape[3])
    key = (seed, CORRUPTIONS.index(corruption))
    function, given = _FUNCTIONS[corruption], constants(corruption, severity, size)
    colour, alpha = images.split([3, 1], dim=1) if images.shape[1] == 4 else (images, images[:, :0])
    parts = max(1, _VALUES_AT_ONCE // max(colour[:1].numel(), 1))
    made = [
        (function(part.to(torch.float32) / 255, own, key, *given) * 255).round().clamp(0, 255).to(torch.uint8)
        for part, own in zip(colour.split(parts), ids.split(parts), strict=True)
        if len(part)
    ]
    return torch.cat([torch.cat(made), alpha], dim=1) if made else images.clone()


@dataclass(frozen=True)
class _Corrupt:
    """Corrupts a batch."""

    corruption: str
    severity: int
    seed: int

    def __call__(self, batch: dict[str, Any], positions: Tensor) -> dict[str, Any]:
        images = corrupt(
            batch["images"], batch["ids"], corruption=self.corruption, severity=self.severity, seed=self.seed
        )
        return {"images": images}


def _check(corruption: str, severity: int) -> None:
    if corruption not in _FUNCTIONS:
        raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}; found {corruption!r}")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be 1 to 5; found {severity}")
