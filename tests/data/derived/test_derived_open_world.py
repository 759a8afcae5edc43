"""Open worlds: which classes are known, and which samples say so."""

from __future__ import annotations

import pytest
import torch

from kinfolk.data.derived import OpenWorldConfig
from kinfolk.data.sources.base import ArraySource, Source, Splits

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")


def animals(per_class: int) -> ArraySource:
    labels = torch.arange(6).repeat(per_class)
    images = labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return ArraySource(images, labels, class_names=NAMES)


def names_of(source: Source, column: str) -> list[str]:
    values = source.columns[column]
    assert isinstance(values, torch.Tensor)
    assert source.class_names is not None
    return [source.class_names[i] if i >= 0 else "-" for i in values.tolist()]


def test_half_of_the_known_classes_samples_are_labelled() -> None:
    full = animals(20)
    train = OpenWorldConfig(known=0.5, labelled=0.5).apply(Splits(full, full)).train
    assert train.labels is not None
    assert train.labels[train.labels >= 0].bincount(minlength=6).tolist() == [10, 10, 10, 0, 0, 0]
    assert train.columns["true_labels"].tolist() == full.labels.tolist()


def test_the_test_part_is_complete_and_unchanged_where_the_first_classes_are_known() -> None:
    full = animals(4)
    test = OpenWorldConfig().apply(Splits(full, full)).test
    assert test.labels is not None
    assert torch.equal(test.labels, full.labels)


def test_drawn_known_classes_come_first_in_every_part() -> None:
    full = animals(20)
    orders = set()
    for seed in range(6):
        config = OpenWorldConfig(random_classes=True, seed=seed)
        splits = config.apply(Splits(full, full))
        assert splits.train.labels is not None
        assert splits.test.class_names == splits.train.class_names
        assert set(splits.train.labels.tolist()) == {-1, 0, 1, 2}
        assert names_of(splits.train, "true_labels") == names_of(full, "labels")
        assert names_of(splits.test, "labels") == names_of(full, "labels")
        known, novel = splits.train.class_names[:3], splits.train.class_names[3:]
        assert list(known) == sorted(known)
        assert list(novel) == sorted(novel)
        orders.add(splits.train.class_names)
    assert len(orders) > 1


def test_probes_see_the_labelled_samples_alone() -> None:
    full = animals(20)
    splits = OpenWorldConfig(labelled=0.2).apply(Splits(full, full))
    assert splits.probe is not None
    assert splits.probe.labels is not None
    assert splits.probe.labels.bincount().tolist() == [4, 4, 4]


def test_images_and_ids_stay_with_their_class() -> None:
    full = animals(5)
    splits = OpenWorldConfig(random_classes=True, seed=2).apply(Splits(full, full))
    batch = splits.train.fetch(torch.arange(30))
    assert torch.equal(batch["images"][:, 0, 0, 0].to(torch.int64), full.labels)
    assert torch.equal(batch["ids"], full.ids)


def test_the_seed_draws_the_labelled_samples() -> None:
    full = animals(20)
    first, again, other = (OpenWorldConfig(seed=s).apply(Splits(full, full)).probe.ids.tolist() for s in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("known", "classes", "expected"), [(0.5, 100, 50), (0.01, 10, 1), (0.99, 10, 9), (0.3, 10, 3)])
def test_at_least_one_class_is_known_and_one_novel(known: float, classes: int, expected: int) -> None:
    assert OpenWorldConfig(known=known).known_classes(classes) == expected


@pytest.mark.parametrize("given", [{"known": 0.0}, {"known": 1.0}, {"labelled": 0.0}, {"labelled": 1.5}])
def test_shares_out_of_range_are_refused(given: dict) -> None:
    with pytest.raises(ValueError, match=r"known|labelled"):
        OpenWorldConfig(**given)


def test_one_class_is_no_world() -> None:
    one = ArraySource(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least two classes, one known and one novel; found 1"):
        OpenWorldConfig().apply(Splits(one, one))


def test_unlabelled_samples_are_refused() -> None:
    part = ArraySource(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, -1]))
    with pytest.raises(ValueError, match="1 unlabelled of 3"):
        OpenWorldConfig().apply(Splits(part, part))
