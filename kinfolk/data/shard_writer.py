"""Writing samples into tar shards that `ShardsConfig`, the webdataset library and `tar` itself can read."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kinfolk.data.sources.tar_index import IMAGE_ENDINGS, INFO_FILE, TEST_PARTS

_PARTS = ("train", "probe", *TEST_PARTS)
_MODE = 0o644


class ShardWriter:
    """Write one part of a data set as tar shards of at most `max_samples` samples: ``train-000000.tar``, ...

    A sample with key ``000012`` becomes the members ``000012.png`` and ``000012.json``, one after the other, so that a
    streaming reader finds them together. The bytes of a shard depend on what is written alone: no clock, no owner.
    Each shard is written under a temporary name, synced and renamed. On leaving without an error ``kinfolk.json`` of
    the folder gets this part's entry; after an error the part's shards are removed again.

    Args:
        folder: made when it is missing; several writers fill it, one part after another.
        part: `train`, `test` (or `val`, `valid`, `validation`) or `probe`.
        max_samples: of one shard.
        class_names: one name per class; by default the sorted names given as ``label``, if any.
        channels: 1, 3 or 4, for the index; None leaves readers to find out.
        info: more entries of ``kinfolk.json``, for example a licence.

    Raises:
        ValueError: for another part, a shard size below one, or class names or channels unlike those that the folder's
            index has.
        FileExistsError: when the folder has shards of this part.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ShardWriter(folder, max_samples=2) as writer:
        ...         for i in range(3):
        ...             writer.write(f"{i:06d}", b"not really a png", metadata={"id": i, "label": "cat"})
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['kinfolk.json', 'train-000000.tar', 'train-000001.tar']
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        part: str = "train",
        max_samples: int = 10_000,
        class_names: Sequence[str] | None = None,
        channels: int | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        if part not in _PARTS:
            raise ValueError(f"part must be one of {', '.join(_PARTS)}; found {part!r}")
        if max_samples < 1:
            raise ValueError(f"max_samples must be at least 1; found {max_samples}")
        self.folder, self.part, self.max_samples = Path(folder), part, max_samples
        self.folder.mkdir(parents=True, exist_ok=True)
        if present := sorted(self.folder.glob(f"{part}-*.tar")):
            raise FileExistsError(
                f"{self.folder} has {len(present)} shards of the part {part!r} already, such as {present[0].name};"
                " give another folder, or remove them"
            )
        self.class_names = None if class_names is None else tuple(class_names)
        self.channels, self.info = channels, dict(info or {})
        self._check_agreement(self._read_index())
        self.shards: list[str] = []
        self.samples = 0
        self._keys: set[str] = set()
        self._names: set[str] = set()
        self._tar: tarfile.TarFile | None = None

    def write(
        self,
        key: str,
        image: bytes,
        *,
        ending: str = "png",
        metadata: Mapping[str, Any] | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> None:
        """Add one sample.

        Args:
            key: its name, unique in the part; no dots (a member's ending starts at the first one) and no slashes.
            image: the encoded bytes, as they are.
            ending: of the image's format, without a dot.
            metadata: what is known, under the columns' names in the singular: ``id``, ``label`` (a number or a class's
                name), ``bias_label``, ``text``, ``hierarchy``, ``time``, ``group``, ``attributes``,
                ``text_embedding``; anything else that JSON can hold is kept and ignored by readers.
            extra: further members by ending, for example ``{"saliency.png": mask}``.

        Raises:
            ValueError: for a key or an ending that would break the grouping of members, or a key that was there.
            TypeError: for metadata that JSON cannot hold, or an image that is not bytes.
        """
        self._check_sample(key, image, ending)
        members = {ending: bytes(image), **(extra or {})}
        if metadata:
            members["json"] = _as_json(key, metadata)
            if isinstance(metadata.get("label"), str):
                self._names.add(metadata["label"])
        if self._tar is None:
            self._tar = tarfile.open(self._temporary(), "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        for suffix, data in members.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size, member.mode = len(data), _MODE
            self._tar.addfile(member, io.BytesIO(data))
        self._keys.add(key)
        self.samples += 1
        if self.samples % self.max_samples == 0:
            self._finish_shard()

    def close(self) -> None:
        """Finish the last shard and write the folder's index; closing again does nothing.

        Raises:
            ValueError: when nothing was written, or the class names do not fit the labels.
        """
        if self._tar is not None:
            self._finish_shard()
        if not self.shards:
            raise ValueError(f"nothing was written to {self.folder}, part {self.part!r}; a part needs a sample")
        self._write_index()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        except BaseException:
            self._discard()
            raise
        if kind is not None:
            self._discard()

    def _check_sample(self, key: str, image: bytes, ending: str) -> None:
        if not key or key.startswith("-") or any(c in "./\\" or not c.isprintable() for c in key):
            raise ValueError(
                f"key must be a name without dots, slashes and control characters, for example '000012'; found {key!r}"
            )
        if key in self._keys:
            raise ValueError(f"key must be unique in the part {self.part!r}; {key!r} was written before")
        if ending not in IMAGE_ENDINGS:
            raise ValueError(f"ending must be one of {', '.join(sorted(IMAGE_ENDINGS))}; found {ending!r}")
        if not isinstance(image, bytes | bytearray | memoryview):
            raise TypeError(f"image must be encoded bytes; found {type(image).__name__} for key {key!r}")

    def _temporary(self) -> Path:
        return self.folder / f".{self.part}-{len(self.shards):06d}.{os.getpid()}.partial"

    def _finish_shard(self) -> None:
        assert self._tar is not None
        self._tar.close()
        self._tar = None
        name = f"{self.part}-{len(self.shards):06d}.tar"
        _place(self._temporary(), self.folder / name)
        self.shards.append(name)

    def _discard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
        self._temporary().unlink(missing_ok=True)
        for name in self.shards:
            (self.folder / name).unlink(missing_ok=True)
        self.shards = []

    def _read_index(self) -> dict[str, Any]:
        path = self.folder / INFO_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _check_agreement(self, index: dict[str, Any]) -> None:
        """Two parts of one folder share their classes and channels, or labels would mean different things."""
        mine = {"class_names": self.class_names and list(self.class_names), "channels": self.channels}
        for name, value in mine.items():
            other = index.get(name)
            if value is not None and other is not None and value != other:
                raise ValueError(
                    f"{self.folder / INFO_FILE} has {name} {_short(other)}, this part {_short(value)}; parts of one"
                    " data set must agree"
                )

    def _write_index(self) -> None:
        index = self._read_index()
        self._check_agreement(index)
        names = self.class_names and list(self.class_names)
        if names is not None and not self._names <= set(names):
            raise ValueError(f"labels without a class name: {_short(sorted(self._names - set(names)))}")
        if names is None and self._names:
            names = sorted(self._names | set(index.get("class_names") or ()))
        parts = {**index.get("parts", {}), self.part: {"samples": self.samples, "shards": self.shards}}
        index |= {
            **self.info,
            "class_names": names or index.get("class_names"),
            "channels": self.channels or index.get("channels"),
            "parts": parts,
        }
        temporary = self.folder / f".{INFO_FILE}.{os.getpid()}.partial"
        temporary.write_text(json.dumps(index, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        _place(temporary, self.folder / INFO_FILE)


def _as_json(key: str, metadata: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the metadata of {key!r} must hold strings, numbers and lists; {error}. Use .tolist() on tensors."
        ) from error


def _place(temporary: Path, path: Path) -> None:
    """Sync a finished file and let it appear under its name in one step."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}..."
