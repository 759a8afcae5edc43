"""Sources whose batches carry the same thing by another hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinfolk.data import ArraySource
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.encoded import EncodedSource
from kinfolk.data.sources.renderings import with_renderings

#            0  1  2  3  4  5  6
CONCEPTS = [7, 7, 7, 7, 8, 8, -1]
HANDS = [0, 1, 1, 2, 2, 0, 1]
TONES = [1, 0, 1, 0, 0, 0, 0]


def drawings() -> ArraySource:
    """Image i is the number i, so that what is seen says whose picture it is."""
    return ArraySource(
        torch.arange(7, dtype=torch.uint8).reshape(7, 1, 1, 1).expand(7, 3, 2, 2).contiguous(),
        ids=torch.arange(10, 17),
        bias_labels=torch.tensor(HANDS),
        columns={"groups": torch.tensor(CONCEPTS), "hierarchy": [f"path/{i}" for i in range(7)]},
    )


def shown(batch: dict[str, Tensor]) -> list[list[int]]:
    return batch["renderings"][:, :, 0, 0, 0].tolist()


def test_renderings_are_the_group_by_the_other_hands_from_the_own_hand_onwards_and_around() -> None:
    batch = with_renderings(drawings()).fetch(torch.arange(7))
    assert batch["renderings"].shape == (7, 3, 3, 2, 2)
    assert shown(batch) == [[0, 1, 3], [1, 3, 0], [2, 3, 0], [3, 0, 1], [4, 5, 4], [5, 4, 5], [6, 6, 6]]
    assert batch["rendering_count"].tolist() == [3, 3, 3, 3, 2, 2, 1]


def test_what_is_alike_is_preferred_and_the_first_serves_where_nothing_is() -> None:
    batch = with_renderings(drawings(), alike=torch.tensor(TONES)).fetch(torch.tensor([0, 1, 3]))
    assert shown(batch) == [[0, 2, 3], [1, 3, 0], [3, 0, 1]]


def test_at_most_so_many_are_carried() -> None:
    batch = with_renderings(drawings(), most=2).fetch(torch.tensor([0, 3]))
    assert shown(batch) == [[0, 1], [3, 0]]
    alone = with_renderings(drawings(), most=1).fetch(torch.tensor([2]))
    assert (shown(alone), alone["rendering_count"].tolist()) == ([[2]], [1])


def test_the_rest_of_the_batch_is_the_sources_own_whatever_the_order_and_repeats() -> None:
    source, indices = drawings(), torch.tensor([5, 0, 5])
    batch, plain = with_renderings(source).fetch(indices), source.fetch(indices)
    assert set(batch) == {*plain, "renderings", "rendering_count"}
    for name, values in plain.items():
        assert torch.equal(batch[name], values) if isinstance(values, Tensor) else batch[name] == values
    assert torch.equal(batch["renderings"][:, 0], batch["images"])


def test_a_subset_looks_among_its_own_samples_only() -> None:
    part = with_renderings(drawings()).subset(torch.tensor([3, 0, 6]))
    assert part.ids.tolist() == [13, 10, 16]
    assert shown(part.fetch(torch.arange(3))) == [[3, 0], [0, 3], [6, 6]]


class Encoded(EncodedSource):
    """Those drawings behind a decoder that cannot read some of them."""

    def __init__(self, broken: set[int]) -> None:
        whole = drawings()
        super().__init__(
            name="encoded",
            ids=whole.ids,
            class_names=None,
            columns=whole.columns,
            channels=3,
            image_size=(2, 2),
            on_error="skip",
        )
        self.whole, self.broken, self.decoded = whole, broken, []

    def encoded(self, index: int) -> Path:
        raise AssertionError("decoding is replaced")

    def where(self, index: int) -> str:
        return f"drawing {index}"

    def decode(self, index: int) -> Tensor:
        self.decoded.append(index)
        if index in self.broken:
            raise UnreadableImage(f"{self.where(index)} is broken")
        return self.whole.images[index]


def test_what_cannot_be_read_is_never_taken_for_another_hand() -> None:
    batch = with_renderings(Encoded({1})).fetch(torch.tensor([0, 1]))
    # position 1's place is taken by sample 2, of which nothing but itself is claimed
    assert shown(batch) == [[0, 0, 3], [2, 2, 2]]
    assert batch["ids"].tolist() == [10, 12]
    assert batch["rendering_count"].tolist() == [3, 1]
    assert batch["skipped"] == ["drawing 1 is broken"]


def test_no_picture_is_decoded_twice_for_a_batch() -> None:
    source = Encoded(set())
    with_renderings(source).fetch(torch.tensor([0, 1, 0, 6]))
    assert sorted(source.decoded) == [0, 1, 3, 6]


def test_what_is_missing_is_named() -> None:
    plain = ArraySource(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"renderings need groups .* and bias_labels .*; 'arrays' has labels"):
        with_renderings(plain)
    with pytest.raises(ValueError, match=r"7 samples, alike \(3,\)"):
        with_renderings(drawings(), alike=torch.zeros(3))
    with pytest.raises(ValueError, match="most must be at least 1, the own image; found 0"):
        with_renderings(drawings(), most=0)
