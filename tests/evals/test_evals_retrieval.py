"""Retrieval of the test set against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from kinfolk.evals import Features, FeatureSplits, Retrieval
from kinfolk.evals.retrieval import average_precision


def features(rows: torch.Tensor, labels: torch.Tensor) -> Features:
    return Features.from_rows(rows, torch.arange(len(rows)), labels)


def measured(split: Features, evaluator: Retrieval | None = None) -> dict[str, float]:
    return {m.name: m.value for m in (evaluator or Retrieval()).run(FeatureSplits(split, split))}


def noise(n: int, *, d: int = 4, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return torch.nn.functional.one_hot(labels, d + 1)[:, :d] + torch.randn(n, d, generator=generator), labels


@pytest.mark.parametrize("tile", [None, 1, 5])
def test_average_precision_is_scikit_learns(tile: int | None) -> None:
    rows, labels = noise(41)
    recalls, precisions = Retrieval(recall_at=(1, 5)).per_query(features(rows, labels), tile=tile)
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    cosines = (unit @ unit.T).numpy()
    for i in range(41):
        others = np.arange(41) != i
        hits = (labels.numpy() == int(labels[i]))[others]
        assert precisions[i] == pytest.approx(average_precision_score(hits, cosines[i, others]))
        ranked = hits[np.argsort(-cosines[i, others], kind="stable")]
        assert recalls[i].tolist() == [float(ranked[:1].any()), float(ranked[:5].any())]


def test_by_hand() -> None:
    """Angles 0, 10, 30 and 65 with classes a b a b: from 0 the ranking is 10 (b), 30 (a), 65 (b), and so on."""
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 30.0, 65.0]))
    split = features(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 1, 0, 1]))
    found = measured(split, Retrieval(recall_at=(1, 2, 3)))
    # average precision from 0: b a b, 1/2; from 10: a a b, 1/3; from 30: b a b, 1/2; from 65: a b a, 1/2
    assert found["R@1"] == 0.0
    assert found["R@2"] == 0.75
    assert found["R@3"] == 1.0
    assert found["mAP"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4)


def test_tied_scores_share_one_precision_as_in_scikit_learn() -> None:
    scores = torch.tensor([0.1, 0.5, 0.5, 0.5, 0.9, 0.9], dtype=torch.float64)
    for pattern in ([0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0]):
        hits = torch.tensor(pattern).bool()
        expected = average_precision_score(hits.numpy(), scores.numpy())
        assert average_precision(scores[None, hits], scores[None]).item() == pytest.approx(expected)


def test_constant_features_score_the_share_of_the_class_in_any_order() -> None:
    labels = torch.arange(40) // 10  # sorted by class, as a folder of images is
    rows = torch.ones(40, 3) + 1e-7 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    assert measured(features(rows, labels))["mAP"] == pytest.approx(9 / 39)


def test_the_query_never_finds_itself() -> None:
    recalls, precisions = Retrieval(recall_at=(1,)).per_query(features(torch.eye(4), torch.tensor([0, 1, 0, 1])))
    assert recalls.squeeze(1).tolist() == [0, 0, 1, 0]  # the others are tied: the lowest is 1 for row 0, 0 for the rest
    assert precisions.tolist() == pytest.approx([1 / 3] * 4)  # one of three tied others is right


def test_singletons_are_left_out_and_counted() -> None:
    rows, _ = noise(7)
    split = features(rows, torch.tensor([0, 0, 0, 1, 1, 2, 3]))
    found = list(Retrieval().run(FeatureSplits(split, split)))
    assert {m.details["queries_left_out"] for m in found} == {2}
    recalls, precisions = Retrieval().per_query(split)
    assert precisions.isnan().tolist() == [False] * 5 + [True] * 2
    assert found[0].value == pytest.approx(recalls[:5, 0].mean().item())


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_nothing_to_find_gives_no_number(labels: list[int]) -> None:
    assert measured(features(torch.eye(3)[: len(labels)], torch.tensor(labels))) == {}


def test_one_class_is_perfect_and_k_may_exceed_the_set() -> None:
    rows, _ = noise(6)
    found = measured(features(rows, torch.zeros(6, dtype=torch.int64)), Retrieval(recall_at=(1, 50)))
    assert found == {"R@1": 1.0, "R@50": 1.0, "mAP": 1.0}


def test_order_and_tiling_do_not_matter() -> None:
    rows, labels = noise(50)
    rows[25:] = rows[:25]  # ties
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    expected = measured(features(rows, labels))
    assert measured(Features.from_rows(rows[order], order, labels[order])) == expected
    whole, parts = (Retrieval().per_query(features(rows, labels), tile=tile) for tile in (50, 3))
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_retrieval_refuses() -> None:
    with pytest.raises(ValueError, match=r"recall_at must be at least one k, each at least 1, got \(0,\)"):
        Retrieval(recall_at=(0,))
