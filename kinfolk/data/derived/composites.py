"""Foregrounds on chosen backgrounds, to ask a model how much it looks at which (after ImageNet-9's sets)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from kinfolk.data.derived.backgrounds import Backgrounds, OwnBackgrounds, texture_backgrounds
from kinfolk.data.derived.classes import class_count, members_by_class, required_labels, seeded_order
from kinfolk.data.derived.cutout import (
    black_boxes,
    bounding_boxes,
    compose,
    cut_out,
    has_saliency,
    require_foreground,
    tile_boxes,
)
from kinfolk.data.derived.wrapper import with_images
from kinfolk.data.sources.base import Source, Splits

if TYPE_CHECKING:
    from jaxtyping import Int

Variant = Literal["original", "mixed-same", "mixed-rand", "mixed-next", "only-fg", "only-bg-b", "only-bg-t"]

_WHO, _WHICH = 1, 2


@dataclass(frozen=True)
class CompositeConfig:
    """Put every object on a background chosen by class.

    ============ =======================================================================================
    `original`   the background that goes with the sample
    `mixed-same` another background of the sample's class
    `mixed-rand` a background of a random class, every class equally often among a class's samples
    `mixed-next` a background of the next class (after the last comes the first)
    `only-fg`    the object on black
    `only-bg-b`  the original with the object's bounding box black
    `only-bg-t`  the original with the object's bounding box covered by copies of what surrounds it
    ============ =======================================================================================

    With `backgrounds` every class has a family of textures (see `texture_backgrounds`), and the original is the object
    on a texture of its class; test textures are never those of training. Without, the pictures must be RGB with a
    `saliency` column: the original is the picture itself, and backgrounds are those of other pictures of the same
    part, their objects covered as in `only-bg-t`.

    The column `bias_labels` is the class of the background, -1 for `only-fg`, and `saliency` the object's mask (255 =
    foreground; all 0 where only the background is left). Train on `original` and test on each of the others: the
    difference between `mixed-same` and `mixed-rand` is how much the background counts.

    Args:
        backgrounds: a folder of textures with a subfolder per family, or None for the pictures' own.
        train: what the training part, and the probe part where there is one, becomes.
        test: what the test part becomes.
        seed: of all choices.

    Raises:
        ValueError: for a variant that does not exist.

    Reference: Xiao, Engstrom, Ilyas, Madry (2021), Noise or signal: the role of image backgrounds in object
        recognition.

    Example:
        >>> CompositeConfig("textures", test="mixed-next").test
        'mixed-next'
    """

    kind: ClassVar[str] = "composite"
    backgrounds: str | None = None
    train: Variant = "original"
    test: Variant = "mixed-rand"
    seed: int = 0

    def __post_init__(self) -> None:
        for part, variant in (("train", self.train), ("test", self.test)):
            if variant not in get_args(Variant):
                raise ValueError(f"{part} must be one of {', '.join(get_args(Variant))}; found {variant!r}")

    def apply(self, splits: Splits) -> Splits:
        """Compose all parts.

        Raises:
            FileNotFoundError: when there is no folder of that name.
            ValueError: without labels, where the foreground or, without textures, the background is not known.
        """
        return next(self.with_tests(splits, (self.test,)))

    def with_tests(self, splits: Splits, variants: Sequence[Variant]) -> Iterator[Splits]:
        """Compose all parts once for every variant of the test part; textures are loaded once.

        Args:
            splits: as for `apply`.
            variants: what the test part becomes, in place of `test`.

        Raises:
            FileNotFoundError, ValueError: as `apply`.
        """
        parts = [splits.train, splits.test] + ([] if splits.probe is None else [splits.probe])
        for source in parts:
            required_labels(source, needed_for="a composite set")
            require_foreground(source)
            if self.backgrounds is None and not _has_own_background(source):
                raise ValueError(
                    f"source {source.name!r} has no backgrounds of its own (it needs RGB pictures and a `saliency`"
                    " column); give a folder of textures as backgrounds"
                )
        classes = class_count(*parts)
        choices: list[Backgrounds]
        if self.backgrounds is None:
            choices = [OwnBackgrounds(source, classes=classes, seed=self.seed) for source in parts]
        else:
            size = splits.train.image_size
            for_train, for_test = texture_backgrounds(
                self.backgrounds, classes=classes, size=size, seed=self.seed, held_out=True
            )
            choices = [for_train, for_test, for_train]
        for test in variants:
            yield Splits(
                *(
                    self._composed(source, variant, chosen, classes)
                    for source, variant, chosen in zip(parts, (self.train, test, self.train), choices, strict=False)
                )
            )

    def _composed(self, source: Source, variant: Variant, backgrounds: Backgrounds, classes: int) -> Source:
        bias = background_classes(source, variant, classes=classes, seed=self.seed)
        if isinstance(backgrounds, OwnBackgrounds) and variant.startswith("mixed"):
            backgrounds.require(bias)
        change = _Compose(variant, bias, backgrounds, keep_original=self.backgrounds is None)
        columns = {"bias_labels": bias, "saliency": None}
        return with_images(source, change, channels=3, columns=columns, name=f"{source.name}, {variant}")


def background_classes(source: Source, variant: Variant, *, classes: int, seed: int) -> Int[Tensor, " N"]:
    """Choose the class of every sample's background; -1 for none.

    Raises:
        ValueError: without a label for every sample.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> source = ArraySource(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2]))
        >>> background_classes(source, "mixed-next", classes=3, seed=0)
        tensor([1, 2, 0])
    """
    labels = required_labels(source, needed_for="a composite set")
    if variant == "only-fg":
        return torch.full_like(labels, -1)
    if variant == "mixed-next":
        return (labels + 1) % classes
    if variant != "mixed-rand":
        return labels
    chosen = labels.clone()
    for label, members in enumerate(members_by_class((seed, _WHO), labels, source.ids, classes)):
        order = seeded_order((seed, _WHICH, label), torch.arange(classes))
        chosen[members] = order[torch.arange(len(members)) % classes]
    return chosen


@dataclass(frozen=True)
class _Compose:
    """Composes a batch; `bias` has one entry per sample of the source."""

    variant: Variant
    bias: Tensor
    backgrounds: Backgrounds
    keep_original: bool

    def __call__(self, batch: dict[str, Any], positions: Tensor) -> dict[str, Any]:
        colour, mask = cut_out(batch)
        saliency = (mask * 255).round().to(torch.uint8)
        if self.variant == "only-fg":
            return {"images": compose(colour, mask, torch.zeros_like(colour)), "saliency": saliency}
        if self.keep_original and not self.variant.startswith("mixed"):
            images = batch["images"]
        else:
            turn = int(self.variant.startswith("mixed"))  # another draw than the original's
            drawn = self.backgrounds.draw(self.bias[positions], batch["ids"], turn=turn)
            images = compose(colour, mask, drawn.to(torch.float32))
        if not self.variant.startswith("only-bg"):
            return {"images": images, "saliency": saliency}
        cover = black_boxes if self.variant == "only-bg-b" else tile_boxes
        return {"images": cover(images, bounding_boxes(mask)), "saliency": torch.zeros_like(saliency)}


def _has_own_background(source: Source) -> bool:
    return source.channels == 3 and has_saliency(source)
