"""Image files that stay in their folder and are decoded on every fetch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.sources.base import ArraySource
from kinfolk.data.sources.columns import Column
from kinfolk.data.sources.decode import MAX_PIXELS, Fit
from kinfolk.data.sources.encoded import EncodedSource, OnError
from kinfolk.data.sources.listing import Entry
from kinfolk.data.sources.records import read_records

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8


class FileSource(EncodedSource):
    """Image files that are decoded on every fetch; `ImageFolderConfig` makes it when the images do not fit in memory.

    Args:
        root: the folder.
        entries: its images.
        channels: 1, 3 or 4.
        image_size: ``(H, W)``.
        fit: see `read_image`.
        ids: one per entry; by default the position.
        class_names: by default the sorted labels of the entries.
        on_error: see `EncodedSource`.
        max_pixels: see `read_image`.
    """

    def __init__(
        self,
        root: Path,
        entries: Sequence[Entry],
        *,
        channels: int,
        image_size: tuple[int, int],
        fit: Fit = "crop",
        ids: Int[Tensor, " n"] | None = None,
        class_names: tuple[str, ...] | None = None,
        on_error: OnError = "raise",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        names = _class_names(entries) if class_names is None else class_names
        super().__init__(
            name=root.name,
            ids=torch.arange(len(entries)) if ids is None else ids,
            class_names=names,
            columns=_columns(entries, names),
            channels=channels,
            image_size=image_size,
            fit=fit,
            on_error=on_error,
            max_pixels=max_pixels,
        )
        self.root, self.entries = root, list(entries)

    def encoded(self, index: int) -> Path:
        """Return the file."""
        return self.root / self.entries[index].path

    def where(self, index: int) -> str:
        """Return the file's path."""
        return str(self.encoded(index))

    def with_images(self, images: UInt8[Tensor, "n c h w"]) -> ArraySource:
        """Return the same samples with their decoded images in memory."""
        return ArraySource(images, ids=self.ids, class_names=self.class_names, columns=self.columns, name=self.name)


def _columns(entries: Sequence[Entry], class_names: tuple[str, ...] | None) -> dict[str, Column]:
    """Labels where any entry has one, captions where every entry has one, and what else the metadata know."""
    columns = read_records([entry.record for entry in entries], where="metadata")
    if class_names is not None:
        number = {name: i for i, name in enumerate(class_names)}
        columns["labels"] = torch.tensor(
            [-1 if e.label is None else number[e.label] for e in entries], dtype=torch.int64
        )
    if entries and all(entry.text is not None for entry in entries):
        columns["text"] = [entry.text or "" for entry in entries]
    return columns


def _class_names(entries: Sequence[Entry]) -> tuple[str, ...] | None:
    """Sort the class names, as numbers when all of them are."""
    names = {entry.label for entry in entries if entry.label is not None}
    if not names:
        return None
    numeric = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if numeric else None))
