"""Tables: a row of features is a sample, and goes where an image goes as one of a single pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.sources.columns import Column, check_columns, check_ids, take_columns
from kinfolk.data.sources.hold_out import hold_out
from kinfolk.data.sources.table_features import Feature, is_missing, standardised, standardised_like
from kinfolk.data.sources.table_file import read_table

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class TableSource(Source):
    """A source whose samples are rows of numbers, in memory.

    Args:
        rows: float32 ``[N, F]``, standardised.
        features: what each of the F columns of `rows` is.
        ids: int64 ``[N]``, unique; by default the position.
        columns: what else is known, by the names that `Source` lists.
        class_names: one name per class.
        missing: column -> how many of the file's rows had no value there and got the training mean.
        name: what the log calls the source.

    Raises:
        TypeError: for rows that are not float32.
        ValueError: for rows that are not finite or not ``[N, F]`` with one entry in `features` per column.

    Example:
        >>> features = [Feature("weight", "weight", 70.0, 12.0)]
        >>> source = TableSource(torch.zeros(3, 1), features=features)
        >>> source.read(torch.tensor([2, 0])).shape, source
        (torch.Size([2, 1, 1, 1]), TableSource('table', 3 rows of 1 features, no classes, unlabelled))
    """

    in_memory = True
    image_size = (1, 1)

    def __init__(
        self,
        rows: Float[Tensor, "n f"],
        *,
        features: Sequence[Feature],
        ids: Int[Tensor, " n"] | None = None,
        columns: Mapping[str, Column | None] | None = None,
        class_names: Sequence[str] | None = None,
        missing: Mapping[str, int] | None = None,
        name: str = "table",
    ) -> None:
        if rows.dtype != torch.float32:
            raise TypeError(f"rows must be float32; found {rows.dtype}")
        if rows.ndim != 2 or rows.shape[1] != len(features) or rows.shape[1] == 0:
            raise ValueError(f"rows must be [N, F] with F = {len(features)} features; found {tuple(rows.shape)}")
        if not bool(rows.isfinite().all()):
            raise ValueError("rows must be finite; fill in missing values first, or let TableConfig do it")
        self.name, self.rows, self.features = name, rows, tuple(features)
        self.missing = dict(missing or {})
        self.channels = rows.shape[1]
        self.class_names = None if class_names is None else tuple(class_names)
        self.ids = check_ids(torch.arange(len(rows)) if ids is None else ids, count=len(rows))
        self.columns = check_columns(columns or {}, count=len(rows), class_names=self.class_names)

    def read(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b f 1 1"]:
        """Index the rows; see `Source.read`."""
        return self.rows[indices][:, :, None, None]

    def subset(self, indices: Int[Tensor, " k"], *, name: str | None = None) -> TableSource:
        """Return the rows at these positions as a source of their own; ids stay what they were."""
        return TableSource(
            self.rows[indices],
            features=self.features,
            ids=self.ids[indices],
            columns=take_columns(self.columns, indices),
            class_names=self.class_names,
            missing=self.missing,
            name=self.name if name is None else name,
        )

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        labelled = "unlabelled" if self.labels is None else "labelled"
        return f"TableSource({self.name!r}, {len(self)} rows of {self.channels} features, {classes}, {labelled})"


def is_table(source: Source) -> bool:
    """Say whether a source's samples are rows of numbers and not images; subsets of a table are tables.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> is_table(ArraySource(torch.zeros(3, 1, 1, 1, dtype=torch.uint8)))
        False
    """
    if source.image_size != (1, 1):
        return False
    return isinstance(source, TableSource) or source.read(torch.arange(min(len(source), 1))).is_floating_point()


@dataclass(frozen=True)
class TableConfig:
    """A table in a CSV, Parquet, ``.npz`` or ``.npy`` file (see `read_table`), one sample a row.

    Columns of numbers become features with mean 0 and standard deviation 1 over the training rows; a column that is
    constant there stays 0. A column of texts with at most `max_categories` different ones becomes one feature per
    text: 1 for rows that have it, else 0, minus the training mean. So 0 is the training mean of every feature.
    Rows that are the same in every feature go to the same side of the hold-out.

    Args:
        path: the file.
        label: the column of classes: texts, or whole numbers, where -1 is unlabelled; a missing entry is unlabelled.
        id: the column of ids, unique whole numbers; None counts the rows from 0.
        text: a column of captions.
        part: a column of texts that says for each row whether it is ``train`` or ``test``.
        ignored: columns to leave out.
        strings: what to do with other columns of texts: `one-hot`, or `raise`.
        max_categories: a column with more different texts is refused, since it is a name rather than a category.
        missing: what to do with a missing value: `raise`, or take the training `mean` (for texts, the shares of all
            categories) and count it in the source's `missing`.
        test_fraction: share of every class that is held out when there is no `part`.
        seed: of the hold-out.

    Raises:
        ValueError: for a choice that does not exist, or a column named twice.

    Example:
        >>> TableConfig("patients.csv", label="diagnosis", ignored=("name",)).missing
        'raise'
    """

    kind: ClassVar[str] = "table"
    path: str
    label: str | None = None
    id: str | None = None
    text: str | None = None
    part: str | None = None
    ignored: tuple[str, ...] = field(default=())
    strings: Literal["one-hot", "raise"] = "one-hot"
    max_categories: int = 64
    missing: Literal["raise", "mean"] = "raise"
    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignored", tuple(self.ignored))
        for name, value, choices in (
            ("strings", self.strings, ("one-hot", "raise")),
            ("missing", self.missing, ("raise", "mean")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}; found {value!r}")
        if self.max_categories < 2:
            raise ValueError(f"max_categories must be at least 2; found {self.max_categories}")
        twice = sorted({name for name in self._special if self._special.count(name) > 1})
        if twice:
            raise ValueError(f"a column has one meaning; named more than once: {', '.join(twice)}")

    @property
    def _special(self) -> list[str]:
        return [name for name in (self.label, self.id, self.text, self.part, *self.ignored) if name is not None]

    def load(self, *, like: Sequence[Feature] | None = None) -> Splits:
        """Read the table.

        Args:
            like: the features of another table, for which an encoder was trained: rows come in their order and
                standardised as they were, and a text that they do not know is left out.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is no table, lacks a named column, or has missing or unfit values; the message names
                the column.
        """
        columns = read_table(self.path)
        absent = [name for name in self._special if name not in columns]
        if absent:
            raise ValueError(f"{self.path} has no column {', '.join(map(repr, absent))}; it has {', '.join(columns)}")
        labels, class_names = self._labels(columns)
        inputs = {name: values for name, values in columns.items() if name not in self._special}
        if not inputs:
            raise ValueError(f"{self.path} has no column left for features; it has {', '.join(columns)}")
        missing = self._missing(inputs)
        raw, names = self._numbers(inputs)
        train, test = self._split(columns, raw, labels)
        if like is None:
            rows, features = standardised(raw, names, train)
        else:
            rows, features = standardised_like(raw, names, like, where=self.path), list(like)
        source = TableSource(
            rows,
            features=features,
            ids=self._ids(columns),
            columns={"labels": labels, "text": self._text(columns)},
            class_names=class_names,
            missing=missing,
            name=Path(self.path).stem,
        )
        return Splits(source.subset(train), source.subset(test))

    def _missing(self, inputs: dict[str, np.ndarray]) -> dict[str, int]:
        counts = {name: int(is_missing(values).sum()) for name, values in inputs.items()}
        counts = {name: count for name, count in counts.items() if count}
        if counts and self.missing == "raise":
            listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
            raise ValueError(
                f"{self.path}: values are missing in {listed}; pass missing='mean' to fill them in, or ignore columns"
            )
        return counts

    def _numbers(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """Turn columns into numbers ``[N, F]``, NaN where missing, and each feature's name and column."""
        numbers: list[np.ndarray] = []
        names: list[tuple[str, str]] = []
        for column, values in inputs.items():
            if values.dtype != object:
                bad = np.isinf(values).sum()
                if bad:
                    raise ValueError(f"{self.path}: column {column!r} has {bad} infinite values; mend or ignore it")
                numbers.append(values)
                names.append((column, column))
                continue
            categories = sorted({value for value in values if value is not None})
            if self.strings == "raise" or len(categories) > self.max_categories:
                raise ValueError(
                    f"{self.path}: column {column!r} holds text, {len(categories)} different ones such as"
                    f" {categories[0]!r}; make it the label or text, ignore it, or"
                    f" {'let strings=one-hot encode it' if self.strings == 'raise' else 'raise max_categories'}"
                )
            for category in categories:
                numbers.append(np.where(is_missing(values), np.nan, values == category).astype(np.float64))
                names.append((f"{column}={category}", column))
        return np.stack(numbers, axis=1), names

    def _labels(self, columns: dict[str, np.ndarray]) -> tuple[Tensor | None, tuple[str, ...] | None]:
        if self.label is None:
            return None, None
        values = columns[self.label]
        known = ~is_missing(values)
        if values.dtype != object:
            if (values[known] != np.round(values[known])).any():
                raise ValueError(
                    f"{self.path}: column {self.label!r} holds numbers that are not whole, so they are no classes"
                )
            known &= values != -1
        classes = sorted(set(values[known].tolist()))
        labels = np.full(len(values), -1, dtype=np.int64)
        labels[known] = np.searchsorted(np.array(classes, dtype=values.dtype), values[known])
        return torch.from_numpy(labels), tuple(name if isinstance(name, str) else f"{name:.0f}" for name in classes)

    def _ids(self, columns: dict[str, np.ndarray]) -> Tensor | None:
        if self.id is None:
            return None
        values = columns[self.id]
        if values.dtype == object or not (np.isfinite(values) & (values == np.round(values))).all():
            raise ValueError(f"{self.path}: column {self.id!r} must hold whole numbers, one per row, to be the ids")
        return torch.from_numpy(values.astype(np.int64))

    def _text(self, columns: dict[str, np.ndarray]) -> list[str] | None:
        if self.text is None:
            return None
        values = columns[self.text]
        if values.dtype != object or is_missing(values).any():
            raise ValueError(f"{self.path}: column {self.text!r} must hold a text in every row to be the captions")
        return values.tolist()

    def _split(self, columns: dict[str, np.ndarray], raw: np.ndarray, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.part is None:
            rows = [row.tobytes() for row in raw]
            train, test = hold_out(len(raw), fraction=self.test_fraction, seed=self.seed, labels=labels, groups=rows)
        else:
            parts = columns[self.part]
            if not set(parts.tolist()) <= {"train", "test"}:
                found = ", ".join(sorted(map(str, set(parts.tolist())))[:5])
                raise ValueError(f"{self.path}: column {self.part!r} must say 'train' or 'test'; found {found}")
            is_test = torch.from_numpy(parts == "test")
            train, test = (~is_test).nonzero().flatten(), is_test.nonzero().flatten()
        if len(train) == 0:
            raise ValueError(f"{self.path}: no row is left for training; {len(test)} rows are the test part")
        return train, test
