"""Samplers by key: what stands together in a batch, what is left over, and padding that is known."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfolk.data import ArraySource, PlainSampler
from kinfolk.data.samplers import (
    BucketSampler,
    BucketSamplerConfig,
    CaptionedSampler,
    CaptionedSamplerConfig,
    ClassBalancedSamplerConfig,
    DistinctSampler,
    DistinctSamplerConfig,
    PlainSamplerConfig,
    quantile_buckets,
)


def epoch_of(sampler: Any, epoch: int = 0) -> list[list[int]]:
    return [sampler.batch(epoch, step).tolist() for step in range(sampler.steps_per_epoch)]


def most_steps_by_trying(keys: list[int], batch_size: int) -> int:
    """The definition: the largest S for which filling S batches greedily from the commonest key works."""
    best = 0
    for steps in range(1, len(keys) // batch_size + 1):
        room = [batch_size] * steps
        for _, count in Counter(keys).most_common():
            for place in sorted(range(steps), key=lambda i: -room[i])[: min(count, steps)]:
                room[place] -= room[place] > 0
        best = steps if sum(room) == 0 else best
    return best


@given(
    keys=st.lists(st.integers(0, 7), min_size=4, max_size=40),
    batch_size=st.integers(1, 4),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_no_key_is_twice_in_a_batch_and_no_epoch_could_have_more_steps(
    keys: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    if len(set(keys)) < batch_size:
        with pytest.raises(ValueError, match="samples with different keys"):
            DistinctSampler(torch.tensor(keys), batch_size=batch_size, seed=seed)
        return
    sampler = DistinctSampler(torch.tensor(keys), batch_size=batch_size, seed=seed)
    batches = epoch_of(sampler, epoch)
    for batch in batches:
        assert len({keys[i] for i in batch}) == len(batch) == batch_size
    seen = [i for batch in batches for i in batch]
    assert len(seen) == len(set(seen)) == len(keys) - sampler.leftovers
    assert sampler.steps_per_epoch == most_steps_by_trying(keys, batch_size)


def test_captions_without_a_key_are_like_no_other() -> None:
    sampler = DistinctSampler([None] * 6 + ["a dog"] * 3, batch_size=3, seed=0)
    assert sampler.steps_per_epoch == 3
    for batch in epoch_of(sampler):
        assert sum(i >= 6 for i in batch) == 1
    assert DistinctSampler(torch.full((6,), -1), batch_size=3, seed=0).steps_per_epoch == 2


def test_the_leftovers_of_a_common_caption_change_from_epoch_to_epoch() -> None:
    sampler = DistinctSampler(["a photo"] * 20 + [f"caption {i}" for i in range(20)], batch_size=8, seed=0)
    assert sampler.steps_per_epoch == 2  # 2 x 1 of the photo and 20 others fill two batches of 8, not three
    assert sampler.leftovers == 24
    photos = [{i for batch in epoch_of(sampler, epoch) for i in batch if i < 20} for epoch in range(200)]
    assert all(len(found) <= 2 for found in photos)
    assert set.union(*photos) == set(range(20))


def test_unique_captions_meet_one_another_as_often_as_in_a_shuffle() -> None:
    sampler = DistinctSampler([str(i) for i in range(12)], batch_size=4, seed=3)
    together = torch.zeros(12, 12)
    for epoch in range(600):
        for batch in epoch_of(sampler, epoch):
            together[torch.tensor(batch)[:, None], torch.tensor(batch)] += 1
    pairs = together[torch.triu_indices(12, 12, 1).unbind()]
    assert abs(float(pairs.mean()) - 600 * 3 / 11) < 1e-3  # three others of eleven stand in a sample's batch
    assert float(((pairs - pairs.mean()) ** 2 / pairs.mean()).sum()) < 100  # 65 free, and 1 in 1,000 is 107


def test_a_large_set_of_captions_is_ordered_quickly() -> None:
    keys = torch.randint(100_000, (400_000,), generator=torch.Generator().manual_seed(0))
    begun = time.perf_counter()
    sampler = DistinctSampler(keys, batch_size=1024, seed=0)
    batch = sampler.batch(0, 0)
    assert time.perf_counter() - begun < 5  # 0.7 s where it was measured
    assert keys[batch].unique().numel() == 1024
    assert sampler.leftovers < 1024


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), batch_size=st.integers(1, 4), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_a_bucket_fills_as_many_batches_as_it_can(sizes: list[int], batch_size: int, seed: int) -> None:
    keys = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    if max(sizes) < batch_size:
        with pytest.raises(ValueError, match="largest bucket"):
            BucketSampler(keys, batch_size=batch_size, seed=seed)
        return
    sampler = BucketSampler(keys, batch_size=batch_size, seed=seed)
    batches = epoch_of(sampler)
    assert all(len(set(keys[batch].tolist())) == 1 for batch in batches)
    seen = [i for batch in batches for i in batch]
    assert len(seen) == len(set(seen))
    drawn = Counter(int(keys[batch[0]]) for batch in batches)
    assert [drawn[bucket] for bucket in range(len(sizes))] == [size // batch_size for size in sizes]
    assert sampler.left_out == sum(size for size in sizes if size < batch_size)


def test_batches_of_all_buckets_are_mixed() -> None:
    keys = ["day"] * 40 + ["night"] * 40
    sampler = BucketSampler(keys, batch_size=4, seed=0)
    order = [keys[batch[0]] for batch in epoch_of(sampler)]
    assert order not in (sorted(order), sorted(order, reverse=True))
    assert order != [keys[batch[0]] for batch in epoch_of(sampler, 1)]


@pytest.mark.parametrize("make", [DistinctSampler, BucketSampler])
def test_ranks_share_the_batch_and_a_fresh_sampler_goes_on(make: Any) -> None:
    keys = torch.arange(96) % 8 if make is BucketSampler else torch.arange(96) // 2
    whole = make(keys, batch_size=12, seed=5)
    parts = [make(keys, batch_size=12, seed=5, rank=rank, world_size=3) for rank in range(3)]
    for epoch in (0, 2):
        for step in range(whole.steps_per_epoch):
            joined = [i for part in parts for i in part.batch(epoch, step).tolist()]
            assert joined == whole.batch(epoch, step).tolist()
    assert epoch_of(whole, 0) != epoch_of(whole, 1)
    with pytest.raises(IndexError, match="steps 0 to"):
        whole.batch(0, whole.steps_per_epoch)


@given(n=st.integers(1, 40), share=st.integers(1, 6), world_size=st.integers(1, 3), epoch=st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_padding_is_known_and_everything_else_comes_once(n: int, share: int, world_size: int, epoch: int) -> None:
    batch_size = share * world_size
    if n < batch_size:
        return
    ranks = [
        PlainSampler(n, batch_size=batch_size, seed=1, drop_last=False, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert {sampler.steps_per_epoch for sampler in ranks} == {-(-n // batch_size)}
    fresh, padding = [], 0
    for step in range(ranks[0].steps_per_epoch):
        batch = torch.cat([sampler.batch(epoch, step) for sampler in ranks])
        repeated = torch.cat([sampler.is_padding(epoch, step) for sampler in ranks])
        assert batch.unique().numel() == len(batch) == batch_size
        fresh += batch[~repeated].tolist()
        padding += int(repeated.sum())
    assert sorted(fresh) == list(range(n))
    assert padding == ranks[0].padded


def test_quantile_buckets_are_of_equal_size_and_keep_ties_together() -> None:
    values = torch.tensor([3.0, 1.0, float("nan"), 2.0, 9.0])
    assert quantile_buckets(values, count=2).tolist() == [1, 0, -1, 0, 1]
    assert quantile_buckets(torch.tensor([1.0, 1.0, 1.0, 2.0]), count=4).tolist() == [0, 0, 0, 3]
    assert quantile_buckets(torch.arange(1000).double(), count=7).bincount().tolist() == [143] * 6 + [142]
    with pytest.raises(ValueError, match="at least 1 bucket"):
        quantile_buckets(values, count=0)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("share", "pairs"), [(0.5, 4), (0.2, 2), (0.9, 7)])
def test_every_batch_has_its_share_of_captions(world_size: int, share: float, pairs: int) -> None:
    captioned = torch.arange(100) % 9 == 0
    ranks = [
        CaptionedSampler(captioned, batch_size=8, seed=3, share=share, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert ranks[0].steps_per_epoch == 12
    seen = []
    for step in range(12):
        batch = torch.cat([sampler.batch(1, step) for sampler in ranks])
        assert len(batch.unique()) == 8
        assert int(captioned[batch].sum()) == pairs
        seen.append(batch)
    assert captioned[torch.cat([batch[:4] for batch in seen])].float().mean() == pytest.approx(pairs / 8, abs=0.15)
    assert torch.equal(seen[3], torch.cat([sampler.batch(1, 3) for sampler in ranks]))
    assert not torch.equal(seen[3], torch.cat([sampler.batch(0, 3) for sampler in ranks]))


def test_a_batch_that_cannot_have_both_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 4 samples with a caption and 4 without; there are 3 and 7"):
        CaptionedSampler(torch.arange(10) < 3, batch_size=8, seed=0)
    with pytest.raises(ValueError, match="gives 0 pairs; both kinds must be there"):
        CaptionedSampler(torch.arange(10) < 5, batch_size=4, seed=0, share=0.1)
    with pytest.raises(ValueError, match="above 0 and below 1; found 1"):
        CaptionedSamplerConfig(share=1)
    bare = ArraySource(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), name="bare")
    with pytest.raises(ValueError, match="sampler 'captioned' needs the column 'text'; bare has no columns"):
        CaptionedSamplerConfig().build(bare, batch_size=2, seed=0)


def test_images_without_a_caption_are_like_no_other() -> None:
    several = ArraySource(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), text=["a", "", "", "", "a", "b"])
    sampler = DistinctSamplerConfig().build(several, batch_size=3, seed=0)
    assert (sampler.steps_per_epoch, sampler.leftovers) == (2, 0)
    captioned = CaptionedSamplerConfig(share=0.34).build(several, batch_size=3, seed=0)
    assert sum(several.text[i] == "" for i in captioned.batch(0, 0)) == 2


def source() -> ArraySource:
    return ArraySource(
        torch.zeros(12, 1, 2, 2, dtype=torch.uint8),
        labels=torch.arange(12) % 3,
        text=[f"caption {i % 6}" for i in range(12)],
        columns={"times": torch.arange(12).double()},
        name="toys",
    )


@pytest.mark.parametrize(
    ("config", "steps", "labels"),
    [
        (PlainSamplerConfig(), 2, False),
        (PlainSamplerConfig(drop_last=False), 3, False),
        (ClassBalancedSamplerConfig(per_class=5), 2, True),
        (DistinctSamplerConfig(), 2, False),
        (BucketSamplerConfig(column="times", buckets=2), 2, False),
    ],
)
def test_configs_build_their_sampler_for_a_source(config: Any, steps: int, labels: bool) -> None:
    sampler = config.build(source(), batch_size=5, seed=0)
    assert sampler.steps_per_epoch == steps
    assert len(sampler.batch(0, 0)) == 5
    assert config.uses_labels is labels


def test_buckets_of_labels_use_labels_and_missing_columns_are_named() -> None:
    assert BucketSamplerConfig().uses_labels
    with pytest.raises(ValueError, match="needs the column 'groups'; toys has labels, text, times"):
        DistinctSamplerConfig(column="groups").build(source(), batch_size=2, seed=0)
    with pytest.raises(TypeError, match="quantile_buckets groups numbers"):
        DistinctSampler(torch.rand(5), batch_size=2, seed=0)
    with pytest.raises(ValueError, match="per_class must be at least 1"):
        ClassBalancedSamplerConfig(per_class=0)
