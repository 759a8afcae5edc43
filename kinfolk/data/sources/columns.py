"""What is known about samples beside their images: one entry per sample under every name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int

Column = Tensor | list[Any]

_INTEGER_COLUMNS = ("labels", "bias_labels", "true_labels", "groups")
_TAKEN = ("images", "ids", "views", "skipped")


def take_columns(columns: Mapping[str, Column], indices: Int[Tensor, " b"]) -> dict[str, Column]:
    """Take the entries of samples by position out of every column.

    Example:
        >>> take_columns({"text": ["a", "b"], "labels": torch.tensor([3, 4])}, torch.tensor([1]))
        {'text': ['b'], 'labels': tensor([4])}
    """
    positions = indices.tolist() if any(isinstance(values, list) for values in columns.values()) else []
    return {
        name: [values[i] for i in positions] if isinstance(values, list) else values[indices]
        for name, values in columns.items()
    }


def check_columns(
    columns: Mapping[str, Column | None], *, count: int, class_names: tuple[str, ...] | None = None
) -> dict[str, Column]:
    """Validate what is known beside the images: one entry per sample, integers where classes are meant.

    Returns:
        The columns that are there; integers as int64.

    Raises:
        TypeError: for labels and groups that are not integers.
        ValueError: when a column has another length, labels are below -1 or have no class name, or a name is taken.

    Example:
        >>> check_columns({"text": ["a cat"], "labels": None}, count=1)
        {'text': ['a cat']}
    """
    checked: dict[str, Column] = {}
    for name, values in columns.items():
        if name in _TAKEN:
            raise ValueError(f"{name!r} cannot be a column: a batch has something else under that name")
        if values is None:
            continue
        if name in _INTEGER_COLUMNS:
            names = class_names if name == "labels" else None
            values = check_labels(cast(Tensor, values), count=count, class_names=names, name=name)
        elif len(values) != count:
            raise ValueError(f"{name} must have one entry per image: {count} images, {len(values)} entries")
        checked[name] = values
    return checked


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
