"""What a data set holds, in numbers: counts, classes, duplicates, captions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.sources.hold_out import image_digests

_CHUNK = 1024


def inspect_source(splits: Splits) -> dict[str, Any]:
    """Count what a data set holds; reads every image once.

    Returns:
        ``name``, ``image`` (channels, height, width), ``classes`` (number, or None), ``duplicates_across`` (test
        images that are equal to a training image, pixel by pixel) and, per part under ``train`` and ``test``:
        ``images``, ``unlabelled``, ``class_histogram`` (name or number -> count; None without labels), ``duplicates``
        (images equal to an earlier one of the part), ``captions``, ``distinct_captions`` and ``mean_caption_words``
        (None without captions).

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> report = inspect_source(DigitsConfig().load())
        >>> report["train"]["images"], report["train"]["class_histogram"]["3"], report["duplicates_across"]
        (1437, 146, 0)
    """
    train, train_digests = _inspect(splits.train)
    test, test_digests = _inspect(splits.test)
    seen = set(train_digests)
    return {
        "name": splits.train.name,
        "image": [splits.train.channels, *splits.train.image_size],
        "classes": None if splits.train.class_names is None else len(splits.train.class_names),
        "duplicates_across": sum(digest in seen for digest in test_digests),
        "train": train,
        "test": test,
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
    lines = [f"{report['name']}: images {size} (channels x height x width), {classes}"]
    for part in ("train", "test"):
        counts = report[part]
        lines.append(
            f"{part:>5}: {counts['images']} images, {counts['unlabelled']} unlabelled,"
            f" {counts['duplicates']} duplicates"
        )
        if counts["captions"] is not None:
            lines.append(
                f"       {counts['captions']} captions, {counts['distinct_captions']} distinct,"
                f" {counts['mean_caption_words']:.1f} words on average"
            )
    lines.append(f"test images that are in train too: {report['duplicates_across']}")
    lines += _histogram(report["train"]["class_histogram"], report["test"]["class_histogram"])
    return "\n".join(lines)


def _inspect(source: Source) -> tuple[dict[str, Any], list[bytes]]:
    digests: list[bytes] = []
    captions: list[str] | None = None
    for indices in torch.arange(len(source)).split(_CHUNK):
        batch = source.fetch(indices)
        digests += image_digests(batch["images"])
        if "text" in batch:
            captions = (captions or []) + batch["text"]
    words = sum(len(caption.split()) for caption in captions or ())
    return {
        "images": len(source),
        "unlabelled": len(source) if source.labels is None else int((source.labels < 0).sum()),
        "class_histogram": _class_histogram(source),
        "duplicates": len(digests) - len(set(digests)),
        "captions": None if captions is None else len(captions),
        "distinct_captions": None if captions is None else len(set(captions)),
        "mean_caption_words": None if captions is None else words / max(len(captions), 1),
    }, digests


def _class_histogram(source: Source) -> dict[str, int] | None:
    if source.labels is None:
        return None
    counts = Counter(source.labels[source.labels >= 0].tolist())
    names = (
        dict(enumerate(source.class_names)) if source.class_names is not None else {c: str(c) for c in sorted(counts)}
    )
    return {name: counts[label] for label, name in names.items()}


def _histogram(train: dict[str, int] | None, test: dict[str, int] | None) -> list[str]:
    if not train:
        return []
    test = test or {}
    width, largest = max(map(len, train)), max(max(train.values()), 1)
    rows = [f"{'class':<{width}}  train   test"]
    for name, count in train.items():
        rows.append(f"{name:<{width}} {count:>6} {test.get(name, 0):>6}  {'#' * round(30 * count / largest)}")
    return rows
