"""From what people type after ``--data`` to a source's config."""

from __future__ import annotations

from pathlib import Path

from kinfolk.data import ArraysConfig, DigitsConfig, FashionMNISTConfig, ImageFolderConfig
from kinfolk.train import SourceConfig

DATASETS: dict[str, SourceConfig] = {
    "digits": DigitsConfig(),
    "digits-moved": DigitsConfig(moved=True),
    "fashion-mnist": FashionMNISTConfig(),
}


def source_config(data: str) -> SourceConfig:
    """Find out what a name or path stands for.

    Args:
        data: A data set's name, an ``.npz`` file, a folder with IDX files as MNIST has them, or a folder of images.

    Raises:
        FileNotFoundError: If it is no name and nothing lies at the path; the message says what is accepted.
        ValueError: If it is a file of another kind.

    Example:
        >>> source_config("digits-moved").moved
        True
    """
    if data in DATASETS:
        return DATASETS[data]
    path = Path(data).expanduser()
    if path.is_file():
        if path.suffix != ".npz":
            raise ValueError(f"{path} is not something to read images from; data is {_ACCEPTED}")
        return ArraysConfig(path=str(path))
    if not path.is_dir():
        raise FileNotFoundError(f"no data set and no path {data!r}; data is {_ACCEPTED}")
    if any(path.glob("train-images*")):
        return FashionMNISTConfig(root=str(path), class_names=None)
    return ImageFolderConfig(path=str(path))


_ACCEPTED = f"one of {', '.join(DATASETS)}, a folder of images, a folder of IDX files, or an .npz file with `images`"
