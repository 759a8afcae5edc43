"""Images in a NumPy archive."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.sources.base import ArraySource, Splits
from kinfolk.data.sources.convert import stack_to_uint8
from kinfolk.data.sources.hold_out import hold_out, image_digests

_STRINGS = ("text", "hierarchy")
_NUMBERS = ("labels", "bias_labels", "groups", "text_embedding", "attributes", "times", "saliency")
_KNOWN = ("images", *_NUMBERS, *_STRINGS, "class_names")


@dataclass(frozen=True)
class ArraysConfig:
    """An ``.npz`` file with ``images`` and, where known, what describes them.

    The file holds ``images``: ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]`` with C of 1, 3 or 4 (channels are
    last where both ends fit), bytes, or floats in [0, 1], which become ``round(255 x)``. It may hold ``labels``
    (integers, -1 = unlabelled), ``text`` (captions), ``text_embedding`` ``[N, e]``, any other column that `Source`
    lists, and ``class_names``, and a test part under the same names with ``test_`` before them. Without
    ``test_images`` a seeded share of every class is held out, copies of one image on the same side.

    Args:
        path: the file.
        test_fraction: share that is held out when the file has no test part, in [0, 1).
        seed: of the hold-out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = np.arange(10 * 8 * 8, dtype=np.uint16).reshape(10, 8, 8) / 640
        ...     np.savez(f"{folder}/tiny.npz", images=images, labels=np.arange(10) % 2)
        ...     splits = ArraysConfig(f"{folder}/tiny.npz").load()
        >>> len(splits.train), len(splits.test), splits.train.channels
        (8, 2, 1)
    """

    kind: ClassVar[str] = "arrays"
    path: str
    test_fraction: float = 0.2
    seed: int = 0

    def load(self) -> Splits:
        """Read the archive.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is no archive, has no ``images``, an unknown name, or parts that do not fit one another.
            TypeError: for images or labels of another type.
        """
        arrays = self._read()
        name = Path(self.path).stem
        class_names = arrays.pop("class_names", None)
        names = None if class_names is None else tuple(map(str, class_names.tolist()))
        test_part = {key.removeprefix("test_"): value for key, value in arrays.items() if key.startswith("test_")}
        train_part = {key: value for key, value in arrays.items() if not key.startswith("test_")}
        whole = _source(train_part, names, name, where=self.path)
        if test_part:
            ids = torch.arange(len(whole), len(whole) + len(test_part["images"]))
            test = _source(test_part, names, name, where=f"{self.path}, test part", ids=ids)
            if (test.channels, test.image_size) != (whole.channels, whole.image_size):
                raise ValueError(f"{self.path}: images and test_images must be alike; found {whole} and {test}")
            return Splits(whole, test)
        train, held = hold_out(
            len(whole),
            fraction=self.test_fraction,
            seed=self.seed,
            labels=whole.labels,
            groups=image_digests(whole.images),
        )
        return Splits(whole.subset(train), whole.subset(held))

    def _read(self) -> dict[str, np.ndarray]:
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"no file {self.path!r}; give the path of an .npz archive that holds `images`")
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
        except (ValueError, OSError, AttributeError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path} is not a readable .npz archive of plain arrays: {error}") from error
        unknown = [key for key in arrays if key.removeprefix("test_") not in _KNOWN or key == "test_class_names"]
        if "images" not in arrays or unknown:
            raise ValueError(
                f"{self.path} must hold `images` and may hold {', '.join(_KNOWN[1:])}, each but class_names also"
                f" with `test_` before it; found {', '.join(arrays) or 'nothing'}"
            )
        if any(key.startswith("test_") for key in arrays) and "test_images" not in arrays:
            raise ValueError(f"{self.path} has a test part without test_images; found {', '.join(arrays)}")
        return arrays


def _source(
    part: dict[str, np.ndarray],
    class_names: tuple[str, ...] | None,
    name: str,
    *,
    where: str,
    ids: Tensor | None = None,
) -> ArraySource:
    columns: dict[str, Any] = {}
    for key in sorted(set(part) - {"images", *_STRINGS}):
        if part[key].dtype.kind not in "iuf":
            raise TypeError(f"{where}: {key} must hold numbers (classes counted from 0); found {part[key].dtype}")
        columns[key] = torch.from_numpy(part[key])
    for key in ("text_embedding", "attributes"):
        if key in columns:
            columns[key] = columns[key].to(torch.float32)
    for key in _STRINGS:
        if key in part:
            columns[key] = [str(value) for value in part[key].tolist()]
    try:
        images = stack_to_uint8(part["images"], where="images")
        return ArraySource(images, ids=ids, class_names=class_names, name=name, columns=columns)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
