"""Every distinct text is encoded once and kept on disk, in half precision, under a hash of encoder and texts."""

from __future__ import annotations

import hashlib
import io
import os
import re
import uuid
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.folders import cache_folder
from kinfolk.data.text.encoders import LocatedEncoder, TextEncoder, TextEncoderConfig
from kinfolk.data.text.progress import TextProgress, say

if TYPE_CHECKING:
    from jaxtyping import Float16, Int

_FORMAT = 1  # part of the key: a change of what is stored makes old files unused, not wrong
_CHUNK = 2048  # texts between two signs of progress
_MARK = b"kinfolk-crc32:"  # after the array, where readers of .npy do not look


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as vectors: one row per distinct text, and which row every text has.

    Attributes:
        rows: float16 ``[D, e]`` of length 1, memory-mapped where they come from the cache.
        places: int64 ``[N]``.
        encoder: what made them.
        cached: whether they were on disk already.
    """

    rows: Float16[Tensor, "D e"]
    places: Int[Tensor, " N"]
    encoder: str
    cached: bool

    def expanded(self) -> Float16[Tensor, "N e"]:
        """Return one row per text."""
        return self.rows[self.places]


def encode_texts(
    texts: Sequence[str],
    encoder: TextEncoderConfig | None = None,
    *,
    cache: str | Path | None = None,
) -> EncodedTexts:
    """Encode texts with a frozen encoder, each distinct one once, and keep the result on disk.

    A file belongs to one encoder (with its version or content) and one set of texts, whatever their order and
    repetitions. It is written under a temporary name and renamed, read back by memory map, and made again when its
    checksum does not fit. Processes that want the same file wait for the one that makes it.

    Args:
        texts: any number, none empty.
        encoder: which encoder; by default what is installed.
        cache: folder; by default that of `cache_folder`.

    Raises:
        TypeError: for texts that are not strings.
        ValueError: for an empty text, or one that the encoder gives no direction.
        ImportError: when no encoder is installed.
    """
    index = _distinct(texts)
    located = (encoder or TextEncoderConfig()).locate()
    if not index:
        return EncodedTexts(torch.zeros(0, 1, dtype=torch.float16), torch.zeros(0, dtype=torch.int64),
                            located.identity, cached=False)  # fmt: skip
    distinct = list(index)
    path = _path(Path(cache) if cache is not None else cache_folder("text"), located, distinct)
    places = torch.tensor([index[text] for text in texts], dtype=torch.int64)
    if (rows := _read(path, len(distinct))) is not None:
        return EncodedTexts(rows, places, located.identity, cached=True)
    with _alone(path):
        if (rows := _read(path, len(distinct))) is not None:  # another process was faster
            return EncodedTexts(rows, places, located.identity, cached=True)
        return EncodedTexts(_make(path, located, distinct), places, located.identity, cached=False)


def _distinct(texts: Sequence[str]) -> dict[str, int]:
    """Number the distinct texts in an order of their own, so that the order of samples does not matter."""
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"texts must be strings; text {wrong} is {texts[wrong]!r} ({type(texts[wrong]).__name__})")
    index = {text: i for i, text in enumerate(sorted(set(texts)))}
    if any(not text.strip() for text in index):
        empty = [i for i, text in enumerate(texts) if not text.strip()]
        raise ValueError(f"{len(empty)} of {len(texts)} texts are empty, such as number {empty[:5]}; leave them out")
    try:
        "".join(index).encode()
    except UnicodeEncodeError:
        broken = next(i for i, text in enumerate(texts) if not _is_unicode(text))
        raise ValueError(
            f"text {broken} is {texts[broken]!r}, which is no Unicode text; read its file with the right encoding"
        ) from None
    return index


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(folder: Path, located: LocatedEncoder, distinct: list[str]) -> Path:
    digest = hashlib.blake2b(f"{_FORMAT}\0{located.identity}\0".encode(), digest_size=16)
    for text in distinct:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    name = re.sub(r"[^A-Za-z0-9]+", "-", located.name).strip("-")[-40:]
    return folder / f"{name}-{digest.hexdigest()}.npy"


def _make(path: Path, located: LocatedEncoder, distinct: list[str]) -> Tensor:
    why = f" ({located.chosen})" if located.chosen else ""
    say(f"embedding {len(distinct):,} distinct texts with {located.identity}{why}")
    rows, seconds = _encode(located.open(), distinct)
    try:
        _write(path, rows)
    except OSError as error:
        warnings.warn(f"the encoded texts are not kept: {error}. Name a folder with KINFOLK_CACHE.", stacklevel=4)
        return torch.from_numpy(rows)
    say(f"embedded in {seconds:.1f} s ({len(distinct) / max(seconds, 1e-9):,.0f} texts/s), kept in {path}")
    kept = _read(path, len(distinct))
    return torch.from_numpy(rows) if kept is None else kept


def _encode(encoder: TextEncoder, texts: list[str]) -> tuple[np.ndarray, float]:
    """Encode in chunks of texts of like length, since an encoder pads a batch to its longest text."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    rows: np.ndarray | None = None
    with TextProgress(len(texts), "embedding texts") as progress:
        for start in range(0, len(order), _CHUNK):
            places = order[start : start + _CHUNK]
            found = encoder.encode([texts[i] for i in places])
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            if not (np.isfinite(lengths) & (lengths > 0)).all():
                bad = texts[places[int(np.argmin(np.isfinite(lengths) & (lengths > 0)))]]
                raise ValueError(f"the text encoder gives no direction for {bad!r}; change the text, or the encoder")
            if rows is None:
                rows = np.empty((len(texts), found.shape[1]), dtype=np.float16)
            rows[places] = found / lengths
            progress.advance(len(places))
        return np.zeros((0, 1), dtype=np.float16) if rows is None else rows, progress.seconds


def _write(path: Path, rows: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")  # two processes never write to one file
    try:
        with temporary.open("wb") as file:
            np.save(file, rows)
            file.write(_MARK + zlib.crc32(np.ascontiguousarray(rows).data).to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, count: int) -> Tensor | None:
    """Map a file into memory; None where there is none, or where it is not what was written."""
    if not path.is_file():
        return None
    try:
        rows = np.load(path, mmap_mode="c", allow_pickle=False)  # copy-on-write: torch takes no read-only arrays
        end = rows.offset + rows.nbytes
        with path.open("rb") as file:
            file.seek(end)
            written = file.read()
        whole = written == _MARK + zlib.crc32(rows.data).to_bytes(4, "little")
    except (ValueError, EOFError, OSError, AttributeError):
        whole, rows = False, np.zeros((0, 0))
    if not whole or rows.dtype != np.float16 or rows.ndim != 2 or len(rows) != count:
        say(f"{path} is damaged and is made again")
        return None
    return torch.from_numpy(rows.view(np.ndarray))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time make a file, where the system can lock; two that do write the same anyway."""
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        lock: io.IOBase = path.with_suffix(".lock").open("wb")
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)  # the system releases it when the process ends, however it ends
    except (ImportError, OSError):
        yield
        return
    with lock:
        yield
