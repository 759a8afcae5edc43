"""The features that a table's columns become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Feature:
    """One feature of a table and how it was made.

    Args:
        name: the column's, or ``column=value`` for one of several that stand for a column of texts.
        column: the column it was made of.
        mean: over the training rows; subtracted.
        scale: the standard deviation over the training rows, or 1; divides.
    """

    name: str
    column: str
    mean: float
    scale: float


def is_missing(values: np.ndarray) -> np.ndarray:
    """Mark the entries of a column that are missing: NaN among numbers, None among texts.

    Example:
        >>> is_missing(np.array([1.0, np.nan])).tolist(), is_missing(np.array(["a", None], dtype=object)).tolist()
        ([False, True], [False, True])
    """
    return np.array([value is None for value in values]) if values.dtype == object else np.isnan(values)


def standardised(
    raw: np.ndarray, names: list[tuple[str, str]], train: Tensor
) -> tuple[Float[Tensor, "n f"], list[Feature]]:
    """Subtract the training mean, divide columns of numbers by the training deviation, and put 0 where nothing is.

    Args:
        raw: ``[N, F]``, NaN where a value is missing.
        names: the name of each feature and of the column it was made of; where they differ it is one text of several.
        train: positions of the training rows.

    Returns:
        The rows in float32, and what each of their columns is.

    Example:
        >>> rows, features = standardised(np.array([[1.0], [3.0], [9.0]]), [("age", "age")], torch.tensor([0, 1]))
        >>> rows.flatten().tolist(), features[0].mean
        ([-1.0, 1.0, 7.0], 2.0)
    """
    part = raw[train.numpy()]
    there = ~np.isnan(part)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, part, 0).sum(0) / count
    deviation = np.sqrt((np.where(there, part - mean, 0) ** 2).sum(0) / count)
    is_number = np.array([name == column for name, column in names])
    # rounding leaves a constant column a deviation of about 1e-16 of its size, and dividing by that would make noise
    varies = deviation > 1e-9 * np.maximum(np.abs(mean), 1e-300)
    scale = np.where(is_number & varies, deviation, 1.0)
    rows = np.nan_to_num((raw - mean) / scale, nan=0.0)
    rows[:, is_number & ~varies] = 0
    features = [Feature(name, column, float(mean[i]), float(scale[i])) for i, (name, column) in enumerate(names)]
    return torch.from_numpy(rows.astype(np.float32)), features


def standardised_like(
    raw: np.ndarray, names: list[tuple[str, str]], features: Sequence[Feature], *, where: str
) -> Float[Tensor, "n f"]:
    """Bring a table's numbers into the features of another table, with that one's means and deviations.

    Args:
        raw: ``[N, F]``, NaN where a value is missing.
        names: see `standardised`.
        features: what to make. A text that the table does not have is 0 in every row before the mean is subtracted.
        where: how errors name the table.

    Raises:
        ValueError: when a column is not there, or holds texts in the place of numbers or numbers of texts.

    Example:
        >>> feature = Feature("age", "age", mean=2.0, scale=0.5)
        >>> standardised_like(np.array([[3.0], [np.nan]]), [("age", "age")], [feature], where="x.csv").tolist()
        [[2.0], [0.0]]
    """
    place = {name: i for i, (name, _) in enumerate(names)}
    texts = {column for name, column in names if name != column}
    absent = {f.column for f in features if f.name not in place and (f.name == f.column or f.column not in texts)}
    if absent:
        raise ValueError(
            f"{where} lacks {', '.join(map(repr, sorted(absent)))}, or holds something else there than the table that"
            f" the encoder was trained on; its columns are {', '.join(dict.fromkeys(column for _, column in names))}"
        )
    rows = np.zeros((len(raw), len(features)))
    for i, feature in enumerate(features):
        of_column = [k for k, (_, column) in enumerate(names) if column == feature.column]
        unknown = np.isnan(raw[:, of_column[0]])  # of a column of texts, all features are missing or none
        values = raw[:, place[feature.name]] if feature.name in place else np.where(unknown, np.nan, 0.0)
        rows[:, i] = (values - feature.mean) / feature.scale
    return torch.from_numpy(np.nan_to_num(rows, nan=0.0).astype(np.float32))
