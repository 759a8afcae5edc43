"""What an image folder holds: the files, their labels and captions, and which part they belong to."""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))
_METADATA = ("metadata.csv", "metadata.jsonl")
_TEST_FOLDERS = ("test", "val", "valid", "validation")
_LABEL_KEYS = ("label", "class", "category")
_TEXT_KEYS = ("text", "caption")


@dataclass(frozen=True)
class Entry:
    """One image of a folder.

    Attributes:
        path: relative to the folder, with forward slashes.
        part: `train` or `test`, or None when the folder does not say.
        label: the class's name; None = unlabelled.
        text: the caption; None = there is none.
        record: the metadata's whole record; empty without metadata.
    """

    path: str
    part: str | None
    label: str | None
    text: str | None
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)


def list_folder(root: Path) -> list[Entry]:
    """List a folder's images in the order of their relative paths.

    Labels and captions come from ``metadata.csv`` or ``metadata.jsonl`` (one record a line) in the folder itself or
    in each part's folder: ``file_name`` is relative to the metadata file; one of ``label``, ``class``, ``category``
    names the class, one of ``text``, ``caption`` is the caption, empty or null where unknown. Only files that the
    metadata name are used; `read_records` says what else may stand there. Without metadata the first folder on an
    image's path is its class, and images directly in the folder are unlabelled.

    When the folder has ``train`` beside ``test``, ``val``, ``valid`` or ``validation`` (the first of these that
    exists), these are the two parts and everything outside is ignored.

    A file listed more than once keeps its first entry, with a warning.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when it holds no image, a record has no ``file_name``, or one file has two different labels.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat/b.png", "ant/a.png"):
        ...         (Path(folder) / name).parent.mkdir()
        ...         (Path(folder) / name).touch()
        ...     [(entry.path, entry.label) for entry in list_folder(Path(folder))]
        [('ant/a.png', 'ant'), ('cat/b.png', 'cat')]
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r}; give the folder that holds the images")
    parts = _part_folders(root)
    entries = [_from_record(path, record, parts) for path, record in _records(root, parts)]
    if not entries:
        paths = (path.relative_to(root).as_posix() for path in _files(root) if _is_image(path, root))
        entries = [_from_path(path, parts) for path in paths]
    kept = _without_repeats([entry for entry in entries if entry.part is not None or not parts], root)
    if not kept:
        raise ValueError(
            f"{root} holds no images ({', '.join(sorted(_ENDINGS))}). Expected one subfolder per class, or"
            " metadata.csv or metadata.jsonl with a file_name column."
        )
    return sorted(kept, key=lambda entry: entry.path)


def _part_folders(root: Path) -> dict[str, str]:
    """Map the first folder of a path to the part it stands for; empty when the folder is not divided."""
    tests = [name for name in _TEST_FOLDERS if (root / name).is_dir()]
    return {"train": "train", tests[0]: "test"} if tests and (root / "train").is_dir() else {}


def _records(root: Path, parts: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for folder in (root, *(root / name for name in parts)):
        for metadata in (folder / name for name in _METADATA):
            if not metadata.is_file():
                continue
            for line, record in _read_metadata(metadata):
                name = record.get("file_name")
                if not isinstance(name, str) or not name:
                    raise ValueError(f"{metadata}, record {line}: no file_name; found {record}")
                # collapses `./a.png` and `a.png`, so that one file has one name
                yield PurePosixPath(folder.relative_to(root).as_posix(), name).as_posix(), record


def _read_metadata(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                yield from enumerate(csv.DictReader(file), start=1)
        else:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            yield from ((i, json.loads(line)) for i, line in enumerate(lines, start=1) if line.strip())
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _from_path(path: str, parts: dict[str, str]) -> Entry:
    *folders, _ = path.split("/")
    part = parts.get(folders[0]) if folders else None
    if part is not None:
        folders = folders[1:]
    return Entry(path, part, folders[0] if folders else None, None)


def _from_record(path: str, record: dict[str, Any], parts: dict[str, str]) -> Entry:
    label, text = (_first(record, keys) for keys in (_LABEL_KEYS, _TEXT_KEYS))
    return Entry(path, parts.get(path.split("/")[0]), label or None, text, record)


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    values = ["" if record[key] is None else str(record[key]).strip() for key in keys if key in record]
    return next((value for value in values if value), "" if values else None)


def _files(root: Path) -> Iterator[Path]:
    """Walk through a folder, linked folders included but for links that lead back to where they lie."""
    for place, folders, names in os.walk(root, followlinks=True):
        here = Path(place).resolve()
        folders[:] = [name for name in folders if not here.is_relative_to(Path(place, name).resolve())]
        yield from (Path(place, name) for name in names)


def _is_image(path: Path, root: Path) -> bool:
    hidden = any(name.startswith(".") for name in path.relative_to(root).parts)
    return path.suffix.lower() in _ENDINGS and path.is_file() and not hidden


def _without_repeats(entries: list[Entry], root: Path) -> list[Entry]:
    kept: dict[str, Entry] = {}
    repeats = []
    for entry in entries:
        first = kept.setdefault(entry.path, entry)
        if first is not entry:
            repeats.append(entry.path)
        if first.label != entry.label:
            raise ValueError(f"{root}: {entry.path} is listed with two labels, {first.label!r} and {entry.label!r}")
    if repeats:
        warnings.warn(
            f"{root}: {len(repeats)} repeated entries left out, the first of each file is kept:"
            f" {', '.join(repeats[:5])}",
            stacklevel=4,
        )
    return list(kept.values())
