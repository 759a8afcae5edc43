"""What samplers have in common: the checks of a batch's size, keys as numbers, and a rank's slice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int


def own_slice(batch: Int[Tensor, " b"], *, rank: int, world_size: int) -> Int[Tensor, " share"]:
    """Return a rank's share of a global batch.

    Example:
        >>> own_slice(torch.arange(6), rank=1, world_size=3)
        tensor([2, 3])
    """
    share = len(batch) // world_size
    return batch[rank * share : (rank + 1) * share]


def check_batch(n: int, *, batch_size: int, rank: int, world_size: int, what: str) -> None:
    """Check that `n` things fill a batch and that the ranks divide it.

    Raises:
        ValueError: when they do not; the message has the numbers.
    """
    if batch_size < 1 or n < batch_size:
        raise ValueError(
            f"batch_size must be from 1 to the number of {what}; found batch_size {batch_size}, {what} {n}"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1; found rank {rank}, world_size {world_size}")
    if batch_size % world_size:
        raise ValueError(
            f"batch_size counts all ranks together and must be a multiple of world_size; found {batch_size} for"
            f" {world_size} ranks"
        )


def check_step(step: int, steps: int) -> None:
    """Check that an epoch has a step.

    Raises:
        IndexError: when it has not.
    """
    if not 0 <= step < steps:
        raise IndexError(f"an epoch has steps 0 to {steps - 1}; found step {step}")


def numbered(keys: Int[Tensor, " n"] | Sequence[Hashable]) -> Int[Tensor, " n"]:
    """Number keys by equality: 0, 1, ... for those that occur, -1 for no key.

    Args:
        keys: integers ``[N]`` with -1 for a sample without a key, or one hashable value (such as a caption) per
            sample with None for a sample without one.

    Raises:
        TypeError: for a tensor that is not of integers: equal floating-point numbers are an accident.
        ValueError: for a tensor of more than one dimension.

    Example:
        >>> numbered(["a cat", "a dog", None, "a cat"])
        tensor([ 0,  1, -1,  0])
        >>> numbered(torch.tensor([7, -1, 7]))
        tensor([ 0, -1,  0])
    """
    if isinstance(keys, Tensor):
        return _numbered_tensor(keys)
    numbers: dict[Any, int] = {}
    return torch.from_numpy(
        np.fromiter((-1 if key is None else numbers.setdefault(key, len(numbers)) for key in keys), np.int64)
    )


def _numbered_tensor(keys: Tensor) -> Tensor:
    if keys.is_floating_point() or keys.is_complex():
        raise TypeError(
            f"keys must be integers or hashable values; found {keys.dtype}. quantile_buckets groups numbers."
        )
    if keys.ndim != 1:
        raise ValueError(f"keys must be one per sample, [N]; found {tuple(keys.shape)}")
    numbers = torch.full_like(keys, -1, dtype=torch.int64)
    known = keys >= 0
    numbers[known] = keys[known].unique(return_inverse=True)[1]
    return numbers
