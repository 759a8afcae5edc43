"""Where backgrounds come from: a folder of textures, one family of them per class, or the pictures themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.counter import counter_uniform
from kinfolk.data.derived.classes import members_by_class, seeded_order
from kinfolk.data.derived.cutout import bounding_boxes, cut_out, tile_boxes
from kinfolk.data.sources.base import Source
from kinfolk.data.sources.folder import ImageFolderConfig

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

_HELD_OUT = 0.25
_OVERSIZE = 2
_FEWEST = 2


class Backgrounds(Protocol):
    """Gives every sample a background of a wanted class."""

    def draw(self, classes: Int[Tensor, " b"], ids: Int[Tensor, " b"], *, turn: int) -> UInt8[Tensor, "b 3 h w"]:
        """Draw backgrounds, a function of class, id and turn."""


class TextureBackgrounds:
    """Random windows of textures; every class has a family of its own.

    Args:
        textures: RGB pictures, at least as large as the windows; labels are families.
        families: the family of each class.
        size: ``(H, W)`` of the windows.
        seed: of the draws.

    Raises:
        ValueError: when a family has no texture.
    """

    def __init__(self, textures: Source, families: Int[Tensor, " C"], *, size: tuple[int, int], seed: int) -> None:
        labels = textures.labels
        if labels is None or textures.channels != 3:
            raise ValueError(f"textures must be RGB pictures with labels, their families; found {textures}")
        self.textures, self.size, self.seed = textures, size, seed
        self.members = [(labels == family).nonzero().flatten() for family in families.tolist()]
        empty = [family for family, here in zip(families.tolist(), self.members, strict=True) if len(here) == 0]
        if empty:
            raise ValueError(f"texture families {empty} have no picture in {textures.name!r}")

    def draw(self, classes: Int[Tensor, " b"], ids: Int[Tensor, " b"], *, turn: int) -> UInt8[Tensor, "b 3 h w"]:
        """Draw a texture of each class's family, and a window of it."""
        which, down, across = counter_uniform((self.seed, turn), ids, count=3).unbind(1)
        positions = _members(self.members, classes, which)
        unique, back = positions.unique(return_inverse=True)
        whole = self.textures.read(unique).numpy()
        top, left = (
            _whole(share, torch.tensor(extent - side + 1)).tolist()
            for share, extent, side in zip((down, across), whole.shape[2:], self.size, strict=True)
        )
        height, width = self.size
        windows = np.empty((len(ids), 3, height, width), dtype=np.uint8)
        for row, (texture, y, x) in enumerate(zip(back.tolist(), top, left, strict=True)):
            windows[row] = whole[texture, :, y : y + height, x : x + width]
        return torch.from_numpy(windows)


class OwnBackgrounds:
    """Backgrounds of other pictures of the same part, their foregrounds covered with what surrounds them.

    Args:
        source: RGB pictures with a `saliency` column and labels.
        classes: number of classes.
        seed: of the draws.
    """

    def __init__(self, source: Source, *, classes: int, seed: int) -> None:
        assert source.labels is not None
        self.source, self.seed = source, seed
        self.members = members_by_class((seed,), source.labels, source.ids, classes)

    def require(self, classes: Int[Tensor, " k"]) -> None:
        """Refuse classes that will be asked for and have no picture.

        Raises:
            ValueError: naming them.
        """
        empty = [c for c in classes.unique().tolist() if len(self.members[c]) == 0]
        if empty:
            raise ValueError(f"classes {empty[:10]} have no picture in {self.source.name!r} to take a background from")

    def draw(self, classes: Int[Tensor, " b"], ids: Int[Tensor, " b"], *, turn: int) -> UInt8[Tensor, "b 3 h w"]:
        """Draw a picture of each class and remove its foreground."""
        which = counter_uniform((self.seed, turn), ids, count=1)[:, 0]
        positions = _members(self.members, classes, which)
        batch: dict[str, Any] = {"images": self.source.read(positions), **self.source.describe(positions)}
        return tile_boxes(batch["images"], bounding_boxes(cut_out(batch)[1]))


def texture_backgrounds(
    folder: str, *, classes: int, size: tuple[int, int], seed: int, held_out: bool
) -> tuple[TextureBackgrounds, TextureBackgrounds]:
    """Load textures from a folder with one subfolder per family, for training and for testing.

    The families with the most pictures are taken, one per class, assigned in an order that `seed` shuffles.

    Args:
        folder: of the families' folders.
        classes: how many families are needed.
        size: ``(H, W)`` of the backgrounds; textures are loaded at twice that and a random window is taken.
        seed: of the assignment, the split, and the draws.
        held_out: whether a quarter of each family is kept for the test part, so that no test background was seen in
            training; otherwise both parts have all.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when it has too few families of at least two pictures for training and, held out, one for testing.
    """
    height, width = size
    splits = ImageFolderConfig(
        folder,
        image_size=(_OVERSIZE * height, _OVERSIZE * width),
        channels=3,
        test_fraction=_HELD_OUT if held_out else 0.0,
        seed=seed,
    ).load()
    parts = (splits.train, splits.test if held_out else splits.train)
    names = parts[0].class_names or ()
    counts = [torch.zeros(0) if part.labels is None else part.labels.bincount(minlength=len(names)) for part in parts]
    usable = ((counts[0] >= _FEWEST) & (counts[1] >= 1)).nonzero().flatten()
    if len(usable) < classes:
        raise ValueError(
            f"every class needs a family of textures of its own: {classes} classes, but {folder} has {len(usable)}"
            f" subfolders (of {len(names)}) with at least {_FEWEST} pictures for training"
            + (" and one for testing" if held_out else "")
        )
    largest = usable[counts[0][usable].argsort(descending=True, stable=True)][:classes]
    families = largest[seeded_order((seed, classes), largest)]
    train, test = (TextureBackgrounds(part, families, size=size, seed=seed) for part in parts)
    return train, test


def _members(members: list[Tensor], classes: Tensor, share: Tensor) -> Int[Tensor, " b"]:
    """Pick a member of each wanted class, by a number in [0, 1)."""
    sizes = torch.tensor([len(here) for here in members])
    starts = sizes.cumsum(0) - sizes
    return torch.cat(members)[starts[classes] + _whole(share, sizes[classes])]


def _whole(share: Tensor, count: Tensor) -> Int[Tensor, " b"]:
    """Turn numbers in [0, 1) into whole ones in [0, count)."""
    return torch.minimum((share * count).to(torch.int64), count - 1)
