"""Imbalanced sets: the published counts, and who is kept."""

from __future__ import annotations

import pytest
import torch

from kinfolk.data import FashionMNISTConfig
from kinfolk.data.derived import ImbalancedConfig, shot_groups
from kinfolk.data.sources.base import ArraySource, Splits

CIFAR10, CIFAR100, FASHION = (5000,) * 10, (500,) * 100, (6000,) * 10


def balanced(classes: int, per_class: int, *, class_names: bool = False) -> ArraySource:
    labels = torch.arange(classes).repeat(per_class)
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    names = [f"class {c}" for c in range(classes)] if class_names else None
    return ArraySource(images, labels, ids=torch.arange(len(labels)) + 7, class_names=names)


@pytest.mark.parametrize(
    ("rule", "available", "expected"),
    [
        ("linear", CIFAR10, [500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000]),
        ("linear", FASHION, [600, 1200, 1800, 2400, 3000, 3600, 4200, 4800, 5400, 6000]),
        ("exponential", CIFAR10, [0, 1, 4, 12, 33, 91, 248, 676, 1839, 5000]),
        ("exponential", FASHION, [0, 2, 5, 14, 40, 109, 298, 812, 2207, 6000]),
        ("long-tail", CIFAR10, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        ("long-tail", FASHION, [6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60]),
    ],
)
def test_ten_classes_have_the_published_counts(rule: str, available: tuple[int, ...], expected: list[int]) -> None:
    assert list(ImbalancedConfig(rule=rule).counts(available)) == expected


def test_a_hundred_classes_go_in_blocks_of_ten() -> None:
    linear = ImbalancedConfig(rule="linear").counts(CIFAR100)
    exponential = ImbalancedConfig(rule="exponential").counts(CIFAR100)
    assert sum(linear) == 27_500
    assert list(exponential[::10]) == [0, 0, 0, 1, 3, 9, 24, 67, 183, 500]
    assert sum(exponential) == 7_870
    assert all(len(set(counts[b : b + 10])) == 1 for counts in (linear, exponential) for b in range(0, 100, 10))


@pytest.mark.parametrize(
    ("available", "factor", "total"),
    [
        (CIFAR10, 100, 12_406),
        (CIFAR10, 50, 13_996),
        (CIFAR10, 10, 20_431),
        (CIFAR100, 100, 10_847),
        (CIFAR100, 50, 12_608),
        (CIFAR100, 10, 19_573),
        (FASHION, 100, 14_886),
        (FASHION, 50, 16_796),
        (FASHION, 10, 24_516),
    ],
)
def test_long_tails_have_the_published_totals(available: tuple[int, ...], factor: float, total: int) -> None:
    assert sum(ImbalancedConfig(rule="long-tail", factor=factor).counts(available)) == total


def test_the_source_has_exactly_these_counts_and_old_ids() -> None:
    full = balanced(10, 600)
    splits = ImbalancedConfig(rule="exponential").apply(Splits(full, full))
    expected = ImbalancedConfig(rule="exponential").counts((600,) * 10)
    assert splits.train.labels is not None
    assert splits.train.labels.bincount(minlength=10).tolist() == list(expected)
    assert torch.equal(full.labels[splits.train.ids - 7], splits.train.labels)
    assert expected[:3] == (0, 0, 0)


def test_fashion_mnist_itself_has_the_published_counts() -> None:
    try:
        full = FashionMNISTConfig().load()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    splits = ImbalancedConfig(rule="long-tail", factor=100).apply(full)
    assert splits.train.labels is not None
    assert splits.train.labels.bincount().tolist() == [6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60]
    assert (len(splits.reference), len(splits.test)) == (60_000, 10_000)


def test_a_vanished_class_stays_in_probe_and_test() -> None:
    full, test = balanced(10, 600, class_names=True), balanced(10, 3, class_names=True)
    splits = ImbalancedConfig(rule="exponential").apply(Splits(full, test))
    assert splits.probe is full
    assert splits.test is test
    assert splits.train.class_names == full.class_names


def test_supervised_protocols_fit_on_the_imbalanced_set() -> None:
    full = balanced(10, 50)
    splits = ImbalancedConfig(rule="long-tail", supervised=True).apply(Splits(full, full))
    assert splits.probe is None
    assert splits.reference is splits.train


def test_the_seed_decides_who_is_kept_and_nothing_else_does() -> None:
    full = balanced(10, 50)
    shuffled = full.subset(torch.randperm(len(full), generator=torch.Generator().manual_seed(3)))

    def kept(source: ArraySource, seed: int) -> set[int]:
        return set(ImbalancedConfig(seed=seed).apply(Splits(source, full)).train.ids.tolist())

    assert kept(full, 2021) == kept(full, 2021) == kept(shuffled, 2021)
    assert kept(full, 2021) != kept(full, 2022)


def test_a_steeper_tail_is_part_of_a_flatter_one() -> None:
    full = balanced(10, 200)
    steep, flat = (
        set(ImbalancedConfig(rule="long-tail", factor=factor).apply(Splits(full, full)).train.ids.tolist())
        for factor in (100, 10)
    )
    assert steep < flat


def test_a_class_that_is_short_keeps_what_it_has() -> None:
    assert ImbalancedConfig(rule="long-tail", factor=4).counts((100, 20, 100)) == (100, 20, 25)


def test_classes_that_do_not_go_into_ten_blocks_are_refused() -> None:
    full = balanced(7, 30)
    with pytest.raises(ValueError, match=r"must be a multiple of ten; found 7\. rule='long-tail' takes any number"):
        ImbalancedConfig(rule="linear").apply(Splits(full, full))


def test_a_source_without_labels_is_refused() -> None:
    bare = ArraySource(torch.zeros(4, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="an imbalanced set needs labels; source 'arrays' has none"):
        ImbalancedConfig().apply(Splits(bare, bare))


def test_unlabelled_samples_are_refused() -> None:
    part = ArraySource(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, -1, 1, -1]))
    with pytest.raises(ValueError, match="2 unlabelled of 4"):
        ImbalancedConfig(rule="long-tail").apply(Splits(part, part))


def test_a_rule_that_leaves_nothing_is_refused() -> None:
    tiny = balanced(10, 1).subset(torch.arange(9))
    with pytest.raises(ValueError, match="keeps no sample of 9"):
        ImbalancedConfig(rule="linear").apply(Splits(tiny, balanced(10, 1)))


@pytest.mark.parametrize(("given", "message"), [({"rule": "step"}, "found 'step'"), ({"factor": 0.5}, "at least 1")])
def test_settings_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImbalancedConfig(**given)


def test_shot_groups_divide_at_a_hundred_and_at_twenty() -> None:
    counts = torch.tensor([500, 101, 100, 20, 19, 0])
    groups = shot_groups(torch.arange(6).repeat_interleave(counts), 6)
    assert {name: members.tolist() for name, members in groups.items()} == {
        "many": [0, 1],
        "medium": [2, 3],
        "few": [4, 5],
    }


def test_shot_groups_want_all_classes() -> None:
    with pytest.raises(ValueError, match="labels go up to 3, but there are only 3 classes"):
        shot_groups(torch.tensor([0, 3]), 3)


def test_shot_groups_divide_at_other_bounds() -> None:
    counts = torch.tensor([6000, 1001, 1000, 200, 199])
    groups = shot_groups(torch.arange(5).repeat_interleave(counts), 5, many=1000, few=200)
    assert {name: members.tolist() for name, members in groups.items()} == {
        "many": [0, 1],
        "medium": [2, 3],
        "few": [4],
    }


@pytest.mark.parametrize(("many", "few"), [(100, 102), (100, 0)])
def test_shot_groups_refuse_bounds_that_overlap(many: int, few: int) -> None:
    with pytest.raises(ValueError, match="few must be at least 1 and not above many"):
        shot_groups(torch.tensor([0]), 1, many=many, few=few)
