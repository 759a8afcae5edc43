"""A source with other columns or changed images: lazily where images are decoded, at once where they are in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.data.sources.base import ArraySource, Source
from kinfolk.data.sources.columns import Column, check_columns, check_ids

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

Change = Callable[[dict[str, Any], Tensor], dict[str, Any]]
"""From a batch of the original (``images``, ``ids`` and its columns) and the samples' positions to what it changes."""

_CHUNK = 1024


class DerivedSource(Source):
    """Another source whose columns, ids or images are changed when they are read.

    Args:
        source: the original.
        columns: columns to set; None removes one.
        change: makes other images of a batch, and may add columns such as ``saliency`` to it. It is called with the
            original's batch, must keep the number of rows, and must be picklable: workers get a copy.
        channels: of the changed images; by default those of the original.
        ids: int64 ``[N]``; by default those of the original.
        class_names: by default those of the original.
        name: by default that of the original.

    Raises:
        ValueError: for columns or ids that do not fit the samples.

    Example:
        >>> source = ArraySource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> DerivedSource(source, columns={"labels": torch.tensor([1, 1])}).fetch(torch.tensor([0]))["labels"]
        tensor([1])
    """

    def __init__(
        self,
        source: Source,
        *,
        columns: Mapping[str, Column | None] | None = None,
        change: Change | None = None,
        channels: int | None = None,
        ids: Int[Tensor, " n"] | None = None,
        class_names: tuple[str, ...] | None = None,
        name: str | None = None,
    ) -> None:
        self.source, self.change = source, change
        self._removed = {key for key, values in (columns or {}).items() if values is None}
        self.name = source.name if name is None else name
        self.class_names = source.class_names if class_names is None else class_names
        self.channels = source.channels if channels is None else channels
        self.image_size, self.in_memory = source.image_size, source.in_memory and change is None
        self.loose_captions = source.loose_captions
        self.ids = check_ids(source.ids if ids is None else ids, count=len(source))
        self.columns = check_columns(
            {**source.columns, **(columns or {})}, count=len(source), class_names=self.class_names
        )

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Read and change images; see `Source.read`."""
        if self.change is None:
            return self.source.read(indices)
        batch = {"images": self.source.read(indices), **self.source.describe(indices)}
        return self.change(batch, indices)["images"]

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Read and change samples; see `Source.fetch`.

        Where the original puts a readable sample in an unreadable one's place, so does this.
        """
        batch = self.source.fetch(indices)
        positions = self._positions(batch, indices)
        changed = {} if self.change is None else self.change(batch, positions)
        kept: dict[str, Any] = {name: batch[name] for name in ("images", "skipped") if name in batch}
        if self.change is None:  # other hands' renderings still fit the images
            kept = self._beside_columns(batch)
        return {**kept, **self.describe(positions), **changed}

    def describe(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Return what is known about samples, also what the original knows beside its columns, such as masks on disk;
        see `Source.describe`."""
        return {**self._beside_columns(self.source.describe(indices)), **super().describe(indices)}

    def _beside_columns(self, batch: dict[str, Any]) -> dict[str, Any]:
        left_out = self._removed | self.source.columns.keys()
        return {name: values for name, values in batch.items() if name not in left_out}

    def _positions(self, batch: dict[str, Any], indices: Tensor) -> Tensor:
        """Where the samples of a batch lie, also those that stand in for others."""
        if "skipped" not in batch:
            return indices
        position = {sample: i for i, sample in enumerate(self.source.ids.tolist())}
        return torch.tensor([position[sample] for sample in batch["ids"].tolist()], dtype=torch.int64)


def with_columns(
    source: Source,
    columns: Mapping[str, Column | None],
    *,
    ids: Int[Tensor, " n"] | None = None,
    class_names: tuple[str, ...] | None = None,
    name: str | None = None,
) -> Source:
    """Return a source with some columns set or, by None, removed; images in memory are shared, not copied.

    Example:
        >>> source = ArraySource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> with_columns(source, {"labels": None, "text": ["a", "b"]})
        ArraySource('arrays', 2 images 1x4x4, no classes, unlabelled)
    """
    if not isinstance(source, ArraySource):
        return DerivedSource(source, columns=columns, ids=ids, class_names=class_names, name=name)
    kept = {key: values for key, values in {**source.columns, **columns}.items() if values is not None}
    derived = ArraySource(
        source.images,
        ids=source.ids if ids is None else ids,
        class_names=source.class_names if class_names is None else class_names,
        columns=kept,
        name=source.name if name is None else name,
    )
    derived.loose_captions = source.loose_captions
    return derived


def with_images(
    source: Source,
    change: Change,
    *,
    channels: int | None = None,
    columns: Mapping[str, Column | None] | None = None,
    name: str | None = None,
) -> Source:
    """Return a source with changed images: of a source in memory all at once, otherwise whenever they are read.

    What `change` gives beside the images becomes a column of a source in memory, and is in every batch otherwise; a
    column of that name that the original has must be removed through `columns`.

    Raises:
        ValueError: for a table, which has no images.

    Example:
        >>> source = ArraySource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
        >>> negative = with_images(source, lambda batch, positions: {"images": 255 - batch["images"]})
        >>> negative.read(torch.tensor([0])).max()
        tensor(255, dtype=torch.uint8)
    """
    require_pictures(source)
    derived = DerivedSource(source, columns=columns, change=change, channels=channels, name=name)
    if not source.in_memory or len(source) == 0:
        return derived
    batches = [derived.fetch(part) for part in torch.arange(len(source)).split(_CHUNK)]
    added = [key for key in batches[0] if key not in {"images", "ids", "skipped", *derived.columns}]
    changed = ArraySource(
        torch.cat([batch["images"] for batch in batches]),
        ids=derived.ids,
        class_names=derived.class_names,
        columns={**derived.columns, **{key: torch.cat([batch[key] for batch in batches]) for key in added}},
        name=derived.name,
    )
    changed.loose_captions = derived.loose_captions
    return changed


def require_pictures(source: Source) -> None:
    """Refuse a table.

    Raises:
        ValueError: when the samples are not pictures of more than one pixel.
    """
    if max(source.image_size) < 2 or source.channels not in (1, 3, 4):
        height, width = source.image_size
        raise ValueError(
            f"this derived set changes pictures; source {source.name!r} has samples of {source.channels}x{height}x"
            f"{width}, which is no picture"
        )
