"""The order of a streaming reader, as a function of seed, epoch and step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinfolk.data.samplers.shards import ShardSampler, shard_numbers
from kinfolk.data.sources.base import ArraySource

SHARD = torch.arange(7).repeat_interleave(torch.tensor([30, 1, 100, 57, 3, 64, 45]))  # 300 samples


def epoch_of(sampler: ShardSampler, epoch: int = 0) -> Tensor:
    return torch.cat([sampler.batch(epoch, step) for step in range(sampler.steps_per_epoch)])


def streamed(arc: list[int], buffer: int, generator: torch.Generator) -> list[int]:
    """A shuffle buffer as readers write it, one sample at a time."""
    waiting, out = arc[:buffer], []
    for slot, incoming in zip(
        torch.randint(len(waiting), (len(arc) - len(waiting),), generator=generator).tolist(),
        arc[buffer:],
        strict=True,
    ):
        out.append(waiting[slot])
        waiting[slot] = incoming
    return out + waiting


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("buffer", [1, 8, 10_000])
def test_no_sample_comes_twice_and_every_rank_takes_the_same_steps(world_size: int, buffer: int) -> None:
    ranks = [
        ShardSampler(SHARD, batch_size=32, seed=3, buffer=buffer, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert {sampler.steps_per_epoch for sampler in ranks} == {300 // 32}
    assert {len(sampler.batch(1, 8)) for sampler in ranks} == {32 // world_size}
    seen = torch.cat([epoch_of(sampler, 1) for sampler in ranks])
    assert len(seen.unique()) == len(seen) == 300 - 300 % 32


def test_the_buffer_is_that_of_a_reader_that_holds_samples_back() -> None:
    from kinfolk.data.counter import counter_generator

    plain = epoch_of(ShardSampler(SHARD, batch_size=1, seed=5, buffer=1)).tolist()
    expected = streamed(plain, 40, counter_generator(5, 0, 0))
    found = epoch_of(ShardSampler(SHARD, batch_size=1, seed=5, buffer=40)).tolist()
    assert found[:-40] == expected[:-40]
    assert sorted(found[-40:]) == sorted(expected[-40:])  # what waits at the end comes out in random order


def test_without_a_buffer_shards_are_read_from_front_to_back_in_a_new_order_each_epoch() -> None:
    sampler = ShardSampler(SHARD, batch_size=1, seed=0, buffer=1)
    orders = []
    for epoch in range(4):
        order = epoch_of(sampler, epoch)
        changes = int((SHARD[order].diff() != 0).sum())
        assert changes <= 7  # seven shards, one of them cut by the ring's start
        assert int((order.diff() == 1).sum()) >= 300 - 8
        orders.append(tuple(SHARD[order].unique_consecutive().tolist()))
    assert len(set(orders)) == 4


def test_a_wider_buffer_mixes_more() -> None:
    def mean_step(buffer: int) -> float:
        order = epoch_of(ShardSampler(SHARD, batch_size=1, seed=0, buffer=buffer))
        return float(order.diff().abs().float().mean())

    steps = [mean_step(buffer) for buffer in (1, 10, 100, 300)]
    assert steps == sorted(steps)
    assert steps[0] < 10
    assert steps[-1] == pytest.approx(100, abs=12)  # a full shuffle: a third of the length


def test_a_batch_depends_on_seed_epoch_and_step_alone() -> None:
    used = ShardSampler(SHARD, batch_size=20, seed=1, buffer=50)
    for epoch, step in ((0, 3), (2, 14), (0, 0)):
        used.batch(epoch, step)
    fresh = ShardSampler(SHARD, batch_size=20, seed=1, buffer=50)
    assert fresh.batch(2, 7).equal(used.batch(2, 7))
    assert not fresh.batch(2, 7).equal(fresh.batch(3, 7))
    assert not fresh.batch(2, 7).equal(ShardSampler(SHARD, batch_size=20, seed=2, buffer=50).batch(2, 7))


def test_what_an_epoch_drops_is_others_each_time() -> None:
    sampler = ShardSampler(SHARD, batch_size=64, seed=0, buffer=4)  # drops 44 of 300
    times = torch.zeros(300)
    for epoch in range(60):
        times[epoch_of(sampler, epoch)] += 1
    assert times.min() > 60 * (256 / 300) - 25
    assert times.max() < 60 or (times == 60).sum() < 3


def test_shard_numbers_need_not_be_dense_or_sorted() -> None:
    shard = torch.tensor([9, 2, 9, 2, 5, 9])
    order = epoch_of(ShardSampler(shard, batch_size=1, seed=0, buffer=1))
    assert sorted(order.tolist()) == list(range(6))
    assert int((shard[order].diff() != 0).sum()) <= 3


def test_four_hundred_thousand_samples_are_ordered_once_an_epoch_and_quickly() -> None:
    import time

    shard = torch.arange(40).repeat_interleave(10_000)
    sampler = ShardSampler(shard, batch_size=256, seed=0)
    started = time.perf_counter()
    sampler.batch(0, 0)
    assert time.perf_counter() - started < 5  # about 0.15 s on two free cores
    started = time.perf_counter()
    sampler.batch(0, 1)
    assert time.perf_counter() - started < 0.05


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"batch_size must be from 1 to the number of samples; found batch_size 301"):
        ShardSampler(SHARD, batch_size=301, seed=0)
    with pytest.raises(ValueError, match=r"multiple of world_size; found 32 for 3 ranks"):
        ShardSampler(SHARD, batch_size=32, seed=0, world_size=3)
    with pytest.raises(ValueError, match=r"buffer must hold at least 1 sample; found 0"):
        ShardSampler(SHARD, batch_size=32, seed=0, buffer=0)
    with pytest.raises(IndexError, match=r"steps 0 to 8; found step 9"):
        ShardSampler(SHARD, batch_size=32, seed=0).batch(0, 9)


def test_a_source_without_shards_is_refused() -> None:
    with pytest.raises(TypeError, match=r"only a source of tar shards has shards; found ArraySource"):
        shard_numbers(ArraySource(torch.zeros(2, 1, 2, 2, dtype=torch.uint8)))
