"""The random numbers of a view, each with a place of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_uniform

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# A number keeps its place for ever: moving one changes every view of every past run.
_PLACES = (
    "crop_area", "crop_ratio", "crop_x", "crop_y", "flip", "rotation", "zoom", "shift_x", "shift_y",
    "jitter", "brightness", "contrast", "saturation", "hue", "grey", "blur", "blur_sigma",
    "erasing", "erasing_area", "erasing_ratio", "erasing_x", "erasing_y",
    "jitter_order", "solarize", "cutout_x", "cutout_y", "background", "background_level", "rendering",
)  # fmt: skip
# Separate streams, because their length depends on the config or on the image's size.
_POLICY, _NOISE, _CROP = 1, 2, 3
_ATTEMPTS = 10


class Draws:
    """One uniform number per sample for every augmentation parameter of one view.

    Args:
        seed: of the run.
        epoch: from 0.
        view: from 0.
        ids: sample ids, int64.

    Example:
        >>> draws = Draws(seed=0, epoch=0, view=0, ids=torch.tensor([5, 6]))
        >>> bool((draws.between("zoom", 0.5, 2.0) >= 0.5).all())
        True
    """

    def __init__(self, *, seed: int, epoch: int, view: int, ids: Int[Tensor, " b"]) -> None:
        self._key, self._ids = (seed, epoch, view), ids
        numbers = counter_uniform(self._key, ids, count=len(_PLACES))
        self._numbers = dict(zip(_PLACES, numbers.unbind(1), strict=True))

    def between(self, name: str, low: float, high: float) -> Float[Tensor, " b"]:
        """Return the parameter's numbers, uniform between two bounds."""
        return self._numbers[name] * (high - low) + low

    def occurs(self, name: str, probability: float) -> Bool[Tensor, " b"]:
        """Return for which samples an event of this probability occurs."""
        return self._numbers[name] < probability

    def choice(self, name: str, options: int | Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return a whole number from 0 to one less than `options`, each equally likely.

        Example:
            >>> draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(100))
            >>> sorted(set(draws.choice("jitter_order", 3).tolist()))
            [0, 1, 2]
        """
        return (self._numbers[name] * options).to(torch.int64)

    def policy(self, count: int) -> Float[Tensor, "b count"]:
        """Return numbers in [0, 1) of a stream of their own, for a policy's choices."""
        return counter_uniform((*self._key, _POLICY), self._ids, count=count)

    def noise(self, count: int) -> Float[Tensor, "b count"]:
        """Return numbers in [0, 1) of a stream of their own, one per value of an image."""
        return counter_uniform((*self._key, _NOISE), self._ids, count=count)

    def crop(
        self, area: tuple[float, float], ratio: tuple[float, float], aspect: float
    ) -> tuple[Float[Tensor, " b"], ...]:
        """Draw a crop as the papers' code does: of ten draws the first that fits, otherwise the largest in the middle.

        Area and log ratio are uniform before those that do not fit are rejected, so large crops are rarer than with
        `rectangle`, by much where the image is far from square.

        Args:
            area: range of its share of the image's area.
            ratio: range of its width over its height in pixels.
            aspect: the image's width over its height.

        Returns:
            Width and height as fractions of the image's, and its centre's x and y in [-1, 1].

        Example:
            >>> draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(500))
            >>> width, height, _, _ = draws.crop((0.08, 1), (3 / 4, 4 / 3), 1.0)
            >>> bool((width * height).median() < 0.52)
            True
        """
        numbers = counter_uniform((*self._key, _CROP), self._ids, count=2 * _ATTEMPTS)
        share = numbers[:, :_ATTEMPTS] * (area[1] - area[0]) + area[0]
        low, high = (math.log(bound / aspect) for bound in ratio)
        half_log_ratio = 0.5 * (numbers[:, _ATTEMPTS:] * (high - low) + low)
        widths, heights = share.sqrt() * half_log_ratio.exp(), share.sqrt() * (-half_log_ratio).exp()
        fits = (widths <= 1) & (heights <= 1)
        chosen = fits.to(torch.int64).argmax(dim=1, keepdim=True)  # the first that does
        any_fits = fits.any(dim=1)
        middle = min(max(1.0, ratio[0] / aspect), ratio[1] / aspect)  # of the largest: width over height, as fractions
        width = torch.where(any_fits, widths.gather(1, chosen)[:, 0], min(1.0, middle))
        height = torch.where(any_fits, heights.gather(1, chosen)[:, 0], min(1.0, 1 / middle))
        x, y = (torch.where(any_fits, 2 * self._numbers[name] - 1, 0.0) for name in ("crop_x", "crop_y"))
        return width, height, (1 - width) * x, (1 - height) * y

    def rectangle(
        self, name: str, area: tuple[float, float], ratio: tuple[float, float], aspect: float
    ) -> tuple[Float[Tensor, " b"], ...]:
        """Draw a rectangle inside the image.

        The area is uniform. The ratio of width to height in pixels is log-uniform among those with which a rectangle
        of that area fits, so that no draw has to be rejected or cut and the area's distribution stays what the config
        says.

        Args:
            name: which rectangle, ``"crop"`` or ``"erasing"``.
            area: range of its share of the image's area.
            ratio: range of its width over its height.
            aspect: the image's width over its height.

        Returns:
            Width and height as fractions of the image's, and its centre's x and y in [-1, 1].
        """
        share = self.between(f"{name}_area", *area)
        low, high = (torch.tensor(math.log(bound / aspect), device=share.device) for bound in ratio)
        low, high = torch.maximum(low, share.log()), torch.minimum(high, -share.log())
        # a narrow range far from the image's own shape may not fit at all; then take the nearest shape that does
        low, high = torch.minimum(low, -share.log()), torch.maximum(high, share.log())
        half_log_ratio = 0.5 * (low + (high - low) * self._numbers[f"{name}_ratio"])
        root = share.sqrt()
        width, height = (root * half_log_ratio.exp()).clamp(max=1), (root * (-half_log_ratio).exp()).clamp(max=1)
        centre_x = (1 - width) * (2 * self._numbers[f"{name}_x"] - 1)
        centre_y = (1 - height) * (2 * self._numbers[f"{name}_y"] - 1)
        return width, height, centre_x, centre_y
