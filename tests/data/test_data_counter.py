"""The counter-based generator: SplitMix64's own values, and numbers independent along every part of the key."""

from __future__ import annotations

import pytest
import torch

from kinfolk.data.counter import counter_generator, counter_seed, counter_uniform


def splitmix64(seed: int, count: int) -> list[int]:
    """The published algorithm, in plain integers."""
    word, outputs = (1 << 64) - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & word
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        outputs.append(z ^ (z >> 31))
    return outputs


def test_numbers_follow_splitmix64() -> None:
    # the first output for seed 0 is the reference implementation's published test value
    assert splitmix64(0, 1)[0] == 0xE220A8397B1DCDAF
    for sample in (0, 5, 2**62, -3):
        start = (sample + counter_seed(1, 2)) & ((1 << 64) - 1)
        # the stream's state is the mixed id; its outputs are the stream's numbers
        state = splitmix64((start - 0x9E3779B97F4A7C15) & ((1 << 64) - 1), 1)[0]
        expected = [(word >> 40) * 2.0**-24 for word in splitmix64(state, 4)]
        assert counter_uniform((1, 2), torch.tensor([sample]), count=4)[0].tolist() == expected


def test_numbers_are_uniform() -> None:
    numbers = counter_uniform((0, 0, 0), torch.arange(50_000), count=4).double()
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    for column in numbers.unbind(1):
        counts = torch.histc(column, bins=50, min=0, max=1)
        chi_square = float(((counts - 1000) ** 2 / 1000).sum())
        assert 20 < chi_square < 95  # 49 degrees of freedom: both ends are beyond 1 in 10,000


@pytest.mark.parametrize("axis", ["seed", "epoch", "view", "id", "number"])
def test_neighbouring_keys_are_uncorrelated(axis: str) -> None:
    ids = torch.arange(40_000)
    first = counter_uniform((3, 4, 5), ids, count=2)
    keys = {"seed": (4, 4, 5), "epoch": (3, 5, 5), "view": (3, 4, 6), "id": (3, 4, 5), "number": (3, 4, 5)}
    second = counter_uniform(keys[axis], ids + (axis == "id"), count=2)
    other = second[:, 1] if axis == "number" else second[:, 0]
    correlation = torch.corrcoef(torch.stack([first[:, 0], other]))[0, 1]
    assert abs(float(correlation)) < 4 / 200  # four standard errors


def test_swapped_and_longer_keys_differ() -> None:
    assert len({counter_seed(1, 2), counter_seed(2, 1), counter_seed(1, 2, 0), counter_seed(1), counter_seed(-1)}) == 5


def test_more_numbers_leave_the_first_as_they_were() -> None:
    ids = torch.tensor([8, -1, 2**40])
    assert torch.equal(counter_uniform((1,), ids, count=9)[:, :3], counter_uniform((1,), ids, count=3))


def test_generators_of_different_keys_give_different_orders() -> None:
    orders = [torch.randperm(100, generator=counter_generator(0, epoch)).tolist() for epoch in range(5)]
    assert len({tuple(order) for order in orders}) == 5
