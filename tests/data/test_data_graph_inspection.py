"""The inspection of a relation, against summaries computed otherwise and pairs that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kinfolk.data.graph_inspection import PERPLEXITIES, inspect_graph
from kinfolk.data.graph_inspection_text import format_graph_inspection
from kinfolk.data.relations.captions import CaptionsConfig
from kinfolk.data.relations.class_table import ClassTable
from kinfolk.data.relations.distance import DistanceConfig
from kinfolk.data.relations.labels import EqualLabels, LabelsConfig
from kinfolk.data.relations.neighbours import KNNConfig
from kinfolk.data.relations.perplexity import typical_batches
from kinfolk.data.relations.side_embeddings import SideEmbeddings
from kinfolk.data.sources import ArraySource

N = 120


class Unreadable(ArraySource):
    """Whoever decodes an image of it fails."""

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        raise AssertionError("no image may be read")


def source(**more: object) -> ArraySource:
    images = torch.zeros(N, 1, 2, 2, dtype=torch.uint8)
    ids = torch.arange(N) * 3 + 100
    return Unreadable(images, torch.arange(N) % 30, ids=ids, **more)


def side(data: ArraySource, width: int = 12) -> SideEmbeddings:
    rows = torch.randn(N, width, generator=torch.Generator().manual_seed(0))
    return SideEmbeddings(data.ids, rows, temperature=0.25, labels=data.labels)


def test_sharpness_is_that_of_the_batches_targets() -> None:
    data = source()
    relation = side(data)
    found = inspect_graph(data, relation, batch_size=40, views=2, seed=5)
    rows = [relation.row_summary(ids, 2) for ids in typical_batches(data.ids, 40, seed=5)]
    joined = {name: torch.cat([r[name] for r in rows]).numpy() for name in rows[0]}
    assert found.now.temperature == 0.25
    assert found.now.perplexity == pytest.approx(joined["perplexity"].mean(), rel=1e-5)
    assert (found.now.low, found.now.median, found.now.high) == pytest.approx(
        tuple(np.quantile(joined["perplexity"], [0.05, 0.5, 0.95])), rel=1e-5
    )
    assert found.now.own_sample_mass == pytest.approx(joined["own_sample_mass"].mean(), rel=1e-5)
    assert found.now.own_class_mass == pytest.approx(joined["own_class_mass"].mean(), rel=1e-5)
    assert len(found.perplexities) == 4 * 80
    assert (found.unrelated, found.now.without_target, found.batch_size) == (0, 0, 40)


def test_suggested_temperatures_give_their_perplexities() -> None:
    data = source()
    relation = side(data)
    found = inspect_graph(data, relation, batch_size=40, views=2)
    assert [s.perplexity for s in found.suggestions] == list(PERPLEXITIES)
    for suggestion in found.suggestions:
        assert suggestion.found is not None
        there = relation.with_temperature(suggestion.found.temperature)
        summaries = [there.summary(ids, 2) for ids in typical_batches(data.ids, 40, seed=0)]
        assert np.mean([s["perplexity"] for s in summaries]) == pytest.approx(suggestion.perplexity, rel=1e-3)
        own = np.mean([s["own_sample_mass"] for s in summaries])
        assert suggestion.found.own_sample_mass == pytest.approx(own, rel=1e-3)
    masses = [s.found.own_sample_mass for s in found.suggestions if s.found]
    assert masses == sorted(masses, reverse=True)


def test_the_curve_rises_over_the_temperatures_that_were_asked_for() -> None:
    data = source()
    found = inspect_graph(data, side(data), temperatures=[0.4, 0.1, 0.2])
    assert [s.temperature for s in found.curve] == [0.1, 0.2, 0.4]
    assert [s.perplexity for s in found.curve] == sorted(s.perplexity for s in found.curve)
    usual = inspect_graph(data, side(data))
    temperatures = [s.temperature for s in usual.curve]
    assert temperatures == sorted(temperatures)
    assert {s.found.temperature for s in usual.suggestions if s.found} <= set(temperatures)


def test_a_perplexity_below_a_class_of_rows_is_out_of_reach_and_says_so() -> None:
    data = source()
    classes = torch.arange(N) % 4
    relation = ClassTable(data.ids, classes, torch.eye(4), temperature=0.1)
    found = inspect_graph(data, relation, batch_size=N, views=2)
    reasons = [s.why_not for s in found.suggestions if s.found is None]
    assert len(reasons) == 4  # a class has 60 rows, one of which is the row itself
    assert "perplexity 30 cannot be reached: 120 samples with 2 views give 59 to 239" in reasons[-1]


def test_the_most_and_least_related_pairs_are_the_nearest_and_farthest_in_time() -> None:
    times = torch.arange(N, dtype=torch.float64) ** 2 / 100
    data = source(columns={"times": times})
    relation = DistanceConfig(scale=2.0).build(data)
    found = inspect_graph(data, relation, pairs=3)
    assert set(found.most_related[0].positions) == {0, 1}
    assert found.most_related[0].below_own == pytest.approx(0.01)
    assert set(found.most_related[0].ids) == {100, 103}
    assert set(found.least_related[0].positions) == {0, N - 1}
    assert found.least_related[0].below_own == pytest.approx(float(times[-1]))
    for pairs in (found.most_related, found.least_related):
        positions = [p for pair in pairs for p in pair.positions]
        assert len(set(positions)) == len(positions) == 6  # each sample once
    gaussian = DistanceConfig(kernel="gaussian", scale=2.0).build(data)
    assert inspect_graph(data, gaussian).least_related[0].below_own == pytest.approx(float(times[-1]) ** 2 / 2)


def test_captions_that_repeat_are_listed_and_are_no_pair() -> None:
    text = [f"thing {i % 100}" for i in range(N)]
    data = source(text=text)
    rows = torch.nn.functional.one_hot(torch.arange(N) % 100).float()
    found = inspect_graph(data, SideEmbeddings(data.ids, rows, temperature=0.1), pairs=5)
    assert found.captions == 100
    assert found.repeated_captions["thing 7"] == (121, 421)
    assert len(found.repeated_captions) == 20
    assert all(pair.captions is not None and pair.captions[0] != pair.captions[1] for pair in found.most_related)
    assert found.most_related[0].below_own == pytest.approx(1)  # equal captions would have 0
    assert "captions: 100 distinct; 40 samples share theirs with another" in format_graph_inspection(found)


def test_relations_without_temperature_have_no_curve() -> None:
    data = source()
    found = inspect_graph(data, LabelsConfig().build(data), batch_size=N, views=1)
    assert (found.curve, found.suggestions, found.now.temperature) == ((), (), None)
    assert found.now.perplexity == pytest.approx(3)  # a class has four samples, one of which is the row itself
    assert found.unrelated == pytest.approx(1 - 3 / (N - 1))
    assert found.least_related[0].below_own == math.inf
    assert "unrelated: ids" in format_graph_inspection(found)


def test_rows_without_a_target_are_counted() -> None:
    data = source()
    labels = torch.where(torch.arange(N) < 30, -1, torch.arange(N) % 2)
    found = inspect_graph(data, EqualLabels(data.ids, labels), batch_size=N, views=1)
    assert found.now.without_target == pytest.approx(0.25)
    assert len(found.perplexities) == 90
    assert "25.0 % of rows relate to no other row" in format_graph_inspection(found)


def test_sparse_and_tiny_data_can_be_inspected() -> None:
    pixels = torch.randint(0, 255, (6, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ArraySource(pixels)
    found = inspect_graph(data, KNNConfig(k=2).build(data))
    assert found.batch_size == 6
    assert found.now.own_class_mass is None
    one = ArraySource(pixels[:1])
    found = inspect_graph(one, EqualLabels(one.ids, torch.tensor([0])), views=1)
    assert (found.most_related, found.least_related, found.now.without_target) == ((), (), 1.0)


def test_an_inspection_is_a_function_of_its_seed() -> None:
    data = source()
    first, same, other = (inspect_graph(data, side(data), batch_size=20, seed=seed) for seed in (1, 1, 2))
    assert first.now == same.now
    assert first.most_related == same.most_related
    assert first.now != other.now


def test_a_relation_that_waits_for_a_perplexity_is_settled() -> None:
    data = source()
    found = inspect_graph(data, side(data).with_perplexity(11), batch_size=40)
    assert found.now.perplexity == pytest.approx(11, rel=1e-3)


def test_what_cannot_be_inspected_is_refused() -> None:
    data = source()
    with pytest.raises(TypeError, match="the inspection of a graph is built over all samples"):
        inspect_graph(iter([]), side(data))
    other = ArraySource(torch.zeros(N, 1, 2, 2, dtype=torch.uint8), ids=torch.arange(N) + 1000)
    with pytest.raises(ValueError, match="does not know the ids"):
        inspect_graph(other, side(data))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        inspect_graph(data, side(data), batch_size=0)
    with pytest.raises(ValueError, match="needs 'text'"):
        CaptionsConfig().build(data)
