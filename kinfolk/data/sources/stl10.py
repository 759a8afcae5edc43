"""STL-10 in its published binary form, whose unlabelled images stay in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.sources.base import ArraySource, Source, Splits
from kinfolk.data.sources.columns import check_columns, check_ids

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

_SHAPE = (3, 96, 96)
_RECORD = 3 * 96 * 96
_CLASSES = 10


@dataclass(frozen=True)
class STL10Config:
    """5,000 labelled and 100,000 unlabelled colour photos, 96x96, for training, and 8,000 for testing; ten classes.

    Where training uses unlabelled images, probes and nearest neighbours are fitted on the labelled ones
    (`Splits.probe`). Unlabelled images are read from the file on every fetch, all others are kept in memory. Files may
    hold any number of whole images.

    Args:
        root: the folder with ``train_X.bin``, ``train_y.bin``, ``test_X.bin``, ``test_y.bin``, ``class_names.txt``
            and, where they are used, ``unlabeled_X.bin`` and ``fold_indices.txt``; or the folder above it.
        part: what is trained on: `train` the labelled images, `unlabeled` the others, `train+unlabeled` both (the
            former first, the latter with label -1).
        fold: 0 to 9 keeps one of the published folds of 1,000 labelled images; None keeps all.

    Raises:
        ValueError: for a part or fold that does not exist.

    Reference: Coates, Lee, Ng (2011), An analysis of single-layer networks in unsupervised feature learning.

    Example:
        >>> STL10Config("data/stl10_binary", part="train+unlabeled").part
        'train+unlabeled'
    """

    kind: ClassVar[str] = "stl10"
    root: str
    part: Literal["train", "train+unlabeled", "unlabeled"] = "train"
    fold: int | None = None

    def __post_init__(self) -> None:
        if self.part not in ("train", "train+unlabeled", "unlabeled"):
            raise ValueError(f"part must be 'train', 'train+unlabeled' or 'unlabeled'; found {self.part!r}")
        if self.fold is not None and not 0 <= self.fold <= 9:
            raise ValueError(f"fold must be from 0 to 9, or None for all labelled images; found {self.fold}")

    def load(self) -> Splits:
        """Read the files; ids count the labelled images, then the test images, then the unlabelled ones.

        Raises:
            FileNotFoundError: when a file is missing; the message names it.
            ValueError: when a file is damaged, or files do not fit one another.
        """
        folder = _find(Path(self.root))
        labelled = _labelled(folder, "train", first_id=0)
        test = _labelled(folder, "test", first_id=len(labelled))
        chosen = torch.arange(len(labelled)) if self.fold is None else _fold(folder, self.fold, len(labelled))
        kept = labelled if self.fold is None else labelled.subset(chosen)
        if self.part == "train":
            return Splits(kept, test)
        unlabelled = folder / "unlabeled_X.bin"
        ids = torch.arange(_count(unlabelled)) + len(labelled) + len(test)
        labels, paths = torch.full_like(ids, -1), [unlabelled]
        if self.part == "train+unlabeled":
            assert kept.labels is not None
            ids, labels = torch.cat([kept.ids, ids]), torch.cat([kept.labels, labels])
            paths = [folder / "train_X.bin", unlabelled]
            chosen = torch.cat([chosen, torch.arange(_count(unlabelled)) + len(labelled)])
        else:
            chosen = torch.arange(len(ids))
        train = MappedSource(
            paths,
            chosen,
            ids=ids,
            columns={"labels": labels},
            class_names=kept.class_names,
            name=f"stl10 {self.part}",
        )
        return Splits(train, test, probe=kept)


class MappedSource(Source):
    """Images of STL-10's form that stay in their files and are read through a memory map.

    Args:
        paths: files of 27,648 bytes per image, counted through from the first.
        positions: int64 ``[N]``, which of their images are samples, in order.
        ids: int64 ``[N]``, unique.
        columns: what is known beside the images.
        class_names: one name per class, or None.
        name: what the log calls the source.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when a file does not hold whole images, or the columns do not fit.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "X.bin"
        ...     _ = path.write_bytes(bytes([1]) * 27648 + bytes([2]) * 27648)
        ...     MappedSource([path], torch.tensor([1])).read(torch.tensor([0])).unique().item()
        2
    """

    channels, image_size = 3, (96, 96)

    def __init__(
        self,
        paths: Sequence[Path],
        positions: Int[Tensor, " n"],
        *,
        ids: Int[Tensor, " n"] | None = None,
        columns: dict[str, Any] | None = None,
        class_names: tuple[str, ...] | None = None,
        name: str = "stl10",
    ) -> None:
        self.name, self.class_names, self.positions = name, class_names, positions
        self.ids = check_ids(positions if ids is None else ids, count=len(positions))
        self.columns = check_columns(columns or {}, count=len(positions), class_names=class_names)
        self.paths = list(paths)
        self.starts = np.cumsum([0, *(_count(path) for path in self.paths)])
        self._maps: dict[int, np.memmap] = {}

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Read images from the files; see `Source.read`."""
        positions = self.positions[indices].numpy()
        images = np.empty((len(positions), *_SHAPE), dtype=np.uint8)
        files = np.searchsorted(self.starts, positions, side="right") - 1
        for file in np.unique(files).tolist():
            rows = files == file
            images[rows] = _upright(self._map(file)[positions[rows] - self.starts[file]])
        return torch.from_numpy(images)

    def _map(self, file: int) -> np.memmap:
        if file not in self._maps:
            self._maps[file] = np.memmap(self.paths[file], np.uint8, "r", shape=(_count(self.paths[file]), _RECORD))
        return self._maps[file]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a pickled map would carry the whole file


def _find(root: Path) -> Path:
    for folder in (root, root / "stl10_binary"):
        if (folder / "train_X.bin").is_file():
            return folder
    there = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else "no such folder"
    raise FileNotFoundError(
        f"{root} must hold train_X.bin and the other files of STL-10's binary form, there or in stl10_binary; found"
        f" {there}. Unpack the published archive and give its folder as root."
    )


def _labelled(folder: Path, part: str, *, first_id: int) -> ArraySource:
    path, labels_path = folder / f"{part}_X.bin", folder / f"{part}_y.bin"
    count, names = _count(path), _lines(folder / "class_names.txt")
    if len(names) != _CLASSES:
        raise ValueError(f"{folder / 'class_names.txt'} must name {_CLASSES} classes; found {len(names)}")
    labels = np.fromfile(_there(labels_path), dtype=np.uint8).astype(np.int64)
    if len(labels) != count:
        raise ValueError(f"{labels_path} must hold one byte per image of {path.name}, {count}; it has {len(labels)}")
    wrong = (labels < 1) | (labels > _CLASSES)
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(f"{labels_path}: labels are from 1 to {_CLASSES}; found {labels[place]} at position {place}")
    images = _upright(np.fromfile(path, dtype=np.uint8).reshape(-1, _RECORD))
    return ArraySource(
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(labels - 1),
        ids=torch.arange(first_id, first_id + count),
        class_names=names,
        name=f"stl10 {part}",
    )


def _upright(records: np.ndarray) -> np.ndarray:
    """View records as images: each channel lies column by column in the file."""
    return records.reshape(-1, *_SHAPE).swapaxes(2, 3)


def _fold(folder: Path, fold: int, count: int) -> Tensor:
    path = folder / "fold_indices.txt"
    lines = _lines(path)
    if fold >= len(lines):
        raise ValueError(f"{path} must have a line per fold, counted from 0; found {len(lines)} lines for fold {fold}")
    try:
        positions = torch.tensor([int(word) for word in lines[fold].split()], dtype=torch.int64)
    except ValueError as error:
        raise ValueError(f"{path}, line {fold + 1}: must list positions in train_X.bin ({error})") from error
    if int(positions.min()) < 0 or int(positions.max()) >= count or len(positions.unique()) != len(positions):
        raise ValueError(
            f"{path}, line {fold + 1}: positions must be different and from 0 to {count - 1}; found"
            f" {int(positions.min())} to {int(positions.max())}, {len(positions.unique())} different of"
            f" {len(positions)}"
        )
    return positions


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _there(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the whole published archive")
    return path


def _count(path: Path) -> int:
    size = _there(path).stat().st_size
    if size == 0 or size % _RECORD:
        raise ValueError(
            f"{path} must hold images of {_RECORD} bytes; it has {size} bytes, {size / _RECORD:.2f} images. It is"
            " truncated; fetch it again."
        )
    return size // _RECORD
