"""Streams: the seeded buffer, epochs, ranks and resumption, and what cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from kinfolk.data.counter import counter_generator
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.stream_head import read_head
from kinfolk.data.sources.streaming import StreamSource, shuffle_buffer


class Counting:
    """Numbers as images; keeps count of what was read and decoded."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.count, self.bad = count, bad
        self.opened: list[int] = []
        self.given: list[int] = []
        self.decoded: list[int] = []

    def open(self, start: int) -> Iterator[int]:
        self.opened.append(start)
        for i in range(start, self.count):
            self.given.append(i)
            yield i

    def decode(self, sample: int, position: int) -> dict[str, Any]:
        assert sample == position
        if sample in self.bad:
            raise UnreadableImage(f"sample {sample} is bad")
        self.decoded.append(sample)
        image = torch.full((1, 2, 2), sample % 256, dtype=torch.uint8)
        return {"images": image, "labels": sample % 3, "text": f"number {sample}", "times": sample / 2}


def streaming(stream: Counting, *, held_out: int = 0, **options: Any) -> StreamSource:
    head = read_head(stream, 4, start=held_out, name="numbers", on_error="skip" if stream.bad else "raise")
    stream.opened.clear()
    stream.given.clear()
    stream.decoded.clear()
    options = {"samples_per_epoch": 12, "buffer": 5, **options}
    return StreamSource(stream, head, held_out=held_out, **options)


def ids(batches: Iterator[dict[str, Any]]) -> list[list[int]]:
    return [batch["ids"].tolist() for batch in batches]


def joined(lists: Iterable[list[Any]]) -> list[Any]:
    return [item for items in lists for item in items]


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


class TestShuffleBuffer:
    @pytest.mark.parametrize("size", [1, 2, 7, 100])
    def test_every_item_leaves_once_and_none_too_early(self, size: int) -> None:
        out = list(shuffle_buffer(range(50), size=size, generator=counter_generator(1)))
        assert sorted(out) == list(range(50))
        assert all(item - place < size for place, item in enumerate(out))
        assert (out == list(range(50))) == (size == 1)

    def test_it_is_a_function_of_the_generators_seed(self) -> None:
        first, again, other = (
            list(shuffle_buffer(range(50), size=20, generator=counter_generator(seed))) for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_a_buffer_as_long_as_the_stream_is_uniform(self) -> None:
        places = np.zeros((4, 4))
        for seed in range(2000):
            for place, item in enumerate(shuffle_buffer(range(4), size=4, generator=counter_generator(seed))):
                places[place, item] += 1
        assert abs(places / 2000 - 0.25).max() < 0.05

    def test_it_takes_no_more_than_it_holds(self) -> None:
        items = iter(range(100))
        out = shuffle_buffer(items, size=10, generator=counter_generator(0))
        for _ in range(5):
            next(out)
        assert next(items) == 15

    def test_long_streams_draw_more_than_once(self) -> None:
        out = list(shuffle_buffer(range(10_000), size=50, generator=counter_generator(0)))
        assert sorted(out) == list(range(10_000))
        lag = torch.arange(10_000) - torch.tensor(out)
        assert 35 < float(lag[5000:].abs().float().mean()) < 70  # the delay in a buffer is geometric with mean `size`

    def test_an_empty_buffer_is_refused(self) -> None:
        with pytest.raises(ValueError, match="shuffle_buffer must be at least 1, which keeps the order; found 0"):
            shuffle_buffer(range(3), size=0, generator=counter_generator(0))


class TestEpochs:
    def test_an_epoch_has_its_share_of_the_stream_and_another_order_each_time(self) -> None:
        source = streaming(Counting(1000), held_out=3)
        first, second = (ids(source.batches(epoch, batch_size=4)) for epoch in (0, 1))
        assert sorted(joined(first)) == list(range(3, 15))
        assert sorted(joined(second)) == list(range(15, 27))
        assert [i - 12 for i in joined(second)] != joined(first)
        assert ids(streaming(Counting(1000), held_out=3, seed=1).batches(0, batch_size=4)) != first

    def test_a_batch_is_what_fetch_gives(self) -> None:
        batch = next(streaming(Counting(20)).batches(0, batch_size=4))
        assert batch["images"].dtype == torch.uint8
        assert batch["images"][:, 0, 0, 0].tolist() == batch["ids"].tolist()
        assert batch["labels"].tolist() == [i % 3 for i in batch["ids"].tolist()]
        assert batch["text"] == [f"number {i}" for i in batch["ids"].tolist()]
        assert batch["times"].dtype == torch.float64
        assert batch.keys() == streaming(Counting(20)).fetch(torch.tensor([0])).keys()

    def test_the_stream_starts_again_without_its_held_out_samples(self) -> None:
        source = streaming(Counting(8), held_out=3, samples_per_epoch=12, buffer=1)
        assert ids(source.batches(0, batch_size=6)) == [[3, 4, 5, 6, 7, 3], [4, 5, 6, 7, 3, 4]]
        assert ids(source.batches(1, batch_size=6)) == [[5, 6, 7, 3, 4, 5], [6, 7, 3, 4, 5, 6]]

    @pytest.mark.parametrize("epoch", [1, 2, 3, 10])
    def test_an_epoch_does_not_depend_on_what_was_read_before(self, epoch: int) -> None:
        straight = streaming(Counting(17), held_out=2)
        for earlier in range(epoch):
            ids(straight.batches(earlier, batch_size=5))
        assert ids(straight.batches(epoch, batch_size=5)) == ids(
            streaming(Counting(17), held_out=2).batches(epoch, batch_size=5)
        )

    def test_a_jump_lands_where_a_fresh_reader_does(self) -> None:
        source = streaming(Counting(17), held_out=2)
        for epoch in (1, 6, 2, 9):  # the first reaches the end of the stream from its middle
            expected = ids(streaming(Counting(17), held_out=2).batches(epoch, batch_size=4))
            assert ids(source.batches(epoch, batch_size=4)) == expected

    @pytest.mark.parametrize(("steps", "samples"), [(1, 20), (2, 20), (2, 16)])
    def test_going_on_reads_no_sample_again(self, steps: int, samples: int) -> None:
        stream = Counting(1000)
        source = streaming(stream, samples_per_epoch=samples, buffer=4)
        for epoch in range(3):
            for _ in zip(range(steps), source.batches(epoch, batch_size=8), strict=False):
                pass  # some samples are left over, or none, or the epoch ends early
        assert len(stream.given) >= 48
        assert stream.opened == [0]
        assert stream.given == list(range(len(stream.given)))

    def test_two_readers_do_not_disturb_each_other(self) -> None:
        source, fresh = streaming(Counting(1000)), streaming(Counting(1000))
        expected = [ids(fresh.batches(epoch, batch_size=4)) for epoch in (1, 2)]
        ids(source.batches(0, batch_size=4))  # leaves the stream open where the first goes on
        first, second = source.batches(1, batch_size=4), source.batches(2, batch_size=4)
        begun = [next(first)["ids"].tolist()]
        assert ids(second) == expected[1]
        assert begun + ids(first) == expected[0]
        assert ids(source.batches(1, batch_size=4)) == expected[0]

    def test_what_fills_no_batch_is_dropped(self) -> None:
        source = streaming(Counting(100), samples_per_epoch=11)
        assert source.steps_per_epoch(4) == 2 == len(ids(source.batches(0, batch_size=4)))
        with pytest.raises(ValueError, match="from 1 to samples_per_epoch, 11; found 12"):
            source.steps_per_epoch(12)

    def test_a_stream_that_is_all_held_out_is_refused(self) -> None:
        stream = Counting(3)
        source = StreamSource(stream, read_head(stream, 2, name="numbers"), held_out=3, samples_per_epoch=4)
        with pytest.raises(ValueError, match="ends within its 3 held-out samples; hold out fewer"):
            next(source.batches(0, batch_size=2))


class TestRanksAndResumption:
    @pytest.mark.parametrize("world_size", [1, 2, 4])
    @pytest.mark.parametrize("bad", [(), (4, 6, 7, 11)])
    def test_the_ranks_shares_are_the_single_process_batch(self, world_size: int, bad: tuple[int, ...]) -> None:
        def read(**ranks: int) -> list[dict[str, Any]]:
            return list(streaming(Counting(30, bad), on_error="skip").batches(0, batch_size=4, **ranks))

        whole, shares = read(), [read(rank=rank, world_size=world_size) for rank in range(world_size)]
        assert {len(share) for share in shares} == {3}
        for step, batch in enumerate(whole):
            for key in ("ids", "images", "labels"):
                assert torch.equal(torch.cat([share[step][key] for share in shares]), batch[key])
            assert joined(share[step]["text"] for share in shares) == batch["text"]
            assert joined(share[step].get("skipped", []) for share in shares) == batch.get("skipped", [])

    def test_a_rank_decodes_only_its_share(self) -> None:
        stream = Counting(100)
        source = streaming(stream)
        list(source.batches(0, batch_size=4, rank=1, world_size=2))
        assert len(stream.decoded) == 6

    @pytest.mark.parametrize("epoch", [0, 3])
    @pytest.mark.parametrize("step", [0, 1, 2, 3])
    def test_resuming_gives_the_rest_and_decodes_nothing_before(self, epoch: int, step: int) -> None:
        whole = list(streaming(Counting(17)).batches(epoch, batch_size=4))
        stream = Counting(17)
        rest = list(streaming(stream).batches(epoch, batch_size=4, start_step=step))
        assert len(rest) == 3 - step
        assert all(same(first, second) for first, second in zip(whole[step:], rest, strict=True))
        assert len(stream.decoded) == 4 * len(rest)

    @pytest.mark.parametrize("workers", [1, 3])
    def test_workers_change_nothing(self, workers: int) -> None:
        one, many = (
            list(
                streaming(Counting(40, (5,)), samples_per_epoch=30, on_error="skip").batches(0, batch_size=4, workers=n)
            )
            for n in (0, workers)
        )
        assert len(one) == len(many) == 7
        assert all(same(first, second) for first, second in zip(one, many, strict=True))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"start_step": 4}, "start_step must be from 0 to the epoch's 3 steps; found 4"),
            ({"rank": 2, "world_size": 2}, "found rank 2, world_size 2"),
            ({"world_size": 3}, "world_size 3, batch_size 4"),
        ],
    )
    def test_what_does_not_fit_is_refused_at_once(self, options: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            streaming(Counting(20)).batches(0, batch_size=4, **options)


class TestBadSamples:
    def test_the_next_of_the_batch_takes_the_place_and_the_bad_one_is_listed(self) -> None:
        source = streaming(Counting(20, (5, 6)), buffer=1, on_error="skip")
        batches = list(source.batches(0, batch_size=4))
        assert [batch["ids"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 7, 7, 7], [8, 9, 10, 11]]
        assert batches[1]["skipped"] == ["sample 5 is bad", "sample 6 is bad", "sample 6 is bad"]
        assert "skipped" not in batches[0]

    def test_raise_names_the_sample(self) -> None:
        source = streaming(Counting(20, (5,)), buffer=1)
        with pytest.raises(UnreadableImage, match="sample 5 is bad"):
            list(source.batches(0, batch_size=4))

    def test_a_batch_of_nothing_else_is_refused(self) -> None:
        source = streaming(Counting(20, (4, 5, 6, 7)), buffer=1, on_error="skip")
        with pytest.raises(UnreadableImage, match="numbers: none of a batch of 4 samples can be read; sample 4 is bad"):
            list(source.batches(0, batch_size=4))

    def test_the_head_lists_what_it_leaves_out(self) -> None:
        with pytest.warns(UserWarning, match="numbers: 1 of the first samples skipped:\n  sample 1 is bad"):
            head = read_head(Counting(9, (1,)), 3, name="numbers", on_error="skip")
        assert head.ids.tolist() == [0, 2]
        with pytest.raises(UnreadableImage, match="sample 1 is bad"):
            read_head(Counting(9, (1,)), 3, name="numbers")
        with pytest.raises(ValueError, match="none of the 3 samples from position 9 on can be read; the stream ends"):
            read_head(Counting(9), 3, start=9, name="numbers")


def test_elsewhere_the_source_is_its_head() -> None:
    source = streaming(Counting(100), held_out=10)
    assert len(source) == 4
    assert source.ids.tolist() == [10, 11, 12, 13]
    assert source.labels.tolist() == [1, 2, 0, 1]
    assert source.read(torch.tensor([2]))[0, 0, 0, 0] == 12
    assert source.subset(torch.tensor([3])).fetch(torch.tensor([0]))["text"] == ["number 13"]
    assert source.in_memory


def test_numbers_out_of_range_are_refused() -> None:
    stream = Counting(9)
    with pytest.raises(ValueError, match="found 2, 0, 5 and 0"):
        StreamSource(stream, read_head(stream, 2, name="numbers"), samples_per_epoch=0, buffer=5)
