"""Where every member of a tar shard lies: found once by reading the headers, nothing is ever extracted."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

IMAGE_ENDINGS = frozenset(("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm"))
INFO_FILE = "kinfolk.json"
TEST_PARTS = ("test", "val", "valid", "validation")
TEXT_ENDINGS = frozenset(("json", "cls", "txt", "text", "caption"))

_BLOCK = 512
_LARGEST_TEXT = 16 * 2**20
_COMPRESSED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d --rm"}


class DamagedShard(ValueError):
    """A tar shard that ends early, is no tar, or holds what a shard must not hold; the message names it."""


@dataclass(frozen=True)
class ShardIndex:
    """The members of one shard, in its order; members of one sample share what stands before the name's first dot.

    Attributes:
        name: the shard's file name.
        size: bytes of the file when it was indexed.
        modified: its time of modification then, in nanoseconds.
        keys: samples in the order of their first members.
        sample: int64 ``[M]``, which key each member belongs to.
        endings: what follows the first dot of each member's name, lower case.
        offset: int64 ``[M]``, where its content starts in the file.
        length: int64 ``[M]``, bytes of its content.
        texts: the contents of the small members that describe samples (`TEXT_ENDINGS`), by member number.
        problems: what was left out, in words.
    """

    name: str
    size: int
    modified: int
    keys: tuple[str, ...]
    sample: np.ndarray
    endings: tuple[str, ...]
    offset: np.ndarray
    length: np.ndarray
    texts: dict[int, bytes]
    problems: tuple[str, ...] = ()

    def members(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield every sample's key and its member numbers by ending."""
        grouped: list[dict[str, int]] = [{} for _ in self.keys]
        for number, (sample, ending) in enumerate(zip(self.sample.tolist(), self.endings, strict=True)):
            grouped[sample][ending] = number
        yield from zip(self.keys, grouped, strict=True)

    def fits(self, path: Path) -> bool:
        """Whether the file is still the one that was indexed."""
        state = path.stat()
        return (state.st_size, state.st_mtime_ns) == (self.size, self.modified)


def index_shard(path: Path, *, on_error: Literal["raise", "skip"] = "raise") -> ShardIndex:
    """Read the headers of an uncompressed tar file, and the contents of the small members that describe samples.

    Nothing is written anywhere: links, devices and names that lead out of a folder (``/etc/x``, ``../x``) are no
    samples and are refused. Members need not be adjacent to belong together. Directories, hidden files and names
    without a dot are passed over, as the webdataset library does.

    Args:
        path: the shard.
        on_error: `raise`, or leave the sample out and name it in ``problems``: for a member that is refused, one that
            was there before, and the last one of a shard that ends early.

    Raises:
        FileNotFoundError: when there is no such file.
        DamagedShard: when the file is compressed, empty or no tar; with ``on_error="raise"`` for any problem.

    Example:
        >>> import tempfile
        >>> from kinfolk.data.shard_writer import ShardWriter
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ShardWriter(folder) as writer:
        ...         writer.write("cat", b"bytes of an image", metadata={"label": 0})
        ...     index = index_shard(Path(folder) / "train-000000.tar")
        >>> index.keys, index.endings, index.offset.tolist(), index.texts
        (('cat',), ('png', 'json'), [512, 1536], {1: b'{"label":0}'})
    """
    if not path.is_file():
        raise FileNotFoundError(f"no shard {str(path)!r}; it may have been moved, or its download is not complete")
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        _check_start(file.read(6), path)
        file.seek(0)
        scan = _Scan(path, file, state.st_size)
        scan.run()
    if scan.problems and on_error == "raise":
        raise DamagedShard(f"{scan.problems[0]}. Mend it, or pass on_error='skip' to leave such samples out.")
    return scan.result(state)


class _Scan:
    """One pass over the headers of a file."""

    def __init__(self, path: Path, file: io.BufferedReader, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.numbers: dict[str, int] = {}
        self.rows: list[tuple[int, str, int, int]] = []
        self.texts: dict[int, bytes] = {}
        self.seen: set[tuple[int, str]] = set()
        self.refused: set[str] = set()
        self.problems: list[str] = []
        self.last = ""

    def run(self) -> None:
        try:
            tar = tarfile.open(fileobj=self.file, mode="r:")  # noqa: SIM115 (the file belongs to the caller)
        except tarfile.TarError as error:
            raise DamagedShard(f"{self.path} is not a tar file: {error}") from error
        try:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member otherwise
                if member.isreg() and member.offset_data + member.size > self.size:
                    self._ends_early(f"member {_printable(member.name)!r} is cut", cut=_split_name(member.name)[0])
                    return
                self._add(member)
        except (tarfile.TarError, EOFError) as error:
            self._ends_early(str(error))
            return
        self.file.seek(tar.offset)
        block = self.file.read(_BLOCK)
        if block != bytes(_BLOCK):  # tarfile takes a cut or damaged header after the first for the end of the archive
            self._ends_early(f"a damaged or cut header at byte {tar.offset}" if block else "no end-of-archive marker")

    def _add(self, member: tarfile.TarInfo) -> None:
        key, ending = _split_name(member.name)
        if (reason := _refusal(member)) is not None:
            self.problems.append(f"{self.path}: member {_printable(member.name)!r} is refused: {reason}")
            self.refused.add(key)
            return
        if member.isdir() or not key:
            return
        number = self.numbers.setdefault(key, len(self.numbers))
        if (number, ending) in self.seen:
            self.problems.append(
                f"{self.path}: member {_printable(member.name)!r} is there twice, the first one counts"
            )
            return
        if ending in TEXT_ENDINGS:
            if member.size > _LARGEST_TEXT:
                self.problems.append(f"{self.path}: member {member.name!r} has {member.size} bytes; a text has less")
                self.refused.add(key)
                return
            self.file.seek(member.offset_data)
            self.texts[len(self.rows)] = self.file.read(member.size)
        self.seen.add((number, ending))
        self.rows.append((number, ending, member.offset_data, member.size))
        self.last = member.name

    def _ends_early(self, reason: str, cut: str | None = None) -> None:
        after = f"the last whole member is {_printable(self.last)!r}" if self.last else "no member is whole"
        self.problems.append(f"{self.path} ends early ({reason}); {after}")
        key = _split_name(self.last)[0] if cut is None else cut
        if key not in self.numbers:
            return
        members: dict[int, set[str]] = {}
        for number, ending in self.seen:
            members.setdefault(number, set()).add(ending)
        number = self.numbers[key]
        # the first sample says what a whole one has; when it is the last as well nothing does
        if cut is not None or number == 0 or members[number] < members.get(0, set()):
            self.refused.add(key)

    def result(self, state: os.stat_result) -> ShardIndex:
        filled = {row[0] for row in self.rows}
        usable = (key for key, number in self.numbers.items() if key not in self.refused and number in filled)
        kept = {key: i for i, key in enumerate(usable)}
        left_out = [_printable(key) for key in self.numbers if key in self.refused]
        if left_out:
            self.problems.append(f"{self.path}: samples left out: {', '.join(left_out)}")
        new_number = {number: kept[key] for key, number in self.numbers.items() if key in kept}
        rows = [(i, row) for i, row in enumerate(self.rows) if row[0] in new_number]
        return ShardIndex(
            name=self.path.name,
            size=state.st_size,
            modified=state.st_mtime_ns,
            keys=tuple(map(_printable, kept)),
            sample=np.array([new_number[row[0]] for _, row in rows], dtype=np.int64),
            endings=tuple(row[1] for _, row in rows),
            offset=np.array([row[2] for _, row in rows], dtype=np.int64),
            length=np.array([row[3] for _, row in rows], dtype=np.int64),
            texts={new: self.texts[old] for new, (old, _) in enumerate(rows) if old in self.texts},
            problems=tuple(self.problems),
        )


def _check_start(start: bytes, path: Path) -> None:
    for magic, command in _COMPRESSED.items():
        if start.startswith(magic):
            raise DamagedShard(
                f"{path} is compressed; samples are read at random from plain tar files. Unpack it once:"
                f" `{command} {path.name}` (images are compressed already, so it hardly grows)."
            )


def _split_name(name: str) -> tuple[str, str]:
    """Cut a member's name at the first dot of its last part; no key for hidden files and names without a dot."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, dot, ending = base.partition(".")
    if not stem or not dot:
        return "", ""
    return (f"{folder}/{stem}" if folder else stem), ending.lower()


def _refusal(member: tarfile.TarInfo) -> str | None:
    name = member.name.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":" or (".." in name and ".." in name.split("/")):
        return "its name leads out of the shard's folder"
    if not (member.isreg() or member.isdir()) or member.issparse():
        return "it is a link, a device or a sparse file; a shard holds plain files"
    return None


def _printable(name: str) -> str:
    """Names that are not UTF-8 come with surrogates, which neither a terminal nor JSON takes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
