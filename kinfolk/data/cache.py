"""Decoded images kept for later epochs, in memory or in a file, shared by all worker processes."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.folders import cache_folder
from kinfolk.data.sources.base import Source
from kinfolk.data.sources.encoded import EncodedSource

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8


class CachedSource(Source):
    """Decodes every image of another source once and keeps the bytes.

    Worker processes share what is kept: a sample that one of them has decoded is only indexed by the others and in
    later epochs. A sample that cannot be decoded is not kept; it is tried again, and skipped or raised, as its source
    does.

    Args:
        source: whose images are worth keeping.
        folder: where the bytes lie in files that later runs find again; None keeps them in memory. The files belong
            to exactly this source (its files, their sizes and times, the image size): a change makes new ones.

    Raises:
        OSError: when the folder cannot be written.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> cached = CachedSource(ArraySource(torch.ones(3, 1, 2, 2, dtype=torch.uint8)))
        >>> cached.read(torch.tensor([1])).sum().item(), cached.filled
        (4, 1)
    """

    def __init__(self, source: Source, folder: str | Path | None = None) -> None:
        self.source = source
        self.name, self.ids, self.columns, self.class_names = (
            source.name,
            source.ids,
            source.columns,
            source.class_names,
        )
        self.channels, self.image_size = source.channels, source.image_size
        shape = (len(source), self.channels, *self.image_size)
        self._file = None if folder is None else Path(folder) / f"{fingerprint(source)}.images"
        size = math.prod(shape)
        found = self._file is not None and self._file.is_file() and self._file.stat().st_size == size
        self._map = _anonymous(size) if self._file is None else _file_map(self._file, size)
        self._images = torch.frombuffer(self._map, dtype=torch.uint8, count=size).view(shape)
        self._flags_map = _anonymous(len(source))
        self._filled = torch.frombuffer(self._flags_map, dtype=torch.uint8, count=len(source))
        if found and self._flags_file.is_file():
            self._filled.copy_(torch.from_numpy(np.load(self._flags_file, allow_pickle=False)))
        elif self._file is not None:
            self._flags_file.unlink(missing_ok=True)  # flags without their images say nothing

    @property
    def filled(self) -> int:
        """How many samples are kept so far."""
        return int(self._filled.sum())

    @property
    def is_complete(self) -> bool:
        """Whether every sample is kept, so that reading is indexing."""
        return self.filled == len(self)

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Decode what is not kept yet; see `Source.read`."""
        missing = indices[self._filled[indices] == 0]
        if len(missing):
            self._keep(missing, self.source.read(missing))
        return self._images[indices]

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Decode what is not kept yet; see `Source.fetch`."""
        unknown = self._filled[indices] == 0
        if not bool(unknown.any()):
            return {"images": self._images[indices], **self.describe(indices)}
        missing = indices[unknown]
        fresh = self.source.fetch(missing)
        as_asked = fresh["ids"] == self.ids[missing]
        self._keep(missing[as_asked], fresh["images"][as_asked])
        if bool(as_asked.all()):
            return {"images": self._images[indices], **self.describe(indices)}
        # Another sample stands where one could not be decoded; its own entries go with it.
        taken = indices.clone()
        taken[unknown] = torch.tensor([int((self.ids == i).nonzero()) for i in fresh["ids"].tolist()])
        images = self._images[indices]
        images[unknown] = fresh["images"]
        return {"images": images, **self.describe(taken), "skipped": fresh.get("skipped", [])}

    def flush(self) -> None:
        """Write what is kept to its file, the images before the note that they are there; nothing in memory."""
        if self._file is None:
            return
        self._map.flush()
        if self._flags_file.is_file():  # other ranks and runs fill the same file, and their images stay there
            self._filled |= torch.from_numpy(np.load(self._flags_file, allow_pickle=False))
        temporary = self._flags_file.with_name(f".{self._flags_file.name}.{os.getpid()}.npy")
        np.save(temporary, self._filled.numpy())
        os.replace(temporary, self._flags_file)

    @property
    def _flags_file(self) -> Path:
        assert self._file is not None
        return self._file.with_suffix(".filled.npy")

    def _keep(self, positions: Tensor, images: Tensor) -> None:
        self._images[positions] = images
        self._filled[positions] = 1


def cached(source: Source, *, where: str = "auto", limit_mb: int = 4096, folder: str | Path | None = None) -> Source:
    """Keep a source's decoded images where that helps.

    Args:
        source: any; one in memory, or with nothing to decode, is returned as it is. Of one that selects or changes
            another's samples, and has that as its ``source``, the other's images are kept.
        where: `auto` (in memory when all images fit the limit), `memory`, `disk`, or `none`.
        limit_mb: largest size of the decoded images for `auto`, in MiB.
        folder: for `disk`; by default ``$KINFOLK_CACHE/images``, or ``~/.cache/kinfolk/images``.

    Raises:
        ValueError: for another choice.

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> digits = DigitsConfig().load().train
        >>> cached(digits) is digits
        True
    """
    if where not in ("auto", "memory", "disk", "none"):
        raise ValueError(f"cache must be 'auto', 'memory', 'disk' or 'none'; found {where!r}")
    inner = getattr(source, "source", None)
    if not isinstance(source, EncodedSource) and isinstance(inner, Source) and not source.in_memory:
        wrapper = copy.copy(source)  # what selects or changes samples does so on top of the cache
        wrapper.source = cached(inner, where=where, limit_mb=limit_mb, folder=folder)  # type: ignore[attr-defined]
        return wrapper
    size = len(source) * source.channels * math.prod(source.image_size)
    too_large = where == "auto" and size > limit_mb * 2**20
    if where == "none" or not isinstance(source, EncodedSource) or too_large or len(source) == 0:
        return source
    return CachedSource(source, (folder or cache_folder("images")) if where == "disk" else None)


def fingerprint(source: Source) -> str:
    """Name a source's decoded images: the same while its files, their sizes and times, and the image size are."""
    about: dict[str, Any] = {
        "shape": [len(source), source.channels, *source.image_size],
        "ids": hashlib.sha256(source.ids.numpy().tobytes()).hexdigest(),
    }
    if isinstance(source, EncodedSource):
        about |= {"fit": source.fit, "files": _state_of(source.files)}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _state_of(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        state = file.stat() if file.exists() else None
        digest.update(f"{file}\0{state and (state.st_size, state.st_mtime_ns)}\0".encode())
    return digest.hexdigest()


def _anonymous(size: int) -> mmap.mmap:
    """Memory that processes forked later share, without the small limit of a container's shared-memory folder."""
    return mmap.mmap(-1, max(size, 1))


def _file_map(file: Path, size: int) -> mmap.mmap:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        if stream.tell() != size:
            stream.truncate(size)
    with file.open("r+b") as stream:
        return mmap.mmap(stream.fileno(), size)
