"""A folder of images: class subfolders, or a metadata file with labels and captions."""

from __future__ import annotations

import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.sources.base import ArraySource, Splits
from kinfolk.data.sources.decode import MAX_PIXELS, Fit, UnreadableImage, read_channels, read_image
from kinfolk.data.sources.encoded import check_decoding
from kinfolk.data.sources.files import FileSource
from kinfolk.data.sources.hold_out import hold_out
from kinfolk.data.sources.listing import Entry, list_folder


@dataclass(frozen=True)
class ImageFolderConfig:
    """A folder of images, labelled by subfolder, described by a metadata file, or plain.

    See `list_folder` for the forms. A sample's id is its place among all usable images of the folder, sorted by
    relative path, so it does not depend on the split. Images are decoded once and kept in memory as bytes when they
    fit `memory_limit_mb`; otherwise on every fetch, by the loader's workers.

    Args:
        path: the folder.
        image_size: ``(H, W)`` to which every image is brought.
        fit: how (see `read_image`): `crop` the middle, `pad`, or `stretch`.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); None takes the most that any image has.
        test_fraction: share of every class that is held out when the folder has no `train` and `test`; files with the
            same content stay on the same side.
        seed: of the hold-out.
        captions: whether `all` images have a caption if one has, or only `some`: the others' is then ``""``, and a
            method may look for one (see `LooseCaptionsConfig`).
        on_error: what to do with an unreadable image or an empty caption: `raise`, or `skip` it, count it, and warn
            with a list.
        memory_limit_mb: largest size of the decoded images to keep in memory, in MiB.
        max_pixels: an image that says it has more is not decoded; see `read_image`.

    Raises:
        ValueError: for a size below one pixel, or a choice that does not exist.

    Example:
        >>> ImageFolderConfig("photos", image_size=(32, 32)).fit
        'crop'
    """

    kind: ClassVar[str] = "folder"
    path: str
    image_size: tuple[int, int] = (64, 64)
    fit: Fit = "crop"
    channels: Literal[1, 3, 4] | None = None
    test_fraction: float = 0.2
    seed: int = 0
    captions: Literal["all", "some"] = "all"
    on_error: Literal["raise", "skip"] = "raise"
    memory_limit_mb: int = 2048
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_decoding(image_size=self.image_size, fit=self.fit, channels=self.channels, on_error=self.on_error)
        if self.captions not in ("all", "some"):
            raise ValueError(f"captions must be 'all' or 'some'; found {self.captions!r}")

    def load(self) -> Splits:
        """List, check and, where they fit, decode the images.

        Raises:
            FileNotFoundError: when there is no such folder.
            ValueError: when it holds no usable image, or, with ``on_error="raise"``, a bad one; the message names it.
            ImportError: without Pillow.
        """
        root = Path(self.path)
        entries = list_folder(root)
        problems = _empty_captions(entries) if self.captions == "all" else {}
        try:
            if problems and self.on_error == "raise":
                raise UnreadableImage(f"{next(iter(problems.values()))}; captions='some' keeps such images")
            source = self._read(root, entries, problems)
        except UnreadableImage as error:
            raise UnreadableImage(
                f"{error}. Mend or remove it, or pass on_error='skip' to leave such images out."
            ) from error
        if problems:
            listed = "\n  ".join([*problems.values()][:20] + ["..."] * (len(problems) > 20))
            warnings.warn(f"{root}: {len(problems)} of {len(entries)} images skipped:\n  {listed}", stacklevel=2)
        return self._split(root, [entry for entry in entries if entry.path not in problems], source)

    def _read(self, root: Path, entries: list[Entry], problems: dict[str, str]) -> ArraySource | FileSource:
        """Read what can be read; the rest is added to `problems`, or raises, as `on_error` says."""
        note = problems if self.on_error == "skip" else None
        found = _read_each(root, [e for e in entries if e.path not in problems], read_channels, note)
        channels: int = self.channels or max(found, default=1)

        def decode(path: Path) -> Tensor:
            return read_image(path, channels=channels, size=self.image_size, fit=self.fit, max_pixels=self.max_pixels)

        fits = len(found) * channels * self.image_size[0] * self.image_size[1] <= self.memory_limit_mb * 2**20
        usable = [entry for entry in entries if entry.path not in problems]
        images = []
        if fits:
            images = _read_each(root, usable, decode, note)
        elif note is not None:  # ids count the usable files, so every bad one must be known before they are given
            _read_each(root, usable, lambda path: decode(path).shape, note)
        usable = [entry for entry in entries if entry.path not in problems]
        if any(entry.text for entry in usable):
            usable = [replace(entry, text=entry.text or "") for entry in usable]
        if not usable:
            raise ValueError(f"{root}: none of its {len(entries)} images is usable; {next(iter(problems.values()))}")
        files = FileSource(
            root,
            usable,
            channels=channels,
            image_size=self.image_size,
            fit=self.fit,
            on_error=self.on_error,
            max_pixels=self.max_pixels,
        )
        return files.with_images(torch.stack(images)) if fits else files

    def _split(self, root: Path, entries: list[Entry], source: ArraySource | FileSource) -> Splits:
        if entries[0].part is None:
            contents = _contents([root / entry.path for entry in entries])
            train, test = hold_out(
                len(entries), fraction=self.test_fraction, seed=self.seed, labels=source.labels, groups=contents
            )
        else:
            is_test = torch.tensor([entry.part == "test" for entry in entries])
            train, test = (~is_test).nonzero().flatten(), is_test.nonzero().flatten()
        return Splits(source.subset(train), source.subset(test))


def _empty_captions(entries: list[Entry]) -> dict[str, str]:
    """Name the images without a caption, if any image has one."""
    if all(entry.text is None for entry in entries):
        return {}
    return {entry.path: f"{entry.path} has no caption" for entry in entries if not entry.text}


def _read_each(
    root: Path, entries: list[Entry], read: Callable[[Path], Any], problems: dict[str, str] | None
) -> list[Any]:
    """Apply `read` to every file, on threads: PIL gives the lock back while it decodes.

    Unreadable files are noted in `problems` and left out of the result, or raise where `problems` is None.
    """

    def attempt(entry: Entry) -> Any:
        try:
            return read(root / entry.path)
        except UnreadableImage as error:
            if problems is None:
                raise
            return error

    results = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for entry, result in zip(entries, pool.map(attempt, entries), strict=True):
            if isinstance(result, UnreadableImage):
                assert problems is not None
                problems[entry.path] = str(result)
            else:
                results.append(result)
    return results


def _contents(paths: list[Path]) -> list[Hashable]:
    """Name each file's content: its size, and a checksum where another file has the same size."""
    sizes = [path.stat().st_size for path in paths]
    shared = Counter(sizes)
    return [
        (size, zlib.crc32(path.read_bytes()) if shared[size] > 1 else 0)
        for path, size in zip(paths, sizes, strict=True)
    ]
