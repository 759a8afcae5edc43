"""A seeded, stratified hold-out for data that come without a test part."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8


def hold_out(
    count: int,
    *,
    fraction: float,
    seed: int,
    labels: Int[Tensor, " n"] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> tuple[Int[Tensor, " train"], Int[Tensor, " test"]]:
    """Split positions into a training and a test part, class by class.

    Args:
        count: number of samples.
        fraction: share of every class that is held out, in [0, 1), rounded; a class of two or more gives at least one
            sample to each part unless the fraction is 0.
        seed: which hold-out.
        labels: classes to stratify by (unlabelled samples count as one more class); None holds out of all samples
            alike.
        groups: samples of one group, such as copies of one image, go to the same part, that of the group's first
            sample.

    Returns:
        Positions of the training and of the test samples, ascending, disjoint, together all of them.

    Raises:
        ValueError: for a fraction outside [0, 1).

    Example:
        >>> train, test = hold_out(6, fraction=0.5, seed=0, labels=torch.tensor([0, 0, 1, 1, 1, 1]))
        >>> len(train), len(test), sorted(train.tolist() + test.tolist())
        (3, 3, [0, 1, 2, 3, 4, 5])
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"test_fraction must be in [0, 1); found {fraction}")
    classes = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    generator = counter_generator(seed)
    held = torch.zeros(count, dtype=torch.bool)
    for label in classes.unique().tolist():
        members = (classes == label).nonzero().flatten()
        size = round(fraction * len(members))
        if fraction > 0 and len(members) > 1:
            size = min(max(size, 1), len(members) - 1)
        held[members[torch.randperm(len(members), generator=generator)[:size]]] = True
    if groups is not None:
        first: dict[Hashable, int] = {}
        held = held[torch.tensor([first.setdefault(group, i) for i, group in enumerate(groups)], dtype=torch.int64)]
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def limited(positions: Int[Tensor, " n"], limit: int | None, *, seed: int, purpose: int) -> Int[Tensor, " m"]:
    """Return a seeded choice of at most so many positions, in their order; all of them for None.

    Args:
        positions: what to choose from.
        limit: how many, or None.
        seed: which choice.
        purpose: what the choice is for; choices for two purposes are unrelated.

    Example:
        >>> limited(torch.arange(100), 3, seed=0, purpose=1).shape, len(limited(torch.arange(2), 3, seed=0, purpose=1))
        (torch.Size([3]), 2)
    """
    if limit is None or limit >= len(positions):
        return positions
    drawn = torch.randperm(len(positions), generator=counter_generator(seed, purpose))[:limit]
    return positions[drawn.sort().values]


def image_digests(images: UInt8[Tensor, "n c h w"]) -> list[bytes]:
    """Hash every image's pixels: equal digests mean equal images.

    Example:
        >>> first, second, third = image_digests(torch.tensor([0, 1, 0], dtype=torch.uint8).reshape(3, 1, 1, 1))
        >>> first == third, first == second
        (True, False)
    """
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.cpu().numpy()]
