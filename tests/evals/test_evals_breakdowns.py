"""Accuracy by how frequent a class was, and by whether the bias agrees with the class."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from kinfolk.data import ArraySource, ColouredConfig, DigitsConfig, FewLabelsConfig, ImbalancedConfig, Splits
from kinfolk.evals import LinearProbe, Measurement, RawPixels, Subject
from kinfolk.evals.bias_accuracy import BiasAccuracy, most_frequent_bias
from kinfolk.evals.shot_accuracy import ShotAccuracy, pretraining_classes
from kinfolk.train.serialization import decode, encode

PROBE = LinearProbe(l2=(1e-2,), tolerance=1e-3)


def noisy(labels: torch.Tensor, *, bias: torch.Tensor | None = None, seed: int = 0, first_id: int = 0) -> ArraySource:
    """Four pixels: three that know the class, roughly, and one that shows the bias, shuffled in order of id."""
    generator = torch.Generator().manual_seed(seed)
    shown = labels.clamp(min=0)
    class_pixels = 60 + 40 * torch.stack([shown % 2, shown // 2, shown], 1)
    pixels = torch.cat([class_pixels, 60 * (shown if bias is None else bias.clamp(min=0))[:, None]], 1)
    pixels = (pixels + 35 * torch.randn(pixels.shape, generator=generator)).clamp(0, 255).byte()
    ids = first_id + torch.randperm(len(labels), generator=generator)
    return ArraySource(pixels[:, None, :, None], labels, ids=ids, bias_labels=bias)


def subject(train: ArraySource, test: ArraySource, pretraining: ArraySource | None = None) -> Subject:
    pixels = RawPixels(channels=train.channels, image_size=train.image_size)
    return Subject.of("raw pixels", pixels, train=train, test=test, pretraining=pretraining)


def by_name(found: object) -> dict[str, Measurement]:
    return {one.name: one for one in found}


@pytest.fixture(scope="module")
def long_tail() -> Subject:
    """Classes 0 to 3 with 150, 101, 20 and 19 pretraining images; 4 vanished. The probe's set is balanced."""
    balanced = noisy(torch.arange(200) % 5)
    test = noisy(torch.tensor([0] * 30 + [1] * 10 + [2] * 20 + [3] * 12 + [4] * 8), seed=1, first_id=1000)
    shots = torch.tensor([0] * 150 + [1] * 101 + [2] * 20 + [3] * 19)
    return subject(balanced, test, noisy(shots, seed=2, first_id=5000))


# --- shots ---------------------------------------------------------------------------------------------------------


def test_shots_are_the_accuracy_over_loops(long_tail: Subject) -> None:
    test = long_tail.features.test
    predicted = long_tail.head(PROBE).predict(test.rows)
    right: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
    classes: dict[str, list[list[int]]] = {"many": [[], []], "medium": [[]], "few": [[], []]}
    where = {0: ("many", 0), 1: ("many", 1), 2: ("medium", 0), 3: ("few", 0), 4: ("few", 1)}
    for answer, label in zip(predicted.tolist(), test.labels.tolist(), strict=True):
        group, place = where[label]
        right[group].append(int(answer == label))
        classes[group][place].append(int(answer == label))
    found = by_name(ShotAccuracy(PROBE).run(long_tail))
    assert list(found) == ["accuracy, many", "accuracy, medium", "accuracy, few"]
    for group, hits in right.items():
        one = found[f"accuracy, {group}"]
        assert one.value == pytest.approx(np.mean(hits))
        assert one.details["mean_over_classes"] == pytest.approx(np.mean([np.mean(c) for c in classes[group]]))
        assert one.details["test_rows"] == len(hits)
        assert one.details["classes"] == len(classes[group])
        assert one.better == "higher"
    assert found["accuracy, many"].value != found["accuracy, many"].details["mean_over_classes"]


def test_bounds_of_shots_move_classes_between_groups(long_tail: Subject) -> None:
    """With classes of 150, 101, 20, 19 and no images, bounds of 120 and 50 leave one, one and three."""
    found = by_name(ShotAccuracy(PROBE, many=120, few=50).run(long_tail))
    assert [one.details["classes"] for one in found.values()] == [1, 1, 3]


def test_the_head_is_the_shared_one(long_tail: Subject) -> None:
    found = by_name(ShotAccuracy(PROBE).run(long_tail))
    head = long_tail.head(PROBE)
    assert found["accuracy, few"].details["l2_used"] == head.details["l2_used"]
    rows = long_tail.features.test
    total = sum(one.value * one.details["test_rows"] for one in found.values())
    assert total == pytest.approx(int((head.predict(rows.rows) == rows.labels).sum()))


def test_hidden_labels_are_counted_as_what_they_were(long_tail: Subject) -> None:
    shots = long_tail.pretraining
    hidden = ArraySource(
        shots.read(torch.arange(len(shots))),
        torch.full((len(shots),), -1),
        ids=shots.ids,
        columns={"true_labels": shots.labels},
    )
    again = replace(long_tail, pretraining=hidden)
    assert ShotAccuracy(PROBE).missing(again) is None
    assert list(ShotAccuracy(PROBE).run(again)) == list(ShotAccuracy(PROBE).run(long_tail))


def test_unlabelled_pretraining_samples_count_for_no_class(long_tail: Subject) -> None:
    labels = long_tail.pretraining.labels.clone()
    labels[:60] = -1  # class 0 falls from 150 to 90
    partly = ArraySource(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)
    found = by_name(ShotAccuracy(PROBE).run(replace(long_tail, pretraining=partly)))
    assert {name: one.details["classes"] for name, one in found.items()} == {
        "accuracy, many": 1,
        "accuracy, medium": 2,
        "accuracy, few": 2,
    }
    assert {one.details["pretraining_rows_without_class"] for one in found.values()} == {60}


def test_without_classes_of_pretraining_nothing_is_measured(long_tail: Subject) -> None:
    for labels in (None, torch.full((4,), -1)):
        blind = replace(long_tail, pretraining=ArraySource(torch.zeros(4, 1, 1, 1, dtype=torch.uint8), labels))
        assert ShotAccuracy(PROBE).missing(blind) == "no classes of the pretraining samples"
        assert list(ShotAccuracy(PROBE).run(blind)) == []
    assert ShotAccuracy(PROBE).missing(long_tail) is None


def test_groups_without_a_test_row_are_left_out(long_tail: Subject) -> None:
    balanced = replace(long_tail, pretraining=long_tail.train)  # 40 of each class
    assert list(by_name(ShotAccuracy(PROBE).run(balanced))) == ["accuracy, medium"]


def test_a_class_that_nobody_has_seen_is_few_and_wrong(long_tail: Subject) -> None:
    test = noisy(torch.tensor([11] * 5 + [0] * 5), first_id=1000)
    found = by_name(ShotAccuracy(PROBE).run(subject(long_tail.train, test, long_tail.pretraining)))
    assert found["accuracy, few"].value == 0.0
    assert found["accuracy, few"].details["test_rows"] == 5


def test_a_single_sample_of_a_single_class() -> None:
    one = noisy(torch.tensor([2]))
    assert [m.value for m in ShotAccuracy(PROBE).run(subject(one, one))] == [1.0]


def test_true_labels_come_before_labels() -> None:
    images = torch.zeros(2, 1, 1, 1, dtype=torch.uint8)
    noise = ArraySource(images, torch.tensor([1, 1]), columns={"true_labels": torch.tensor([0, 1])})
    assert pretraining_classes(noise).tolist() == [0, 1]
    assert pretraining_classes(ArraySource(images, torch.tensor([1, -1]))).tolist() == [1, -1]
    assert pretraining_classes(ArraySource(images)) is None


def test_shots_of_long_tailed_digits() -> None:
    """Pretraining keeps 145, 67, 31, 14 and fewer digits per class; rare classes suffer where the head sees them so."""
    digits = DigitsConfig().load()
    balanced = ImbalancedConfig(rule="long-tail", factor=100).apply(digits)
    supervised = ImbalancedConfig(rule="long-tail", factor=100, supervised=True).apply(digits)
    found = {}
    for name, parts in {"balanced": balanced, "supervised": supervised}.items():
        one = subject(parts.reference, parts.test, parts.train)
        found[name] = {key: m.value for key, m in by_name(ShotAccuracy(PROBE).run(one)).items()}
        assert list(found[name]) == ["accuracy, many", "accuracy, medium", "accuracy, few"]
    assert found["supervised"]["accuracy, few"] < found["balanced"]["accuracy, few"] - 0.1
    assert found["supervised"]["accuracy, many"] > 0.9


# --- bias ----------------------------------------------------------------------------------------------------------


def biased(n: int, *, rho: float, seed: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    other = torch.randint(0, classes, (n,), generator=generator)
    return labels, torch.where(torch.rand(n, generator=generator) < rho, labels, other)


@pytest.fixture(scope="module")
def biased_subject() -> Subject:
    (labels, bias), (truth, shown) = biased(240, rho=0.9, seed=0), biased(160, rho=0.3, seed=1)
    return subject(noisy(labels, bias=bias), noisy(truth, bias=shown, seed=1, first_id=1000))


def loops(one: Subject, aligned: dict[int, int]) -> dict[str, float]:
    """All five numbers, row by row."""
    test = one.features.test
    predicted = one.head(PROBE).predict(test.rows).tolist()
    hits: dict[str, list[int]] = {"aligned": [], "conflicting": []}
    groups: dict[tuple[int, int], list[int]] = {}
    for answer, label, bias in zip(predicted, test.labels.tolist(), test.bias_labels.tolist(), strict=True):
        if label < 0 or bias < 0:
            continue
        groups.setdefault((label, bias), []).append(int(answer == label))
        if label in aligned:
            hits["aligned" if bias == aligned[label] else "conflicting"].append(int(answer == label))
    means = [float(np.mean(group)) for group in groups.values()]
    named = {f"accuracy, {name}": float(np.mean(some)) for name, some in hits.items() if some}
    if len(named) == 2:
        named["gap"] = named["accuracy, aligned"] - named["accuracy, conflicting"]
    return {**named, "accuracy, unbiased": float(np.mean(means)), "accuracy, worst group": min(means)}


def test_all_numbers_are_the_loops(biased_subject: Subject) -> None:
    expected = loops(biased_subject, {c: c for c in range(4)})
    for aligned in ("most frequent", "same index"):
        found = by_name(BiasAccuracy(aligned, PROBE).run(biased_subject))
        assert {name: one.value for name, one in found.items()} == pytest.approx(expected)
        assert list(found) == list(expected)
    assert found["gap"].value > 0.1  # the last pixel shows the bias
    assert found["gap"].better is None
    assert {one.better for name, one in found.items() if name != "gap"} == {"higher"}
    assert found["accuracy, unbiased"].details["groups"] == 16


def test_bias_values_need_not_be_classes(biased_subject: Subject) -> None:
    """The same data with another name for every bias: the aligned one is found in the pretraining set."""

    def renamed(source: ArraySource) -> ArraySource:
        bias = torch.tensor([70, 10, 0, 30])[source.bias_labels]
        return ArraySource(source.images, source.labels, ids=source.ids, bias_labels=bias)

    other = subject(renamed(biased_subject.train), renamed(biased_subject.test))
    found = by_name(BiasAccuracy(probe=PROBE).run(other))
    expected = by_name(BiasAccuracy(probe=PROBE).run(biased_subject))
    assert {name: one.value for name, one in found.items()} == {name: one.value for name, one in expected.items()}
    assert found["gap"].details["aligned_bias_by_class"] == {"0": 70, "1": 10, "2": 0, "3": 30}


def test_the_worst_group_is_named_with_its_size(biased_subject: Subject) -> None:
    details = by_name(BiasAccuracy(probe=PROBE).run(biased_subject))["accuracy, worst group"].details
    test = biased_subject.features.test
    rows = (test.labels == details["worst_class"]) & (test.bias_labels == details["worst_bias"])
    assert int(rows.sum()) == details["worst_rows"] > 0
    predicted = biased_subject.head(PROBE).predict(test.rows[rows])
    worst = loops(biased_subject, {})["accuracy, worst group"]
    assert (predicted == details["worst_class"]).double().mean().item() == pytest.approx(worst)


def test_the_most_frequent_bias_is_counted_and_ties_have_none() -> None:
    labels, bias = biased(300, rho=0.5, seed=3)
    labels[:20], bias[20:40] = -1, -1
    counts = Counter((c, b) for c, b in zip(labels.tolist(), bias.tolist(), strict=True) if c >= 0 and b >= 0)
    classes, theirs = most_frequent_bias(noisy(labels, bias=bias))
    assert classes.tolist() == [0, 1, 2, 3]
    assert theirs.tolist() == [max(range(4), key=lambda b: counts[c, b]) for c in range(4)]
    tied = noisy(torch.tensor([0, 0, 1, 1, 1]), bias=torch.tensor([4, 5, 4, 4, 5]))
    assert [part.tolist() for part in most_frequent_bias(tied)] == [[1], [4]]
    assert [len(part) for part in most_frequent_bias(noisy(labels))] == [0, 0]


def test_rows_of_a_class_without_an_aligned_bias_are_counted_and_left_out(biased_subject: Subject) -> None:
    labels, bias = biased(200, rho=0.9, seed=0)
    three = labels < 3  # class 3 vanished from pretraining
    one = replace(biased_subject, pretraining=noisy(labels[three], bias=bias[three], seed=4, first_id=7000))
    found = by_name(BiasAccuracy(probe=PROBE).run(one))
    assert {name: m.value for name, m in found.items()} == pytest.approx(loops(one, {c: c for c in range(3)}))
    assert found["gap"].details["rows_without_aligned_bias"] == 40
    same_index = by_name(BiasAccuracy("same index", PROBE).run(one))
    assert same_index["gap"].details["rows_without_aligned_bias"] == 0


def test_unlabelled_rows_and_unknown_biases_are_dropped(biased_subject: Subject) -> None:
    labels, bias = biased_subject.test.labels.clone(), biased_subject.test.bias_labels.clone()
    labels[:30], bias[20:60] = -1, -1
    test = ArraySource(biased_subject.test.images, labels, ids=biased_subject.test.ids, bias_labels=bias)
    one = subject(biased_subject.train, test)
    found = by_name(BiasAccuracy(probe=PROBE).run(one))
    assert {name: m.value for name, m in found.items()} == pytest.approx(loops(one, {c: c for c in range(4)}))
    assert found["gap"].details["bias_unknown"] == 30


def test_only_aligned_rows_have_no_gap(biased_subject: Subject) -> None:
    labels, _ = biased(40, rho=1.0, seed=0)
    found = by_name(
        BiasAccuracy(probe=PROBE).run(subject(biased_subject.train, noisy(labels, bias=labels, first_id=1000)))
    )
    assert list(found) == ["accuracy, aligned", "accuracy, unbiased", "accuracy, worst group"]


def test_what_is_missing_is_said(biased_subject: Subject) -> None:
    evaluator, labels = BiasAccuracy(probe=PROBE), torch.arange(8) % 4
    unknown = subject(biased_subject.train, noisy(labels, first_id=1000))
    assert evaluator.missing(unknown) == "no bias labels"
    assert list(evaluator.run(unknown)) == []
    balanced = replace(biased_subject, pretraining=noisy(torch.arange(16) % 4, bias=torch.arange(16) // 4))
    assert evaluator.missing(balanced) == "no class whose pretraining samples have one most frequent bias"
    assert list(evaluator.run(balanced)) == []
    assert BiasAccuracy("same index", PROBE).missing(balanced) is None
    assert evaluator.missing(biased_subject) is None


def test_constant_features_have_no_gap_and_a_worst_group_of_0() -> None:
    labels, bias = biased(80, rho=0.5, seed=0)
    grey = ArraySource(torch.full((80, 1, 1, 1), 9, dtype=torch.uint8), labels, bias_labels=bias)
    found = {name: m.value for name, m in by_name(BiasAccuracy("same index", PROBE).run(subject(grey, grey))).items()}
    assert found["accuracy, worst group"] == 0.0
    assert found["accuracy, unbiased"] == 0.25
    assert found["accuracy, aligned"] == pytest.approx(0.25, abs=0.1)


def test_coloured_digits_show_the_bias_and_grey_ones_do_not() -> None:
    """A head on the pixels of digits whose background goes with the class in 99 % reads the background."""
    digits = DigitsConfig().load()
    few = Splits(digits.train.subset(torch.arange(600)), digits.test)
    coloured = ColouredConfig(rho=0.99).apply(few)
    found = by_name(BiasAccuracy(probe=PROBE).run(subject(coloured.train, coloured.test)))
    values = {name: one.value for name, one in found.items()}
    assert found["gap"].details["aligned_bias_by_class"] == {str(c): c for c in range(10)}
    assert values["accuracy, aligned"] > 0.9
    assert values["gap"] > 0.2
    assert values["accuracy, worst group"] <= values["accuracy, unbiased"] < values["accuracy, aligned"]
    fair = ColouredConfig(rho=0.1).apply(few)
    unbiased = by_name(BiasAccuracy("same index", PROBE).run(subject(fair.train, fair.test)))
    assert abs(unbiased["gap"].value) < 0.15


def test_true_classes_of_hidden_labels_find_the_aligned_bias() -> None:
    digits = DigitsConfig().load()
    coloured = ColouredConfig(rho=0.9).apply(Splits(digits.train.subset(torch.arange(600)), digits.test))
    hidden = FewLabelsConfig(per_class=1).apply(coloured).train
    assert [part.tolist() for part in most_frequent_bias(hidden)] == [list(range(10))] * 2


def test_settings_survive_yaml_and_unknown_rules_are_refused() -> None:
    for evaluator in (BiasAccuracy("same index", PROBE), ShotAccuracy(PROBE)):
        assert decode(type(evaluator), encode(evaluator)) == evaluator
        assert isinstance(hash(evaluator), int)
    with pytest.raises(ValueError, match="aligned must be 'most frequent' or 'same index', got 'majority'"):
        BiasAccuracy("majority")  # type: ignore[arg-type]


def test_unlabelled_rows_have_no_aligned_bias_and_give_none() -> None:
    labels, bias = torch.arange(40) % 2, torch.arange(40) // 2 % 2
    train = noisy(labels, bias=bias)
    half = noisy(torch.where(torch.arange(40) < 20, labels, -1), bias=bias, seed=1, first_id=1000)
    found = by_name(BiasAccuracy("same index", PROBE).run(subject(train, half)))
    assert found["gap"].details["aligned_bias_by_class"] == {"0": 0, "1": 1}
    bias_elsewhere = torch.where(half.labels < 0, bias, -1)
    nowhere = noisy(half.labels, bias=bias_elsewhere, seed=1, first_id=1000)
    assert BiasAccuracy("same index", PROBE).missing(subject(train, nowhere)) == "no bias labels"
