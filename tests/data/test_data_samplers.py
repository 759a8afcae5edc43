"""Samplers: what an epoch covers, what resuming and ranks see, and what is refused."""

from __future__ import annotations

import pytest
import torch

from kinfolk.data import ClassBalancedSampler, PlainSampler

UNEVEN = torch.tensor([0] * 50 + [1] * 3 + [-1] * 20 + [4] * 7)


def epoch_of(sampler: PlainSampler | ClassBalancedSampler, epoch: int) -> list[list[int]]:
    return [sampler.batch(epoch, step).tolist() for step in range(sampler.steps_per_epoch)]


def test_an_epoch_has_every_sample_once_but_for_the_rest() -> None:
    sampler = PlainSampler(23, batch_size=5, seed=0)
    seen = [i for batch in epoch_of(sampler, 0) for i in batch]
    assert sampler.steps_per_epoch == 4
    assert len(seen) == len(set(seen)) == 20
    assert set(seen) <= set(range(23))


def test_the_dropped_rest_changes_from_epoch_to_epoch() -> None:
    sampler = PlainSampler(11, batch_size=10, seed=0)
    seen = {i for epoch in range(40) for i in sampler.batch(epoch, 0).tolist()}
    dropped = {(set(range(11)) - set(sampler.batch(epoch, 0).tolist())).pop() for epoch in range(40)}
    assert seen == set(range(11))
    assert len(dropped) > 5


@pytest.mark.parametrize("kind", ["plain", "balanced", "per class"])
def test_batches_are_a_pure_function_of_epoch_and_step(kind: str) -> None:
    def make(seed: int) -> PlainSampler | ClassBalancedSampler:
        if kind == "plain":
            return PlainSampler(60, batch_size=6, seed=seed)
        return ClassBalancedSampler(UNEVEN, batch_size=6, seed=seed, per_class=2 if kind == "per class" else None)

    sampler = make(1)
    straight = [epoch_of(sampler, epoch) for epoch in range(3)]
    assert make(1).batch(2, 4).tolist() == straight[2][4]  # a resumed run starts here, with a sampler of its own
    assert sampler.batch(0, 1).tolist() == straight[0][1]  # and asking out of order changes nothing
    assert straight[0] != straight[1]
    assert epoch_of(make(2), 0) != straight[0]
    state = torch.get_rng_state()
    sampler.batch(0, 0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_the_batch_of_one_process(world_size: int) -> None:
    for whole, parts in (
        (
            PlainSampler(100, batch_size=12, seed=5),
            [PlainSampler(100, batch_size=12, seed=5, rank=r, world_size=world_size) for r in range(world_size)],
        ),
        (
            ClassBalancedSampler(UNEVEN, batch_size=12, seed=5, per_class=4),
            [
                ClassBalancedSampler(UNEVEN, batch_size=12, seed=5, per_class=4, rank=r, world_size=world_size)
                for r in range(world_size)
            ],
        ),
    ):
        assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}
        for step in range(whole.steps_per_epoch):
            slices = [part.batch(3, step).tolist() for part in parts]
            assert {len(own) for own in slices} == {12 // world_size}
            assert [i for own in slices for i in own] == whole.batch(3, step).tolist()


def test_per_class_gives_that_many_of_different_classes() -> None:
    sampler = ClassBalancedSampler(UNEVEN, batch_size=6, seed=0, per_class=3)
    classes = set()
    for batch in epoch_of(sampler, 0):
        labels, counts = UNEVEN[batch].unique(return_counts=True)
        assert counts.tolist() == [3, 3]
        assert len(set(batch)) == 6  # every class has three samples, so none comes twice
        classes.update(labels.tolist())
    assert classes == {0, 1, 4}


def test_small_classes_come_around_again() -> None:
    sampler = ClassBalancedSampler(UNEVEN, batch_size=24, seed=0, per_class=8)
    batch = sampler.batch(0, 0)
    members = batch[UNEVEN[batch] == 1].bincount()[50:53]
    assert sorted(members.tolist()) == [2, 3, 3]  # eight draws of three samples


def test_classes_are_drawn_equally_often_and_unlabelled_samples_never() -> None:
    sampler = ClassBalancedSampler(UNEVEN, batch_size=30, seed=0)
    drawn = torch.cat([sampler.batch(epoch, step) for epoch in range(100) for step in range(sampler.steps_per_epoch)])
    assert int((UNEVEN[drawn] == -1).sum()) == 0
    counts = UNEVEN[drawn].bincount()[[0, 1, 4]].double()
    expected = len(drawn) / 3
    assert len(drawn) == 6000
    assert float(((counts - expected) ** 2 / expected).sum()) < 14  # two degrees of freedom, 1 in 1,000
    samples = drawn[UNEVEN[drawn] == 0].bincount(minlength=50).double()[:50]
    assert float(((samples - samples.mean()) ** 2 / samples.mean()).sum()) < 90


def test_balanced_batches_are_mixed_before_ranks_take_their_slices() -> None:
    labels = torch.arange(8).repeat_interleave(20)
    first = ClassBalancedSampler(labels, batch_size=16, seed=0, per_class=2, rank=0, world_size=2)
    assert any(labels[first.batch(0, step)].unique().numel() > 4 for step in range(first.steps_per_epoch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlainSampler(5, batch_size=6, seed=0), "batch_size 6, samples 5"),
        (lambda: PlainSampler(5, batch_size=0, seed=0), "from 1 to the number of samples"),
        (lambda: PlainSampler(50, batch_size=6, seed=0, world_size=4), "multiple of world_size; found 6 for 4 ranks"),
        (lambda: PlainSampler(50, batch_size=6, seed=0, rank=2, world_size=2), "rank must be"),
        (lambda: ClassBalancedSampler(UNEVEN, batch_size=64, seed=0), "labelled samples 60"),
        (lambda: ClassBalancedSampler(UNEVEN, batch_size=8, seed=0, per_class=2), "needs 4 classes; there are 3"),
        (lambda: ClassBalancedSampler(UNEVEN, batch_size=8, seed=0, per_class=3), "per_class must divide batch_size"),
        (lambda: ClassBalancedSampler(UNEVEN - 1, batch_size=8, seed=0), "at least -1"),
    ],
)
def test_impossible_batches_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_must_be_integers() -> None:
    with pytest.raises(TypeError, match="integers"):
        ClassBalancedSampler(torch.ones(9), batch_size=3, seed=0)


def test_steps_beyond_the_epoch_are_refused() -> None:
    for sampler in (PlainSampler(9, batch_size=4, seed=0), ClassBalancedSampler(UNEVEN, batch_size=30, seed=0)):
        for step in (-1, 2):
            with pytest.raises(IndexError, match="steps 0 to 1"):
                sampler.batch(0, step)
