"""Captions from a file, without images, beside a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kinfolk.data.derived.wrapper import with_columns
from kinfolk.data.sources.base import Splits


@dataclass(frozen=True)
class LooseCaptionsConfig:
    """Lay captions of a text file beside the training part, for a method that looks for the images that they fit.

    Images with the caption ``""`` are those that look for one.

    Args:
        file: a caption on each line, UTF-8; empty lines are passed over. A caption that stands there several times may
            go to as many images.

    Raises:
        ValueError: for an empty path.

    Example:
        >>> LooseCaptionsConfig("captions.txt").kind
        'loose-captions'
    """

    kind: ClassVar[str] = "loose-captions"
    file: str

    def __post_init__(self) -> None:
        if not self.file.strip():
            raise ValueError("file must name a text file with a caption on each line; found an empty path")

    def apply(self, splits: Splits) -> Splits:
        """Read the file.

        Raises:
            FileNotFoundError: when it is not there.
            ValueError: when it is no UTF-8, or has no caption.
        """
        path = Path(self.file)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path} with captions, one on each line")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no UTF-8 text: {error}; save it as UTF-8") from error
        captions = [line.strip() for line in lines if line.strip()]
        if not captions:
            raise ValueError(f"{path} has no caption; write one on each line")
        train = with_columns(splits.train, {})
        train.loose_captions = captions
        return Splits(train, splits.test, probe=splits.probe)
