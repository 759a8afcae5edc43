"""The probe on few labels: what is drawn, what is fitted on it, and what it costs."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from kinfolk.data.sources import DigitsConfig
from kinfolk.evals import Features, FeatureSplits, FewLabelProbe, RawPixels, extract
from kinfolk.evals.few_label_probe import draw_per_class
from kinfolk.train.serialization import decode, encode


def features(rows: torch.Tensor, labels: torch.Tensor, *, first_id: int = 0) -> Features:
    return Features.from_rows(rows, torch.arange(first_id, first_id + len(rows)), labels)


def blobs(n: int, *, d: int = 6, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    return centres[labels] + 1.5 * torch.randn(n, d, generator=generator), labels


def splits(n: int = 400, *, d: int = 6, classes: int = 4, n_test: int = 200) -> FeatureSplits:
    train = features(*blobs(n, d=d, classes=classes))
    return FeatureSplits(train, features(*blobs(n_test, d=d, classes=classes, seed=1), first_id=10_000))


def test_draws_take_what_is_asked_are_nested_and_differ_by_seed() -> None:
    labels = torch.tensor([0] * 20 + [1] * 3 + [4] * 30)
    draw = {count: draw_per_class(labels, torch.full((5,), count), seed=0) for count in (1, 5, 10)}
    assert labels[draw[1]].tolist() == [0, 1, 4]
    assert labels[draw[5]].bincount().tolist() == [5, 3, 0, 0, 5]  # class 1 gives all it has
    assert set(draw[1].tolist()) <= set(draw[5].tolist()) <= set(draw[10].tolist())
    assert not torch.equal(draw_per_class(labels, torch.full((5,), 5), seed=1), draw[5])


def test_few_labels_are_logistic_regression_on_the_drawn_rows() -> None:
    data = splits()
    probe = FewLabelProbe(labels_per_class=(5,), shares=(), seeds=(3, 8), l2=0.05, tolerance=1e-6)
    (found,) = probe.run(data)
    scaler = StandardScaler().fit(data.train.rows.double().numpy())
    scores = []
    for seed in (3, 8):
        chosen = draw_per_class(data.train.labels, torch.full((4,), 5), seed=seed)
        theirs = LogisticRegression(C=1 / (20 * 0.05), tol=1e-8, max_iter=10_000)
        theirs.fit(scaler.transform(data.train.rows[chosen].double().numpy()), data.train.labels[chosen].numpy())
        scores.append(theirs.score(scaler.transform(data.test.rows.double().numpy()), data.test.labels.numpy()))
    assert found.name == "accuracy, 5 per class"
    assert found.value == pytest.approx(np.mean(scores), abs=1 / 200)
    assert found.draws == 2


def test_small_classes_are_counted() -> None:
    rows, _ = blobs(43)
    labels = torch.tensor([0] * 20 + [1] * 3 + [2] * 20)
    data = FeatureSplits(features(rows, labels), features(rows, labels, first_id=100))
    short = {m.name: m.details["classes_short"] for m in FewLabelProbe(shares=()).run(data)}
    assert short == {"accuracy, 1 per class": 0, "accuracy, 5 per class": 1, "accuracy, 10 per class": 1}


def test_more_labels_help() -> None:
    values = [m.value for m in FewLabelProbe(labels_per_class=(1, 10, 80), shares=()).run(splits())]
    assert values[0] < values[1] < values[2]


def test_shares_are_the_same_of_every_class_and_at_least_one_row() -> None:
    rows, _ = blobs(330)
    labels = torch.tensor([0] * 200 + [1] * 100 + [2] * 26 + [7] * 4)  # 1 % of 26 is 0.26, 10 % of 4 is 0.4
    data = FeatureSplits(features(rows, labels), features(rows, labels, first_id=1000))
    found = {m.name: m.details for m in FewLabelProbe(labels_per_class=()).run(data)}
    assert list(found) == ["accuracy, 1 % of labels", "accuracy, 5 % of labels", "accuracy, 10 % of labels"]
    assert [details["labels"] for details in found.values()] == [2 + 1 + 1 + 1, 10 + 5 + 1 + 1, 20 + 10 + 3 + 1]
    assert [details["classes_short"] for details in found.values()] == [0, 0, 0]


def test_a_share_is_logistic_regression_on_the_drawn_rows() -> None:
    data = splits()
    (found,) = FewLabelProbe(labels_per_class=(), shares=(0.1,), seeds=(2,), tolerance=1e-6).run(data)
    chosen = draw_per_class(data.train.labels, torch.full((4,), 10), seed=2)
    scaler = StandardScaler().fit(data.train.rows.double().numpy())
    theirs = LogisticRegression(C=1 / (40 * 1e-2), tol=1e-8, max_iter=10_000)
    theirs.fit(scaler.transform(data.train.rows[chosen].double().numpy()), data.train.labels[chosen].numpy())
    expected = theirs.score(scaler.transform(data.test.rows.double().numpy()), data.test.labels.numpy())
    assert found.value == pytest.approx(expected, abs=1 / 200 + 1e-12)
    assert (found.draws, found.sd) == (1, None)


def test_equal_numbers_by_count_and_by_share_are_equal_draws() -> None:
    by_count, by_share = FewLabelProbe(labels_per_class=(10,), shares=(0.1,)).run(splits())  # 100 rows a class
    assert (by_count.value, by_count.sd, by_count.details) == (by_share.value, by_share.sd, by_share.details)


def test_all_labels_are_one_draw_whatever_the_seed() -> None:
    (found,) = FewLabelProbe(labels_per_class=(), shares=(1.0,), seeds=(0, 1)).run(splits(80))
    assert found.name == "accuracy, 100 % of labels"
    assert found.sd == pytest.approx(0, abs=1e-9)


def test_draws_are_the_loop() -> None:
    labels = torch.randint(0, 5, (90,), generator=torch.Generator().manual_seed(5))
    wanted = torch.tensor([3, 0, 100, 1, 7])
    order = torch.randperm(90, generator=torch.Generator().manual_seed(4)).tolist()
    expected = [i for c in range(5) for i in [j for j in order if int(labels[j]) == c][: int(wanted[c])]]
    assert draw_per_class(labels, wanted, seed=4).tolist() == expected


@pytest.mark.parametrize("labels", [[0], [3, 3, 3], [0, 1]])
def test_tiny_training_sets_and_one_class(labels: list[int]) -> None:
    rows = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(1))
    split, test = features(rows, torch.tensor(labels)), features(rows, torch.tensor(labels), first_id=50)
    assert {m.value for m in FewLabelProbe().run(FeatureSplits(split, test))} == {1.0}


def test_constant_features_give_chance() -> None:
    labels = torch.arange(100) % 4
    data = FeatureSplits(features(torch.ones(100, 3), labels), features(torch.ones(100, 3), labels, first_id=500))
    assert {m.value for m in FewLabelProbe().run(data)} == {0.25}


def test_unlabelled_rows_are_dropped_and_unknown_classes_are_errors() -> None:
    data = splits()
    labels, truth = data.train.labels.clone(), data.test.labels.clone()
    labels[::4] = -1
    keep = labels >= 0
    dropped = FeatureSplits(Features(data.train.rows[keep], data.train.ids[keep], labels[keep]), data.test)
    with_unlabelled = FeatureSplits(features(data.train.rows, labels), data.test)
    probe = FewLabelProbe(labels_per_class=(5,), shares=(0.05,), seeds=(0, 1))
    assert list(probe.run(with_unlabelled)) == list(probe.run(dropped))
    truth[:] = 9
    unknown = FeatureSplits(data.train, features(data.test.rows, truth, first_id=10_000))
    assert {m.value for m in probe.run(unknown)} == {0.0}


def test_ten_percent_of_a_large_set_is_affordable() -> None:
    """All six sizes at 20,000 x 128 with five seeds took 2 s of one thread; here it is one size."""
    data = splits(20_000, d=64, classes=10, n_test=500)
    start = time.process_time()
    (found,) = FewLabelProbe(labels_per_class=(), shares=(0.1,)).run(data)
    assert found.details["labels"] == 2000
    assert time.process_time() - start < 15


def test_real_digits() -> None:
    """Measured once on pixels: 0.601, 0.807, 0.850 at 1, 5, 10 a class, 0.855 at 10 % of labels, 14 of each class."""
    digits = DigitsConfig().load()
    pixels = RawPixels(channels=1, image_size=(8, 8))
    data = FeatureSplits(extract(pixels, digits.train), extract(pixels, digits.test))
    found = {m.name: m for m in FewLabelProbe().run(data)}
    values = [m.value for m in found.values()]
    assert values == pytest.approx([0.601, 0.807, 0.850, 0.601, 0.833, 0.855], abs=0.006)
    assert [m.details["labels"] for m in found.values()] == [10, 50, 100, 10, 70, 142]
    assert found["accuracy, 10 per class"].sd > 0


def test_settings_survive_yaml() -> None:
    probe = FewLabelProbe(labels_per_class=(2,), shares=(0.2,))
    assert decode(FewLabelProbe, encode(probe)) == probe
    assert hash(FewLabelProbe(labels_per_class=[2], shares=[0.2])) == hash(probe)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"labels_per_class": (), "shares": ()}, "there is nothing to measure: give labels_per_class, shares, or both"),
        ({"labels_per_class": (0, 5)}, r"labels_per_class must be counts, each at least 1, got \(0, 5\)"),
        ({"shares": (0.0,)}, r"shares must lie in \(0, 1\], got \(0.0,\); 1 % is 0.01"),
        ({"shares": (5.0,)}, r"shares must lie in \(0, 1\], got \(5.0,\)"),
        ({"seeds": (1, 1)}, "seeds must be at least one seed, each another one"),
        ({"seeds": ()}, "seeds must be at least one seed"),
        ({"l2": -1.0}, "l2 must be positive, got -1.0"),
    ],
)
def test_the_probe_refuses(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FewLabelProbe(**settings)
