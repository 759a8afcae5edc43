"""The samples of a stream: what gives them, how they become a batch, and the first of them in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from kinfolk.data.sources.base import ArraySource
from kinfolk.data.sources.columns import Column
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.encoded import OnError

_LISTED = 20


class Stream(Protocol):
    """Samples that can only be read one after another, from the first or from a place that is skipped to."""

    def open(self, start: int) -> Iterator[Any]:
        """Give the samples from a position on, undecoded and always in the same order."""

    def decode(self, sample: Any, position: int) -> dict[str, Any]:
        """Decode one sample: ``"images"`` uint8 ``[C, H, W]``, and one entry under the name of every column.

        Raises:
            UnreadableImage: naming what cannot be read.
        """


def read_head(
    stream: Stream,
    count: int,
    *,
    start: int = 0,
    first_id: int | None = None,
    name: str,
    class_names: tuple[str, ...] | None = None,
    on_error: OnError = "raise",
) -> ArraySource:
    """Decode some samples of a stream into memory.

    Args:
        stream: the samples.
        count: how many, counted before unreadable ones are left out; fewer where the stream is shorter.
        start: position of the first.
        first_id: its id; by default its position.
        name: what the log calls the source.
        class_names: one name per class, or None.
        on_error: `raise`, or `skip` what cannot be read, with a warning that lists it.

    Raises:
        UnreadableImage: naming a sample that cannot be read.
        ValueError: when no sample is left.
    """
    read: list[tuple[dict[str, Any], list[str]]] = []
    problems: list[str] = []
    for position, sample in enumerate(islice(stream.open(start), count), start=start):
        try:
            identity = position if first_id is None else first_id + position - start
            read.append(({"ids": identity, **stream.decode(sample, position)}, []))
        except UnreadableImage as error:
            if on_error == "raise":
                raise
            problems.append(str(error))
    if not read:
        raise ValueError(
            f"{name}: none of the {count} samples from position {start} on can be read;"
            f" {problems[0] if problems else 'the stream ends before them'}"
        )
    if problems:
        listed = "\n  ".join([*problems[:_LISTED], *["..."] * (len(problems) > _LISTED)])
        warnings.warn(f"{name}: {len(problems)} of the first samples skipped:\n  {listed}", stacklevel=2)
    batch = collate(read)
    return ArraySource(batch.pop("images"), ids=batch.pop("ids"), columns=batch, class_names=class_names, name=name)


def collate(samples: Sequence[tuple[dict[str, Any], list[str]]]) -> dict[str, Any]:
    """Put decoded samples, each with what was skipped for it, together in the form of `Source.fetch`.

    Example:
        >>> collate([({"ids": 4, "text": "a"}, ["sample 3 is bad"]), ({"ids": 7, "text": "b"}, [])])
        {'ids': tensor([4, 7]), 'text': ['a', 'b'], 'skipped': ['sample 3 is bad']}
    """
    batch = {key: _column([sample[key] for sample, _ in samples]) for key in samples[0][0]}
    skipped = [problem for _, problems in samples for problem in problems]
    return {**batch, "skipped": skipped} if skipped else batch


def _column(values: list[Any]) -> Column:
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    if isinstance(values[0], int):
        return torch.tensor(values, dtype=torch.int64)
    if isinstance(values[0], float):
        return torch.tensor(values, dtype=torch.float64)
    return values
