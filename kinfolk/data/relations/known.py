"""What a relation asks of a data set: samples that can be looked up, and the column that it is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.data.sources.base import Source
from kinfolk.data.sources.streaming import StreamSource

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def check_source(source: Any, *, needed_for: str) -> None:
    """Refuse what has no samples to look up, such as a stream.

    Raises:
        TypeError: for a stream, and anything but a `Source`.

    Example:
        >>> check_source(iter([]), needed_for="a class table")
        Traceback (most recent call last):
        TypeError: a class table is built over all samples of a data set, looked up by id; found list_iterator, ...
    """
    if not isinstance(source, Source) or isinstance(source, StreamSource):
        raise TypeError(
            f"{needed_for} is built over all samples of a data set, looked up by id; found {type(source).__name__},"
            " whose samples have no positions. Prepare the data as a folder, shards with an index, or arrays; a stream"
            " can bring text_embedding in its batches instead."
        )


def known_column(source: Source, name: str, *, needed_for: str, instead: str = "") -> Any:
    """Return a column of a source.

    Args:
        source: over whose samples a relation is built.
        name: of the column.
        needed_for: what it is needed for, in words, for the message.
        instead: what to do without it.

    Raises:
        TypeError: for a stream.
        ValueError: when the source does not have the column; the message lists those it has.

    Example:
        >>> from kinfolk.data.sources import ArraySource
        >>> source = ArraySource(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), text=["a cat"])
        >>> known_column(source, "text", needed_for="a caption graph")
        ['a cat']
    """
    check_source(source, needed_for=needed_for)
    if name not in source.columns:
        known = ", ".join(sorted(source.columns)) or "nothing beside the images"
        raise ValueError(
            f"{needed_for} needs {name!r}, and {source.name!r} knows {known}{'; ' if instead else ''}{instead}"
        )
    return source.columns[name]


def number_column(source: Source, name: str, *, needed_for: str) -> Float[Tensor, "N a"]:
    """Return a column of numbers as float64 ``[N, a]``, one row per sample.

    Raises:
        TypeError: for a column that holds no numbers, or a stream.
        ValueError: when it is missing, has no rows of numbers, or some are not finite; the message names the ids.
    """
    values = known_column(source, name, needed_for=needed_for)
    try:
        table = torch.as_tensor(values).to(torch.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{needed_for} needs numbers in {name!r}; found entries such as {list(values)[:2]!r}") from None
    table = table.reshape(len(table), -1) if len(table) else table.reshape(0, 1)
    require_finite(table, source.ids, what=name)
    return table


def require_finite(rows: Float[Tensor, "N a"], ids: Int[Tensor, " N"], *, what: str) -> None:
    """Refuse rows that are not finite and name their samples.

    Raises:
        ValueError: with the ids.
    """
    bad = ids[~rows.isfinite().all(dim=1)]
    if len(bad):
        raise ValueError(
            f"{what} must be finite; those of {len(bad)} samples are not, such as ids {bad[:5].tolist()}."
            " Fill them in, or leave these samples out with subset."
        )
