"""CIFAR-10 and CIFAR-100 as published: the binary form, or the Python form read without running what it says."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from kinfolk.data.sources.base import ArraySource, Splits

_PIXELS = 3 * 32 * 32
_FOLDERS = {"10": ("cifar-10-batches-bin", "cifar-10-batches-py"), "100": ("cifar-100-binary", "cifar-100-python")}
_TRAIN = {"10": tuple(f"data_batch_{i}" for i in range(1, 6)), "100": ("train",)}
_TEST = {"10": ("test_batch",), "100": ("test",)}
_FIELDS = {"10": ("labels",), "100": ("coarse_labels", "fine_labels")}


@dataclass(frozen=True)
class CIFARConfig:
    """50,000 + 10,000 colour photos, 32x32, in 10 classes, or in 100 classes of 20 superclasses.

    Either published form is read: the binary one (``data_batch_1.bin`` ..., ``train.bin``), or the Python one, whose
    pickles are read by a reader that admits numbers, text, lists, dicts and byte arrays and runs nothing. Files may
    hold any number of whole records. Samples of CIFAR-100 have a `hierarchy`, ``"superclass/class"``.

    Args:
        root: the folder with the files, or the one above it; with both forms there the binary one is read.
        classes: `10` for CIFAR-10; `100` for CIFAR-100, `20` for CIFAR-100 labelled by superclass.

    Raises:
        ValueError: for other classes.

    Reference: Krizhevsky (2009), Learning multiple layers of features from tiny images.

    Example:
        >>> CIFARConfig("data/cifar", classes="20").classes
        '20'
    """

    kind: ClassVar[str] = "cifar"
    root: str
    classes: Literal["10", "100", "20"] = "10"

    def __post_init__(self) -> None:
        if self.classes not in ("10", "100", "20"):
            raise ValueError(f"classes must be '10', '100' or '20' (superclasses of the 100); found {self.classes!r}")

    def load(self) -> Splits:
        """Read all files; training ids are 0.. in the order of the files, test ids go on from there.

        Raises:
            FileNotFoundError: when a file is missing; the message names it.
            ValueError: when a file is damaged, or holds a label that no class has.
        """
        edition = "10" if self.classes == "10" else "100"
        folder, binary = _find(Path(self.root), edition)
        names = _class_names(folder, edition, binary)
        train = self._part(folder, _TRAIN[edition], names, binary, first_id=0)
        return Splits(train, self._part(folder, _TEST[edition], names, binary, first_id=len(train)))

    def _part(
        self, folder: Path, stems: Sequence[str], names: list[list[str]], binary: bool, *, first_id: int
    ) -> ArraySource:
        ending, read = (".bin", _read_binary) if binary else ("", _read_python)
        parts = [read(folder / (stem + ending), names) for stem in stems]
        images = torch.from_numpy(np.concatenate([part[0] for part in parts]))
        labels = torch.from_numpy(np.concatenate([part[1] for part in parts]))
        columns: dict[str, Any] = {}
        if len(names) == 2:
            coarse, fine = names
            columns["hierarchy"] = [f"{coarse[first]}/{fine[second]}" for first, second in labels.tolist()]
        level = 0 if self.classes == "20" else -1
        return ArraySource(
            images,
            labels[:, level],
            ids=torch.arange(first_id, first_id + len(images)),
            class_names=names[level],
            columns=columns,
            name=f"cifar-{self.classes} {'train' if first_id == 0 else 'test'}",
        )


def _find(root: Path, edition: str) -> tuple[Path, bool]:
    """Find the folder that holds the training files, and whether in binary form."""
    first, wanted = _TRAIN[edition][0], _FOLDERS[edition]
    for name, ending in zip(wanted, (".bin", ""), strict=True):
        for folder in (root, root / name):
            if (folder / (first + ending)).is_file():
                return folder, ending == ".bin"
    there = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else "no such folder"
    raise FileNotFoundError(
        f"{root} must hold CIFAR-{edition}: {first}.bin of the binary form or {first} of the Python form, there or in"
        f" {wanted[0]} or {wanted[1]}; found {there}. Unpack the published archive and give its folder as root."
    )


def _class_names(folder: Path, edition: str, binary: bool) -> list[list[str]]:
    """Read the class names, one list per label of a record."""
    counts = (10,) if edition == "10" else (20, 100)
    files: tuple[str, ...]
    if binary:
        files = ("batches.meta.txt",) if edition == "10" else ("coarse_label_names.txt", "fine_label_names.txt")
        names = [_lines(folder / file) for file in files]
    else:
        keys = ("label_names",) if edition == "10" else ("coarse_label_names", "fine_label_names")
        files = ("batches.meta" if edition == "10" else "meta",) * len(keys)
        meta = _unpickle(folder / files[0])
        names = [[_text(name) for name in _entry(meta, key, folder / files[0])] for key in keys]
    for file, found, count in zip(files, names, counts, strict=True):
        if len(found) != count:
            raise ValueError(f"{folder / file} must name {count} classes; found {len(found)}. Fetch it again.")
    return names


def _lines(path: Path) -> list[str]:
    _check_there(path)
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _read_binary(path: Path, names: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Read records of one byte per label and 3,072 bytes of pixels: images, and labels ``[n, levels]``."""
    _check_there(path)
    data, record = np.fromfile(path, dtype=np.uint8), len(names) + _PIXELS
    if len(data) == 0 or len(data) % record:
        raise ValueError(
            f"{path} must hold records of {record} bytes; it has {len(data)} bytes, {len(data) / record:.2f} records."
            " It is truncated or of another data set; fetch it again."
        )
    records = data.reshape(-1, record)
    labels = records[:, : len(names)].astype(np.int64)
    return _checked(records[:, len(names) :], labels, names, path)


def _read_python(path: Path, names: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Read one pickled batch: images, and labels ``[n, levels]``."""
    batch = _unpickle(path)
    fields = [_entry(batch, key, path) for key in _FIELDS["10" if len(names) == 1 else "100"]]
    data = _entry(batch, "data", path)
    pixels = data.values if isinstance(data, _Bytes) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        found = type(data).__name__ if pixels is None else pixels.shape
        raise ValueError(f"{path}: data must be bytes [N, {_PIXELS}]; found {found}")
    if any(len(field) != len(pixels) or not all(isinstance(label, int) for label in field) for field in fields):
        raise ValueError(f"{path}: labels must be {len(pixels)} integers, one per image")
    return _checked(pixels, np.array(fields, dtype=np.int64).T.reshape(-1, len(names)), names, path)


def _checked(
    pixels: np.ndarray, labels: np.ndarray, names: list[list[str]], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    wrong = ((labels < 0) | (labels >= [len(level) for level in names])).any(axis=1)
    if wrong.any():
        record = int(wrong.argmax())
        raise ValueError(
            f"{path}, record {record}: label {labels[record].tolist()} is out of range, there are"
            f" {' and '.join(str(len(level)) for level in names)} classes. Is this file of another edition?"
        )
    return pixels.reshape(-1, 3, 32, 32), labels


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the whole published archive")


def _unpickle(path: Path) -> dict[str, Any]:
    """Read a pickled dict of plain values; its keys become text."""
    _check_there(path)
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file, encoding="bytes").load()
    except _RefusedPickle as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything, and nothing of ours runs in there
        raise ValueError(f"{path} is no readable pickle ({type(error).__name__}: {error}); fetch it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a dict; found {type(value).__name__}")
    return {_text(key): entry for key, entry in value.items()}


def _entry(values: dict[str, Any], key: str, path: Path) -> Any:
    if key not in values:
        raise ValueError(f"{path} has no {key!r}; it has {sorted(values)}. Is this file of another edition?")
    return values[key]


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


class _RefusedPickle(Exception):
    """A pickle that asks for something other than plain values."""


class _PlainUnpickler(pickle.Unpickler):
    """Read plain values and byte arrays; every name that a pickle may use stands for a piece of ours, or is refused.

    NumPy's own functions are not called either: with crafted arguments they read memory that is not theirs.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        raise _RefusedPickle(
            f"asks for {module}.{name}; only plain values and byte arrays are read, for a pickle can run"
            " any program. Take the published file, or the binary form."
        )


class _Dtype:
    """Stands for `numpy.dtype`; only bytes are admitted."""

    def __init__(self, code: Any, *_: Any) -> None:
        if _text(code) not in ("u1", "|u1", "uint8"):
            raise ValueError(f"arrays must hold bytes; found {_text(code)!r}")

    def __setstate__(self, state: Any) -> None:
        """Ignore what is the same for all byte arrays."""


class _Bytes:
    """Stands for `numpy.ndarray`: an array of bytes, filled by `__setstate__`."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise ValueError("arrays must hold bytes")
        self.values = np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Bytes:
    return _Bytes()


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes in the old protocols


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Bytes,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}
