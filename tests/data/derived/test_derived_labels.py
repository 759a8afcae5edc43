"""Wrong labels, few labels, wrong captions: exact counts, and the truth beside them."""

from __future__ import annotations

import pytest
import torch

from kinfolk.data.derived import CIFAR10_CONFUSIONS, CaptionNoiseConfig, FewLabelsConfig, LabelNoiseConfig
from kinfolk.data.sources.base import ArraySource, Source, Splits


def labelled(counts: list[int]) -> ArraySource:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    return ArraySource(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)


def labels_of(source: Source) -> torch.Tensor:
    assert source.labels is not None
    return source.labels


def truth_of(source: Source) -> torch.Tensor:
    truth = source.columns["true_labels"]
    assert isinstance(truth, torch.Tensor)
    return truth


@pytest.mark.parametrize("rule", ["symmetric", "asymmetric"])
def test_every_class_loses_exactly_its_share(rule: str) -> None:
    clean = labelled([50, 31, 10])
    noisy = LabelNoiseConfig(share=0.3, rule=rule).apply(Splits(clean, clean)).train
    wrong = labels_of(noisy) != truth_of(noisy)
    assert truth_of(noisy).tolist() == labels_of(clean).tolist()
    assert [int(wrong[truth_of(noisy) == c].sum()) for c in range(3)] == [15, 9, 3]


def test_symmetric_noise_reaches_all_other_classes_alike() -> None:
    clean = labelled([3000, 3000, 3000, 3000])
    noisy = LabelNoiseConfig(share=0.6).apply(Splits(clean, clean)).train
    table = torch.zeros(4, 4).index_put_((truth_of(noisy), labels_of(noisy)), torch.ones(12000), accumulate=True)
    others = table[~torch.eye(4, dtype=torch.bool)]
    assert table.diagonal().tolist() == [1200] * 4
    assert float((others - 600).abs().max()) < 5 * 600**0.5


def test_asymmetric_noise_follows_the_map() -> None:
    clean = labelled([20] * 10)
    noisy = LabelNoiseConfig(share=0.5, rule="asymmetric", class_map=CIFAR10_CONFUSIONS).apply(Splits(clean, clean))
    then, now = truth_of(noisy.train), labels_of(noisy.train)
    wrong = then != now
    assert torch.equal(now[wrong], torch.tensor(CIFAR10_CONFUSIONS)[then[wrong]])
    assert then[wrong].bincount(minlength=10).tolist() == [0, 0, 10, 10, 10, 10, 0, 0, 0, 10]


def test_without_a_map_the_next_class_is_taken() -> None:
    clean = labelled([4, 4, 4])
    noisy = LabelNoiseConfig(share=1.0, rule="asymmetric").apply(Splits(clean, clean)).train
    assert torch.equal(labels_of(noisy), (labels_of(clean) + 1) % 3)


def test_more_noise_contains_less_noise() -> None:
    clean = labelled([40, 40])
    less, more = (
        LabelNoiseConfig(share=share, seed=5).apply(Splits(clean, clean)).train.labels != clean.labels
        for share in (0.2, 0.4)
    )
    assert bool((more | ~less).all())
    assert int(more.sum()) == 2 * int(less.sum())


def test_another_seed_is_other_noise() -> None:
    clean = labelled([40, 40, 40])
    first, again, other = (
        labels_of(LabelNoiseConfig(seed=seed).apply(Splits(clean, clean)).train) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_unlabelled_samples_stay_unlabelled() -> None:
    labels = torch.tensor([0, 0, 1, 1, -1, -1])
    part = ArraySource(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), labels)
    noisy = LabelNoiseConfig(share=1.0).apply(Splits(part, part)).train
    assert labels_of(noisy).tolist() == [1, 1, 0, 0, -1, -1]


def test_a_clean_probe_is_given_when_asked_for() -> None:
    clean = labelled([10, 10])
    assert LabelNoiseConfig().apply(Splits(clean, clean)).probe is None
    assert LabelNoiseConfig(clean_probe=True).apply(Splits(clean, clean)).probe is clean


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"share": 1.2}, "share must be a share from 0 to 1; found 1.2"),
        ({"rule": "pair"}, "found 'pair'"),
        ({"class_map": (1, 0)}, "class_map belongs to rule='asymmetric'"),
    ],
)
def test_noise_settings_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelNoiseConfig(**given)


def test_a_map_for_other_classes_is_refused() -> None:
    clean = labelled([4, 4, 4])
    with pytest.raises(ValueError, match="for each of the 3 classes; found"):
        LabelNoiseConfig(rule="asymmetric", class_map=(1, 0)).apply(Splits(clean, clean))


def test_noise_needs_labels_of_two_classes() -> None:
    bare, one = ArraySource(torch.zeros(4, 1, 2, 2, dtype=torch.uint8)), labelled([4])
    with pytest.raises(ValueError, match="label noise needs labels"):
        LabelNoiseConfig().apply(Splits(bare, bare))
    with pytest.raises(ValueError, match="at least two classes; source 'arrays' has 1"):
        LabelNoiseConfig().apply(Splits(one, one))


def test_so_many_labels_of_every_class_are_left() -> None:
    full = labelled([30, 12, 7])
    splits = FewLabelsConfig(per_class=5).apply(Splits(full, full))
    labels = labels_of(splits.train)
    assert labels[labels >= 0].bincount().tolist() == [5, 5, 5]
    assert len(splits.train) == 49
    assert torch.equal(truth_of(splits.train), labels_of(full))
    assert torch.equal(labels[labels >= 0], labels_of(full)[labels >= 0])


def test_a_share_of_every_class_is_at_least_one() -> None:
    full = labelled([100, 40, 3])
    labels = labels_of(FewLabelsConfig(share=0.1).apply(Splits(full, full)).train)
    assert labels[labels >= 0].bincount().tolist() == [10, 4, 1]


def test_probes_see_the_labelled_samples_alone() -> None:
    full = labelled([30, 30])
    splits = FewLabelsConfig(per_class=3).apply(Splits(full, full, probe=full))
    assert splits.probe is not None
    labels = labels_of(splits.train)
    assert splits.probe.ids.tolist() == splits.train.ids[labels >= 0].tolist()
    assert bool((labels_of(splits.probe) >= 0).all())


def test_fewer_labels_are_part_of_more() -> None:
    full = labelled([30, 30])
    one, ten = (labels_of(FewLabelsConfig(per_class=count).apply(Splits(full, full)).train) >= 0 for count in (1, 10))
    assert bool((ten | ~one).all())


def test_labels_made_wrong_and_then_hidden_keep_the_first_truth() -> None:
    full = labelled([30, 30])
    noisy = LabelNoiseConfig(share=0.5).apply(Splits(full, full))
    hidden = FewLabelsConfig(per_class=3).apply(noisy)
    assert torch.equal(truth_of(hidden.train), labels_of(full))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give either per_class or share"),
        ({"per_class": 1, "share": 0.1}, "give either per_class or share"),
        ({"per_class": 0}, "at least 1"),
        ({"share": 0.0}, "above 0"),
        ({"share": 2.0}, "from 0 to 1"),
    ],
)
def test_few_label_settings_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewLabelsConfig(**given)


def test_a_class_with_too_few_labels_is_named() -> None:
    full = labelled([30, 4])
    with pytest.raises(ValueError, match="class 1 of 'arrays' has 4"):
        FewLabelsConfig(per_class=5).apply(Splits(full, full))


def captioned(text: list[str]) -> ArraySource:
    embedding = torch.arange(len(text), dtype=torch.float32)[:, None]
    images = torch.zeros(len(text), 1, 2, 2, dtype=torch.uint8)
    return ArraySource(images, text=text, text_embedding=embedding)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_exactly_this_share_of_captions_is_wrong(share: float) -> None:
    right = captioned([f"caption {i}" for i in range(50)])
    wrong = CaptionNoiseConfig(share=share).apply(Splits(right, right)).train
    assert wrong.text is not None
    assert wrong.text_embedding is not None
    assert sum(now != then for now, then in zip(wrong.text, right.text, strict=True)) == 50 * share
    assert sorted(wrong.text) == sorted(right.text)
    assert wrong.columns["true_text"] == right.text
    assert [f"caption {int(row)}" for row in wrong.text_embedding] == wrong.text


def test_equal_captions_are_never_exchanged_for_one_another() -> None:
    right = captioned(["a"] * 9 + ["b"] * 6 + ["c"] * 5)
    for seed in range(10):
        wrong = CaptionNoiseConfig(share=1.0, seed=seed).apply(Splits(right, right)).train
        assert all(now != then for now, then in zip(wrong.text, right.text, strict=True))


def test_a_caption_of_more_than_half_cannot_be_exchanged() -> None:
    right = captioned(["a"] * 6 + ["b"] * 4)
    with pytest.raises(ValueError, match="6 of the 10 captions to exchange are 'a': more than half"):
        CaptionNoiseConfig(share=1.0).apply(Splits(right, right))


def test_caption_noise_is_a_function_of_its_seed() -> None:
    right = captioned([str(i) for i in range(30)])
    first, again, other = (CaptionNoiseConfig(seed=s).apply(Splits(right, right)).train.text for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_caption_noise_needs_captions_and_two_of_them() -> None:
    bare, right = ArraySource(torch.zeros(4, 1, 2, 2, dtype=torch.uint8)), captioned(["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="needs captions; source 'arrays' has none"):
        CaptionNoiseConfig().apply(Splits(bare, bare))
    with pytest.raises(ValueError, match="is one, which cannot be exchanged"):
        CaptionNoiseConfig(share=0.25).apply(Splits(right, right))
    with pytest.raises(ValueError, match="from 0 to 1; found -1"):
        CaptionNoiseConfig(share=-1)
