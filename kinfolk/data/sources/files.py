"""Images that stay in their files and are decoded on every fetch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.data.sources.base import ArraySource, Source, check_ids
from kinfolk.data.sources.decode import Fit, read_image
from kinfolk.data.sources.listing import Entry

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8


class FileSource(Source):
    """Image files that are decoded on every fetch; `ImageFolderConfig` makes it when the images do not fit in memory.

    Args:
        root: the folder.
        entries: its images.
        channels: 1, 3 or 4.
        image_size: ``(H, W)``.
        fit: see `read_image`.
        ids: one per entry; by default the position.
        class_names: by default the sorted labels of the entries.
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
    ) -> None:
        self.root, self.entries, self.fit = root, list(entries), fit
        self.name, self.channels, self.image_size = root.name, channels, image_size
        self.ids = check_ids(torch.arange(len(entries)) if ids is None else ids, count=len(entries))
        self.class_names = _class_names(entries) if class_names is None else class_names
        number = {name: i for i, name in enumerate(self.class_names or ())}
        labels = [-1 if entry.label is None else number[entry.label] for entry in entries]
        self.labels = torch.tensor(labels, dtype=torch.int64) if self.class_names is not None else None

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Decode the files; see `Source.fetch`.

        Raises:
            UnreadableImage: naming the file that cannot be decoded.
        """
        entries = [self.entries[i] for i in indices.tolist()]
        images = torch.empty(len(entries), self.channels, *self.image_size, dtype=torch.uint8)
        for row, entry in enumerate(entries):
            images[row] = read_image(self.root / entry.path, channels=self.channels, size=self.image_size, fit=self.fit)
        batch: dict[str, Any] = {"images": images, "ids": self.ids[indices]}
        if self.labels is not None:
            batch["labels"] = self.labels[indices]
        if self._has_text:
            batch["text"] = [entry.text for entry in entries]
        return batch

    def subset(self, indices: Int[Tensor, " k"]) -> FileSource:
        """Return the files at these positions as a source of their own; ids and class names stay what they were."""
        return FileSource(
            self.root,
            [self.entries[i] for i in indices.tolist()],
            channels=self.channels,
            image_size=self.image_size,
            fit=self.fit,
            ids=self.ids[indices],
            class_names=self.class_names,
        )

    def with_images(self, images: UInt8[Tensor, "n c h w"]) -> ArraySource:
        """Return the same samples with their decoded images in memory."""
        text = [entry.text or "" for entry in self.entries] if self._has_text else None
        return ArraySource(images, self.labels, ids=self.ids, class_names=self.class_names, text=text, name=self.name)

    @property
    def _has_text(self) -> bool:
        return bool(self.entries) and all(entry.text is not None for entry in self.entries)


def _class_names(entries: Sequence[Entry]) -> tuple[str, ...] | None:
    """Sort the class names, as numbers when all of them are."""
    names = {entry.label for entry in entries if entry.label is not None}
    if not names:
        return None
    numeric = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if numeric else None))
