"""Reading a table from a file: named columns of numbers or texts, missing values marked alike."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinfolk.data.optional import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MISSING = ("", "na", "n/a", "nan", "null", "none")


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """Read the columns of a CSV, Parquet, ``.npz`` or ``.npy`` file.

    CSV is UTF-8 with a line of names first; a column is one of numbers when every entry that is there is a number.
    Empty entries and ``NA``, ``NaN``, ``null``, ``none`` are missing. In an ``.npz`` archive every vector is a column
    and every matrix ``[N, k]`` is k columns (``features`` becomes ``features_0`` to ``features_{k-1}``); an ``.npy``
    file is one matrix, or a structured array.

    Returns:
        Name -> float64 ``[N]`` with NaN where a value is missing, or strings as objects with None there.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for another ending, no rows, a name that occurs twice, or columns that are neither numbers nor text.
        ImportError: for Parquet without pyarrow.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "tiny.csv").write_text("weight,colour\\n1.5,red\\n,blue\\n")
        ...     read_table(f"{folder}/tiny.csv")
        {'weight': array([1.5, nan]), 'colour': array(['red', 'blue'], dtype=object)}
    """
    file = Path(path)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".npz": _read_npz,
        ".npy": _read_npy,
    }
    if file.suffix.lower() not in readers:
        raise ValueError(f"a table is a {', '.join(readers)} file; found {file.name!r}")
    if not file.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}; give the path of a {', '.join(readers)} table")
    columns = {name: _plain(values, name, file) for name, values in readers[file.suffix.lower()](file).items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if not lengths or 0 in lengths.values():
        raise ValueError(f"{file} has no rows")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{file}: columns must have one entry per row; found {lengths}")
    return columns


def _read_csv(file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header, *lines = csv.reader(stream)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}; save it as UTF-8") from error
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{file} is not a CSV file with a line of names: {error}") from error
    lines = [line for line in lines if line]
    _check_names(header, file)
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"{file}, line {number}: {len(line)} entries for the {len(header)} names of line 1")
    return {name: _parsed([line[i].strip() for line in lines]) for i, name in enumerate(header)}


def _parsed(entries: list[str]) -> np.ndarray:
    """Turn a column's texts into numbers where all that are there are numbers."""
    there = [None if entry.lower() in _MISSING else entry for entry in entries]
    try:
        return np.array([np.nan if entry is None else float(entry) for entry in there])
    except ValueError:
        return np.array(there, dtype=object)


def _read_parquet(file: Path) -> dict[str, Any]:
    parquet = import_extra("pyarrow.parquet", needed_for="reading Parquet files")
    try:
        table = parquet.read_table(str(file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not a readable Parquet file: {error}") from error
    _check_names(table.column_names, file)
    return {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}


def _read_npz(file: Path) -> dict[str, Any]:
    try:
        # opened here, since np.load leaves a broken file open
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is not a readable .npz archive of plain arrays: {error}") from error
    columns: dict[str, Any] = {}
    for name, values in arrays.items():
        columns |= _by_column(values, name, file)
    return columns


def _read_npy(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            values = np.load(stream, allow_pickle=False)
        names = values.dtype.names
    except (ValueError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is not a readable .npy file of plain numbers: {error}") from error
    if names:
        return {name: values[name] for name in names}
    return _by_column(values, "features", file)


def _by_column(values: np.ndarray, name: str, file: Path) -> dict[str, Any]:
    if values.ndim == 1:
        return {name: values}
    if values.ndim != 2:
        raise ValueError(f"{file}: {name} must be a vector [N] or a matrix [N, k]; found {values.shape}")
    return {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}


def _plain(values: np.ndarray, name: str, file: Path) -> np.ndarray:
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    entries = [None if value is None or value != value else value for value in values.tolist()]
    found = {type(entry) for entry in entries} - {type(None)}
    if found <= {bool, int, float}:
        return np.array([np.nan if entry is None else float(entry) for entry in entries])
    if found <= {str}:
        return np.array([entry or None for entry in entries], dtype=object)
    kinds = ", ".join(sorted(kind.__name__ for kind in found))
    raise ValueError(f"{file}: column {name!r} holds {kinds}; a column holds numbers or text. Convert or ignore it.")


def _check_names(names: Sequence[str], file: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file}: names of columns must differ; these occur more than once: {', '.join(twice)}")
