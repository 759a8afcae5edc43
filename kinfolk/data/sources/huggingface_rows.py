"""Rows of a Hugging Face data set as a source with random access."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.sources.base import Splits
from kinfolk.data.sources.cells import Roles, caption, encoded_image, number_labels
from kinfolk.data.sources.columns import Column, take_columns
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.encoded import EncodedSource
from kinfolk.data.sources.hold_out import hold_out
from kinfolk.data.sources.huggingface_columns import caption_cells, choices, most_channels, undecoded
from kinfolk.data.sources.records import read_records

if TYPE_CHECKING:
    from jaxtyping import Int

    from kinfolk.data.sources.huggingface import HuggingFaceConfig

_LISTED = 20


class HuggingFaceSource(EncodedSource):
    """Rows of a Hugging Face data set with random access; made by `HuggingFaceConfig`.

    Args:
        dataset: a `datasets.Dataset`.
        rows: int64 ``[N]``, which of its rows are samples.
        image_column: where the images are.
        ids: int64 ``[N]``.
        class_names: one name per class, or None.
        columns: what is known beside the images, one entry per sample.
        channels: 1, 3 or 4.
        name: what the log and errors call it.
        config: how images are decoded.
    """

    def __init__(
        self,
        dataset: Any,
        rows: Int[Tensor, " n"],
        image_column: str,
        *,
        ids: Int[Tensor, " n"],
        class_names: tuple[str, ...] | None,
        columns: Mapping[str, Column],
        channels: int,
        name: str,
        config: HuggingFaceConfig,
    ) -> None:
        self.dataset, self.rows, self.image_column = undecoded(dataset, image_column), rows, image_column
        super().__init__(
            name=name,
            ids=ids,
            class_names=class_names,
            columns=columns,
            channels=channels,
            image_size=config.image_size,
            fit=config.fit,
            on_error=config.on_error,
        )

    def encoded(self, index: int) -> Path | bytes:
        """Return an image's bytes or file."""
        return encoded_image(self.dataset[int(self.rows[index])][self.image_column], where=self.where(index))

    def where(self, index: int) -> str:
        """Return the row's number."""
        return f"{self.name}, row {int(self.rows[index])}"

    @property
    def files(self) -> list[Path]:
        """The files of the table, and a name that tells this column of it from others."""
        stored = [Path(file["filename"]) for file in self.dataset.cache_files]
        return [*stored, Path(self.dataset._fingerprint) / self.image_column]


def indexed_splits(config: HuggingFaceConfig, train: Any, test: Any, roles: Roles) -> Splits:
    """Make sources with random access; labels and the like are numbered over both parts together.

    Args:
        config: how samples are read.
        train: a `datasets.Dataset`.
        test: another, or None to hold out of the first.
        roles: what their columns mean.

    Raises:
        ValueError: when there are no samples, a column is bad, or, with ``on_error="raise"``, a caption is.
    """
    parts = [("train", train)] if test is None else [("train", train), ("test", test)]
    if not all(len(dataset) for _, dataset in parts):
        raise ValueError(f"{config.path}: a split is empty; {', '.join(f'{part} {len(d)} rows' for part, d in parts)}")
    ids, columns, class_names, problems = _describe(config, parts, roles)
    if problems and config.on_error == "raise":
        raise UnreadableImage(f"{next(iter(problems.values()))}. Pass on_error='skip' to leave such rows out.")
    if problems:
        listed = "\n  ".join([*problems.values()][:_LISTED] + ["..."] * (len(problems) > _LISTED))
        warnings.warn(f"{config.path}: {len(problems)} of {len(ids)} rows skipped:\n  {listed}", stacklevel=4)
    images = undecoded(train, roles.image)
    channels = config.channels or most_channels(images[i][roles.image] for i in range(len(images)))

    def source(part: str, dataset: Any, rows: Tensor, *, first: int) -> HuggingFaceSource:
        return HuggingFaceSource(
            dataset,
            rows,
            roles.image,
            ids=ids[rows + first],
            class_names=class_names,
            columns=take_columns(columns, rows + first),
            channels=channels,
            name=f"{Path(config.path).stem} {part}",
            config=config,
        )

    kept = [i not in problems for i in range(len(ids))]
    train_rows, test_rows = (
        torch.tensor(half).nonzero().flatten() for half in (kept[: len(train)], kept[len(train) :])
    )
    whole = source("train", train, train_rows, first=0)
    if test is not None:
        return Splits(whole, source("test", test, test_rows, first=len(train)))
    contents = [_content(whole, i) for i in range(len(whole))] if config.test_fraction else None
    halves = hold_out(len(whole), fraction=config.test_fraction, seed=config.seed, labels=whole.labels, groups=contents)
    # not subsets of one source: what takes an unreadable image's place stays in its part
    return Splits(
        *(source(part, train, whole.rows[half], first=0) for part, half in zip(("train", "test"), halves, strict=True))
    )


def _describe(
    config: HuggingFaceConfig, parts: Sequence[tuple[str, Any]], roles: Roles
) -> tuple[Tensor, dict[str, Column], tuple[str, ...] | None, dict[int, str]]:
    """Read ids, columns, class names and bad captions (message by position) over all parts."""

    def values(column: str) -> list[Any]:
        return [value for _, dataset in parts for value in _values(dataset, column, config.path)]

    count = sum(len(dataset) for _, dataset in parts)
    records = {key: values(column) for key, column in roles.records if key != "text_embedding"}
    ids = _ids(records.pop("id", None), count)
    rows = [dict(zip(records, row, strict=True)) for row in zip(*records.values(), strict=True)]
    columns = read_records(rows, where=config.path) if rows else {}
    class_names, problems = config.class_names or roles.class_names, {}
    if roles.label is not None:
        columns["labels"], class_names = number_labels(
            values(roles.label), class_names=class_names, where=f"{config.path}, column {roles.label}"
        )
    embedding = dict(roles.records).get("text_embedding")
    if embedding is not None:
        columns["text_embedding"] = _matrix([dataset for _, dataset in parts], embedding, config.path)
    if roles.text is not None:
        texts: list[str] = []
        name = Path(config.path).stem
        wheres = [f"{name} {part}, row {row}" for part, dataset in parts for row in range(len(dataset))]
        cells = (cell for _, dataset in parts for cell in caption_cells(_column(dataset, roles.text)))
        for i, (cell, choice) in enumerate(zip(cells, choices(config, ids), strict=True)):
            try:
                texts.append(caption(cell, where=wheres[i], choice=choice))
            except UnreadableImage as error:
                texts.append("")
                problems[i] = str(error)
        columns["text"] = texts
    return ids, columns, class_names, problems


def _column(dataset: Any, column: str) -> Any:
    return dataset.select_columns([column]).with_format("arrow")[:].column(column)


def _values(dataset: Any, column: str, path: str) -> list[Any]:
    """Read a column as plain values."""
    try:
        return _column(dataset, column).to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, column {column}: text must be UTF-8 ({error})") from error


def _matrix(datasets: Sequence[Any], column: str, path: str) -> Tensor:
    rows = [dataset.select_columns([column]).with_format("numpy")[:][column] for dataset in datasets if len(dataset)]
    if any(part.ndim != 2 or part.dtype.kind != "f" or part.shape[1] != rows[0].shape[1] for part in rows):
        raise ValueError(f"{path}, column {column}: text_embedding must be as many floats in every row")
    return torch.from_numpy(np.concatenate(rows).astype(np.float32))


def _ids(values: list[Any] | None, count: int) -> Tensor:
    if values and all(isinstance(value, int) for value in values) and len(set(values)) == count:
        return torch.tensor(values, dtype=torch.int64)
    return torch.arange(count)


def _content(source: HuggingFaceSource, index: int) -> tuple[int, int]:
    try:
        data = source.encoded(index)
        data = data if isinstance(data, bytes) else data.read_bytes()
    except (UnreadableImage, OSError):
        return -1, index  # like no other
    return len(data), zlib.crc32(data)
