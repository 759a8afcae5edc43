"""What a source is: images of one size with stable ids, and whatever is known about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_SINGULAR = {"images": "image", "ids": "id", "labels": "label", "bias_labels": "bias_label"}


class Source(Dataset, ABC):
    """A map-style data set of decoded images with stable ids; abstract.

    A concrete source sets the attributes below and implements `fetch`.

    Attributes:
        name: what the log and the report call it.
        ids: int64 ``[N]``, unique within the source.
        labels: int64 ``[N]`` with -1 for unlabelled, or None.
        class_names: one name per class, or None.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        image_size: ``(H, W)``, the same for every image.
        in_memory: whether `fetch` only indexes tensors; the loader starts no worker processes then.
    """

    name: str
    ids: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...] | None
    channels: int
    image_size: tuple[int, int]
    in_memory: bool = False

    @abstractmethod
    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Read samples by position.

        Returns:
            ``"images"`` uint8 ``[b, C, H, W]`` and ``"ids"`` int64 ``[b]``; where known ``"labels"`` and
            ``"bias_labels"`` int64 ``[b]``, ``"text"`` (list of str) and ``"text_embedding"`` float ``[b, e]``.
        """

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one sample as a mapping with ``"image"``, ``"id"`` and, where known, ``"label"``, ``"text"``, ..."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"source {self.name!r} has {len(self)} samples; index {index} is out of range")
        batch = self.fetch(torch.tensor([index % len(self)]))
        return {_SINGULAR.get(name, name): values[0] for name, values in batch.items()}

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        height, width = self.image_size
        return (
            f"{type(self).__name__}({self.name!r}, {len(self)} images {self.channels}x{height}x{width}, {classes},"
            f" {'labelled' if self.labels is not None else 'unlabelled'})"
        )


@dataclass(frozen=True)
class Splits:
    """The training and the test part of one data set."""

    train: Source
    test: Source


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
        name: str = "arrays",
    ) -> None:
        _check_images(images)
        count = len(images)
        self.name = name
        self.images = images
        self.ids = check_ids(torch.arange(count) if ids is None else ids, count=count)
        self.class_names = None if class_names is None else tuple(class_names)
        self.labels = None if labels is None else check_labels(labels, count=count, class_names=self.class_names)
        self.channels = images.shape[1]
        self.image_size = (images.shape[2], images.shape[3])
        self.text = None if text is None else list(text)
        self.text_embedding = text_embedding
        self.bias_labels = None if bias_labels is None else check_labels(bias_labels, count=count, name="bias_labels")
        for what, values in (("text", self.text), ("text_embedding", text_embedding)):
            if values is not None and len(values) != count:
                raise ValueError(f"{what} must have one entry per image: {count} images, {len(values)} entries")

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Index the tensors; see `Source.fetch`."""
        batch: dict[str, Any] = {"images": self.images[indices], "ids": self.ids[indices]}
        for name in ("labels", "bias_labels", "text_embedding"):
            values = getattr(self, name)
            if values is not None:
                batch[name] = values[indices]
        if self.text is not None:
            batch["text"] = [self.text[i] for i in indices.tolist()]
        return batch

    def subset(self, indices: Int[Tensor, " k"], *, name: str | None = None) -> ArraySource:
        """Return the samples at these positions as a source of their own; ids stay what they were.

        Example:
            >>> source = ArraySource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
            >>> source.subset(torch.tensor([2])).ids
            tensor([2])
        """
        parts = self.fetch(indices)
        return ArraySource(
            parts.pop("images"), **parts, class_names=self.class_names, name=self.name if name is None else name
        )


def check_ids(ids: Tensor, *, count: int) -> Int[Tensor, " n"]:
    """Validate sample ids: integers, one per image, none twice.

    Returns:
        The ids as int64.

    Raises:
        TypeError: when they are not integers.
        ValueError: when there are too many or too few, or one repeats.

    Example:
        >>> check_ids(torch.tensor([3, 5], dtype=torch.int32), count=2)
        tensor([3, 5])
    """
    ids = _integers(ids, "ids", count)
    values, repeats = ids.unique(return_counts=True)
    if len(values) != count:
        twice = values[repeats > 1][:5].tolist()
        raise ValueError(f"ids must be unique within a source; these occur more than once: {twice}")
    return ids


def check_labels(
    labels: Tensor, *, count: int, class_names: tuple[str, ...] | None = None, name: str = "labels"
) -> Int[Tensor, " n"]:
    """Validate labels: integers, one per image, at least -1, and each with a class name where names are given.

    Returns:
        The labels as int64.

    Raises:
        TypeError: when they are not integers.
        ValueError: when their number or range is wrong.

    Example:
        >>> check_labels(torch.tensor([0, -1], dtype=torch.uint8).to(torch.int8), count=2, class_names=("cat",))
        tensor([ 0, -1])
    """
    labels = _integers(labels, name, count)
    if count and int(labels.min()) < -1:
        raise ValueError(f"{name} must be at least -1 (-1 = unlabelled); the smallest is {int(labels.min())}")
    if class_names is not None and count and int(labels.max()) >= len(class_names):
        raise ValueError(
            f"{name} go up to {int(labels.max())}, but there are only {len(class_names)} class names;"
            " give one name per class, or none"
        )
    return labels


def _integers(values: Tensor, name: str, count: int) -> Tensor:
    if (
        not isinstance(values, Tensor)
        or values.is_floating_point()
        or values.is_complex()
        or values.dtype == torch.bool
    ):
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be a tensor of integers; found {found}")
    if values.shape != (count,):
        raise ValueError(f"{name} must have one entry per image: {count} images, {name} {tuple(values.shape)}")
    return values.to(torch.int64)


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
