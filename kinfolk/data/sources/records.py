"""From the records of a metadata file to the columns of a source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kinfolk.data.sources.columns import Column

_PREFIX = "attribute_"


def read_records(records: Sequence[Mapping[str, Any]], *, where: str) -> dict[str, Column]:
    """Read what metadata know beside label and caption: one record per sample, the same keys in all.

    ``bias_label`` and ``group`` (a name or a number; empty = unknown) are numbered by sorted name, ``hierarchy`` is a
    path such as ``animal/dog``, ``time`` a number, and attributes are either ``attributes``, a list of numbers or a
    mapping of names to numbers, or single columns ``attribute_NAME``. A key counts when any record has it.

    Args:
        records: as read from CSV (all values are text) or JSON.
        where: how errors name the file.

    Raises:
        ValueError: for a number that is none, and where some records lack what must be complete (`hierarchy`, `time`,
            attributes).

    Example:
        >>> read_records([{"time": "1.5", "group": "a"}, {"time": 2, "group": ""}], where="metadata.csv")
        {'groups': tensor([ 0, -1]), 'times': tensor([1.5000, 2.0000], dtype=torch.float64)}
    """
    columns: dict[str, Column] = {}
    for key, column in (("bias_label", "bias_labels"), ("group", "groups")):
        if any(_present(record, key) for record in records):
            columns[column] = number_names([record.get(key) for record in records])
    if any(_present(record, "time") for record in records):
        times = [_number(record.get("time"), "time", i, where) for i, record in enumerate(records, start=1)]
        columns["times"] = torch.tensor(times, dtype=torch.float64)
    if any(_present(record, "hierarchy") for record in records):
        columns["hierarchy"] = [_path(record, i, where) for i, record in enumerate(records, start=1)]
    attributes = [_attributes(record) for record in records]
    if any(attributes):
        columns["attributes"] = _table(attributes, where)
    return columns


def number_names(names: Sequence[Any]) -> Tensor:
    """Number names by their sorted order; what is empty or None becomes -1, and integers stay what they are.

    Example:
        >>> number_names(["b", "a", "", "b"])
        tensor([ 1,  0, -1,  1])
    """
    known = [name for name in names if name is not None and str(name) != ""]
    if known and all(isinstance(name, int) and not isinstance(name, bool) for name in known):
        return torch.tensor([-1 if name is None or name == "" else int(name) for name in names])
    number = {name: i for i, name in enumerate(sorted({str(name) for name in known}))}
    return torch.tensor([number.get("" if name is None else str(name), -1) for name in names])


def _present(record: Mapping[str, Any], key: str) -> bool:
    return record.get(key) not in (None, "")


def _path(record: Mapping[str, Any], line: int, where: str) -> str:
    path = str(record.get("hierarchy") or "").strip("/ ")
    if not path:
        raise ValueError(f"{where}, record {line}: no hierarchy, which other records have; give every sample a path")
    return path


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    given = record.get("attributes")
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, (list, tuple)):
        return {str(i): value for i, value in enumerate(given)}
    return {key.removeprefix(_PREFIX): value for key, value in record.items() if str(key).startswith(_PREFIX)}


def _table(attributes: Sequence[Mapping[str, Any]], where: str) -> Tensor:
    names = sorted({name for record in attributes for name in record}, key=lambda name: (not name.isdecimal(), name))
    names = sorted(names, key=int) if all(name.isdecimal() for name in names) else names
    rows = [
        [_number(record.get(name), f"attribute {name}", i, where) for name in names]
        for i, record in enumerate(attributes, start=1)
    ]
    return torch.tensor(rows, dtype=torch.float32)


def _number(value: Any, what: str, line: int, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}, record {line}: {what} must be a finite number; found {value!r}")
    return number
