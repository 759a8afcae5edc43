"""Which tar files make up a data set, and which part of it each one is."""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kinfolk.data.sources.tar_index import INFO_FILE, TEST_PARTS

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class ShardListing:
    """The shards of a data set.

    Attributes:
        name: what the log calls the data set.
        train: the training shards, or all of them where nothing says which are for testing.
        test: the test shards; may be empty.
        probe: the shards of the labelled part that probes are fitted on; mostly empty.
        info: what the folder's ``kinfolk.json`` says; empty without one.
    """

    name: str
    train: tuple[Path, ...]
    test: tuple[Path, ...] = ()
    probe: tuple[Path, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)


def list_shards(path: str, *, test_path: str | None = None) -> ShardListing:
    """Find the shards that a path means, in the order of their names.

    A folder's ``kinfolk.json`` says which shards there should be. Without one they are all its ``*.tar`` files, and
    those one folder below; a file or folder name with the word ``train``, or with one of ``test``, ``val``, ``valid``,
    ``validation``, divides them into parts when both kinds are there (the first of the latter that is there).

    Args:
        path: a folder, a tar file, or a pattern such as ``data/train-{000000..000009}.tar`` or ``data/train-*.tar``.
        test_path: likewise, for test shards that lie elsewhere; all of `path` is for training then.

    Raises:
        FileNotFoundError: when there is nothing there, or a pattern fits no file.
        ValueError: when all shards are compressed, or the index file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train-0.tar", "train-1.tar", "val-0.tar"):
        ...         (Path(folder) / name).touch()
        ...     listing = list_shards(folder)
        >>> [shard.name for shard in listing.train], [shard.name for shard in listing.test]
        (['train-0.tar', 'train-1.tar'], ['val-0.tar'])
    """
    root = Path(path)
    info = _read_info(root if root.is_dir() else root.parent)
    name = root.name if root.is_dir() else root.absolute().parent.name
    if test_path is not None:
        return ShardListing(name, tuple(_files(path)), tuple(_files(test_path)), info=info)
    if root.is_dir() and info.get("parts"):
        parts = {part: [root / shard for shard in entry["shards"]] for part, entry in info["parts"].items()}
    else:
        parts = _divide(_files(path), root if root.is_dir() else root.parent)
    tests = next((part for part in TEST_PARTS if part in parts), None)
    if "train" not in parts or tests is None:
        rest = [file for part, files in parts.items() if part != "probe" for file in files]
        return ShardListing(name, tuple(rest), probe=tuple(parts.get("probe", ())), info=info)
    return ShardListing(name, tuple(parts["train"]), tuple(parts[tests]), tuple(parts.get("probe", ())), info)


def expand_braces(pattern: str) -> list[str]:
    """Write out ``{000..003}`` and ``{a,b}`` as a shell does; several of them give every combination.

    Example:
        >>> expand_braces("s-{08..10}.tar")
        ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(combination) for combination in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    if (bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inside)) is not None:
        first, last = bounds.groups()
        return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else ["{" + inside + "}"]


def _files(path: str) -> list[Path]:
    root = Path(path)
    if root.is_dir():
        return _in_folder(root)
    found: list[Path] = []
    for pattern in expand_braces(path):
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not matches:
            raise FileNotFoundError(f"no file fits {pattern!r}; give a folder, a tar file or a pattern such as a-*.tar")
        found += map(Path, matches)
    if found == [root] and not root.exists():
        raise FileNotFoundError(
            f"no folder or file {path!r}; give the folder of the tar shards, one of them, or a pattern"
        )
    return found


def _in_folder(root: Path) -> list[Path]:
    found = sorted(root.glob("*.tar")) or sorted(root.glob("*/*.tar"))
    if found:
        return found
    if compressed := sorted(file.name for file in root.iterdir() if file.name.endswith(_COMPRESSED)):
        raise ValueError(
            f"{root} holds compressed shards only, such as {compressed[0]}; samples are read at random from plain tar"
            " files. Unpack each once, for example with `gzip -d`."
        )
    raise FileNotFoundError(f"{root} holds no .tar files; give the folder of the tar shards, or a pattern")


def _divide(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(_part(file, root), []).append(file)
    return parts


def _part(file: Path, root: Path) -> str:
    below = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    return next((word for word in _words(below) if word in ("train", "probe", *TEST_PARTS)), "")


def _words(path: Path) -> Iterator[str]:
    yield from re.split(r"[^a-z]+", str(path.with_suffix("")).lower())


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO_FILE
    if not path.is_file():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        for part in info.get("parts", {}).values():
            if not all(isinstance(shard, str) and Path(shard).name == shard for shard in part["shards"]):
                raise ValueError("its shards must be file names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read as an index of shards: {error}; remove it or write it again"
        ) from error
    return info
