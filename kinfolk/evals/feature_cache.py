"""Features kept on disk by content: what one encoder gave for one batch of images is computed once."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from kinfolk.data.folders import cache_folder
from kinfolk.evals.encoder_fingerprint import UnknownContent, encoder_fingerprint, tensor_digest

if TYPE_CHECKING:
    from jaxtyping import Float, Num

    Encode = Callable[[Num[Tensor, "b c h w"]], Float[Tensor, "b d"]]

_FORMAT = 1  # part of the key: a change of what is stored makes old files unused, not wrong
_CHECK = 16  # bytes of checksum before the rest
_KEPT, _PARTIAL = ".features", ".partial"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureCache:
    """Where features are kept between evaluations, and how much of them.

    A file holds the features of one batch. Its name is made of the encoder's content (`encoder_fingerprint`), the bytes
    of the images, and what else decides rounding: the kind of device, autocast and TF32. Nothing else names it, so that
    a renamed run or copied images hit, and a changed weight or pixel misses. Another batch size or order makes other
    batches, which miss. Ids, labels and groups are not kept; they come from the source.

    Files are written under a temporary name and renamed, so that any number of processes may share a folder. A damaged
    file is computed again. After an extraction that wrote something, the files that were unused for longest go until
    the rest fits. An encoder without parameters, such as raw pixels, is cheaper than a file: it is not kept, and
    neither is one that cannot be read (see `encoder_fingerprint`), which the log says.

    Args:
        folder: which may not be there yet; by default ``features`` in that of `cache_folder`.
        limit_mb: how much the folder may hold, in units of 10^6 bytes, at least 1. An evaluation whose features exceed
            it finds nothing the next time.

    Raises:
        ValueError: for a limit below 1.

    Example:
        >>> FeatureCache("kept", limit_mb=100)
        FeatureCache(folder=PosixPath('kept'), limit_mb=100)
    """

    folder: Path = field(default_factory=lambda: cache_folder("features"))
    limit_mb: int = 2000

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.limit_mb < 1:
            raise ValueError(f"limit_mb must be at least 1, got {self.limit_mb}; give no cache to keep nothing.")

    @contextmanager
    def around(self, encode: Encode, *, encoder: nn.Module, device: torch.device) -> Iterator[Encode]:
        """Give a twin of a function that computes features, which computes only what is not on disk.

        Args:
            encode: from images to features, float32 on the CPU, by this encoder on this device and nothing else.
            encoder: in evaluation mode, where it will compute.
            device: where that is.

        Yields:
            The twin; `encode` itself where nothing can be kept.

        Example:
            >>> import tempfile
            >>> layer, images = nn.Linear(1, 2).eval(), torch.ones(3, 1)
            >>> with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            ...     with FeatureCache(folder).around(layer, encoder=layer, device=torch.device("cpu")) as encode:
            ...         first, again = encode(images), encode(images)
            >>> torch.equal(first, again), torch.equal(first, layer(images))
            (True, True)
        """
        if next(encoder.parameters(), None) is None:
            yield encode
            return
        try:
            key = f"{_FORMAT} {encoder_fingerprint(encoder)} {_rounding(device)}"
        except UnknownContent as what:
            _log.info("features of %s are not kept: it holds %s", type(encoder).__name__, what)
            yield encode
            return
        kept = _KeptFeatures(self.folder, key, encode)
        try:
            yield kept
        finally:
            if kept.written:
                _shrink(self.folder, self.limit_mb * 10**6)


class _KeptFeatures:
    """A function from images to features that remembers on disk."""

    def __init__(self, folder: Path, key: str, encode: Encode) -> None:
        self.folder, self.key, self.encode = folder, key, encode
        self.written = 0
        self.writable = True

    def __call__(self, images: Num[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        digest = hashlib.blake2b(self.key.encode() + tensor_digest(images), digest_size=16)
        path = self.folder / f"{digest.hexdigest()}{_KEPT}"
        rows = _read(path, len(images))
        if rows is None:
            rows = self.encode(images)
            self._keep(path, rows)
        return rows

    def _keep(self, path: Path, rows: Tensor) -> None:
        if not self.writable:
            return
        try:
            _write(path, rows)
            self.written += 1
        except OSError as error:
            self.writable = False
            _log.warning("features are not kept: %s. Name a folder with KINFOLK_CACHE.", error)


def _rounding(device: torch.device) -> str:
    """What changes the last bits of features, or more, and lies neither in the encoder nor in the images."""
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return f"{device.type} {cast} {torch.get_float32_matmul_precision()} {torch.backends.cudnn.allow_tf32}"


def _write(path: Path, rows: Tensor) -> None:
    body = np.array(rows.shape, dtype="<i8").tobytes() + rows.numpy().astype("<f4", copy=False).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{uuid.uuid4().hex}{_PARTIAL}")  # two processes never write to one file
    try:
        temporary.write_bytes(hashlib.blake2b(body, digest_size=_CHECK).digest() + body)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, count: int) -> Tensor | None:
    """The rows in a file; None where there is none, or where it is not what was written."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read and is computed again: %s", path, error)
        return None
    check, body = raw[:_CHECK], raw[_CHECK:]
    if hashlib.blake2b(body, digest_size=_CHECK).digest() != check:
        _log.warning("%s is damaged and is computed again", path)
        return None
    with suppress(OSError):  # a shared folder may be for reading only
        os.utime(path)  # what is in use is removed last
    n, d = np.frombuffer(body, dtype="<i8", count=2).tolist()
    assert n == count, f"{path} holds {n} rows for {count} images"
    return torch.from_numpy(np.frombuffer(body, dtype="<f4", offset=16).astype(np.float32).reshape(n, d))


def _shrink(folder: Path, limit: int) -> None:
    """Remove files that were unused for longest, what killed processes left among them, until the rest fits."""
    found = []
    for entry in os.scandir(folder):
        if entry.name.endswith((_KEPT, _PARTIAL)):
            try:
                status = entry.stat()
            except FileNotFoundError:  # another process removed it
                continue
            found.append((status.st_mtime_ns, status.st_size, entry.path))
    excess = sum(size for _, size, _ in found) - limit
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        Path(path).unlink(missing_ok=True)
        excess -= size
