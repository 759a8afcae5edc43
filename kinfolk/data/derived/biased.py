"""Biased sets: colours or textures that go with the class in training and with nothing in testing."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.derived.backgrounds import Backgrounds, texture_backgrounds
from kinfolk.data.derived.classes import check_share, class_count, members_by_class, required_labels, seeded_order
from kinfolk.data.derived.cutout import compose, cut_out, require_foreground
from kinfolk.data.derived.wrapper import with_images
from kinfolk.data.sources.base import Source, Splits

if TYPE_CHECKING:
    from jaxtyping import Int

_TEN_COLOURS = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (225, 225, 0),
    (225, 0, 225),
    (0, 255, 255),
    (255, 128, 0),
    (255, 0, 128),
    (128, 0, 255),
    (128, 128, 128),
)
_WHO, _WHICH = 1, 2


@dataclass(frozen=True)
class ColouredConfig:
    """Colour the background, or the object, by class; a few samples conflict (Biased-MNIST's construction).

    Of a class's n training samples, round((1 - rho) n) get another class's colour, dealt evenly to all others; the
    rest get their own. The column `bias_labels` says whose colour a sample has. The test part has rho = 1 / C, every
    colour equally often. Pictures become RGB; the object is what `cut_out` finds: of grey pictures what is not black,
    of transparent ones what is opaque, otherwise what the `saliency` column shows.

    Args:
        rho: share of a class's training samples that have its colour; 0.99, 0.995, 0.997 and 0.999 are usual.
        test_rho: the same of the test part; None makes it unbiased.
        target: `background`, or `foreground`: the object itself, on black.
        seed: which samples conflict, and how.

    Raises:
        ValueError: for shares out of range, or a target that does not exist.

    Reference: Bahng, Chun, Yun, Choo, Oh (2020), Learning de-biased representations with biased representations.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> grey = ArraySource(torch.zeros(200, 1, 4, 4, dtype=torch.uint8), torch.arange(2).repeat(100))
        >>> splits = ColouredConfig(rho=0.99).apply(Splits(grey, grey))
        >>> [int((part.bias_labels != part.labels).sum()) for part in (splits.train, splits.test)]
        [2, 100]
    """

    kind: ClassVar[str] = "coloured"
    rho: float = 0.99
    test_rho: float | None = None
    target: Literal["background", "foreground"] = "background"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_rho(self.rho, self.test_rho)
        if self.target not in ("background", "foreground"):
            raise ValueError(f"target must be 'background' or 'foreground'; found {self.target!r}")

    def apply(self, splits: Splits) -> Splits:
        """Colour all parts.

        Raises:
            ValueError: without labels, with fewer than two classes, or where the foreground is not known.
        """
        classes = class_count(splits.train, splits.test)
        palette = class_colours(classes)

        def colour(source: Source, rho: float, _: bool) -> Source:
            bias = biased_assignment(source, classes=classes, rho=rho, seed=self.seed)
            change = _Colour(palette[bias].to(torch.float32), self.target)
            name = f"{source.name}, coloured {rho:g}"
            return with_images(source, change, channels=3, columns={"bias_labels": bias}, name=name)

        return _each_part(splits, classes, self.rho, self.test_rho, colour)


@dataclass(frozen=True)
class TexturedConfig:
    """Put objects on textures, one family of them per class; a few samples conflict. See `ColouredConfig`.

    Textures come from a folder with a subfolder per family (see `texture_backgrounds`): every class has one of the
    largest families, and a sample shows a random window of one of its pictures. Pictures become RGB.

    Args:
        textures: the folder, for example what `kinfolk data prepare textures` makes.
        rho: share of a class's training samples that have its family.
        test_rho: the same of the test part; None makes it unbiased.
        held_out: whether test backgrounds are other pictures of the same families. By default they are the same
            pictures, as the colours of `ColouredConfig` are the same, so that what training learnt from them counts.
        seed: which samples conflict, how, and who gets which family and picture.

    Raises:
        ValueError: for shares out of range.

    Example:
        >>> TexturedConfig("textures", rho=0.995).rho
        0.995
    """

    kind: ClassVar[str] = "textured"
    textures: str
    rho: float = 0.99
    test_rho: float | None = None
    held_out: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_rho(self.rho, self.test_rho)

    def apply(self, splits: Splits) -> Splits:
        """Put all parts on textures.

        Raises:
            FileNotFoundError: when there is no such folder.
            ValueError: without labels, where the foreground is not known, or with fewer families than classes.
        """
        classes = class_count(splits.train, splits.test)
        for_train, for_test = texture_backgrounds(
            self.textures, classes=classes, size=splits.train.image_size, seed=self.seed, held_out=self.held_out
        )

        def texture(source: Source, rho: float, testing: bool) -> Source:
            bias = biased_assignment(source, classes=classes, rho=rho, seed=self.seed)
            change = _Texture(bias, for_test if testing else for_train)
            name = f"{source.name}, textured {rho:g}"
            return with_images(source, change, channels=3, columns={"bias_labels": bias}, name=name)

        return _each_part(splits, classes, self.rho, self.test_rho, texture)


def biased_assignment(source: Source, *, classes: int, rho: float, seed: int) -> Int[Tensor, " N"]:
    """Assign every sample a bias class: of each class an exact share its own, the others dealt evenly.

    Raises:
        ValueError: without a label for every sample, or with fewer than two classes.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> source = ArraySource(torch.zeros(40, 1, 4, 4, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
        >>> biased_assignment(source, classes=4, rho=0.7, seed=0).bincount().tolist()
        [28, 4, 4, 4]
    """
    labels = required_labels(source, needed_for="a biased set")
    if classes < 2:
        raise ValueError(f"a biased set needs at least two classes; source {source.name!r} has {classes}")
    bias = labels.clone()
    for label, members in enumerate(members_by_class((seed, _WHO), labels, source.ids, classes)):
        conflicting = members[: round((1 - rho) * len(members))]
        others = torch.tensor([other for other in range(classes) if other != label])
        others = others[seeded_order((seed, _WHICH, label), others)]
        bias[conflicting] = others[torch.arange(len(conflicting)) % (classes - 1)]
    return bias


def class_colours(classes: int) -> Int[Tensor, "C 3"]:
    """A colour per class: Biased-MNIST's for up to ten, otherwise the colour circle, light and dark in turn.

    Example:
        >>> class_colours(3).tolist()
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    """
    if classes <= len(_TEN_COLOURS):
        return torch.tensor(_TEN_COLOURS[:classes]).reshape(classes, 3)
    circle = [colorsys.hsv_to_rgb(c / classes, 1.0, (1.0, 0.55)[c % 2]) for c in range(classes)]
    return (torch.tensor(circle) * 255).round().to(torch.int64)


@dataclass(frozen=True)
class _Colour:
    """Colours a batch; `colours` has one row per sample of the source."""

    colours: Tensor
    target: str

    def __call__(self, batch: dict[str, Any], positions: Tensor) -> dict[str, Any]:
        colour, mask = cut_out(batch)
        flat = self.colours[positions][:, :, None, None]
        if self.target == "background":
            return {"images": compose(colour, mask, flat)}
        luminance = colour.mean(1, keepdim=True) / 255
        return {"images": compose(luminance * flat, mask, torch.zeros_like(flat))}


@dataclass(frozen=True)
class _Texture:
    """Puts a batch on textures; `bias` has one entry per sample of the source."""

    bias: Tensor
    backgrounds: Backgrounds

    def __call__(self, batch: dict[str, Any], positions: Tensor) -> dict[str, Any]:
        drawn = self.backgrounds.draw(self.bias[positions], batch["ids"], turn=0)
        return {"images": compose(*cut_out(batch), drawn.to(torch.float32))}


def _each_part(splits: Splits, classes: int, rho: float, test_rho: float | None, change: Any) -> Splits:
    for source in (splits.train, splits.test):
        require_foreground(source)
    unbiased = 1 / max(classes, 1)
    return Splits(
        change(splits.train, rho, False),
        change(splits.test, unbiased if test_rho is None else test_rho, True),
        probe=None if splits.probe is None else change(splits.probe, rho, False),
    )


def _check_rho(rho: float, test_rho: float | None) -> None:
    check_share("rho", rho)
    if test_rho is not None:
        check_share("test_rho", test_rho)
