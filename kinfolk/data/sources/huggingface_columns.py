"""What random access and streams of Hugging Face data sets share: columns that stay undecoded, and errors."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kinfolk.data.counter import counter_uniform
from kinfolk.data.optional import import_extra
from kinfolk.data.sources.cells import encoded_image
from kinfolk.data.sources.decode import UnreadableImage, read_channels

if TYPE_CHECKING:
    from kinfolk.data.sources.huggingface import HuggingFaceConfig

_HEADERS_READ = 256


def undecoded(dataset: Any, image: str) -> Any:
    """Leave only the images of a `datasets.Dataset`, encoded as they are stored."""
    datasets = import_extra("datasets", needed_for="reading Hugging Face data sets")
    dataset = dataset.select_columns([image])
    is_image = type(dataset.features[image]).__name__ == "Image"
    return dataset.cast_column(image, datasets.Image(decode=False)) if is_image else dataset


def caption_cells(values: Any) -> list[Any]:
    """Turn an Arrow column of captions into bytes: one that is not UTF-8 would keep all from being read as text."""
    arrow = import_extra("pyarrow", needed_for="reading Hugging Face data sets")
    is_list = arrow.types.is_list(values.type) or arrow.types.is_large_list(values.type)
    return values.cast(arrow.large_list(arrow.large_binary()) if is_list else arrow.large_binary()).to_pylist()


def choices(config: HuggingFaceConfig, ids: Tensor) -> list[float]:
    """Choose among each sample's captions: numbers for `caption`, 0 for the first."""
    if config.caption == "first":
        return [0.0] * len(ids)
    return counter_uniform((config.seed,), ids, count=1)[:, 0].tolist()


def most_channels(cells: Iterable[Any]) -> int:
    """Read some images' headers and return the most channels that any has."""
    found = [1]
    for cell in islice(cells, _HEADERS_READ):
        try:
            found.append(read_channels(encoded_image(cell, where="")))
        except UnreadableImage:
            continue  # whoever decodes it names it
    return max(found)


def reading_errors() -> tuple[type[Exception], ...]:
    """Return what `datasets` raises when it cannot read or fetch something."""
    datasets = import_extra("datasets", needed_for="reading Hugging Face data sets")
    return OSError, ValueError, datasets.exceptions.DatasetsError  # Arrow's own errors are among the first two


def reason(error: Exception) -> str:
    """Say what lies behind an error: `datasets` wraps what Arrow says."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return f"{type(cause).__name__}: {cause}"
