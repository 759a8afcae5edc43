"""Clusters against classes: the matching, NMI and ARI by their definitions, and k-means on features."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, permutations, product

import numpy as np
import pytest
import sklearn.cluster
import torch

from kinfolk.data import DigitsConfig
from kinfolk.evals import Features, FeatureSplits, RawPixels, extract
from kinfolk.evals.assignment import (
    adjusted_rand_index,
    contingency,
    hungarian_accuracy,
    matched_classes,
    normalised_mutual_information,
)
from kinfolk.evals.clustering import Clustering, KMeans
from kinfolk.train import from_yaml, to_yaml


def features(rows: torch.Tensor, labels: torch.Tensor | None, *, first_id: int = 0) -> Features:
    return Features.from_rows(rows, torch.arange(first_id, first_id + len(rows)), labels)


def scores(evaluator: Clustering, test: Features, train: Features | None = None) -> dict[str, float]:
    return {m.name: m.value for m in evaluator.run(FeatureSplits(test if train is None else train, test))}


def drawn(n: int, k: int, *, seed: int) -> torch.Tensor:
    return torch.randint(0, k, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Four directions in eight dimensions, some way apart but overlapping, 200 rows."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    return 2 * torch.eye(8)[labels] + 0.55 * torch.randn(200, 8, generator=generator), labels


def best_over_permutations(clusters: list[int], labels: list[int]) -> float:
    """Every one-to-one map from clusters to classes, the smaller side filled up with names that match nothing."""
    k, c = sorted(set(clusters)), sorted(set(labels))
    names = c + [-1] * max(0, len(k) - len(c))
    found = 0
    for images in permutations(names, len(k)):
        stands_for = dict(zip(k, images, strict=True))
        found = max(found, sum(stands_for[a] == b for a, b in zip(clusters, labels, strict=True)))
    return found / len(labels)


@pytest.mark.parametrize(("k", "c"), [(1, 1), (3, 3), (5, 3), (3, 5), (1, 4), (4, 1), (5, 5)])
def test_the_matching_is_the_best_of_all_permutations(k: int, c: int) -> None:
    for seed in range(5):
        clusters, labels = drawn(23, k, seed=seed) * 7 - 3, drawn(23, c, seed=100 + seed) + 2
        accuracy = hungarian_accuracy(clusters, labels)
        assert accuracy == pytest.approx(best_over_permutations(clusters.tolist(), labels.tolist()), abs=0)
        assert accuracy >= 1 / max(k, c)
        stands_for = dict(zip(clusters.tolist(), matched_classes(clusters, labels).tolist(), strict=True))
        used = [b for b in stands_for.values() if b >= 0]
        assert len(set(used)) == len(used) == min(len(stands_for), len(labels.unique()))


def test_the_matching_looks_at_all_clusters_at_once() -> None:
    """Cluster 0 holds 5 of class 0 and 4 of class 1, cluster 1 holds 4 of class 0 alone: 4 + 4 beats 5 + 0."""
    clusters, labels = torch.tensor([0] * 9 + [1] * 4), torch.tensor([0] * 5 + [1] * 4 + [0] * 4)
    assert contingency(clusters, labels).counts.tolist() == [[5, 4], [4, 0]]
    assert hungarian_accuracy(clusters, labels) == 8 / 13
    assert matched_classes(clusters, labels).tolist() == [1] * 9 + [0] * 4


def test_unmatched_clusters_and_classes_are_errors() -> None:
    split_class = torch.tensor([0, 0, 1, 1, 1])
    assert hungarian_accuracy(split_class, torch.zeros(5, dtype=torch.int64)) == 0.6
    assert hungarian_accuracy(torch.zeros(5, dtype=torch.int64), split_class) == 0.6
    assert matched_classes(split_class, torch.zeros(5, dtype=torch.int64)).tolist() == [-1, -1, 0, 0, 0]


def nmi_by_definition(clusters: list[int], labels: list[int]) -> float:
    n, joint = len(labels), Counter(zip(clusters, labels, strict=True))
    a, b = Counter(clusters), Counter(labels)
    information = sum(m / n * math.log(m * n / (a[i] * b[j])) for (i, j), m in joint.items())
    entropies = [-sum(m / n * math.log(m / n) for m in part.values()) for part in (a, b)]
    return information / (sum(entropies) / 2)


def ari_by_pairs(clusters: list[int], labels: list[int]) -> float:
    pairs = list(combinations(range(len(labels)), 2))
    together = [(clusters[i] == clusters[j], labels[i] == labels[j]) for i, j in pairs]
    both = sum(a and b for a, b in together)
    one, other = sum(a for a, _ in together), sum(b for _, b in together)
    chance = one * other / len(pairs)
    return (both - chance) / ((one + other) / 2 - chance)


@pytest.mark.parametrize(("k", "c"), [(2, 2), (3, 5), (6, 2)])
def test_nmi_and_ari_by_their_definitions(k: int, c: int) -> None:
    for seed in range(4):
        clusters, labels = drawn(31, k, seed=seed), drawn(31, c, seed=50 + seed)
        clusters[:12] = labels[:12] % k  # so that they agree somewhat
        given = clusters.tolist(), labels.tolist()
        assert normalised_mutual_information(clusters, labels) == pytest.approx(nmi_by_definition(*given), rel=1e-9)
        assert adjusted_rand_index(clusters, labels) == pytest.approx(ari_by_pairs(*given), rel=1e-9)


@pytest.mark.parametrize(
    ("clusters", "labels", "expected"),
    [
        ([0], [3], (1, 1, 1)),
        ([4, 4, 4], [2, 2, 2], (1, 1, 1)),
        ([0, 0, 0, 0], [0, 1, 0, 0], (0.75, 0, 0)),
        ([0, 1, 2], [0, 0, 0], (1 / 3, 0, 0)),
        ([0, 1, 2], [5, 4, 9], (1, 1, 1)),
    ],
)
def test_degenerate_partitions_have_finite_scores(clusters: list, labels: list, expected: tuple) -> None:
    given = torch.tensor(clusters), torch.tensor(labels)
    found = [score(*given) for score in (hungarian_accuracy, normalised_mutual_information, adjusted_rand_index)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_names_of_clusters_do_not_matter() -> None:
    clusters, labels = drawn(60, 4, seed=0), drawn(60, 4, seed=1)
    renamed = torch.tensor([9, -5, 0, 1000])[clusters]
    for score in (hungarian_accuracy, normalised_mutual_information, adjusted_rand_index):
        assert score(renamed, labels) == pytest.approx(score(clusters, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("clusters", "labels", "error", "match"),
    [
        (torch.zeros(3).long(), torch.zeros(2).long(), ValueError, r"clusters \(3,\), labels \(2,\)"),
        (torch.zeros(2), torch.zeros(2).long(), TypeError, "clusters must be integers, got torch.float32"),
        (torch.zeros(0).long(), torch.zeros(0).long(), ValueError, "no row to compare"),
        (torch.zeros(2).long(), torch.tensor([0, -1]), ValueError, "class indices from 0, got -1; leave unlabelled"),
    ],
)
def test_unfit_partitions_are_refused(clusters: torch.Tensor, labels: torch.Tensor, error: type, match: str) -> None:
    for score in (hungarian_accuracy, normalised_mutual_information, adjusted_rand_index):
        with pytest.raises(error, match=match):
            score(clusters, labels)


def test_k_means_finds_the_least_inertia_of_all_partitions() -> None:
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(3))
    x = torch.nn.functional.normalize(rows.double(), dim=1).numpy()
    best = min(
        (sum(((x[part] - x[part].mean(0)) ** 2).sum() for part in (chosen, ~chosen)), chosen.tolist())
        for chosen in map(np.array, product([False, True], repeat=9))
        if 0 < chosen.sum() < 9
    )
    found = KMeans().fit(rows, clusters=2)
    assert found.inertia == pytest.approx(best[0], rel=1e-9)
    assert hungarian_accuracy(found.of_row, torch.tensor(best[1]).long()) == 1.0
    assert found.converged


def test_only_directions_matter_and_scores_are_those_of_scikit_learn(blobs: tuple) -> None:
    rows, labels = blobs
    lengths = torch.rand(200, 1, generator=torch.Generator().manual_seed(5)) + 0.1
    found = scores(Clustering(), features(rows * lengths, labels))
    unit = rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True)
    theirs = sklearn.cluster.KMeans(4, n_init=25, random_state=7).fit(unit).labels_.tolist()
    assert found["accuracy"] == pytest.approx(best_over_permutations(theirs, labels.tolist()), abs=0.01)
    assert found["NMI"] == pytest.approx(nmi_by_definition(theirs, labels.tolist()), abs=0.02)
    assert found["ARI"] == pytest.approx(ari_by_pairs(theirs, labels.tolist()), abs=0.02)
    assert 0.6 < found["accuracy"] < 1.0  # neither trivial nor hopeless


def test_equal_runs_give_equal_numbers_whatever_the_order_of_rows(blobs: tuple) -> None:
    rows, labels = blobs
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    shuffled = Features.from_rows(rows[order], order, labels[order])
    assert scores(Clustering(), shuffled) == scores(Clustering(), features(rows, labels))


def test_the_record_says_how_many_clusters_and_why(blobs: tuple) -> None:
    rows, labels = blobs
    split = FeatureSplits(features(rows, labels), features(rows, labels))
    own, given = (next(iter(Clustering(clusters=k).run(split))).details for k in (None, 6))
    assert (own["clusters_used"], own["clusters_from"], own["rows"]) == (4, "number of classes", 200)
    assert (given["clusters_used"], given["clusters_from"], given["clusters_found"]) == (6, "given", 6)
    assert given["classes"] == 4


def test_surplus_clusters_cost_accuracy(blobs: tuple) -> None:
    rows, labels = blobs
    assert scores(Clustering(clusters=12), features(rows, labels))["accuracy"] < 0.6


def test_constant_features_give_the_largest_class() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    for rows in (torch.ones(10, 4), torch.zeros(10, 4)):
        assert scores(Clustering(), features(rows, labels)) == {"accuracy": 0.5, "NMI": 0.0, "ARI": 0.0}


def test_features_that_are_constant_but_for_rounding_give_about_chance() -> None:
    labels = torch.arange(100) % 4
    noise = 1e-7 * torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    found = scores(Clustering(), features(1 + noise, labels))
    assert 0.25 <= found["accuracy"] < 0.45
    assert abs(found["ARI"]) < 0.1


def test_one_class_and_one_sample_are_trivially_right() -> None:
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    for n in (7, 1):
        assert scores(Clustering(), features(rows[:n], torch.full((n,), 3))) == {"accuracy": 1, "NMI": 1, "ARI": 1}


def test_more_clusters_than_rows_are_as_many_as_rows() -> None:
    found = KMeans().fit(torch.eye(3), clusters=50)
    assert sorted(found.of_row.tolist()) == [0, 1, 2]


def test_unlabelled_rows_are_left_out(blobs: tuple) -> None:
    rows, labels = blobs
    some = torch.where(torch.arange(200) % 3 == 0, -1, labels)
    assert scores(Clustering(), features(rows, some)) == scores(
        Clustering(), Features(rows[some >= 0], torch.arange(200)[some >= 0], labels[some >= 0])
    )


def test_either_split_can_be_clustered(blobs: tuple) -> None:
    rows, labels = blobs
    train, test = features(rows, labels), features(rows[:30], labels[:30].flip(0), first_id=500)
    assert scores(Clustering(split="train"), test, train) == scores(Clustering(), train)
    assert scores(Clustering(), test, train) == scores(Clustering(), test)
    assert scores(Clustering(), test, train) != scores(Clustering(), train)


def test_labels_are_needed() -> None:
    split = features(torch.ones(3, 2), None)
    with pytest.raises(ValueError, match="needs labels, and none of the 3 rows has one"):
        list(Clustering().run(FeatureSplits(split, split)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Clustering(clusters=0), "clusters must be at least 1, or None for the number of classes, got 0"),
        (lambda: Clustering(split="probe"), "split must be 'test' or 'train', got 'probe'"),  # type: ignore[arg-type]
        (lambda: KMeans(starts=0), "must be at least 1 .* got starts=0"),
        (lambda: KMeans(seed=-1), "got .*seed=-1"),
        (lambda: KMeans().fit(torch.ones(2, 2), clusters=0), "clusters must be at least 1, got 0"),
    ],
)
def test_unfit_settings_are_refused(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_settings_pass_through_yaml() -> None:
    config = Clustering(clusters=12, split="train", k_means=KMeans(starts=3, seed=4))
    assert from_yaml(to_yaml(config), Clustering) == config
    assert hash(config) == hash(Clustering(clusters=12, split="train", k_means=KMeans(starts=3, seed=4)))


def test_clusters_of_real_digits_are_mostly_of_one_digit() -> None:
    """Measured at accuracy 0.81, NMI 0.76 and ARI 0.68; chance is 0.1, near 0, and 0."""
    test = extract(RawPixels(channels=1, image_size=(8, 8)), DigitsConfig().load().train)
    found = scores(Clustering(), test)
    assert 0.70 < found["NMI"] < 0.80
    assert 0.73 < found["accuracy"] < 0.88
    assert 0.60 < found["ARI"] < 0.76
