"""What a subset takes its samples from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.sources.base import Source, Subset
from kinfolk.data.sources.encoded import EncodedSubset

if TYPE_CHECKING:
    from jaxtyping import Int


def whole_of(source: Source) -> tuple[Source, Int[Tensor, " n"]]:
    """Return the source that reads a subset's samples, and their positions in it; any other source is its own whole.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> source = ArraySource(torch.zeros(5, 1, 2, 2, dtype=torch.uint8))
        >>> whole, positions = whole_of(Subset(source, torch.tensor([4, 1])))
        >>> whole is source, positions.tolist()
        (True, [4, 1])
    """
    whole, positions = source, torch.arange(len(source))
    while isinstance(whole, Subset | EncodedSubset):
        positions = whole.indices[positions]
        whole = whole.source
    return whole, positions
