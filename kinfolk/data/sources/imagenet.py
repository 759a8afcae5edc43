"""ImageNet's folders, Tiny ImageNet's, and list files such as those of ImageNet-LT."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.data.sources.base import Splits
from kinfolk.data.sources.decode import Fit
from kinfolk.data.sources.encoded import EncodedSource, OnError
from kinfolk.data.sources.hold_out import hold_out
from kinfolk.data.sources.imagenet_lists import SYNSET, ListedImage, class_names_of, read_lists, read_truth, text_lines

if TYPE_CHECKING:
    from jaxtyping import Int

_ENDINGS = (".jpeg", ".jpg", ".png")
_MISSING_SHOWN = 5


@dataclass(frozen=True)
class ImageNetConfig:
    """ImageNet or a part of it, in the published folders; images are decoded on every fetch.

    Training images lie in ``train/<synset>/`` (or ``train/<synset>/images/``). Test images lie in ``val/<synset>/``, or
    flat in ``val/`` or ``val/images/`` with one of these beside them: ``val_annotations.txt`` (Tiny ImageNet),
    ``LOC_val_solution.csv`` (Kaggle), or the file that `val_labels` names. Without ``val`` a seeded share of every
    class is held out. Classes are numbered by sorted synset, and every sample has its synset in the column `synsets`.
    Class names are the first word or phrase of ``LOC_synset_mapping.txt`` or ``words.txt``, the whole entry where two
    classes begin alike, or the synsets themselves. Nothing is opened on loading but these lists.

    Args:
        root: folder with ``train`` and ``val``, or the one that holds ``ILSVRC/Data/CLS-LOC``.
        image_size: ``(H, W)`` to which every image is brought.
        fit: how; see `read_image`.
        on_error: `raise` on an image that cannot be decoded, or `skip` it and list it in the batch.
        class_list: text file of the synsets to keep, the first word of each line (ImageNet-100 and its like).
        train_list: file of lines ``train/n01440764/n01440764_10026.JPEG 0``, relative to the root; only these images
            are trained on, with these labels (ImageNet-LT). Goes with `test_list`.
        test_list: the same for testing. A file that is not in its class's folder may lie flat in ``val``.
        val_labels: file of lines ``NAME SYNSET`` or ``NAME NUMBER`` (number by sorted synset) for a flat ``val``.
        test_fraction: share of every class that is held out where there is no ``val``.
        seed: of the hold-out.

    Raises:
        ValueError: for lists that do not go together, or a size below one pixel.

    Reference: Russakovsky et al. (2015), ImageNet large scale visual recognition challenge; Liu et al. (2019),
        Large-scale long-tailed recognition in an open world (ImageNet-LT).

    Example:
        >>> ImageNetConfig("data/imagenet", class_list="imagenet100.txt").image_size
        (224, 224)
    """

    kind: ClassVar[str] = "imagenet"
    root: str
    image_size: tuple[int, int] = (224, 224)
    fit: Fit = "crop"
    on_error: OnError = "raise"
    class_list: str | None = None
    train_list: str | None = None
    test_list: str | None = None
    val_labels: str | None = None
    test_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if min(self.image_size) < 1:
            raise ValueError(f"image_size must be (H, W), at least one pixel each; found {self.image_size}")
        if (self.train_list is None) != (self.test_list is None):
            raise ValueError("train_list and test_list go together; give both, or neither")
        if self.train_list is not None and (self.class_list is not None or self.val_labels is not None):
            raise ValueError("train_list and test_list say which images are used; leave out class_list and val_labels")

    def load(self) -> Splits:
        """List the images; training ids are 0.. in the order of the sorted folders or of the list, test ids go on.

        Raises:
            FileNotFoundError: when a folder, a list or a listed image is missing; the message names it.
            ValueError: when a list cannot be read or names a class that the folders do not have.
        """
        root = _find(Path(self.root))
        if self.train_list is not None and self.test_list is not None:
            train, test, synsets = read_lists(root, Path(self.train_list), Path(self.test_list))
        else:
            synsets = _synset_folders(root / "train", self.class_list)
            train = [
                ListedImage(f"train/{path}", n) for n, name in enumerate(synsets) for path in _class_files(root, name)
            ]
            test = _validation(root, synsets, None if self.val_labels is None else Path(self.val_labels))
        if not train:
            raise ValueError(f"{root / 'train'} holds no images; expected train/<synset>/*.JPEG")
        first = len(train)
        if not test:
            labels = torch.tensor([image.label for image in train])
            kept, held = hold_out(first, fraction=self.test_fraction, seed=self.seed, labels=labels)
        else:
            kept, held = torch.arange(first), torch.arange(first, first + len(test))
        images, names = [*train, *test], class_names_of(root, synsets)
        # two sources, not subsets of one: what takes an unreadable image's place stays in its part
        parts = [
            ImageNetSource(
                root, [images[i] for i in ids.tolist()], synsets, self, ids=ids, class_names=names, part=part
            )
            for part, ids in (("train", kept), ("test", held))
        ]
        return Splits(parts[0], parts[1])


class ImageNetSource(EncodedSource):
    """Images of ImageNet's folders; made by `ImageNetConfig`.

    Args:
        root: the folder.
        images: relative path and label of each image.
        synsets: of each class.
        config: how images are decoded.
        ids: int64 ``[N]``.
        class_names: of each class.
        part: `train` or `test`.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[tuple[str, int]],
        synsets: Sequence[str],
        config: ImageNetConfig,
        *,
        ids: Int[Tensor, " n"],
        class_names: tuple[str, ...],
        part: str,
    ) -> None:
        self.root, self.paths = root, [path for path, _ in images]
        super().__init__(
            name=f"{root.name} {part}",
            ids=ids,
            class_names=class_names,
            columns={
                "labels": torch.tensor([label for _, label in images], dtype=torch.int64),
                "synsets": [synsets[label] for _, label in images],
            },
            channels=3,
            image_size=config.image_size,
            fit=config.fit,
            on_error=config.on_error,
        )

    def encoded(self, index: int) -> Path:
        """Return an image's file."""
        return self.root / self.paths[index]

    def where(self, index: int) -> str:
        """Return the file's path."""
        return f"file {self.root / self.paths[index]}"


def _find(root: Path) -> Path:
    for folder in (root, root / "ILSVRC" / "Data" / "CLS-LOC"):
        if (folder / "train").is_dir() or (folder / "val").is_dir():
            return folder
    there = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else "no such folder"
    raise FileNotFoundError(f"{root} must hold train/<synset>/*.JPEG and val/; found {there}")


def _synset_folders(train: Path, class_list: str | None) -> list[str]:
    there = sorted(path.name for path in train.iterdir() if SYNSET.fullmatch(path.name)) if train.is_dir() else []
    if not there:
        raise FileNotFoundError(f"{train} must hold one folder per class, named by synset like n01440764; found none")
    if class_list is None:
        return there
    wanted = [line.split()[0] for line in text_lines(Path(class_list))]
    wrong = [name for name in wanted if name not in set(there)]
    if wrong or not wanted or len(set(wanted)) != len(wanted):
        reason = (
            f"not in {train}: {wrong[:_MISSING_SHOWN]}" if wrong else f"{len(wanted)} lines, {len(set(wanted))} names"
        )
        raise ValueError(f"{class_list} must list different synsets that have a folder; found {reason}")
    return sorted(wanted)


def _class_files(root: Path, synset: str) -> Iterator[str]:
    """List a class's training images, relative to ``train``."""
    folder = root / "train" / synset
    inner = folder / "images"
    prefix, folder = (f"{synset}/images", inner) if inner.is_dir() else (synset, folder)
    return (f"{prefix}/{name}" for name in _images(folder))


def _images(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.lower().endswith(_ENDINGS) and name[0] != ".")


def _validation(root: Path, synsets: list[str], val_labels: Path | None) -> list[ListedImage]:
    """List the test images of the wanted classes, from class folders or flat."""
    val = root / "val"
    if not val.is_dir():
        return []
    folders = {path.name for path in val.iterdir() if SYNSET.fullmatch(path.name)}
    if folders:
        return [
            ListedImage(f"val/{name}/{file}", n)
            for n, name in enumerate(synsets)
            if name in folders
            for file in _images(val / name)
        ]
    flat = val / "images" if (val / "images").is_dir() else val
    truth = read_truth(root, val, val_labels)
    number = {name: n for n, name in enumerate(synsets)}
    files = _images(flat)
    unknown = [file for file in files if file.partition(".")[0] not in truth]
    if unknown:
        raise ValueError(
            f"{flat}: {len(unknown)} of {len(files)} images have no label: {', '.join(unknown[:_MISSING_SHOWN])}"
        )
    prefix, named = flat.relative_to(root).as_posix(), ((file, truth[file.partition(".")[0]]) for file in files)
    return [ListedImage(f"{prefix}/{file}", number[name]) for file, name in named if name in number]
