"""Any map-style data set of mappings as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from kinfolk.data.sources.base import Source
from kinfolk.data.sources.columns import check_columns, check_ids
from kinfolk.data.sources.convert import to_uint8
from kinfolk.data.sources.records import read_records

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8


class MappingSource(Source):
    """Wrap a data set whose samples are mappings with an image and whatever describes it.

    The data set is read through once, to validate it and to learn its ids and labels; the images are kept in memory
    when they fit `memory_limit_mb` and are read again on every fetch otherwise.

    Args:
        dataset: anything with ``len()`` and integer indexing that gives mappings, for example a
            `torch.utils.data.Dataset`, a list, or a Hugging Face data set. ``"image"`` is a tensor, NumPy array or
            PIL image (see `to_uint8`), all of one size and number of channels. Optional, and then in every sample:
            ``"id"`` (integer, unique; otherwise the position), ``"label"`` (integer, -1 = unlabelled),
            ``"bias_label"``, ``"text"`` (str), ``"text_embedding"`` (1-d), ``"group"``, ``"time"``, ``"hierarchy"``,
            ``"attributes"`` (see `read_records`).
        name: what the log calls the source.
        class_names: one name per class.
        keys: where the data set uses other keys, ``{"image": "img", "label": "fine_label"}``.
        memory_limit_mb: largest size of the images to keep in memory, in MiB.

    Raises:
        ValueError: for an empty data set, a sample without an image, of another size than the first, or with other
            keys.
        TypeError: for samples that are no mappings, and values of a wrong type.

    Example:
        >>> source = MappingSource([{"image": torch.rand(8, 8), "label": 1}, {"image": torch.rand(8, 8), "label": 0}])
        >>> source.fetch(torch.tensor([1]))["labels"]
        tensor([0])
    """

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]] | torch.utils.data.Dataset,
        *,
        name: str = "mapping",
        class_names: Sequence[str] | None = None,
        keys: Mapping[str, str] | None = None,
        memory_limit_mb: int = 2048,
    ) -> None:
        self.name, self.class_names = name, None if class_names is None else tuple(class_names)
        self.dataset = cast(Any, dataset)
        self.keys = _all_keys(keys)
        count = len(self.dataset)
        if count == 0:
            raise ValueError("the data set is empty; a source needs at least one sample to know its image size")
        first = self._image(self._sample(0), 0)
        self.channels, self.image_size = first.shape[0], (first.shape[1], first.shape[2])
        self.in_memory = count * first.numel() <= memory_limit_mb * 2**20
        self.images = torch.empty(count, *first.shape, dtype=torch.uint8) if self.in_memory else None
        read = self._read_all(count)
        self.ids = check_ids(torch.tensor(read.get("id", range(count))), count=count)
        embeddings = read.get("text_embedding")
        self.columns = check_columns(
            {
                "labels": _integers(read.get("label")),
                "bias_labels": _integers(read.get("bias_label")),
                "text": read.get("text"),
                "text_embedding": None if embeddings is None else torch.stack([_vector(value) for value in embeddings]),
                **read_records(_records(read, count), where=name),
            },
            count=count,
            class_names=self.class_names,
        )

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Read images by position; see `Source.read`."""
        if self.images is not None:
            return self.images[indices]
        return torch.stack([self._image(self._sample(i), i) for i in indices.tolist()])

    def _read_all(self, count: int) -> dict[str, list[Any]]:
        """Check every sample, keep the images where they fit, and collect the rest by key."""
        present = [key for key in _KEYS[1:] if self.keys[key] in self._sample(0)]
        columns: dict[str, list[Any]] = {key: [] for key in present}
        for i in range(count):
            sample = self._sample(i)
            image = self._image(sample, i)
            if (image.shape[0], image.shape[1:]) != (self.channels, self.image_size):
                raise ValueError(
                    f"all images must have one size: sample 0 of {self.name!r} is {self.channels}x{self.image_size[0]}x"
                    f"{self.image_size[1]}, sample {i} is {'x'.join(map(str, image.shape))}. Resize in the data set."
                )
            if self.images is not None:
                self.images[i] = image
            if [key for key in _KEYS[1:] if self.keys[key] in sample] != present:
                raise ValueError(
                    f"all samples must have the same keys: sample 0 has {present}, sample {i} {sorted(sample)}"
                )
            for key in present:
                columns[key].append(_checked(sample[self.keys[key]], key, f"sample {i} of {self.name!r}"))
        return columns

    def _sample(self, index: int) -> Mapping[str, Any]:
        sample = self.dataset[index]
        if not isinstance(sample, Mapping):
            raise TypeError(
                f"sample {index} of {self.name!r} must be a mapping with {self.keys['image']!r}; found"
                f" {type(sample).__name__}. Wrap the data set so that it gives dicts."
            )
        if self.keys["image"] not in sample:
            raise ValueError(
                f"sample {index} of {self.name!r} has no {self.keys['image']!r}; it has {sorted(sample)}."
                " Name the key, for example keys={'image': 'img'}."
            )
        return sample

    def _image(self, sample: Mapping[str, Any], index: int) -> Tensor:
        return to_uint8(sample[self.keys["image"]], where=f"sample {index} of {self.name!r}")


_FURTHER = ("group", "time", "hierarchy", "attributes")
_KEYS = ("image", "id", "label", "bias_label", "text", "text_embedding", *_FURTHER)


def _all_keys(renamed: Mapping[str, str] | None) -> dict[str, str]:
    renamed = dict(renamed or {})
    unknown = sorted(set(renamed) - set(_KEYS))
    if unknown:
        raise ValueError(f"keys may rename {', '.join(_KEYS)}; found {unknown}")
    return {key: renamed.get(key, key) for key in _KEYS}


def _checked(value: Any, key: str, where: str) -> Any:
    if key == "text_embedding" or key in _FURTHER:
        return value
    if key == "text":
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: text must be a caption that is not empty; found {value!r}")
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{where}: {key} must be an integer; found {value!r}. Number the classes from 0.")
    return number


def _records(columns: Mapping[str, list[Any]], count: int) -> list[dict[str, Any]]:
    """What `read_records` reads, one mapping per sample; attributes may be a list, an array or a tensor."""
    known = [key for key in _FURTHER if key in columns]
    return [{key: _plain(columns[key][i]) for key in known} for i in range(count)]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _integers(values: list[int] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)


def _vector(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).flatten()
