"""The indices of a folder's shards, kept beside them for the next run."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinfolk.data.sources.encoded import OnError
from kinfolk.data.sources.tar_index import TEXT_ENDINGS, DamagedShard, ShardIndex, index_shard

INDEX_FILE = ".kinfolk-index.npz"

_VERSION = 1


def index_shards(
    paths: Sequence[Path], *, on_error: OnError = "raise", problems: list[str]
) -> Iterator[tuple[Path, ShardIndex]]:
    """Index shards, or take what an earlier run left beside them where the shards are still the same.

    Args:
        paths: the shards, of one folder or several.
        on_error: see `index_shard`; with `skip` a shard that is missing or no tar at all is passed over.
        problems: what was passed over is added here, in words.

    Raises:
        FileNotFoundError: with ``on_error="raise"``, for a missing shard.
        DamagedShard: with ``on_error="raise"``, for a shard that cannot be trusted.
    """
    known: dict[Path, dict[str, ShardIndex]] = {}
    fresh: dict[Path, dict[str, ShardIndex]] = {}
    for path in paths:
        if path.parent not in known:
            known[path.parent] = read_index(path.parent)
        index = known[path.parent].get(path.name)
        if index is None or not path.is_file() or not index.fits(path):
            try:
                index = index_shard(path, on_error=on_error)
            except (FileNotFoundError, DamagedShard) as error:
                if on_error == "raise":
                    raise
                problems.append(str(error))
                continue
            fresh.setdefault(path.parent, {})[path.name] = index
        yield path, index
    for folder, indices in fresh.items():
        write_index(folder, (known[folder] | indices).values())


def read_index(folder: Path) -> dict[str, ShardIndex]:
    """Read the indices that an earlier run left beside a folder's shards; empty when there are none to trust."""
    try:
        with (folder / INDEX_FILE).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {index.name: index for index in _unpack({name: archive[name] for name in archive.files})}
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, EOFError):
        return {}  # a cache: whatever is wrong with it, the shards themselves know


def write_index(folder: Path, indices: Iterable[ShardIndex]) -> bool:
    """Leave indices beside a folder's shards for the next run; those of shards with problems are left out.

    Returns:
        Whether the folder could be written.
    """
    arrays = _pack([index for index in indices if not index.problems])
    temporary = folder / f".{INDEX_FILE}.{os.getpid()}.partial"
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / INDEX_FILE)
    except OSError:
        return False
    return True


def _pack(indices: list[ShardIndex]) -> dict[str, np.ndarray]:
    endings = sorted({ending for index in indices for ending in index.endings})
    code = {ending: i for i, ending in enumerate(endings)}
    head = {
        "version": _VERSION,
        "endings": endings,
        "shards": [[i.name, i.size, i.modified, len(i.keys), len(i.endings)] for i in indices],
        "keys": [key for index in indices for key in index.keys],
    }
    empty = np.zeros(0, dtype=np.int64)
    return {
        "head": _blob(json.dumps(head).encode()),
        "sample": np.concatenate([empty, *(index.sample for index in indices)]),
        "ending": np.array([code[e] for index in indices for e in index.endings], dtype=np.int64),
        "offset": np.concatenate([empty, *(index.offset for index in indices)]),
        "length": np.concatenate([empty, *(index.length for index in indices)]),
        "texts": _blob(b"".join(text for index in indices for text in index.texts.values())),
    }


def _unpack(arrays: dict[str, np.ndarray]) -> Iterator[ShardIndex]:
    head: dict[str, Any] = json.loads(arrays["head"].tobytes())
    if head["version"] != _VERSION:
        return
    texts, names = arrays["texts"].tobytes(), head["endings"]
    first_key = first = start = 0
    for name, size, modified, samples, members in head["shards"]:
        here = slice(first, first + members)
        endings = tuple(names[code] for code in arrays["ending"][here].tolist())
        length, contents = arrays["length"][here], {}
        for number, (ending, count) in enumerate(zip(endings, length.tolist(), strict=True)):
            if ending in TEXT_ENDINGS:
                contents[number] = texts[start : start + count]
                start += count
        keys = tuple(head["keys"][first_key : first_key + samples])
        yield ShardIndex(
            name, size, modified, keys, arrays["sample"][here], endings, arrays["offset"][here], length, contents
        )
        first_key, first = first_key + samples, first + members


def _blob(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)
