"""What derived sets share: which classes there are, and a seeded order of samples that depends on their ids alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_uniform
from kinfolk.data.sources.base import Source

if TYPE_CHECKING:
    from jaxtyping import Int


def required_labels(source: Source, *, needed_for: str, complete: bool = True) -> Int[Tensor, " N"]:
    """Return a source's labels, or say who needs them.

    Args:
        source: any.
        needed_for: the derived set, in words, for the message.
        complete: whether every sample must have one.

    Raises:
        ValueError: when there are no labels, or some samples have none.
    """
    labels = source.labels
    if labels is None or not bool((labels >= 0).any()):
        raise ValueError(f"{needed_for} needs labels; source {source.name!r} has none")
    if complete and bool((labels < 0).any()):
        raise ValueError(
            f"{needed_for} needs a label for every sample; source {source.name!r} has {int((labels < 0).sum())}"
            f" unlabelled of {len(labels)}. Leave those out with `subset`, or make this set before labels are hidden."
        )
    return labels


def class_count(*sources: Source) -> int:
    """How many classes there are: the class names' number, or one more than the largest label of any of the sources.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> class_count(ArraySource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 6])))
        7
    """
    for source in sources:
        if source.class_names is not None:
            return len(source.class_names)
    largest = [int(source.labels.max()) for source in sources if source.labels is not None and len(source)]
    return max(largest, default=-1) + 1


def seeded_order(key: tuple[int, ...], ids: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Shuffle samples by a hash of key and id: two samples keep their order whatever other samples there are.

    Returns:
        Positions, so that ``ids[seeded_order(key, ids)]`` is shuffled.

    Example:
        >>> whole, part = torch.arange(9), torch.tensor([7, 2])
        >>> shuffled = whole[seeded_order((0,), whole)].tolist()
        >>> part[seeded_order((0,), part)].tolist() == [i for i in shuffled if i in (2, 7)]
        True
    """
    high, low = counter_uniform(key, ids, count=2).to(torch.float64).unbind(1)
    return (high + low * 2.0**-24).argsort(stable=True)


def members_by_class(
    key: tuple[int, ...], labels: Int[Tensor, " n"], ids: Int[Tensor, " n"], classes: int
) -> list[Int[Tensor, " k"]]:
    """List every class's positions in their seeded order; unlabelled samples are in none.

    Example:
        >>> [len(members) for members in members_by_class((0,), torch.tensor([2, 0, 2, -1]), torch.arange(4), 3)]
        [1, 0, 2]
    """
    order = seeded_order(key, ids)
    shuffled = labels[order]
    return [order[shuffled == label] for label in range(classes)]


def check_share(name: str, value: float, *, low: float = 0.0, high: float = 1.0) -> None:
    """Validate a share.

    Raises:
        ValueError: when it lies outside the range, or is not a number.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} must be a share from {low:g} to {high:g}; found {value}")
