"""What a data set holds, in numbers: counts, classes, sizes, captions, duplicates, and what cannot be read."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.sources.columns import Column
from kinfolk.data.sources.decode import UnreadableImage, read_size
from kinfolk.data.sources.encoded import EncodedSource
from kinfolk.data.sources.whole import whole_of

_CHUNK = 1024
_CLASSES = 40
_LISTED = 10


def inspect_source(splits: Splits) -> dict[str, Any]:
    """Count what a data set holds; reads every image once, past those that cannot be read.

    Returns:
        ``name``, ``image`` (channels, height, width), ``table`` (whether the samples are rows of features),
        ``classes`` (number, or None), ``duplicates_across`` (test samples that are equal to a training sample, bit by
        bit at the source's size) and, per part under ``train``, ``test`` and, where there is one, ``probe``:

        ``images`` (number of samples), ``unlabelled``, ``class_histogram`` (name or number -> count; None without
        labels), ``duplicates`` (equal to an earlier one of the part), ``unreadable`` (a message each), ``columns``
        (name -> what it holds), ``sizes`` (of encoded images as stored: smallest, median and largest ``height`` and
        ``width``, and the share ``upscaled``; else None), ``captions``, ``empty_captions``, ``distinct_captions``,
        ``mean_caption_words`` and ``caption_words`` (fewest, median, most; all None without captions), and for a table
        ``features`` (number, smallest and largest value, how many are ``constant``, how many values ``not_finite``).

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> report = inspect_source(DigitsConfig().load())
        >>> report["train"]["images"], report["train"]["class_histogram"]["3"], report["duplicates_across"]
        (1437, 146, 0)
    """
    given = {"train": splits.train, "test": splits.test, "probe": splits.probe}
    parts = {part: _inspect(source) for part, source in given.items() if source is not None}
    seen = set(parts["train"][1])
    return {
        "name": splits.train.name,
        "image": [splits.train.channels, *splits.train.image_size],
        "table": _is_table(splits.train),
        "classes": None if splits.train.class_names is None else len(splits.train.class_names),
        "duplicates_across": sum(digest in seen for digest in parts["test"][1]),
        **{part: counts for part, (counts, _) in parts.items()},
    }


def format_inspection(report: dict[str, Any]) -> str:
    """Lay the numbers of `inspect_source` out as plain text.

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> print(format_inspection(inspect_source(DigitsConfig().load())).splitlines()[0])
        digits: images 1x8x8 (channels x height x width), 10 classes
    """
    size = "x".join(map(str, report["image"]))
    classes = "no class names" if report["classes"] is None else f"{report['classes']} classes"
    what = (
        f"a table of {report['image'][0]} features" if report["table"] else f"images {size} (channels x height x width)"
    )
    lines = [f"{report['name']}: {what}, {classes}"]
    for part in ("train", "test", "probe"):
        if part in report:
            lines += _part_lines(part, report[part], "rows" if report["table"] else "images")
    things = "rows" if report["table"] else "images"
    lines.append(f"test {things} that are in train too: {report['duplicates_across']}")
    columns = {name: what for part in ("test", "train") for name, what in report[part]["columns"].items()}
    if columns:
        lines.append("columns: " + "; ".join(f"{name} ({what})" for name, what in sorted(columns.items())))
    lines += _histogram(report["train"]["class_histogram"], report["test"]["class_histogram"])
    return "\n".join(lines)


def _inspect(source: Source) -> tuple[dict[str, Any], list[bytes]]:
    digests, sizes, unreadable = _read_all(source)
    return {
        "images": len(source),
        "unlabelled": len(source) if source.labels is None else int((source.labels < 0).sum()),
        "class_histogram": _class_histogram(source),
        "duplicates": len(digests) - len(set(digests)),
        "unreadable": unreadable,
        "columns": {name: _describe_column(values) for name, values in source.columns.items()},
        "sizes": _sizes(sizes, whole_of(source)[0]),
        **_captions(source.text),
        **({"features": _features(source)} if _is_table(source) else {}),
    }, digests


def _read_all(source: Source) -> tuple[list[bytes], list[tuple[int, int]], list[str]]:
    """Return every readable sample's digest, the stored sizes of encoded images, and what is wrong with the others."""
    whole, positions = whole_of(source)
    if not isinstance(whole, EncodedSource):
        chunks = torch.arange(len(source)).split(_CHUNK)
        return [digest for indices in chunks for digest in _digests(source.read(indices))], [], []

    def attempt(position: int) -> tuple[bytes, tuple[int, int]] | UnreadableImage:
        try:
            size = read_size(whole.encoded(position), where=whole.where(position))
            return _digests(whole.decode(position)[None])[0], size
        except UnreadableImage as error:
            return error

    digests, sizes, unreadable = [], [], []
    with ThreadPoolExecutor(
        max_workers=min(8, os.cpu_count() or 1)
    ) as pool:  # PIL gives the lock back while it decodes
        for chunk in positions.split(_CHUNK):  # so that only one chunk's results wait
            for found in pool.map(attempt, chunk.tolist()):
                if isinstance(found, UnreadableImage):
                    unreadable.append(str(found))
                else:
                    digests.append(found[0])
                    sizes.append(found[1])
    return digests, sizes, unreadable


def _digests(samples: Tensor) -> list[bytes]:
    return [hashlib.blake2b(sample.tobytes(), digest_size=16).digest() for sample in samples.cpu().numpy()]


def _is_table(source: Source) -> bool:
    if source.image_size != (1, 1):
        return False
    whole, _ = whole_of(source)
    return not isinstance(whole, EncodedSource) and source.read(torch.arange(min(1, len(source)))).is_floating_point()


def _sizes(sizes: list[tuple[int, int]], source: Source) -> dict[str, Any] | None:
    if not sizes or not isinstance(source, EncodedSource):
        return None
    height, width = (torch.tensor(side, dtype=torch.float64) for side in zip(*sizes, strict=True))
    scales = torch.stack([source.image_size[0] / height, source.image_size[1] / width])
    # padding scales until the longer side fits, the others until both are covered
    scale = scales.amin(0) if source.fit == "pad" else scales.amax(0)
    return {
        "height": _spread(height),
        "width": _spread(width),
        "upscaled": float((scale > 1).double().mean()),
    }


def _spread(values: Tensor) -> list[int]:
    return [int(values.min()), int(values.median()), int(values.max())]


def _captions(texts: Sequence[str] | None) -> dict[str, Any]:
    if texts is None:
        keys = ("captions", "empty_captions", "distinct_captions", "mean_caption_words", "caption_words")
        return dict.fromkeys(keys)
    words = torch.tensor([len(text.split()) for text in texts], dtype=torch.float64)
    return {
        "captions": len(texts),
        "empty_captions": sum(not text.strip() for text in texts),
        "distinct_captions": len(set(texts)),
        "mean_caption_words": float(words.mean()) if len(words) else 0.0,
        "caption_words": _spread(words) if len(words) else None,
    }


def _describe_column(values: Column) -> str:
    if not isinstance(values, Tensor):
        return f"{len(set(map(str, values)))} different texts"
    if values.ndim > 1:
        return f"{str(values.dtype).removeprefix('torch.')} {'x'.join(map(str, values.shape[1:]))}"
    if values.is_floating_point():
        return f"{float(values.min()):.4g} to {float(values.max()):.4g}" if len(values) else "empty"
    known = values[values >= 0]
    missing = len(values) - len(known)
    return f"{len(known.unique())} different" + (f", {missing} unknown" if missing else "")


def _features(source: Source) -> dict[str, Any]:
    chunks = torch.arange(len(source)).split(_CHUNK)
    rows = torch.cat([source.read(indices).flatten(1) for indices in chunks]) if len(source) else torch.zeros(0, 0)
    finite = rows[rows.isfinite()]
    return {
        "number": source.channels,
        "smallest": float(finite.min()) if len(finite) else None,
        "largest": float(finite.max()) if len(finite) else None,
        "constant": int((rows == rows[:1]).all(0).sum()) if len(rows) else 0,
        "not_finite": int((~rows.isfinite()).sum()),
    }


def _class_histogram(source: Source) -> dict[str, int] | None:
    if source.labels is None:
        return None
    counts = Counter(source.labels[source.labels >= 0].tolist())
    names = (
        dict(enumerate(source.class_names)) if source.class_names is not None else {c: str(c) for c in sorted(counts)}
    )
    return {name: counts[label] for label, name in names.items()}


def _part_lines(part: str, counts: dict[str, Any], things: str) -> list[str]:
    lines = [
        f"{part:>5}: {counts['images']} {things}, {counts['unlabelled']} unlabelled,"
        f" {counts['duplicates']} duplicates, {len(counts['unreadable'])} unreadable"
    ]
    if counts["captions"] is not None:
        fewest, median, most = counts["caption_words"] or (0, 0, 0)
        lines.append(
            f"       {counts['captions']} captions, {counts['distinct_captions']} distinct,"
            f" {counts['empty_captions']} empty, {counts['mean_caption_words']:.1f} words on average"
            f" ({fewest} to {most}, median {median})"
        )
    if counts["sizes"] is not None:
        sides = (
            f"{side} {low} to {high} (median {middle})"
            for side in ("height", "width")
            for low, middle, high in [counts["sizes"][side]]
        )
        lines.append(f"       stored {', '.join(sides)}; {counts['sizes']['upscaled']:.0%} smaller than the image size")
    if "features" in counts:
        found = counts["features"]
        lines.append(
            f"       values {found['smallest']} to {found['largest']}, {found['constant']} features constant,"
            f" {found['not_finite']} values not finite"
        )
    listed = counts["unreadable"]
    lines += [f"       unreadable: {problem}" for problem in listed[:_LISTED]]
    return lines + [f"       ... and {len(listed) - _LISTED} more"] * (len(listed) > _LISTED)


def _histogram(train: dict[str, int] | None, test: dict[str, int] | None) -> list[str]:
    if not train:
        return []
    test = test or {}
    names = list(train)
    if len(names) > _CLASSES:  # the most and the least frequent say what a long tail looks like
        names.sort(key=lambda name: -train[name])
        names = [*names[: _CLASSES - 10], "...", *names[-10:]]
    width, largest = max(map(len, names)), max(max(train.values()), 1)
    rows = [f"{'class':<{width}}  train   test"]
    for name in names:
        if name == "..." and name not in train:
            rows.append(f"{'...':<{width}}  ({len(train) - _CLASSES} classes between)")
        else:
            count = train[name]
            rows.append(
                f"{name:<{width}} {count:>6} {test.get(name, 0):>6}  {'#' * round(30 * count / largest)}".rstrip()
            )
    return rows
