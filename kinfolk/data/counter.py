"""Random numbers that are a function of what they are for, not of when they are drawn.

A counter-based generator hashes a key (seed, epoch, sample id, view, parameter number) to a number. Nothing is stored
and nothing advances, so a sample's numbers do not depend on its batch, its place in it, the worker or the rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def counter_uniform(key: tuple[int, ...], ids: Int[Tensor, " b"], *, count: int) -> Float[Tensor, "b count"]:
    """Draw `count` numbers in [0, 1) for every id, as a function of the key and the id alone.

    The hash is SplitMix64, applied once per integer of the key, to the id and to the number's position. The result
    has 24 random bits, so that it is exact in float32, and is the same on every device.

    Args:
        key: any integers, for example ``(seed, epoch, view)``; each is taken modulo 2^64.
        ids: sample ids, int64, on any device.
        count: how many numbers per id; the first ones do not depend on it.

    Returns:
        Numbers in [0, 1), float32, on the device of `ids`.

    Reference: Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators.

    Example:
        >>> a = counter_uniform((0, 1), torch.tensor([7, 9]), count=3)
        >>> b = counter_uniform((0, 1), torch.tensor([9]), count=2)
        >>> bool((a[1, :2] == b[0]).all())
        True
    """
    per_id = _mix(ids.to(torch.int64) + _signed(counter_seed(*key)))
    positions = torch.arange(1, count + 1, dtype=torch.int64, device=ids.device) * _signed(_GOLDEN)
    return (_mix(per_id[:, None] + positions) >> 40).bitwise_and(0xFFFFFF).to(torch.float32) * 2.0**-24


def counter_seed(*key: int) -> int:
    """Hash integers to one of 64 bits, for example to seed a `torch.Generator` from ``(seed, epoch)``.

    Returns:
        A number in [0, 2^64); keys that differ in value, order or length give unrelated ones.

    Example:
        >>> counter_seed(1, 2) == counter_seed(1, 2), counter_seed(1, 2) == counter_seed(2, 1)
        (True, False)
    """
    state = len(key)
    for part in key:
        state = _mix_int((state + _GOLDEN + part) & _WORD)
    return state


def counter_generator(*key: int) -> torch.Generator:
    """Return a CPU generator seeded by the hash of a key.

    Example:
        >>> first = torch.randperm(5, generator=counter_generator(0, 3))
        >>> bool((first == torch.randperm(5, generator=counter_generator(0, 3))).all())
        True
    """
    return torch.Generator().manual_seed(counter_seed(*key))


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; products wrap; the masks make torch's arithmetic shifts logical."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_MULTIPLIER_1)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_MULTIPLIER_2)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _mix_int(x: int) -> int:
    x = ((x ^ (x >> 30)) * _MULTIPLIER_1) & _WORD
    x = ((x ^ (x >> 27)) * _MULTIPLIER_2) & _WORD
    return x ^ (x >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
