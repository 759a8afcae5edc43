"""What the small members of tar shards say about their samples: captions, labels and the other columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kinfolk.data.sources.columns import Column
from kinfolk.data.sources.records import read_records

SINGULAR = {
    "labels": "label",
    "bias_labels": "bias_label",
    "true_labels": "true_label",
    "groups": "group",
    "times": "time",
}
"""The columns that a sample's metadata know under another name; the others keep theirs."""

_MOST_CLASSES = 2**31
_TEXT_MEMBERS = ("txt", "text", "caption")
_LABEL_KEYS = ("label", "class", "category")
_TEXT_KEYS = ("text", "caption")


@dataclass(frozen=True)
class RecordKeys:
    """Which metadata key is the label and which the caption.

    Attributes:
        label: a key of the JSON member; None takes the ``.cls`` member, or the first of ``label``, ``class``,
            ``category``.
        text: a key of the JSON member; None takes the ``.txt`` member, or the first of ``text``, ``caption``.
    """

    label: str | None = None
    text: str | None = None


def read_record(texts: Mapping[str, bytes], keys: RecordKeys) -> dict[str, Any]:
    """Read a sample's small members into one record with ``label`` and ``text`` where they are known.

    Args:
        texts: the members' contents by ending: `json`, `cls`, `txt`.
        keys: where label and caption are.

    Raises:
        ValueError: saying which member is not UTF-8, is no JSON object, or holds a label or a caption of another type.

    Example:
        >>> read_record({"cls": b"7\\n", "txt": "a café".encode()}, RecordKeys())
        {'label': 7, 'text': 'a café'}
    """
    record: dict[str, Any] = _object(texts["json"]) if "json" in texts else {}
    label = _first(record, _LABEL_KEYS if keys.label is None else (keys.label,))
    if keys.label is None and "cls" in texts:
        label = _decoded(texts["cls"], "cls")
    text = _first(record, _TEXT_KEYS if keys.text is None else (keys.text,))
    if keys.text is None:
        for member in _TEXT_MEMBERS:
            if member in texts:
                text = _decoded(texts[member], member)
                break
    for name in (*_LABEL_KEYS, *_TEXT_KEYS):
        record.pop(name, None)
    if label is not None:
        record["label"] = _label(label)
    if text is not None:
        record["text"] = _caption(text)
    return record


def read_columns(
    records: Sequence[Mapping[str, Any]],
    *,
    class_names: tuple[str, ...] | None,
    dtypes: Mapping[str, str],
    where: str,
) -> tuple[dict[str, Column], tuple[str, ...] | None]:
    """Turn records into columns.

    Labels are numbers, or names that are numbered by `class_names`, by default their sorted order. A caption counts
    when any sample has one. `read_records` reads the rest.

    Args:
        records: one per sample.
        class_names: as the folder's index has them, or None.
        dtypes: the columns that the folder's index lists and their types, for example ``{"text_embedding":
            "float16"}``; `list` is a column of anything.
        where: how errors name the shards.

    Returns:
        The columns, and the class names.

    Raises:
        ValueError: for labels that mix numbers and names or have no class name, and embeddings of unequal length.

    Example:
        >>> columns, names = read_columns([{"label": "dog"}, {}], class_names=None, dtypes={}, where="x")
        >>> columns["labels"], names
        (tensor([ 0, -1]), ('dog',))
    """
    columns = read_records(records, where=where)
    labels, class_names = _number_labels([record.get("label") for record in records], class_names, where)
    if labels is not None:
        columns["labels"] = labels
    if any(record.get("text") for record in records):
        columns["text"] = [record.get("text") or "" for record in records]
    for name, dtype in {"text_embedding": "float32", "true_labels": "int64", **dtypes}.items():
        key = SINGULAR.get(name, name)
        if name in ("labels", "text"):
            continue
        if name not in columns and any(key in record for record in records):
            values = [record.get(key) for record in records]
            columns[name] = values if dtype == "list" else _tensor(values, dtype, f"{where}: {key}")
        elif isinstance(columns.get(name), Tensor):
            columns[name] = columns[name].to(getattr(torch, dtype))  # type: ignore[union-attr]
    return columns, class_names


def _object(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(_decoded(data, "json"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"its .json member is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"its .json member must hold an object; found {type(record).__name__}")
    return record


def _decoded(data: bytes, ending: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"its .{ending} member is not UTF-8: {error}; convert it") from error


def _first(record: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if (value := record.get(key)) is not None:
            return value
    return None


def _label(value: Any) -> int | str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"its label must be a whole number or a name; found {value!r}")
    if isinstance(value, str):
        name = value.strip()
        if not name.removeprefix("-").isdecimal():
            return name or None
        value = int(name)
    if not -1 <= value < _MOST_CLASSES:
        raise ValueError(f"its label must be a class counted from 0, or -1 for unlabelled; found {value}")
    return value


def _caption(value: Any) -> str:
    """One caption; of several the first that says something."""
    if isinstance(value, list):
        value = next((text for text in value if isinstance(text, str) and text.strip()), "")
    if not isinstance(value, str):
        raise ValueError(f"its caption must be a text, or a list of texts; found {value!r}")
    return value.strip()


def _number_labels(
    labels: Sequence[int | str | None], class_names: tuple[str, ...] | None, where: str
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    known = [label for label in labels if label is not None]
    if not known:
        return None, class_names
    names = {label for label in known if isinstance(label, str)}
    if not names:
        return torch.tensor([-1 if label is None else int(label) for label in labels]), class_names
    if len(names) != len(set(known)):
        number = next(label for label in known if isinstance(label, int))
        raise ValueError(f"{where}: labels are numbers or names, not both; found {number} and {min(names)!r}")
    if class_names is None:
        class_names = tuple(sorted(names))
    if missing := sorted(names - set(class_names)):
        raise ValueError(f"{where}: labels that are none of the index's class names: {missing[:5]}")
    number_of = {name: i for i, name in enumerate(class_names)}
    return torch.tensor([-1 if label is None else number_of[str(label)] for label in labels]), class_names


def _tensor(values: list[Any], dtype: str, where: str) -> Tensor:
    if any(value is None for value in values):
        raise ValueError(f"{where} is known for {sum(v is not None for v in values)} of {len(values)} samples only")
    try:
        return torch.tensor(values, dtype=getattr(torch, dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must be numbers, equally many in every sample: {error}") from error
