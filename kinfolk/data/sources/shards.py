"""WebDataset tar shards, indexed once and then read at random like any other source."""

from __future__ import annotations

import warnings
import zlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.sources.base import Splits
from kinfolk.data.sources.columns import take_columns
from kinfolk.data.sources.decode import MAX_PIXELS, Fit, UnreadableImage, read_image
from kinfolk.data.sources.encoded import EncodedSource, OnError, check_decoding
from kinfolk.data.sources.hold_out import hold_out
from kinfolk.data.sources.shard_listing import ShardListing, list_shards
from kinfolk.data.sources.shard_records import RecordKeys, read_columns
from kinfolk.data.sources.shard_samples import Samples, ShardFiles, find_samples, most_channels, sample_ids
from kinfolk.data.sources.tar_index import DamagedShard

_LISTED = 20


@dataclass(frozen=True)
class ShardsConfig:
    """Uncompressed tar shards in WebDataset's form: members of one sample share what stands before the first dot.

    A sample is an image (``KEY.png``, ``.jpg``, ``.webp``, ...) and any of ``KEY.json`` (an object with ``label``,
    ``text``, and what `read_records` reads), ``KEY.cls`` (a number or a name), ``KEY.txt`` (a caption) and
    ``KEY.saliency.png``. See `list_shards` for how shards are found and divided into parts; without a test part a
    seeded share of every class is held out, samples of one group, and images with the same bytes, on the same side.

    The headers are read once; the index is kept beside the shards in ``.kinfolk-index.npz`` (in memory only where the
    folder cannot be written) and made again for a shard whose size or time has changed. Samples are then read where
    they lie, in any order, by any number of processes; `ShardSampler` gives an order in which reads are nearly
    sequential. Nothing is ever unpacked into the file system.

    A sample's id is the metadata's ``id`` where every sample has a different whole number, else its place among all
    samples, training shards first, shards by name.

    Args:
        path: a folder, a tar file, or a pattern such as ``data/train-{000000..000009}.tar``.
        test_path: the test shards, where they lie elsewhere.
        image_size: ``(H, W)`` to which every image is brought.
        fit: how; see `read_image`.
        channels: 1, 3 or 4; None takes what the shards' index says, else the most that any of 64 images has.
        label_key: the JSON key of the label; see `RecordKeys`.
        text_key: the JSON key of the caption.
        test_fraction: share of every class that is held out when there is no test part.
        seed: of the hold-out.
        on_error: what to do with an unreadable image, an empty caption, damaged metadata, a shard that is missing or
            ends early, and a member that no shard should have: `raise`, or `skip` the samples and list them.
        max_pixels: an image that says it has more is not decoded; see `read_image`.

    Raises:
        ValueError: for a size below one pixel, or a choice that does not exist.

    Example:
        >>> ShardsConfig("shards", image_size=(32, 32)).on_error
        'raise'
    """

    kind: ClassVar[str] = "shards"
    path: str
    test_path: str | None = None
    image_size: tuple[int, int] = (64, 64)
    fit: Fit = "crop"
    channels: Literal[1, 3, 4] | None = None
    label_key: str | None = None
    text_key: str | None = None
    test_fraction: float = 0.2
    seed: int = 0
    on_error: OnError = "raise"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        check_decoding(image_size=self.image_size, fit=self.fit, channels=self.channels, on_error=self.on_error)

    def load(self) -> Splits:
        """Index the shards and read what describes their samples; no image is decoded.

        Raises:
            FileNotFoundError: when the path or a shard is missing.
            ValueError: when there is no usable sample or, with ``on_error="raise"``, for a bad one; the message names
                shard and sample. A `DamagedShard` is one of these.
        """
        listing = list_shards(self.path, test_path=self.test_path)
        problems: list[str] = []
        keys = RecordKeys(label=self.label_key, text=self.text_key)
        found = find_samples((listing.train, listing.test, listing.probe), keys, self.on_error, problems)
        if problems and self.on_error == "raise":
            raise ValueError(f"{problems[0]}. Mend it, or pass on_error='skip' to leave such samples out.")
        if problems:
            listed = "\n  ".join(problems[:_LISTED] + ["..."] * (len(problems) > _LISTED))
            warnings.warn(f"{self.path}: left out\n  {listed}", stacklevel=2)
        if not len(found):
            raise ValueError(f"{self.path}: no usable sample; {next(iter(problems), 'the shards are empty')}")
        return self._split(listing, found)

    def _split(self, listing: ShardListing, found: Samples) -> Splits:
        class_names = listing.info.get("class_names")
        columns, class_names = read_columns(
            found.records,
            class_names=tuple(class_names) if class_names else None,
            dtypes=listing.info.get("columns", {}),
            where=self.path,
        )
        files = ShardFiles(found.shards)
        channels = self.channels or listing.info.get("channels") or most_channels(files, found)
        if None not in found.saliency:
            columns["saliency"] = torch.stack([self._mask(files, found, i) for i in range(len(found))])
        ids = sample_ids(found)

        def source(rows: Tensor) -> ShardSource:
            return ShardSource(
                files,
                found.place[rows.numpy()],
                [found.names[i] for i in rows.tolist()],
                name=listing.name,
                ids=ids[rows],
                class_names=class_names,
                columns=take_columns(columns, rows),
                channels=channels,
                image_size=self.image_size,
                fit=self.fit,
                on_error=self.on_error,
                max_pixels=self.max_pixels,
            )

        train, test, probe = (torch.from_numpy(np.flatnonzero(np.equal(found.parts, part))) for part in range(3))
        if not listing.test:
            kept, held = self._hold_out(source(train))
            train, test = train[kept], train[held]
        return Splits(source(train), source(test), source(probe) if len(probe) else None)

    def _hold_out(self, source: ShardSource) -> tuple[Tensor, Tensor]:
        return hold_out(
            len(source),
            fraction=self.test_fraction,
            seed=self.seed,
            labels=source.labels,
            groups=_same_side(source),
        )

    def _mask(self, files: ShardFiles, found: Samples, index: int) -> Tensor:
        place = found.saliency[index]
        assert place is not None
        where = f"the saliency of {found.names[index]}"
        return read_image(files.read(*place), channels=1, size=self.image_size, fit=self.fit, where=where)


class ShardSource(EncodedSource):
    """Images that lie in tar shards and are decoded on every fetch; `ShardsConfig` makes it.

    Args:
        shards: the files.
        place: int64 ``[N, 3]``, every image's shard, first byte and number of bytes.
        names: every image's member name, for messages.
        options: see `EncodedSource`.
    """

    def __init__(self, shards: ShardFiles, place: np.ndarray, names: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        if len(place) != len(self.ids) or len(names) != len(self.ids):
            raise ValueError(f"{len(self.ids)} ids, but {len(place)} places and {len(names)} names")
        self.shards, self.place, self.names = shards, place, list(names)

    @property
    def shard_of(self) -> Tensor:
        """Which shard every sample lies in, int64 ``[N]``; what `ShardSampler` orders by."""
        return torch.from_numpy(self.place[:, 0].copy())

    @property
    def files(self) -> list[Path]:
        """The shards."""
        return list(self.shards.paths)

    def encoded(self, index: int) -> bytes:
        """Read one image's bytes.

        Raises:
            UnreadableImage: when the shard is missing, shorter than it was, or another file by now.
        """
        shard, offset, length = self.place[index].tolist()
        try:
            return self.shards.read(shard, offset, length)
        except (OSError, DamagedShard) as error:
            raise UnreadableImage(f"{self.where(index)} cannot be read: {error}") from error

    def where(self, index: int) -> str:
        """Return the shard and the member."""
        return f"{self.shards.paths[self.place[index, 0]]}, member {self.names[index]}"


def _same_side(source: ShardSource) -> list[Hashable]:
    """Name what must stay on one side of a split: the sample's group, else its bytes."""
    length = source.place[:, 2].tolist()
    shared = Counter(length)
    groups = source.columns.get("groups")
    group_of = [-1] * len(source) if groups is None else [int(group) for group in groups]
    return [
        ("group", group) if group >= 0 else (size, zlib.crc32(source.encoded(i)) if shared[size] > 1 else 0)
        for i, (group, size) in enumerate(zip(group_of, length, strict=True))
    ]
