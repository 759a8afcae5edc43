"""Rank agreement with a target graph, against SciPy, by hand, and over every kind of relation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from kinfolk.data import ArraySource, ClassTableConfig, DigitsConfig, LabelsConfig
from kinfolk.data.relations import (
    AttributesConfig,
    DistanceConfig,
    HierarchyConfig,
    KNNConfig,
    MixedConfig,
    RelationConfig,
    SideEmbeddingsConfig,
)
from kinfolk.evals import Features, FeatureSplits, RawPixels, Subject
from kinfolk.evals.graph_agreement import GraphAgreement, maximum_untied, rank_correlations
from kinfolk.evals.protocol import Measurement
from kinfolk.train.serialization import decode, encode

POOLED, EACH = "Spearman, all pairs", "Spearman, per anchor"


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def subject_of(rows: torch.Tensor, labels: torch.Tensor | None = None, **columns: Any) -> Subject:
    """Any feature rows as a subject; the source holds its samples in another order than features do."""
    n = len(rows)
    ids = 10 + 3 * torch.randperm(n, generator=torch.Generator().manual_seed(1))
    images = torch.randint(0, 256, (n, 1, 2, 3), generator=torch.Generator().manual_seed(2)).byte()
    held = {"labels": labels, **columns} if labels is not None else columns
    source = ArraySource(images, ids=ids, columns=held)
    split = Features.from_rows(rows, ids, labels)
    encoder = RawPixels(channels=1, image_size=(2, 3))
    return Subject("test", encoder, FeatureSplits(split, split), source, source, source)


def measured(evaluator: GraphAgreement, subject: Subject) -> dict[str, Measurement]:
    return {m.name: m for m in evaluator.run(subject)}


def cosines(rows: torch.Tensor) -> np.ndarray:
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return (unit @ unit.T).numpy()


def by_scipy(found: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Spearman over i < j, and the mean over anchors; unlike the evaluator, pair by pair in loops."""
    n = len(found)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    pooled = spearmanr([found[p] for p in pairs], [target[p] for p in pairs]).statistic
    others = [[j for j in range(n) if j != i] for i in range(n)]
    each = [
        spearmanr(found[i, others[i]], target[i, others[i]]).statistic
        for i in range(n)
        if np.ptp(target[i, others[i]]) > 0
    ]
    return float(pooled), float(np.mean(each))


def test_equal_labels_against_scipy() -> None:
    rows, labels = randn(40, 5), torch.arange(40) % 4
    found = measured(GraphAgreement(), subject_of(rows, labels))
    pooled, each = by_scipy(cosines(rows), (labels[:, None] == labels).double().numpy())
    assert found[POOLED].value == pytest.approx(pooled, abs=1e-9)
    assert found[EACH].value == pytest.approx(each, abs=1e-9)
    assert found[POOLED].better == "higher"


def test_by_hand() -> None:
    """Three rows at 0, 30 and 90 degrees: cosines fall from (0, 1) over (1, 2) to (0, 2)."""
    angles = torch.tensor([0.0, 30.0, 90.0]).deg2rad()
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = measured(GraphAgreement(), subject_of(rows, torch.tensor([0, 1, 1])))
    # pairs (0,1), (1,2), (0,2): cosine ranks 3, 2, 1, target ranks 1.5, 3, 1.5
    assert found[POOLED].value == pytest.approx(0.0)
    # anchor 0 has two equal targets and none counts; anchor 1 prefers 0 (-1), anchor 2 prefers 1 (+1)
    assert found[EACH].value == pytest.approx(0.0)
    assert found[EACH].details["anchors"] == 2
    assert found[POOLED].details["pairs"] == 6


def test_features_that_follow_the_target_agree_and_reversed_ones_disagree() -> None:
    labels = torch.arange(30) % 3
    perfect = measured(GraphAgreement(), subject_of(torch.eye(3)[labels], labels))
    assert (perfect[POOLED].value, perfect[EACH].value) == (pytest.approx(1.0), pytest.approx(1.0))
    times = torch.rand(25, generator=torch.Generator().manual_seed(0)) * 3
    rows = torch.stack([times.cos(), times.sin()], dim=1)
    relation = DistanceConfig(column="times")
    along = measured(GraphAgreement(relation), subject_of(rows, times=times))
    assert (along[POOLED].value, along[EACH].value) == (pytest.approx(1.0), pytest.approx(1.0))
    folded = torch.stack([(4 * times).cos(), (4 * times).sin()], dim=1)
    assert abs(measured(GraphAgreement(relation), subject_of(folded, times=times))[POOLED].value) < 0.4


def test_side_embeddings_against_scipy_at_any_temperature() -> None:
    rows, side = randn(30, 4), randn(30, 6, seed=5)
    found = {}
    for temperature in (0.01, 0.1, 10.0):
        relation = SideEmbeddingsConfig(temperature=temperature)
        found[temperature] = measured(GraphAgreement(relation), subject_of(rows, text_embedding=side))
    pooled, each = by_scipy(cosines(rows), cosines(side))
    for one in found.values():
        assert one[POOLED].value == pytest.approx(pooled, abs=1e-3)  # the relation's cosines are float32
        assert one[EACH].value == pytest.approx(each, abs=1e-3)
    waiting = SideEmbeddingsConfig(perplexity=5)
    assert measured(GraphAgreement(waiting), subject_of(rows, text_embedding=side)) == found[0.01]


def test_scale_of_features_and_order_of_samples_do_not_matter() -> None:
    rows, side, shuffle = randn(20, 4), randn(20, 3, seed=5), torch.randperm(20)
    relation = SideEmbeddingsConfig()
    once = measured(GraphAgreement(relation), subject_of(rows, text_embedding=side))
    again = measured(GraphAgreement(relation), subject_of(7 * rows[shuffle], text_embedding=side[shuffle]))
    assert again[POOLED].value == pytest.approx(once[POOLED].value, abs=1e-9)
    assert again[EACH].value == pytest.approx(once[EACH].value, abs=1e-9)


def test_a_labels_relation_is_equal_labels_and_unlabelled_samples_are_left_out() -> None:
    rows, labels = randn(30, 4), torch.arange(30) % 3
    labels[[2, 9, 20]] = -1
    subject = subject_of(rows, labels)
    plain, related = measured(GraphAgreement(), subject), measured(GraphAgreement(LabelsConfig()), subject)
    keep = labels >= 0
    alone = measured(GraphAgreement(), subject_of(rows[keep], labels[keep]))
    for name in (POOLED, EACH):
        assert plain[name].value == related[name].value
        assert plain[name].value == pytest.approx(alone[name].value, abs=1e-12)
        assert (plain[name].details["left_out"], plain[name].details["rows"]) == (3, 27)
        assert (related[name].details["left_out"], related[name].details["rows"]) == (3, 27)
    table = ClassTableConfig(path=None, groups=(("a", "b"),))
    named = ArraySource(
        subject.test.fetch(torch.arange(30))["images"],
        ids=subject.test.ids,
        columns={"labels": labels},
        class_names=("a", "b", "c"),
    )
    by_table = measured(GraphAgreement(table), Subject("t", subject.encoder, subject.features, named, named, named))
    assert by_table[POOLED].details["left_out"] == 3


def test_a_table_of_images_is_that_of_the_pretraining_images() -> None:
    digits = DigitsConfig().load()
    test = digits.test.subset(torch.arange(80))
    train = digits.train.subset(torch.arange(400))
    subject = Subject.of("pixels", RawPixels(channels=1, image_size=(8, 8)), train=train, test=test)
    assert test.labels is not None
    labels = test.labels[test.ids.argsort()]
    found = measured(GraphAgreement(ClassTableConfig()), subject)[EACH].value
    for source, same in ((train, True), (test, False)):
        table = ClassTableConfig().build(source).similarities.double()
        _, each = by_scipy(cosines(subject.features.test.rows), table[labels][:, labels].numpy())
        assert (found == pytest.approx(each, abs=1e-4)) is same


def test_a_table_of_images_within_a_mixture_is_that_of_the_pretraining_images_too() -> None:
    digits = DigitsConfig().load()
    test, train = digits.test.subset(torch.arange(60)), digits.train.subset(torch.arange(400))
    subject = Subject.of("pixels", RawPixels(channels=1, image_size=(8, 8)), train=train, test=test)
    labels = test.labels[test.ids.argsort()]
    mixture = MixedConfig((ClassTableConfig(temperature=0.3), LabelsConfig()), weights=(0.6, 0.4))
    found = measured(GraphAgreement(mixture), subject)[EACH].value
    same = (labels[:, None] == labels).double().fill_diagonal_(0)
    for source, is_it in ((train, True), (test, False)):
        table = ClassTableConfig().build(source).similarities.double()
        near = (table[labels][:, labels] / 0.3).exp().fill_diagonal_(0)
        target = 0.6 * near / near.sum(1, keepdim=True) + 0.4 * same / same.sum(1, keepdim=True)
        _, each = by_scipy(cosines(subject.features.test.rows), target.numpy())
        assert (found == pytest.approx(each, abs=1e-4)) is is_it
    whole = MixedConfig((ClassTableConfig(perplexity=9.0), LabelsConfig()))
    assert measured(GraphAgreement(whole), subject)[EACH].details["target"].startswith("mixed: 50% ")


def test_a_seeded_subset_of_the_rows() -> None:
    subject = subject_of(randn(60, 4), torch.arange(60) % 3)
    whole, part = measured(GraphAgreement(), subject), measured(GraphAgreement(rows=20), subject)
    assert part[POOLED].details["rows"] == 20
    assert part[POOLED].details["pairs"] == 20 * 19
    assert part == measured(GraphAgreement(rows=20), subject)
    assert part[POOLED].value != whole[POOLED].value
    assert part[POOLED].value != measured(GraphAgreement(rows=20, seed=1), subject)[POOLED].value
    near = measured(GraphAgreement(KNNConfig(k=5), rows=20), subject)  # of these 20, not of all 60
    assert near[EACH].details["anchors"] == 20


@pytest.mark.parametrize(
    "relation",
    [
        LabelsConfig("groups"),
        AttributesConfig(similarity="gaussian"),
        AttributesConfig(similarity="cosine", perplexity=8),
        HierarchyConfig(),
        KNNConfig(k=4, mutual=True),
        MixedConfig((LabelsConfig(), SideEmbeddingsConfig(perplexity=5)), weights=(0.3, 0.7)),
        MixedConfig((KNNConfig(k=3), DistanceConfig())),
    ],
)
def test_every_kind_of_relation_gives_a_target_and_survives_yaml(relation: RelationConfig) -> None:
    evaluator = GraphAgreement(relation, rows=25, seed=2)
    assert decode(GraphAgreement, encode(evaluator)) == evaluator
    assert hash(evaluator) == hash(decode(GraphAgreement, encode(evaluator)))
    n = 40
    subject = subject_of(
        randn(n, 4),
        torch.arange(n) % 4,
        groups=torch.arange(n) % 8,
        attributes=randn(n, 3, seed=1),
        hierarchy=[("animal/dog", "animal/cat", "car/van", "tree")[i % 4] for i in range(n)],
        text_embedding=randn(n, 5, seed=3),
        times=torch.arange(n).float(),
    )
    assert evaluator.missing(subject) is None
    found = measured(evaluator, subject)
    assert list(found) == [POOLED, EACH]
    for one in found.values():
        assert -1 <= one.value <= 1
        assert one.details["target"].startswith(relation.kind)
        assert 0 < one.details["maximum_untied"] <= 1 + 1e-12


def test_a_mixture_is_that_of_the_parts_normalised_over_the_others() -> None:
    rows, labels, side = randn(24, 4), torch.arange(24) % 3, randn(24, 5, seed=3)
    relation = MixedConfig((LabelsConfig(), SideEmbeddingsConfig(temperature=0.5)), weights=(0.3, 0.7))
    same = (labels[:, None] == labels).double().fill_diagonal_(0)
    near = torch.from_numpy(np.exp(cosines(side) / 0.5)).fill_diagonal_(0)
    target = (0.3 * same / same.sum(1, keepdim=True) + 0.7 * near / near.sum(1, keepdim=True)).numpy()
    off, own = ~np.eye(24, dtype=bool), cosines(rows)
    found = measured(GraphAgreement(relation), subject_of(rows, labels, text_embedding=side))
    assert found[POOLED].value == pytest.approx(spearmanr(own[off], target[off]).statistic, abs=1e-3)
    each = [spearmanr(own[i, off[i]], target[i, off[i]]).statistic for i in range(24)]
    assert found[EACH].value == pytest.approx(np.mean(each), abs=2e-3)


def test_what_has_no_agreement_yields_nothing_and_says_why() -> None:
    rows, labels = randn(8, 3), torch.arange(8) % 2
    for subject, why in (
        (subject_of(rows), "no labels"),
        (subject_of(rows, torch.full((8,), -1)), "no labels"),
        (subject_of(rows, torch.zeros(8).long()), "the same target for all pairs (equal labels)"),
        (subject_of(rows, torch.arange(8)), "the same target for all pairs (equal labels)"),
        (subject_of(rows[:2], labels[:2]), "fewer than three samples with a target"),
        (subject_of(rows[:1], labels[:1]), "fewer than three samples with a target"),
    ):
        assert GraphAgreement().missing(subject) == why
        assert measured(GraphAgreement(), subject) == {}
    timeless = GraphAgreement(DistanceConfig())
    assert "a distance graph needs 'times'" in str(timeless.missing(subject_of(rows, labels)))
    assert measured(timeless, subject_of(rows, labels)) == {}
    with pytest.raises(FileNotFoundError):
        GraphAgreement(SideEmbeddingsConfig("nowhere.npy")).missing(subject_of(rows, labels))


def test_a_collapsed_encoder_has_no_order_even_with_rounding_noise() -> None:
    labels = torch.arange(30) % 3
    assert measured(GraphAgreement(), subject_of(torch.ones(30, 4), labels)) == {}
    assert measured(GraphAgreement(), subject_of(torch.ones(30, 4) + 1e-7 * randn(30, 4), labels)) == {}


def test_rank_correlations_against_scipy_with_ties_and_infinities() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (6, 30)).astype(float), rng.normal(size=(6, 30)).round(1)
    a[2, :9], b[3] = -np.inf, 7.0
    found = rank_correlations(a, b)
    for i in (0, 1, 2, 4, 5):
        finite = np.where(np.isinf(a[i]), -99.0, a[i])
        assert found[i] == pytest.approx(spearmanr(finite, b[i]).statistic, abs=1e-12)
    assert math.isnan(found[3])
    assert np.isnan(rank_correlations(np.ones((2, 1)), np.ones((2, 1)))).all()


def test_the_untied_maximum_is_reached_by_numbers_in_the_targets_order() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (1, 40)).astype(float)
    best = rankdata(target + 0.5 * rng.random((1, 40)), axis=1)
    assert rank_correlations(best, target)[0] == pytest.approx(maximum_untied(target)[0], abs=1e-12)
    tried = [rank_correlations(rng.permuted(best, axis=1), target)[0] for _ in range(50)]
    assert max(tried) < maximum_untied(target)[0]


def test_digits_agree_with_their_classes_and_more_so_within_an_anchor() -> None:
    digits = DigitsConfig().load()
    subject = Subject.of(
        "pixels", RawPixels(channels=1, image_size=(8, 8)), train=digits.test, test=digits.test, batch_size=64
    )
    found = measured(GraphAgreement(), subject)
    assert 0.3 < found[POOLED].value < found[POOLED].details["maximum_untied"] < 0.6
    assert found[EACH].details["anchors"] == 360


def test_it_refuses_fewer_than_three_rows() -> None:
    with pytest.raises(ValueError, match=r"rows must be at least 3.*got 2"):
        GraphAgreement(rows=2)
