"""The samples of indexed tar shards: where their images lie and what their metadata say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.sources.decode import UnreadableImage, read_channels
from kinfolk.data.sources.encoded import OnError
from kinfolk.data.sources.shard_records import RecordKeys, read_record
from kinfolk.data.sources.tar_cache import index_shards
from kinfolk.data.sources.tar_index import IMAGE_ENDINGS, DamagedShard, ShardIndex

_SALIENCY = "saliency.png"
_HEADERS = 64
_OPEN_FILES = 128


@dataclass
class Samples:
    """Everything that indexing found, sample by sample.

    Attributes:
        shards: the files and their indices; places count these.
        names: the image's member name.
        places: shard, first byte, number of bytes of the image.
        records: see `read_record`.
        parts: 0 for training, 1 for test, 2 for the probes' part.
        saliency: places of the masks; None where there is none.
    """

    shards: list[tuple[Path, ShardIndex]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    saliency: list[tuple[int, int, int] | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def place(self) -> np.ndarray:
        """The places as int64 ``[N, 3]``."""
        return np.array(self.places, dtype=np.int64).reshape(-1, 3)

    def keep(self, rows: Sequence[int]) -> Samples:
        """Return some of the samples."""
        return Samples(
            self.shards,
            names=[self.names[i] for i in rows],
            places=[self.places[i] for i in rows],
            records=[self.records[i] for i in rows],
            parts=[self.parts[i] for i in rows],
            saliency=[self.saliency[i] for i in rows],
        )


def find_samples(parts: Sequence[Sequence[Path]], keys: RecordKeys, on_error: OnError, problems: list[str]) -> Samples:
    """Index shards and read their samples' metadata.

    Args:
        parts: the shards of every part.
        keys: where label and caption are.
        on_error: `raise`, or leave out what cannot be used.
        problems: what is left out is added here, in words.

    Raises:
        FileNotFoundError: with ``on_error="raise"``, for a missing shard.
        DamagedShard: with ``on_error="raise"``, for a shard that ends early or holds what it must not.
    """
    found = Samples()
    for part, paths in enumerate(parts):
        for path, index in index_shards(paths, on_error=on_error, problems=problems):
            number = len(found.shards)
            found.shards.append((path, index))
            problems += index.problems
            spans = list(zip(index.offset.tolist(), index.length.tolist(), strict=True))
            for key, members in index.members():
                try:
                    _add(found, number, key, members, spans, keys)
                    found.parts.append(part)
                except ValueError as error:
                    problems.append(f"{path}, sample {key!r}: {error}")
    if any(record.get("text") for record in found.records):  # captions are all there, or there are none
        empty = [i for i, record in enumerate(found.records) if not record.get("text")]
        problems += [f"{_where(found, i)} has no caption" for i in empty]
        found = found.keep(sorted(set(range(len(found))) - set(empty))) if empty else found
    return found


def most_channels(files: ShardFiles, found: Samples) -> int:
    """Return the most channels that any of some images, evenly spread over the shards, has; unreadable ones count not.

    Raises:
        UnreadableImage: when none of them can be read.
    """
    most, problem = 0, None
    for i in np.linspace(0, len(found) - 1, min(_HEADERS, len(found))).astype(int).tolist():
        try:
            most = max(most, read_channels(files.read(*found.places[i]), where=_where(found, i)))
        except UnreadableImage as error:
            problem = error
    if most == 0:
        assert problem is not None
        raise problem
    return most


def sample_ids(found: Samples) -> Tensor:
    """Return the ids that the metadata give, where every sample of a part has another one; else the places in order."""
    ids = [record.get("id") for record in found.records]
    whole = all(isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 for value in ids)
    probe = [part == 2 for part in found.parts]  # may have the samples of the other two once more
    if whole and len(set(zip(ids, probe, strict=True))) == len(ids):
        return torch.tensor(ids, dtype=torch.int64)
    return torch.arange(len(found))


class ShardFiles:
    """Shards that are read at random, by any number of threads and processes; opened at their first read.

    Args:
        shards: the files and their indices.

    Example:
        >>> ShardFiles([]).paths
        []
    """

    def __init__(self, shards: Sequence[tuple[Path, ShardIndex]]) -> None:
        self.paths = [path for path, _ in shards]
        self._states = [(index.size, index.modified) for _, index in shards]
        self._open: dict[int, int] = {}

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Read bytes of a shard.

        Raises:
            OSError: when the file cannot be read.
            DamagedShard: when it is not the file that was indexed.
        """
        descriptor = self._descriptor(shard)
        try:
            state = os.fstat(descriptor)
            if (state.st_size, state.st_mtime_ns) != self._states[shard]:
                raise DamagedShard(f"{self.paths[shard]} has changed since it was indexed; load the data set again")
            # a positioned read moves no shared offset, so a file opened before a fork serves parent and child alike
            return os.pread(descriptor, length, offset)
        finally:
            if self._open.get(shard) != descriptor:
                os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def _descriptor(self, shard: int) -> int:
        """Open a shard, and keep it open unless there are many, or another thread was faster."""
        kept = self._open.get(shard)
        if kept is not None:
            return kept
        descriptor = os.open(self.paths[shard], os.O_RDONLY)
        if len(self._open) < _OPEN_FILES:
            self._open.setdefault(shard, descriptor)
        return descriptor


def _add(
    found: Samples,
    number: int,
    key: str,
    members: dict[str, int],
    spans: Sequence[tuple[int, int]],
    keys: RecordKeys,
) -> None:
    _, index = found.shards[number]
    images = [ending for ending in members if ending in IMAGE_ENDINGS]
    if len(images) != 1:
        what = f"two images, {images[0]} and {images[1]}" if images else "no image"
        raise ValueError(
            f"it has {what}; its members end in {', '.join(sorted(members))} (a name is cut at its first dot)"
        )
    texts = {ending: index.texts[member] for ending, member in members.items() if member in index.texts}
    record = read_record(texts, keys)
    mask = members.get(_SALIENCY)
    found.names.append(f"{key}.{images[0]}")
    found.places.append((number, *spans[members[images[0]]]))
    found.records.append(record)
    found.saliency.append(None if mask is None else (number, *spans[mask]))


def _where(found: Samples, i: int) -> str:
    return f"{found.shards[found.places[i][0]][0]}, member {found.names[i]}"
