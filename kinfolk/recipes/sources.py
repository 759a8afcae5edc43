"""From what people type after ``--data`` to a source's config."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kinfolk.data import (
    ArraysConfig,
    CIFARConfig,
    DigitsConfig,
    EmojiConfig,
    FashionMNISTConfig,
    HuggingFaceConfig,
    IconsConfig,
    ImageFolderConfig,
    ImageNetConfig,
    ShardsConfig,
    STL10Config,
    TableConfig,
)
from kinfolk.data.sources.table_file import read_table
from kinfolk.train import SourceConfig

DATASETS: dict[str, SourceConfig] = {
    "digits": DigitsConfig(),
    "digits-moved": DigitsConfig(moved=True),
    "fashion-mnist": FashionMNISTConfig(),
    "emoji": EmojiConfig(),
    "emoji-hands": EmojiConfig(renderings=True),
    "icons": IconsConfig(),
}
_HUB = "hf:"
_SYNSET = re.compile(r"n\d{8}")


def source_config(data: str) -> SourceConfig:
    """Find out what a name or path stands for.

    Args:
        data: A data set's name (one of `DATASETS`); ``hf:NAME`` for a Hugging Face data set; a file: ``.npz`` with
            images, ``.csv``, ``.npy`` or ``.parquet`` with a table, ``.parquet`` or ``.arrow`` with images, ``.tar``
            shards, also as ``train-{000..009}.tar``; or a folder: of images, tar shards, Parquet or Arrow files, or in
            the published form of MNIST (IDX), CIFAR, STL-10 or ImageNet.

    Raises:
        FileNotFoundError: If it is no name and nothing lies at the path; the message says what is accepted.
        ValueError: If it is a file of another kind.

    Example:
        >>> source_config("digits-moved").moved
        True
        >>> source_config("hf:uoft-cs/cifar10").path
        'uoft-cs/cifar10'
    """
    if data in DATASETS:
        return DATASETS[data]
    if data.startswith(_HUB):
        return HuggingFaceConfig(path=data.removeprefix(_HUB))
    path = Path(data).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".tar" and (path.is_file() or any(mark in path.name for mark in "{*?")):
        return ShardsConfig(path=str(path))
    if path.is_file():
        return _file(path)
    raise FileNotFoundError(f"no data set and no path {data!r}; data is {_ACCEPTED}")


def source_like(own: SourceConfig, data: str) -> SourceConfig:
    """Find out what other data are, and read them as a run read its own where both have one form.

    Image size, channels and keys of a folder or of shards stay those of the run, and so do the columns of a table as
    far as the other has them: new rows need not have a label.

    Args:
        own: the run's source.
        data: as `source_config` takes it.

    Example:
        >>> source_like(DigitsConfig(), "digits-moved").moved
        True
    """
    config = source_config(data)
    if isinstance(config, ShardsConfig) and isinstance(own, ShardsConfig):
        return replace(own, path=config.path, test_path=None)
    if isinstance(config, ImageFolderConfig) and isinstance(own, ImageFolderConfig):
        return replace(own, path=config.path)
    if not (isinstance(config, TableConfig) and isinstance(own, TableConfig)):
        return config
    there = read_table(config.path)
    label, row_id, text, part = (name if name in there else None for name in (own.label, own.id, own.text, own.part))
    ignored = tuple(name for name in own.ignored if name in there)
    return replace(own, path=config.path, label=label, id=row_id, text=text, part=part, ignored=ignored)


def _file(path: Path) -> SourceConfig:
    if path.suffix == ".npz":
        return ArraysConfig(path=str(path))
    if path.suffix in (".csv", ".tsv", ".npy"):
        return TableConfig(path=str(path))
    if path.suffix == ".parquet":
        return HuggingFaceConfig(path=str(path)) if _has_images(path) else TableConfig(path=str(path))
    if path.suffix == ".arrow":
        return HuggingFaceConfig(path=str(path))
    raise ValueError(f"{path} is not something to read samples from; data is {_ACCEPTED}")


def _folder(path: Path) -> SourceConfig:
    for known, (holds, config) in _FOLDERS.items():
        if holds(path):
            assert known
            return config(str(path))
    return ImageFolderConfig(path=str(path))


def _has(*patterns: str) -> Callable[[Path], bool]:
    return lambda folder: any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _is_prepared(name: str) -> Callable[[Path], bool]:
    def holds(folder: Path) -> bool:
        note = folder / "prepared.json"
        return note.is_file() and json.loads(note.read_text(encoding="utf-8")).get("name") == name

    return holds


def _has_synsets(folder: Path) -> bool:
    train = folder / "train"
    return train.is_dir() and any(_SYNSET.fullmatch(place.name) for place in train.iterdir())


def _cifar(root: str) -> CIFARConfig:
    return CIFARConfig(root, classes="100" if _has("train.bin", "train", "cifar-100-*")(Path(root)) else "10")


# Looked at in this order: what a folder holds, and the config that reads it.
_FOLDERS: dict[str, tuple[Callable[[Path], bool], Callable[[str], SourceConfig]]] = {
    "emoji": (_is_prepared("emoji"), lambda root: EmojiConfig(root=root)),
    "icons": (_is_prepared("icons"), lambda root: IconsConfig(root=root)),
    "IDX": (_has("train-images*"), lambda root: FashionMNISTConfig(root=root, class_names=None)),
    "CIFAR": (_has("data_batch_1*", "train.bin", "cifar-10-batches-*", "cifar-100-*", "fine_label_names.txt"), _cifar),
    "STL-10": (_has("train_X.bin", "stl10_binary"), STL10Config),
    "ImageNet": (_has_synsets, ImageNetConfig),
    "tar shards": (_has("*.tar"), ShardsConfig),
    "Hugging Face": (
        _has("dataset_info.json", "dataset_dict.json", "*.parquet", "data/*.parquet", "*/*.parquet", "*.arrow"),
        HuggingFaceConfig,
    ),
}


def _has_images(path: Path) -> bool:
    """Whether a Parquet file has a column of encoded images: bytes, or a struct with bytes."""
    from kinfolk.data.optional import import_extra

    parquet = import_extra("pyarrow.parquet", needed_for="reading Parquet files")
    types = [str(field.type) for field in parquet.read_schema(path)]
    return any(kind.startswith(("struct<bytes: binary", "binary", "large_binary")) for kind in types)


_ACCEPTED = (
    f"one of {', '.join(DATASETS)}, hf:NAME, an .npz, .csv, .npy, .parquet, .arrow or .tar file, a folder of images, of"
    " tar shards, of Parquet files, or of IDX, CIFAR, STL-10 or ImageNet files"
)
