"""Weighted kNN and the exact search under it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from kinfolk.data.sources import DigitsConfig
from kinfolk.evals import KNN, Features, FeatureSplits, Measurement, RawPixels, extract
from kinfolk.evals.neighbours import nearest, normalised


def features(rows: torch.Tensor, labels: torch.Tensor | None, *, first_id: int = 0) -> Features:
    return Features.from_rows(rows, torch.arange(first_id, first_id + len(rows)), labels)


def blobs(n: int, *, d: int = 6, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    return centres[labels] + torch.randn(n, d, generator=generator), labels


def accuracy(evaluator: KNN, splits: FeatureSplits) -> float:
    return measured(evaluator, splits)["accuracy"].value


def measured(evaluator: KNN, splits: FeatureSplits) -> dict[str, Measurement]:
    return {found.name: found for found in evaluator.run(splits)}


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (40, 0.1), (61, 1.0)])
def test_predictions_equal_scikit_learn(k: int, temperature: float) -> None:
    (rows, labels), (queries, _) = blobs(123), blobs(57, seed=1)
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    theirs.fit(rows.double().numpy(), labels.numpy())
    ours = KNN(k=k, temperature=temperature).predict(features(rows, labels), features(queries, None, first_id=500))
    assert ours.tolist() == theirs.predict(queries.double().numpy()).tolist()


def test_votes_by_hand() -> None:
    """Cosines 1, 0.8, 0.8 with k = 3 of 6 rows: class 0 has one vote of e^(1/T), class 1 two of e^(0.8/T)."""
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6], [-1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]])
    train = features(rows, torch.tensor([0, 1, 1, 0, 0, 0]))
    query = features(torch.tensor([[2.0, 0.0]]), None, first_id=10)
    # e^(0.2 / T) > 2 just when T < 0.2 / log 2 = 0.2885
    assert KNN(k=3, temperature=0.28).predict(train, query).tolist() == [0]
    assert KNN(k=3, temperature=0.30).predict(train, query).tolist() == [1]


def test_equal_scores_go_to_the_lower_class() -> None:
    train = features(torch.tensor([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0], [-1.0, 0.0]]), torch.tensor([5, 2, 7, 7]))
    query = features(torch.tensor([[1.0, 0.0]]), None, first_id=10)
    assert KNN(k=2).predict(train, query).tolist() == [2]


def test_k_is_half_of_a_small_training_set_and_recorded() -> None:
    assert [KNN().k_for(n) for n in (1, 2, 3, 10, 399, 400, 1000)] == [1, 1, 1, 5, 199, 200, 200]
    rows, labels = blobs(30)
    found = measured(KNN(), FeatureSplits(features(rows, labels), features(rows, labels, first_id=100)))
    assert list(found) == ["accuracy", "balanced accuracy", "precision@1"]
    assert {one.details["k_used"] for one in found.values()} == {15}
    assert {one.better for one in found.values()} == {"higher"}


def test_precision_at_1_is_the_nearest_training_row_whatever_k() -> None:
    (rows, labels), (queries, truth) = blobs(90), blobs(70, seed=1)
    splits = FeatureSplits(features(rows, labels), features(queries, truth, first_id=500))
    theirs = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(rows.double().numpy(), labels.numpy())
    expected = theirs.score(queries.double().numpy(), truth.numpy())
    found = measured(KNN(k=30), splits)
    assert found["precision@1"].value == pytest.approx(expected)
    assert found["precision@1"].value != found["accuracy"].value  # else this could not fail


def test_precision_at_1_shows_tiny_classes_that_the_vote_drowns() -> None:
    """Two rows of class 1 among forty of class 0, all near one another: 20 votes, and only the nearest knows."""
    angles = torch.cat([torch.linspace(0.1, 1.4, 40), torch.tensor([0.0, 0.01])])
    train = features(torch.stack([angles.cos(), angles.sin()], 1), (torch.arange(42) >= 40).long())
    test = features(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), first_id=100)
    found = measured(KNN(k=20, temperature=1.0), FeatureSplits(train, test))
    assert (found["accuracy"].value, found["precision@1"].value) == (0.0, 1.0)


def test_balanced_accuracy_is_scikit_learns() -> None:
    (rows, labels), (queries, truth) = blobs(123), blobs(57, seed=1)
    train, test = features(rows, labels), features(queries, truth, first_id=500)
    found = measured(KNN(k=9), FeatureSplits(train, test))["balanced accuracy"]
    predicted = KNN(k=9).predict(train, test)
    assert found.value == pytest.approx(balanced_accuracy_score(truth.numpy(), predicted.numpy()))
    assert sorted(found.details["accuracy_by_class"]) == ["0", "1", "2", "3"]


def test_real_digits() -> None:
    """Measured once on the pixels of 1,437 + 360 digits: kNN 0.958 at k = 5, precision@1 0.953, classes 0.84 to 1."""
    digits = DigitsConfig().load()
    pixels = RawPixels(channels=1, image_size=(8, 8))
    train, test = extract(pixels, digits.train), extract(pixels, digits.test)
    found = measured(KNN(k=5), FeatureSplits(train, test))
    theirs = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(train.rows.numpy(), train.labels.numpy())
    expected = theirs.score(test.rows.numpy(), test.labels.numpy())
    assert found["precision@1"].value == pytest.approx(expected, abs=1 / 360 + 1e-9)
    assert found["precision@1"].value == pytest.approx(0.953, abs=0.006)
    by_class = found["balanced accuracy"].details["accuracy_by_class"].values()
    assert min(by_class) == pytest.approx(31 / 37, abs=0.03)  # threes
    assert max(by_class) == 1.0


def test_a_training_sample_does_not_vote_for_itself() -> None:
    rows, labels = blobs(40)
    labels = torch.arange(40) % 4  # random labels: only a self-match could be right
    split = features(rows, labels)
    same_images_as_strangers = features(rows, labels, first_id=100)
    assert accuracy(KNN(k=1), FeatureSplits(split, same_images_as_strangers)) == 1.0
    own = KNN(k=1).predict(split, split)
    gram = normalised(rows) @ normalised(rows).T
    gram.fill_diagonal_(-2)
    assert own.tolist() == labels[gram.argmax(1)].tolist()
    some = Features(rows[5:9], torch.arange(5, 9), labels[5:9])  # part of the training set as queries
    assert KNN(k=1).predict(split, some).tolist() == own[5:9].tolist()


def test_a_query_left_without_neighbours_is_an_error() -> None:
    split = features(torch.ones(1, 2), torch.tensor([0]))
    assert KNN().predict(split, split).tolist() == [-1]
    assert {one.value for one in KNN().run(FeatureSplits(split, split))} == {0.0}


def test_a_class_that_training_lacks_counts_as_errors() -> None:
    train = features(torch.eye(2), torch.tensor([0, 1]))
    test = features(torch.eye(2), torch.tensor([0, 3]), first_id=10)
    assert accuracy(KNN(), FeatureSplits(train, test)) == 0.5


def test_constant_features_score_the_lowest_class_whatever_the_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 1e-7 * torch.randn(20, 5, generator=generator)
    labels = torch.arange(20) % 2
    train, test = features(1 + noise, labels), features(torch.ones(6, 5), torch.arange(6) % 2, first_id=100)
    assert accuracy(KNN(), FeatureSplits(train, test)) == 0.5
    assert KNN(k=4).predict(train, test).unique().tolist() == [
        0
    ]  # rows 0-3 are the lowest of the tied ones: two a class


def test_zero_rows_are_neighbours_at_cosine_0() -> None:
    train = features(torch.tensor([[0.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1]))
    assert KNN(k=1).predict(train, features(torch.tensor([[1.0, 0.0]]), None, first_id=9)).tolist() == [0]


def test_one_class_is_always_right() -> None:
    rows, _ = blobs(9)
    train, test = features(rows, torch.full((9,), 4)), features(rows, torch.full((9,), 4), first_id=50)
    assert accuracy(KNN(), FeatureSplits(train, test)) == 1.0


def test_a_small_temperature_does_not_overflow() -> None:
    (rows, labels), (queries, truth) = blobs(50), blobs(20, seed=1)
    splits = FeatureSplits(features(rows, labels), features(queries, truth, first_id=100))
    assert accuracy(KNN(temperature=1e-6), splits) == accuracy(KNN(k=1), splits)


def test_unlabelled_rows_neither_vote_nor_count() -> None:
    (rows, labels), (queries, truth) = blobs(60), blobs(30, seed=1)
    labels[::3], truth[::5] = -1, -1
    known, asked = labels >= 0, truth >= 0
    with_unlabelled = FeatureSplits(features(rows, labels), features(queries, truth, first_id=100))
    without = FeatureSplits(features(rows[known], labels[known]), features(queries[asked], truth[asked], first_id=100))
    assert accuracy(KNN(k=9), with_unlabelled) == accuracy(KNN(k=9), without)


def test_neither_order_nor_tiling_matters_even_with_duplicates() -> None:
    rows, labels = blobs(80, d=3)
    rows = torch.cat([rows, rows[:40]])  # exact ties with other labels
    labels = torch.cat([labels, (labels[:40] + 1) % 4])
    train, test = features(rows, labels), features(blobs(31, d=3, seed=2)[0], None, first_id=1000)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    shuffled = Features.from_rows(rows[order], order, labels[order])
    expected = KNN(k=10).predict(train, test)
    for tile in (1, 2, 7, 30, 31, 500):
        assert torch.equal(KNN(k=10).predict(shuffled, test, tile=tile), expected)


@pytest.mark.parametrize("tile", [None, 1, 4])
def test_nearest_against_a_full_sort(tile: int | None) -> None:
    queries, keys = normalised(blobs(13)[0]), normalised(blobs(29, seed=4)[0])
    cosines, indices = nearest(queries, keys, k=29, tile=tile)
    exact = queries @ keys.T
    torch.testing.assert_close(cosines, exact.sort(dim=1, descending=True).values, atol=2.0**-20, rtol=0)
    torch.testing.assert_close(exact.gather(1, indices), cosines, atol=2.0**-21 * 1.01, rtol=0)
    assert all(sorted(row) == list(range(29)) for row in indices.tolist())


def test_nearest_breaks_ties_by_index_and_marks_what_is_missing() -> None:
    rows = normalised(torch.ones(4, 3))
    cosines, indices = nearest(rows, rows, k=9, exclude=torch.tensor([0, 3, -1, 2]))
    assert indices.tolist() == [[1, 2, 3, -1], [0, 1, 2, -1], [0, 1, 2, 3], [0, 1, 3, -1]]
    assert cosines[0].tolist() == [1.0, 1.0, 1.0, -torch.inf]


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"k": 0}, "k must be at least 1, got 0"), ({"temperature": 0.0}, "temperature must be positive, got 0.0")],
)
def test_knn_refuses(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        KNN(**settings)


def test_labels_are_needed() -> None:
    split = features(torch.ones(3, 2), None)
    with pytest.raises(ValueError, match="needs labels, and none of the 3 rows has one"):
        list(KNN().run(FeatureSplits(split, split)))
