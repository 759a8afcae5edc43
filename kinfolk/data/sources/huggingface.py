"""Hugging Face data sets: from the hub, a folder, Parquet or Arrow files; with random access or as a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from kinfolk.data.optional import import_extra
from kinfolk.data.sources.base import Splits
from kinfolk.data.sources.cells import Roles, find_roles
from kinfolk.data.sources.decode import Fit
from kinfolk.data.sources.encoded import OnError
from kinfolk.data.sources.huggingface_columns import reading_errors, reason
from kinfolk.data.sources.huggingface_rows import indexed_splits
from kinfolk.data.sources.huggingface_stream import streamed_splits

_TEST_SPLITS = ("test", "validation", "valid", "val", "dev")


@dataclass(frozen=True)
class HuggingFaceConfig:
    """A Hugging Face data set of images: a name on the hub, what `save_to_disk` wrote, or Parquet or Arrow files.

    Images stay encoded and are decoded on every fetch. Which columns hold images, labels and captions is told by their
    features or usual names unless it is given. Class names come from the feature `ClassLabel`; labels that are text are
    numbered by sorted name. Columns named as in a metadata file (``bias_label``, ``group``, ``hierarchy``, ``time``,
    ``attributes``, ``attribute_NAME``, ``text_embedding``) are read too; a column ``id`` of different integers gives
    the ids, otherwise training rows count from 0 and test rows go on. Without a test split a seeded share of every
    class is held out, equal images on the same side, for which every image's bytes are read once.

    Args:
        path: name on the hub, folder of `save_to_disk`, folder with Parquet files (``train-*.parquet``,
            ``data/test-*.parquet``, ...) or anything else that `datasets.load_dataset` reads, or one ``.parquet`` or
            ``.arrow`` file.
        config_name: configuration of a data set that has several.
        train_split: name of the training split.
        test_split: name of the test split; by default the first there is of test, validation, valid, val and dev.
        image_column: by default guessed.
        label_column: by default guessed; empty for none.
        text_column: by default guessed; empty for none.
        columns: other columns, pairs of one of the names above and the data set's name for it.
        class_names: where the data set does not name its classes, or in another order for labels that are text.
        caption: where a sample has several captions, the `first` that is not empty, or a `random` one, the same in
            every epoch (a function of seed and id).
        image_size: ``(H, W)`` to which every image is brought.
        fit: how; see `read_image`.
        channels: 1, 3 or 4; None takes the most that any of the first 256 images has.
        on_error: what to do with an unreadable image or an empty caption: `raise`, or `skip` and list it.
        test_fraction: share of every class that is held out when there is no test split, in [0, 1).
        seed: of the hold-out, of random captions and of a stream's order.
        streaming: read the training split as a stream that is never stored; see `StreamSource`. What is stored sorted
            by class comes almost sorted, for the buffer mixes neighbours only.
        samples_per_epoch: of a stream; by default its length, where it is known.
        shuffle_buffer: of a stream, in samples.
        held_out: of a stream, how many samples test: the first of the test split, or where there is none the first of
            the training split, which are never trained on.
        reference: of a stream, how many samples after them stay in memory for probes, neighbours and the report.
        cache: folder where `datasets` keeps converted and fetched files; by default its own.

    Raises:
        ValueError: for a choice that does not exist, or a number out of range.

    Example:
        >>> HuggingFaceConfig("someone/birds", text_column="", image_size=(96, 96)).held_out
        1000
    """

    kind: ClassVar[str] = "huggingface"
    path: str
    config_name: str | None = None
    train_split: str = "train"
    test_split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    text_column: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    class_names: tuple[str, ...] | None = None
    caption: Literal["first", "random"] = "first"
    image_size: tuple[int, int] = (64, 64)
    fit: Fit = "crop"
    channels: Literal[1, 3, 4] | None = None
    on_error: OnError = "raise"
    test_fraction: float = 0.2
    seed: int = 0
    streaming: bool = False
    samples_per_epoch: int | None = None
    shuffle_buffer: int = 2048
    held_out: int = 1000
    reference: int = 2000
    cache: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "columns", tuple(tuple(pair) for pair in self.columns))
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(self.class_names))
        if min(self.image_size) < 1:
            raise ValueError(f"image_size must be (H, W), at least one pixel each; found {self.image_size}")
        for name, choices in (
            ("caption", ("first", "random")),
            ("fit", ("crop", "pad", "stretch")),
            ("channels", (None, 1, 3, 4)),
            ("on_error", ("raise", "skip")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}; found {getattr(self, name)!r}")
        for name in ("samples_per_epoch", "shuffle_buffer", "held_out", "reference"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; found {getattr(self, name)}")

    def load(self) -> Splits:
        """Open the data set, find out what its columns mean, and read all but the images.

        Raises:
            FileNotFoundError: when there is no such file, or the hub does not give the data set.
            ValueError: when it cannot be read, lacks a split or a column, or, with ``on_error="raise"``, an image or
                caption is bad; the message names the row.
            ImportError: without the packages datasets and Pillow.
        """
        splits = _open(self)
        train = _split(splits, self.train_split, self.path)
        test_name = self.test_split or next((name for name in _TEST_SPLITS if name in splits), None)
        test = None if test_name in (None, self.train_split) else _split(splits, str(test_name), self.path)
        features = train.features if train.features is not None else train._resolve_features().features
        roles = find_roles(
            features, image=self.image_column, label=self.label_column, text=self.text_column, columns=self.columns
        )
        if test is not None and test.features is not None:
            _check_alike(features, test.features, roles, self.path)
        return streamed_splits(self, train, test, roles) if self.streaming else indexed_splits(self, train, test, roles)


def _open(config: HuggingFaceConfig) -> Mapping[str, Any]:
    """Open all splits, from wherever the path points."""
    datasets = import_extra("datasets", needed_for="reading Hugging Face data sets")
    path = Path(config.path).expanduser()
    local = path.exists()
    if not local and (config.path.startswith((".", "/", "~")) or path.suffix in (".parquet", ".arrow")):
        raise FileNotFoundError(f"no file or folder {config.path!r}")
    options: dict[str, Any] = {"streaming": config.streaming, "cache_dir": config.cache}
    try:
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            opened = datasets.load_from_disk(str(path))
        elif path.is_file() and path.suffix == ".arrow":
            opened = datasets.Dataset.from_file(str(path))
        elif path.is_file():
            opened = datasets.load_dataset("parquet", data_files=str(path), **options)
        else:
            opened = datasets.load_dataset(str(path) if local else config.path, config.config_name, **options)
    except reading_errors() as error:
        if local:
            raise ValueError(f"{config.path} cannot be read as a Hugging Face data set: {reason(error)}") from error
        raise FileNotFoundError(
            f"{config.path!r} is no local path, and the Hugging Face hub does not give it: {reason(error)}. Without a"
            " connection, fetch it elsewhere (its Parquet files, or `load_dataset(...).save_to_disk(FOLDER)`) and give"
            " the folder as path."
        ) from error
    return opened if isinstance(opened, dict) else {config.train_split: opened}


def _split(splits: Mapping[str, Any], name: str, path: str) -> Any:
    if name not in splits:
        raise ValueError(
            f"{path} has no split {name!r}; it has {', '.join(splits)}. Name it with train_split or test_split."
        )
    return splits[name]


def _check_alike(train: Mapping[str, Any], test: Mapping[str, Any], roles: Roles, path: str) -> None:
    """Refuse a test split that lacks a column, or counts its classes otherwise."""
    missing = [name for name in (roles.image, roles.label, roles.text) if name and name not in test]
    if missing:
        raise ValueError(f"{path}: the test split has no column {missing[0]!r}, which the training split has")
    if roles.label and getattr(train[roles.label], "names", None) != getattr(test[roles.label], "names", None):
        raise ValueError(f"{path}: training and test split name the classes of {roles.label!r} differently")
