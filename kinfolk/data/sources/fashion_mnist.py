"""Fashion-MNIST, and any other folder that holds the same four IDX files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from kinfolk.data.sources.base import ArraySource, Splits
from kinfolk.data.sources.convert import stack_to_uint8
from kinfolk.data.sources.idx import read_idx

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class FashionMNISTConfig:
    """60,000 + 10,000 grey images of clothes, 28x28, in ten balanced classes; or a set of your own in the same form.

    Args:
        root: folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the two ``t10k-`` files, each
            with or without ``.gz``. By default the first that exists of ``$KINFOLK_DATA/fashion-mnist``,
            ``.data/fashion-mnist`` and ``/usr/share/datasets/fashion-mnist``.
        class_names: one name per class; None for a set of your own whose names are not known.

    Reference: Xiao, Rasul, Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
        algorithms.

    Example:
        >>> FashionMNISTConfig().class_names[9]
        'Ankle boot'
    """

    kind: ClassVar[str] = "fashion-mnist"
    root: str | None = None
    class_names: tuple[str, ...] | None = FASHION_CLASSES

    def load(self) -> Splits:
        """Read the four files; training ids are 0.., test ids go on from there.

        Raises:
            FileNotFoundError: when a file is missing; the message says how to get the data.
            ValueError: when a file is damaged, or images and labels do not fit one another.
        """
        folder = fashion_mnist_folder() if self.root is None else Path(self.root)
        train = self._part(folder, "train", first_id=0)
        return Splits(train, self._part(folder, "t10k", first_id=len(train)))

    def _part(self, folder: Path, part: str, *, first_id: int) -> ArraySource:
        images_path, labels_path = (_find(folder, stem) for stem in IDX_STEMS if stem.startswith(part))
        images = stack_to_uint8(read_idx(images_path), where=str(images_path))
        labels = torch.from_numpy(read_idx(labels_path)).to(torch.int64)
        try:
            return ArraySource(
                images, labels, ids=_ids(first_id, images), class_names=self.class_names, name=f"{folder.name} {part}"
            )
        except ValueError as error:
            raise ValueError(f"{images_path} and {labels_path.name}: {error}") from error


def fashion_mnist_folder() -> Path:
    """Find the data set where `kinfolk data prepare` or the system's package puts it.

    Raises:
        FileNotFoundError: when it is in none of the places; the message names them and the command that fetches it.
    """
    roots = [Path(".data"), Path("/usr/share/datasets")]
    if "KINFOLK_DATA" in os.environ:
        roots.insert(0, Path(os.environ["KINFOLK_DATA"]))
    candidates = [root / "fashion-mnist" for root in roots]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        "fashion-mnist was not found in " + ", ".join(map(str, candidates)) + ". "
        "Fetch it with `kinfolk data prepare fashion-mnist`, or give the folder of the four IDX files as root."
    )


def _find(folder: Path, stem: str) -> Path:
    names = [stem, stem.replace("-idx", ".idx")]  # both spellings are about
    for path in (folder / (name + ending) for ending in ("", ".gz") for name in names):
        if path.is_file():
            return path
    there = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else "no such folder"
    raise FileNotFoundError(
        f"{folder} must hold {stem} or {stem}.gz; found {there}. `kinfolk data prepare fashion-mnist` fetches the data."
    )


def _ids(first: int, images: Tensor) -> Tensor:
    return torch.arange(first, first + len(images))
