"""What the columns of a table mean, and its cells as images, captions and labels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.optional import import_extra
from kinfolk.data.sources.convert import to_uint8
from kinfolk.data.sources.decode import UnreadableImage

_IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "pixels", "pixel_values")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "category", "target", "cls")
_TEXT_NAMES = ("text", "caption", "captions", "sentence", "sentences", "description", "txt")
_RECORD_NAMES = ("id", "bias_label", "group", "hierarchy", "time", "attributes", "text_embedding")


@dataclass(frozen=True)
class Roles:
    """Which column of a table plays which part.

    Attributes:
        image: the images.
        label: the classes, or None.
        text: the captions, or None.
        class_names: what the table calls its classes, or None.
        records: what else is known, the keys of `read_records`, ``id`` and ``text_embedding``, each with its column.
    """

    image: str
    label: str | None
    text: str | None
    class_names: tuple[str, ...] | None
    records: tuple[tuple[str, str], ...]


def find_roles(
    features: Mapping[str, Any],
    *,
    image: str | None = None,
    label: str | None = None,
    text: str | None = None,
    columns: Sequence[tuple[str, str]] = (),
) -> Roles:
    """Find out what a table's columns mean, from the features of a Hugging Face data set.

    Args:
        features: type of each column, by name.
        image: the image column; by default the first with the feature `Image`, or with a usual name.
        label: the label column; by default one with a usual name, or the first with the feature `ClassLabel`; empty
            for none.
        text: the caption column; by default one with a usual name that holds text or lists of text; empty for none.
        columns: pairs of a key and the column that has it; keys that are columns themselves need no pair.

    Raises:
        ValueError: when there is no image column, or a column that is named does not exist.

    Example:
        >>> class Image: pass
        >>> class ClassLabel: names = ["cat", "dog"]
        >>> find_roles({"photo": Image(), "kind": ClassLabel()}).class_names
        ('cat', 'dog')
    """
    named = {"image_column": image, "label_column": label, "text_column": text, **dict(columns)}
    for option, column in named.items():
        if column and column not in features:
            raise ValueError(f"{option}: there is no column {column!r}; the columns are {', '.join(features)}")
    wrong = [key for key, _ in columns if key not in _RECORD_NAMES and not key.startswith("attribute_")]
    if wrong:
        raise ValueError(f"columns may name {', '.join(_RECORD_NAMES)} and attribute_NAME; found {', '.join(wrong)}")
    image = image or _guess(features, _IMAGE_NAMES, _is_any, lambda feature: _kind(feature) == "Image")
    if image is None:
        raise ValueError(f"no column holds images; the columns are {', '.join(features)}. Name it with image_column.")
    others = {name: feature for name, feature in features.items() if name != image}
    if label is None:
        label = _guess(others, _LABEL_NAMES, _is_label, lambda feature: _kind(feature) == "ClassLabel")
    if text is None:
        text = _guess(others, _TEXT_NAMES, _is_text, None)
    known = [(name, name) for name in others if name in _RECORD_NAMES or name.startswith("attribute_")]
    return Roles(
        image=image,
        label=label or None,
        text=text or None,
        class_names=tuple(features[label].names) if label and _kind(features[label]) == "ClassLabel" else None,
        records=tuple({**dict(known), **dict(columns)}.items()),
    )


def encoded_image(cell: Any, *, where: str) -> bytes | Path:
    """Return a cell's image as a file or as its bytes.

    Args:
        cell: bytes, a path, a mapping with ``"bytes"`` or ``"path"``, or numbers: ``[H, W]``, ``[H, W, C]``,
            ``[C, H, W]``, or a square grey image as one list; integers in 0..255, or floats in [0, 1]. Numbers become
            a PNG, which keeps them.
        where: how an error names the cell.

    Raises:
        UnreadableImage: for anything else.

    Example:
        >>> encoded_image({"bytes": None, "path": "a.png"}, where="row 1")
        PosixPath('a.png')
    """
    if isinstance(cell, Mapping):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    if isinstance(cell, (str, Path)):
        return Path(cell)
    if isinstance(cell, (list, np.ndarray)) and len(cell):
        return _png(cell, where)
    raise UnreadableImage(f"{where} has no image")


def caption(cell: Any, *, where: str, choice: float = 0.0) -> str:
    """Return a cell's caption.

    Args:
        cell: text, UTF-8 bytes, or a list of either, of which empty ones do not count.
        where: how an error names the cell.
        choice: in [0, 1), which of several captions; 0 is the first.

    Raises:
        UnreadableImage: when there is no caption, or it is not UTF-8.

    Example:
        >>> caption(["", "a cat", b"a pet"], where="row 1", choice=0.9)
        'a pet'
    """
    try:
        texts = [
            (text.decode("utf-8") if isinstance(text, bytes) else str(text)).strip()
            for text in (cell if isinstance(cell, (list, tuple, np.ndarray)) else [cell])
            if text is not None
        ]
    except UnicodeDecodeError as error:
        raise UnreadableImage(f"{where}: the caption is not UTF-8 ({error})") from error
    texts = [text for text in texts if text]
    if not texts:
        raise UnreadableImage(f"{where} has no caption")
    return texts[int(choice * len(texts))]


def number_labels(
    values: Sequence[Any], *, class_names: tuple[str, ...] | None, where: str
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Number classes: integers stay what they are, names are numbered in the order of the class names.

    Args:
        values: one per sample; None and empty text mean unlabelled, -1.
        class_names: the names, in order; by default the sorted names found, as numbers where all of them are.
        where: how errors name the column.

    Returns:
        The labels, int64, and the class names; None for integers without names.

    Raises:
        ValueError: for a name that is not among the class names.
        TypeError: for values that are neither integers nor text.

    Example:
        >>> number_labels(["b", "a", None, "b"], class_names=None, where="label")
        (tensor([ 1,  0, -1,  1]), ('a', 'b'))
    """
    plain = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    kinds = {type(value) for value in plain if value is not None}
    if kinds <= {int, bool}:
        return torch.tensor([-1 if value is None else int(value) for value in plain], dtype=torch.int64), class_names
    if kinds != {str}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"{where}: labels must be integers or names, one per sample; found {found}")
    names = class_names
    if names is None:
        found_names = {value for value in plain if value}
        numeric = all(name.isdecimal() for name in found_names)
        names = tuple(sorted(found_names, key=(lambda name: (int(name), name)) if numeric else None))
    number = {name: i for i, name in enumerate(names)}
    strange = [value for value in plain if value and value not in number]
    if strange:
        raise ValueError(
            f"{where}: {strange[0]!r} is not among the {len(names)} class names, {', '.join(names[:5])}, ..."
        )
    return torch.tensor([number[value] if value else -1 for value in plain], dtype=torch.int64), names


def _guess(
    features: Mapping[str, Any],
    names: Sequence[str],
    fits: Callable[[Any], bool],
    certain: Callable[[Any], bool] | None,
) -> str | None:
    """Choose a certain column with a usual name, a certain one, or one with a usual name that fits."""
    surely = [name for name, feature in features.items() if certain is not None and certain(feature)]
    usual = [name for name in names if name in features and fits(features[name])]
    return next(iter([*(name for name in names if name in surely), *surely, *usual]), None)


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _is_any(feature: Any) -> bool:
    return True


def _is_label(feature: Any) -> bool:
    kind = str(getattr(feature, "dtype", ""))
    return _kind(feature) == "ClassLabel" or (
        _kind(feature) == "Value" and kind.startswith(("int", "uint", "bool", "string", "large_string"))
    )


def _is_text(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
    return str(getattr(inner, "dtype", "")) in ("string", "large_string", "binary", "large_binary")


def _png(cell: Any, where: str) -> bytes:
    """Encode numbers as an image without loss."""
    try:
        image = _as_image(np.asarray(cell), where)
    except (TypeError, ValueError) as error:  # lists of unequal length are a ValueError of NumPy's
        raise UnreadableImage(f"{where} holds no image: {error}") from error
    pil = import_extra("PIL.Image", needed_for="decoding image files")
    channels_last = image.permute(1, 2, 0).squeeze(2).numpy()
    file = io.BytesIO()
    pil.fromarray(np.ascontiguousarray(channels_last)).save(file, "PNG", compress_level=0)
    return file.getvalue()


def _as_image(array: np.ndarray, where: str) -> Tensor:
    if array.ndim == 1 and math.isqrt(len(array)) ** 2 == len(array):
        array = array.reshape(math.isqrt(len(array)), -1)
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise ValueError(f"integers must be in 0..255; found {array.min()} to {array.max()}")
        array = array.astype(np.uint8)
    return to_uint8(array, where=where)
