"""What a source is: images of one size with stable ids, and whatever is known about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kinfolk.data.sources.columns import Column, check_columns, check_ids, take_columns

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_SINGULAR = {"images": "image", "ids": "id", "times": "time", "groups": "group"}


class Source(Dataset, ABC):
    """A map-style data set of decoded images with stable ids; abstract.

    A concrete source sets the attributes below and implements `read`. What is known beside the images lies in
    `columns`, under the names that a batch has:

    ============== ==================== ============================================================================
    `labels`       int64 ``[N]``        classes, -1 = unlabelled
    `bias_labels`  int64 ``[N]``        a nuisance factor such as the background or the hand, -1 = unknown
    `true_labels`  int64 ``[N]``        what `labels` were before some were hidden or made wrong; never for training
    `groups`       int64 ``[N]``        samples of one group show the same thing, -1 = in no group
    `text`         list of str          captions, ``""`` for an image that has none
    `text_embedding` float ``[N, e]``   one row per caption
    `attributes`   float ``[N, a]``     any numbers
    `hierarchy`    list of str          a path from the root, ``"animal/dog/poodle"``
    `times`        float64 ``[N]``      a real value by which samples are near or far
    `saliency`     uint8 ``[N,1,H,W]``  255 where the foreground is
    ============== ==================== ============================================================================

    Attributes:
        name: what the log and the report call it.
        ids: int64 ``[N]``, unique within the source.
        columns: what is known beside the images, one entry per sample.
        class_names: one name per class, or None.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); for a table the number of its features.
        image_size: ``(H, W)``, the same for every image; (1, 1) for a table.
        in_memory: whether `read` only indexes tensors; the loader starts no worker processes then.
        loose_captions: captions that belong to no sample, or nobody knows to which; see `LooseCaptionsConfig`.
    """

    name: str
    ids: Tensor
    columns: dict[str, Column]
    class_names: tuple[str, ...] | None
    channels: int
    image_size: tuple[int, int]
    in_memory: bool = False
    loose_captions: Sequence[str] = ()

    @abstractmethod
    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Read the images of samples by position, uint8; the rows of a table are float32 ``[b, F, 1, 1]``."""

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Read samples by position.

        Returns:
            ``"images"`` uint8 ``[b, C, H, W]``, ``"ids"`` int64 ``[b]``, and every column.
        """
        return {"images": self.read(indices), **self.describe(indices)}

    def describe(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Return what is known about samples beside their images; no image is decoded."""
        return {"ids": self.ids[indices], **take_columns(self.columns, indices)}

    def subset(self, indices: Int[Tensor, " k"], *, name: str | None = None) -> Source:
        """Return the samples at these positions as a source of their own; ids and class names stay what they were."""
        return Subset(self, indices, name=name)

    @property
    def labels(self) -> Tensor | None:
        """Classes, int64 ``[N]`` with -1 for unlabelled, or None."""
        return cast("Tensor | None", self.columns.get("labels"))

    @property
    def bias_labels(self) -> Tensor | None:
        """A nuisance factor, int64 ``[N]`` with -1 for unknown, or None."""
        return cast("Tensor | None", self.columns.get("bias_labels"))

    @property
    def text(self) -> list[str] | None:
        """Captions, or None."""
        return cast("list[str] | None", self.columns.get("text"))

    @property
    def text_embedding(self) -> Tensor | None:
        """One row per caption, float ``[N, e]``, or None."""
        return cast("Tensor | None", self.columns.get("text_embedding"))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one sample as a mapping with ``"image"``, ``"id"`` and, where known, ``"label"``, ``"text"``, ..."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"source {self.name!r} has {len(self)} samples; index {index} is out of range")
        batch = self.fetch(torch.tensor([index % len(self)]))
        return {_singular(name): values[0] for name, values in batch.items() if name != "skipped"}

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        height, width = self.image_size
        return (
            f"{type(self).__name__}({self.name!r}, {len(self)} images {self.channels}x{height}x{width}, {classes},"
            f" {'labelled' if self.labels is not None else 'unlabelled'})"
        )


class Subset(Source):
    """Some samples of another source, which reads them.

    Args:
        source: the whole.
        indices: int64 ``[k]``, positions in the whole, in the order that the subset has.
        name: by default that of the whole.

    Raises:
        IndexError: for positions that the whole does not have.

    Example:
        >>> whole = ArraySource(torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1))
        >>> Subset(whole, torch.tensor([2, 0])).read(torch.tensor([0])).item()
        2
    """

    def __init__(self, source: Source, indices: Int[Tensor, " k"], *, name: str | None = None) -> None:
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(source):
            raise IndexError(
                f"positions must be from 0 to {len(source) - 1}; found {int(indices.min())} to {int(indices.max())}"
            )
        self.source, self.indices = source, indices
        self.name = source.name if name is None else name
        self.ids, self.columns = source.ids[indices], take_columns(source.columns, indices)
        self.class_names, self.in_memory = source.class_names, source.in_memory
        self.channels, self.image_size = source.channels, source.image_size
        self.loose_captions = source.loose_captions

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Let the whole read them; see `Source.read`."""
        return self.source.read(self.indices[indices])

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Let the whole fetch them, which may add to a batch what only it knows; see `Source.fetch`.

        Where the whole puts a sample that is not one of these in the place of an unreadable one, another of the batch
        is repeated instead.

        Raises:
            ValueError: when no sample of the batch can be read.
        """
        batch = self.source.fetch(self.indices[indices])
        if "skipped" not in batch:
            return {**batch, **self.describe(indices)}
        own = torch.isin(batch["ids"], self.ids)
        if not bool(own.any()):
            raise ValueError(f"{self.name}: no sample of the batch can be read; the first: {batch['skipped'][0]}")
        rows = torch.arange(len(own))
        rows[~own] = own.nonzero().flatten()[torch.arange(int((~own).sum())) % int(own.sum())]
        skipped = batch.pop("skipped")
        return {**take_columns(batch, rows), "skipped": skipped}

    def describe(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Let the whole add what is no column, such as masks on disk; see `Source.describe`."""
        return {**self.source.describe(self.indices[indices]), **super().describe(indices)}

    def subset(self, indices: Int[Tensor, " k"], *, name: str | None = None) -> Source:
        """Return a subset of the same whole."""
        return self.source.subset(self.indices[indices], name=self.name if name is None else name)


@dataclass(frozen=True)
class Splits:
    """The training and the test part of one data set.

    Attributes:
        train: what encoders are trained on.
        test: what they are measured on.
        probe: the labelled part that probes and nearest neighbours are fitted on, where it is not `train`: the whole
            balanced set when the training set was made imbalanced, the labelled images when training uses others too.
    """

    train: Source
    test: Source
    probe: Source | None = None

    @property
    def reference(self) -> Source:
        """What probes and nearest neighbours are fitted on: `probe`, or `train` where there is none."""
        return self.train if self.probe is None else self.probe


class ArraySource(Source):
    """A source whose images are one tensor in memory.

    Args:
        images: uint8 ``[N, C, H, W]`` with C of 1, 3 or 4; N may be 0.
        labels: integers ``[N]``, -1 for unlabelled. Classes are numbered from 0.
        ids: int64 ``[N]``, unique; by default the position.
        class_names: one name per class; by default none are known.
        text: one caption per image.
        text_embedding: float ``[N, e]``, one row per image, for example a frozen sentence encoder's output.
        bias_labels: integers ``[N]`` that name a nuisance factor, such as the background.
        columns: what else is known, by the names that `Source` lists.
        name: what the log calls the source.

    Raises:
        ValueError: for shapes that do not fit, ids that repeat, labels below -1 or without a class name.
        TypeError: for images that are not uint8, and labels or ids that are not integers.

    Example:
        >>> source = ArraySource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), labels=torch.tensor([0, 1, -1]))
        >>> source
        ArraySource('arrays', 3 images 1x8x8, no classes, labelled)
        >>> source.fetch(torch.tensor([2, 0]))["labels"]
        tensor([-1,  0])
    """

    in_memory = True

    def __init__(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Int[Tensor, " n"] | None = None,
        *,
        ids: Int[Tensor, " n"] | None = None,
        class_names: Sequence[str] | None = None,
        text: Sequence[str] | None = None,
        text_embedding: Float[Tensor, "n e"] | None = None,
        bias_labels: Int[Tensor, " n"] | None = None,
        columns: Mapping[str, Column] | None = None,
        name: str = "arrays",
    ) -> None:
        _check_images(images)
        self.name, self.images = name, images
        self.ids = check_ids(torch.arange(len(images)) if ids is None else ids, count=len(images))
        self.class_names = None if class_names is None else tuple(class_names)
        self.channels = images.shape[1]
        self.image_size = (images.shape[2], images.shape[3])
        given = {
            "labels": labels,
            "bias_labels": bias_labels,
            "text": None if text is None else list(text),
            "text_embedding": text_embedding,
            **(columns or {}),
        }
        self.columns = check_columns(given, count=len(images), class_names=self.class_names)

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Index the images; see `Source.read`."""
        return self.images[indices]

    def subset(self, indices: Int[Tensor, " k"], *, name: str | None = None) -> ArraySource:
        """Return the samples at these positions as a source of their own; ids stay what they were.

        Example:
            >>> source = ArraySource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
            >>> source.subset(torch.tensor([2])).ids
            tensor([2])
        """
        part = ArraySource(
            self.images[indices],
            ids=self.ids[indices],
            columns=take_columns(self.columns, indices),
            class_names=self.class_names,
            name=self.name if name is None else name,
        )
        part.loose_captions = self.loose_captions
        return part


def _singular(name: str) -> str:
    return _SINGULAR.get(name, name[:-1] if name.endswith("labels") else name)


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a uint8 tensor [N, C, H, W]; found {found}. `to_uint8` converts other forms.")
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"images must be [N, C, H, W] with C = 1 (grey), 3 (RGB) or 4 (RGBA); found {tuple(images.shape)}"
        )
    if min(images.shape[2:]) < 1:
        raise ValueError(f"images must have at least one pixel; found {tuple(images.shape)}")
