"""Retrieval across hands, against a definition by loops and cases with known answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinfolk.evals import Features, FeatureSplits
from kinfolk.evals.cross_retrieval import CrossRetrieval, first_hit_ranks
from kinfolk.evals.neighbours import normalised


def data(n: int = 60, seed: int = 0) -> tuple[Features, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 5, generator=generator)
    groups = torch.randint(0, 12, (n,), generator=generator)
    hands = torch.randint(0, 3, (n,), generator=generator)
    return Features.from_rows(rows, torch.arange(n)), groups, hands


def by_loops(rows: Tensor, groups: Tensor, hands: Tensor, one: int, other: int) -> list[int]:
    rows = torch.nn.functional.normalize(rows.double(), dim=1)
    ranks = []
    for i in range(len(rows)):
        if hands[i] != one:
            continue
        gallery = [j for j in range(len(rows)) if hands[j] == other]
        gallery.sort(key=lambda j: (-float(rows[i] @ rows[j]), j))
        hits = [place for place, j in enumerate(gallery, start=1) if groups[j] == groups[i]]
        ranks += hits[:1]
    return ranks


def test_it_is_the_definition_by_loops() -> None:
    features, groups, hands = data()
    ranks = torch.tensor(by_loops(features.rows, groups, hands, 2, 0), dtype=torch.float64)
    found = {
        m.name: m.value for m in CrossRetrieval(least_queries=1).measure(features, groups=groups, bias_labels=hands)
    }
    for k in (1, 5, 10):
        assert found[f"R@{k}, 2 to 0"] == pytest.approx((ranks <= k).double().mean().item())
    assert found["median rank, 2 to 0"] == ranks.quantile(0.5).item()
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    means = [found[f"R@5, {a} to {b}"] for a, b in pairs]
    assert found["R@5"] == pytest.approx(sum(means) / 6)


def test_directions_differ_and_queries_without_an_answer_are_counted() -> None:
    # hand 0 draws three things, hand 1 one of them twice
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.1], [0.1, 1.0]])
    groups, hands = torch.tensor([5, 6, 7, 5, 5]), torch.tensor([0, 0, 0, 1, 1])
    evaluator = CrossRetrieval(recall_at=(1,), hands=("google", "twitter"), least_queries=1)
    found = {
        m.name: m
        for m in evaluator.measure(Features.from_rows(rows, torch.arange(5)), groups=groups, bias_labels=hands)
    }
    assert found["R@1, google to twitter"].value == 1.0
    assert found["R@1, twitter to google"].value == 0.5  # the second drawing is nearer to another thing
    assert found["R@1"].value == 0.75
    assert found["R@1"].details == {"directions": 2, "directions_left_out": 0, "queries_left_out": 2}
    assert (found["R@1"].better, found["median rank"].better) == ("higher", "lower")


def test_the_order_of_samples_does_not_matter_and_ties_go_to_the_lower_id() -> None:
    features, groups, hands = data()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    evaluator = CrossRetrieval(least_queries=1)
    one = list(evaluator.measure(features, groups=groups, bias_labels=hands))
    ranks = [
        first_hit_ranks(normalised(features.rows), normalised(features.rows[o]), groups, groups[o])
        for o in (slice(None), order)
    ]
    assert torch.equal(*ranks)
    assert list(evaluator.measure(features, groups=groups + 100, bias_labels=hands)) == one  # names mean nothing
    collapsed = first_hit_ranks(
        normalised(torch.ones(1, 2)), normalised(torch.ones(4, 2)), torch.tensor([3]), torch.tensor([0, 1, 3, 3])
    )
    assert collapsed.tolist() == [3]


def test_tiles_never_change_the_result() -> None:
    features, groups, _ = data()
    rows = normalised(features.rows)
    whole = first_hit_ranks(rows[:30], rows[30:], groups[:30], groups[30:])
    assert torch.equal(whole, first_hit_ranks(rows[:30], rows[30:], groups[:30], groups[30:], tile=7))
    assert first_hit_ranks(rows[:2], rows[:0], groups[:2], groups[:0]).tolist() == [0, 0]


def test_unknown_groups_and_hands_take_no_part() -> None:
    features, groups, hands = data()
    evaluator = CrossRetrieval(least_queries=1)
    known = list(evaluator.measure(features, groups=groups, bias_labels=hands))
    more = Features.from_rows(torch.cat([features.rows, features.rows[:9]]), torch.arange(69))
    unknown_hand = torch.cat([hands, torch.full((9,), -1)])
    assert list(evaluator.measure(more, groups=torch.cat([groups, groups[:9]]), bias_labels=unknown_hand)) == known
    none = torch.full((60,), -1)
    assert list(evaluator.measure(features, groups=none, bias_labels=hands)) == []


def test_many_hands_give_means_only_and_small_directions_are_left_out() -> None:
    features, groups, _ = data(n=200)
    hands = torch.arange(200) % 5
    hands[hands == 4] = torch.where(torch.arange(40) < 3, 4, 3)  # hand 4 has three drawings
    found = list(CrossRetrieval(least_queries=10).measure(features, groups=groups, bias_labels=hands))
    assert [m.name for m in found] == ["R@1", "R@5", "R@10", "median rank"]
    assert found[0].details["directions"] + found[0].details["directions_left_out"] == 20
    assert found[0].details["directions_left_out"] >= 4


def test_what_is_missing_or_wrong_is_named() -> None:
    features, groups, hands = data()
    with pytest.raises(ValueError, match=r"needs groups .* and bias_labels"):
        list(CrossRetrieval().run(FeatureSplits(features, features)))
    with pytest.raises(ValueError, match=r"60 rows, groups \(3,\), bias_labels \(60,\)"):
        list(CrossRetrieval().measure(features, groups=groups[:3], bias_labels=hands))
    with pytest.raises(ValueError, match="recall_at must be"):
        CrossRetrieval(recall_at=())
    with pytest.raises(ValueError, match="least_queries must be at least 1"):
        CrossRetrieval(least_queries=0)
