"""The lists that come with ImageNet: classes of flat test images, ImageNet-LT's parts, and names of synsets."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SYNSET = re.compile(r"n\d{8}")
"""How WordNet's ids of nouns look."""

_MISSING_SHOWN = 5


class ListedImage(NamedTuple):
    """A file relative to the root, and its class."""

    path: str
    label: int


def read_truth(root: Path, val: Path, val_labels: Path | None) -> dict[str, str]:
    """Read the synset of every flat test image, by the file's name without its ending.

    Args:
        root: the folder with ``train`` and ``val``.
        val: the folder of the test images.
        val_labels: file of lines ``NAME SYNSET`` or ``NAME NUMBER``; None looks for the published lists.

    Raises:
        FileNotFoundError: when there is no list.
        ValueError: naming an entry that is not an image and its class.
    """
    kaggle = _beside(root, "LOC_val_solution.csv")
    if val_labels is not None:
        found, rows = val_labels, [line.split()[:2] for line in text_lines(val_labels)]
    elif (val / "val_annotations.txt").is_file():
        found = val / "val_annotations.txt"
        rows = [line.split()[:2] for line in text_lines(found)]
    elif kaggle is not None:
        found = kaggle
        rows = [
            [row[0], (row[1].split() or [""])[0]] for row in list(csv.reader(text_lines(kaggle)))[1:] if len(row) > 1
        ]
    else:
        raise FileNotFoundError(
            f"{val} holds images without class folders, and nothing says their classes: expected val_annotations.txt"
            f" in it, LOC_val_solution.csv in {root}, or val_labels, a file of lines NAME SYNSET"
        )
    every = sorted(path.name for path in (root / "train").iterdir() if SYNSET.fullmatch(path.name))
    truth = {}
    for line, row in enumerate(rows, start=1):
        name = every[int(row[1])] if len(row) == 2 and row[1].isdecimal() and int(row[1]) < len(every) else row[-1]
        if len(row) != 2 or not SYNSET.fullmatch(name):
            raise ValueError(
                f"{found}, entry {line}: expected an image and its synset or number below {len(every)}; found {row}"
            )
        truth[row[0].partition(".")[0]] = name
    return truth


def read_lists(root: Path, train_list: Path, test_list: Path) -> tuple[list[ListedImage], list[ListedImage], list[str]]:
    """Read two list files; their numbers are the classes, whose synsets the folders in their paths name.

    Args:
        root: what the paths in the lists are relative to.
        train_list: file of lines ``PATH NUMBER``.
        test_list: the same.

    Returns:
        The training images, the test images, and the synset of each class.

    Raises:
        FileNotFoundError: naming images that are not there.
        ValueError: when the lists contradict themselves or leave a class without a synset.
    """
    there: dict[Path, set[str]] = {}
    missing: list[str] = []
    parts: list[list[ListedImage]] = []
    synset: dict[int, str] = {}
    for path in (train_list, test_list):
        parts.append([])
        for line, text in enumerate(text_lines(path), start=1):
            name, _, label = text.rpartition(" ")
            if not name or not label.isdecimal():
                raise ValueError(f"{path}, line {line}: expected PATH NUMBER; found {text!r}")
            file, found = name.strip(), SYNSET.search(Path(name).parent.name)
            if found and synset.setdefault(int(label), found[0]) != found[0]:
                raise ValueError(
                    f"{path}, line {line}: class {label} was {synset[int(label)]} before and is {found[0]} here"
                )
            at = next((at for at in (file, f"val/{Path(file).name}") if _is_there(root / at, there)), None)
            parts[-1].append(ListedImage(at or file, int(label)))
            missing += [file] if at is None else []
    if missing:
        shown = ", ".join(missing[:_MISSING_SHOWN])
        raise FileNotFoundError(f"{root}: {len(missing)} listed images are missing: {shown}. Is the root right?")
    count = 1 + max((image.label for part in parts for image in part), default=-1)
    unnamed = [label for label in range(count) if label not in synset]
    if count == 0 or unnamed:
        raise ValueError(
            f"{train_list} must name every class's folder; none is known for {unnamed[:_MISSING_SHOWN] or 'any'}"
        )
    return parts[0], parts[1], [synset[label] for label in range(count)]


def _is_there(path: Path, folders: dict[Path, set[str]]) -> bool:
    """Look a file up in its folder's listing, read once: a call per file takes minutes on network disks."""
    if path.parent not in folders:
        folders[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
    return path.name in folders[path.parent]


def class_names_of(root: Path, synsets: Sequence[str]) -> tuple[str, ...]:
    """Name classes by the first term of their entry, by the whole entry where that is not enough.

    Example:
        >>> class_names_of(Path("nowhere"), ["n01440764"])
        ('n01440764',)
    """
    entries = _entries(root)
    whole = [entries.get(synset, synset) for synset in synsets]
    names = [entry.split(",")[0].strip() for entry in whole]
    for longer in (whole, [f"{entry} ({synset})" for entry, synset in zip(whole, synsets, strict=True)]):
        repeats = Counter(names)
        names = [long if repeats[name] > 1 else name for name, long in zip(names, longer, strict=True)]
    return tuple(names)


def _entries(root: Path) -> Mapping[str, str]:
    for file in ("LOC_synset_mapping.txt", "words.txt"):
        path = _beside(root, file)
        if path is not None:
            pairs = (re.split(r"[ \t]", line, maxsplit=1) for line in text_lines(path))
            return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
    return {}


def _beside(root: Path, file: str) -> Path | None:
    """Find a list in the root, or where Kaggle's archive has it, three folders up."""
    places = [root, root.parents[2]] if root.parts[-3:] == ("ILSVRC", "Data", "CLS-LOC") else [root]
    return next((place / file for place in places if (place / file).is_file()), None)


def text_lines(path: Path) -> list[str]:
    """Read a text file's lines, without those that are empty.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}") from error
