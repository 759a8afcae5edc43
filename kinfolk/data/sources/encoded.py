"""Images that stay encoded, in files, tar members or table cells, and are decoded on every fetch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from kinfolk.data.sources.base import Source
from kinfolk.data.sources.columns import Column, check_columns, check_ids, take_columns
from kinfolk.data.sources.decode import MAX_PIXELS, Fit, UnreadableImage, read_image

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

OnError = Literal["raise", "skip"]

_MOST_SUBSTITUTES = 64


def check_decoding(*, image_size: tuple[int, ...], fit: str, channels: int | None, on_error: str) -> None:
    """Validate how a config wants images decoded.

    Raises:
        ValueError: for a size below one pixel, or a choice that does not exist.

    Example:
        >>> check_decoding(image_size=(32, 32), fit="crop", channels=None, on_error="skip")
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size must be (H, W), at least one pixel each; found {image_size}")
    for name, value, choices in (
        ("fit", fit, ("crop", "pad", "stretch")),
        ("channels", channels, (None, 1, 3, 4)),
        ("on_error", on_error, ("raise", "skip")),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}; found {value!r}")


class EncodedSource(Source):
    """A source whose images are decoded on every fetch; abstract.

    A concrete one says where a sample's bytes are (`encoded`) and how an error names them (`where`). An image that
    cannot be decoded raises, or, with ``on_error="skip"``, the next readable sample takes its place (its id, labels and
    caption too) so that batches stay full on every rank; the batch lists what was left out under ``"skipped"``.

    Args:
        name: what the log calls the source.
        ids: int64 ``[N]``, unique.
        class_names: one name per class, or None.
        columns: what is known beside the images; see `Source`.
        channels: 1, 3 or 4.
        image_size: ``(H, W)`` to which every image is brought.
        fit: how; see `read_image`.
        on_error: `raise`, or `skip` an unreadable image and list it.
        max_pixels: see `read_image`.
    """

    def __init__(
        self,
        *,
        name: str,
        ids: Int[Tensor, " n"],
        class_names: tuple[str, ...] | None,
        columns: Mapping[str, Column | None],
        channels: int,
        image_size: tuple[int, int],
        fit: Fit = "crop",
        on_error: OnError = "raise",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.name, self.class_names, self.channels = name, class_names, channels
        self.image_size = (image_size[0], image_size[1])
        self.ids = check_ids(ids, count=len(ids))
        self.columns = check_columns(columns, count=len(ids), class_names=class_names)
        self.fit, self.on_error, self.max_pixels = fit, on_error, max_pixels

    @abstractmethod
    def encoded(self, index: int) -> Path | bytes:
        """Return an image's file, or its bytes.

        Raises:
            UnreadableImage: when the bytes cannot be had.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """Say where an image lies, for messages."""

    @property
    def files(self) -> list[Path]:
        """Every file that the images come from; a cache of decoded images belongs to their sizes and times."""
        return [place for place in map(self.encoded, range(len(self))) if isinstance(place, Path)]

    def decode(self, index: int) -> UInt8[Tensor, "c h w"]:
        """Decode one image.

        Raises:
            UnreadableImage: naming where it lies.
        """
        return read_image(
            self.encoded(index),
            channels=self.channels,
            size=self.image_size,
            fit=self.fit,
            where=self.where(index),
            max_pixels=self.max_pixels,
        )

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Decode images; see `Source.read`.

        Raises:
            UnreadableImage: naming the first that cannot be decoded, whatever `on_error` says: only `fetch` can say
                what it put in its place.
        """
        images = torch.empty(len(indices), self.channels, *self.image_size, dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = self.decode(index)
        return images

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Decode samples; see `Source.fetch`.

        Returns:
            The batch, and with ``on_error="skip"`` also ``"skipped"``, a list of str, where something was.

        Raises:
            UnreadableImage: naming what cannot be decoded; with ``on_error="skip"`` only when 64 samples in a row
                cannot.
        """
        if self.on_error == "raise":
            return super().fetch(indices)
        images = torch.empty(len(indices), self.channels, *self.image_size, dtype=torch.uint8)
        taken, skipped = indices.clone(), []
        for row, index in enumerate(indices.tolist()):
            taken[row], images[row], problems = self._first_readable(index)
            skipped += problems
        batch = {"images": images, **self.describe(taken)}
        return {**batch, "skipped": skipped} if skipped else batch

    def subset(self, indices: Int[Tensor, " k"], *, name: str | None = None) -> EncodedSource:
        """Return the samples at these positions; what is put in the place of an unreadable one is one of them."""
        return EncodedSubset(self, indices, name=name)

    def _first_readable(self, index: int) -> tuple[int, Tensor, list[str]]:
        problems: list[str] = []
        for offset in range(min(_MOST_SUBSTITUTES, len(self))):
            position = (index + offset) % len(self)
            try:
                return position, self.decode(position), problems
            except UnreadableImage as error:
                problems.append(str(error))
        raise UnreadableImage(
            f"{self.name}: {len(problems)} samples in a row cannot be decoded, the first: {problems[0]}."
            " `kinfolk data inspect` lists all of them."
        )


class EncodedSubset(EncodedSource):
    """Some samples of an encoded source.

    Args:
        source: the whole.
        indices: int64 ``[k]``, positions in the whole.
        name: by default that of the whole.
    """

    def __init__(self, source: EncodedSource, indices: Int[Tensor, " k"], *, name: str | None = None) -> None:
        super().__init__(
            name=source.name if name is None else name,
            ids=source.ids[indices],
            class_names=source.class_names,
            columns=take_columns(source.columns, indices),
            channels=source.channels,
            image_size=source.image_size,
            fit=source.fit,
            on_error=source.on_error,
            max_pixels=source.max_pixels,
        )
        self.source, self.indices = source, indices

    def encoded(self, index: int) -> Path | bytes:
        """Let the whole say; see `EncodedSource.encoded`."""
        return self.source.encoded(int(self.indices[index]))

    def where(self, index: int) -> str:
        """Let the whole say; see `EncodedSource.where`."""
        return self.source.where(int(self.indices[index]))

    @property
    def files(self) -> list[Path]:
        """The files of the whole."""
        return self.source.files
