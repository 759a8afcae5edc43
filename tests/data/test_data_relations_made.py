"""Relations from labels, attributes, numbers, neighbours and clusters, each against its definition by loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinfolk.data.relations.attributes import AttributesConfig, standardised
from kinfolk.data.relations.base import Relation
from kinfolk.data.relations.catalogue import RELATIONS, relation_config
from kinfolk.data.relations.distance import DistanceConfig
from kinfolk.data.relations.labels import LabelsConfig
from kinfolk.data.relations.mixed import Mixed, MixedConfig
from kinfolk.data.relations.neighbours import KNNConfig, Neighbours, mutual_only, nearest_others
from kinfolk.data.relations.pseudo_labels import PseudoLabelsConfig, pseudo_labels
from kinfolk.data.sources import ArraySource, DigitsConfig
from kinfolk.data.sources.streaming import StreamSource
from kinfolk.distributed import Ranks
from kinfolk.losses import XSampleLoss
from kinfolk.train.serialization import decode, encode

IDS = torch.tensor([40, 10, 30, 20, 50])
LABELS = torch.tensor([0, 1, 2, 1, -1])
TIMES = torch.tensor([0.0, 3.0, 4.5, 100.0, -2.0], dtype=torch.float64)
TAGS = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0]])


def images(count: int = 5) -> Tensor:
    return torch.randint(0, 255, (count, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def source(**columns: object) -> ArraySource:
    return ArraySource(images(), LABELS, ids=IDS, columns=columns)


def target(relation: Relation, ids: Tensor, views: int) -> Tensor:
    samples = ids.repeat(views)
    graph = relation.for_batch(ids, views).resolve(samples)
    return graph.row_normalised(~torch.eye(len(samples), dtype=torch.bool)).to_dense().double()


def target_by_loops(weight, ids: Tensor, views: int) -> Tensor:
    """Rows normalised over the other rows; `weight` takes two positions in IDS."""
    places = [IDS.tolist().index(i) for i in ids.tolist()] * views
    n = len(places)
    rows = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            rows[i, j] = 0.0 if i == j else weight(places[i], places[j])
    return rows / rows.sum(1, keepdim=True).clamp(min=1e-300)


BATCH = torch.tensor([50, 20, 40, 10])


def jaccard(a: int, b: int) -> float:
    one, two = set(TAGS[a].nonzero().flatten().tolist()), set(TAGS[b].nonzero().flatten().tolist())
    return len(one & two) / len(one | two)


def squared(a: int, b: int) -> float:
    spread = (TAGS - TAGS.mean(0)) / TAGS.std(0, correction=0)
    return float((spread[a] - spread[b]).square().sum())


def cosine(a: int, b: int) -> float:
    spread = torch.nn.functional.normalize((TAGS - TAGS.mean(0)) / TAGS.std(0, correction=0), dim=1)
    return float(spread[a] @ spread[b])


CASES = {
    "labels": (LabelsConfig(), lambda a, b: float(a == b or (LABELS[a] == LABELS[b] != -1))),
    "groups": (LabelsConfig("groups"), lambda a, b: float(a == b or {a, b} == {0, 4})),
    "laplace": (DistanceConfig(scale=3.0), lambda a, b: math.exp(-abs(TIMES[a] - TIMES[b]) / 3)),
    "gaussian": (
        DistanceConfig(kernel="gaussian", scale=3.0),
        lambda a, b: math.exp(-((TIMES[a] - TIMES[b]) ** 2) / 18),
    ),
    "jaccard": (AttributesConfig(similarity="jaccard", temperature=0.4), lambda a, b: math.exp(jaccard(a, b) / 0.4)),
    "attributes": (AttributesConfig(temperature=0.4), lambda a, b: math.exp(cosine(a, b) / 0.4)),
    "distance of attributes": (
        AttributesConfig(similarity="gaussian", temperature=2.0),
        lambda a, b: math.exp(-squared(a, b) / 8),
    ),
}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_batchs_target_is_the_definition(name: str, views: int) -> None:
    config, weight = CASES[name]
    data = source(groups=torch.tensor([5, 6, -1, -1, 5]), times=TIMES, attributes=TAGS)
    found = target(config.build(data), BATCH, views)
    torch.testing.assert_close(found, target_by_loops(weight, BATCH, views), atol=1e-6, rtol=1e-6)


def test_near_times_keep_their_distance_far_from_zero() -> None:
    """Seconds since 1970 that differ by one: a kernel that expands the square loses them."""
    times = torch.arange(5, dtype=torch.float64) + 1.7e9
    relation = DistanceConfig(scale=1.0).build(source(times=times))
    logs = relation.for_batch(IDS, 40).log_weights((0, 5), (0, 5))  # 200 rows
    torch.testing.assert_close(logs[0], -torch.arange(5, dtype=torch.float64))


class OneOfTwo(Ranks):
    """The second of two ranks, whose neighbour's keys are given."""

    def gather(self, x: Tensor) -> Tensor:
        return torch.cat([OTHERS[x.shape[1:]], x])


OTHERS: dict[torch.Size, Tensor] = {}


def test_a_kernel_of_numbers_is_gathered_over_ranks() -> None:
    relation = DistanceConfig(scale=3.0).build(source(times=TIMES))
    whole = relation.for_batch(IDS, 1)
    own = relation.for_batch(IDS[2:], 1)
    OTHERS[torch.Size([1])] = relation.for_batch(IDS[:2], 1).keys
    gathered = own.gathered(OneOfTwo(sizes=(2, 3), rank=1))
    torch.testing.assert_close(gathered.to_dense(), whole.to_dense()[2:])
    assert own.form == gathered.form
    with pytest.raises(ValueError, match="found 2 keys on this rank"):
        own.gathered(OneOfTwo(sizes=(2, 2), rank=1))


def test_a_loss_takes_every_relation() -> None:
    data = source(times=TIMES, attributes=TAGS)
    rows = torch.nn.functional.normalize(torch.randn(10, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    mixture = MixedConfig((LabelsConfig(), DistanceConfig(scale=3.0), KNNConfig(k=2)), (0.5, 0.3, 0.2))
    for config in (LabelsConfig(), DistanceConfig(scale=3.0), KNNConfig(k=2), mixture):
        relation = config.build(data)
        x = rows.clone().requires_grad_()
        loss = XSampleLoss()(x, relation.for_batch(IDS, 2), ids=IDS.repeat(2))
        loss.backward()
        p = (x @ x.T / 0.1).masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf).log_softmax(1)
        t = target(relation, IDS, 2)
        expected = -(torch.where(t > 0, t * p.double(), 0.0)).sum(1).mean()
        torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
        assert bool(x.grad.isfinite().all())


def test_mixtures_share_and_hand_on() -> None:
    data = source(times=TIMES)
    parts = [LabelsConfig().build(data), DistanceConfig(scale=3.0).build(data)]
    mixed = Mixed(parts, [3.0, 1.0], labels=LABELS[IDS.argsort()])
    expected = 0.75 * target(parts[0], BATCH, 2) + 0.25 * target(parts[1], BATCH, 2)
    torch.testing.assert_close(target(mixed, BATCH, 2), expected)
    alone = target(mixed, BATCH, 1)[0]  # one view of an unlabelled sample: its label says nothing
    torch.testing.assert_close(alone, target(parts[1], BATCH, 1)[0])
    assert mixed.summary(BATCH, 2).keys() == {"perplexity", "own_sample_mass", "own_class_mass"}
    own_class = sum(w * p.summary(BATCH, 2)["own_class_mass"] for w, p in zip((0.75, 0.25), parts, strict=True))
    assert mixed.summary(BATCH, 2)["own_class_mass"] == pytest.approx(own_class, rel=1e-6)
    with pytest.raises(ValueError, match="must know the same samples"):
        Mixed([parts[0], LabelsConfig().build(data.subset(torch.tensor([0, 1])))], [1, 1])


def test_nearest_neighbours_are_those_of_all_cosines() -> None:
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(rows, dim=1).numpy()
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    expected = np.argsort(-cosines, axis=1)[:, :6]
    found = nearest_others(rows, 6)
    np.testing.assert_array_equal(found.numpy(), expected)
    mutual = mutual_only(found)
    for i in range(40):
        for j, kept in zip(found[i].tolist(), mutual[i].tolist(), strict=True):
            assert kept == (j if i in found[j].tolist() else -1)
    assert 0 < int((mutual == -1).sum()) < mutual.numel()


def test_copies_of_a_row_are_neighbours_and_the_row_is_not() -> None:
    rows = torch.ones(8, 2)
    found = nearest_others(rows, 3)
    assert all(i not in found[i].tolist() for i in range(8))
    assert found.shape == (8, 3)


def test_neighbours_in_a_batch_are_those_that_it_holds() -> None:
    relation = Neighbours(IDS, torch.tensor([[1, 2], [0, -1], [4, 1], [-1, -1], [0, 2]]))
    ids = torch.tensor([40, 30, 20])  # positions 0, 2, 3: of their neighbours only sample 30 is there, for 40
    dense = relation.for_batch(ids, 2).resolve(ids.repeat(2)).to_dense()
    own = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(dense, own.repeat(2, 2))


def test_features_come_from_pixels_or_a_file(tmp_path: Path) -> None:
    data = DigitsConfig().load().test
    pixels = KNNConfig(k=3).build(data)
    rows = np.zeros((int(data.ids.max()) + 1, 64), dtype=np.float32)
    flat = data.read(torch.arange(len(data))).flatten(1).float()
    rows[data.ids.numpy()] = (flat - flat.mean(0)).numpy()
    np.save(tmp_path / "features.npy", rows)
    from_file = KNNConfig(str(tmp_path / "features.npy"), k=3).build(data)
    assert pixels.related.equal(from_file.related)
    assert pixels.summary(data.ids, 2)["own_class_mass"] > 0.9
    rows[data.ids[3]] = np.nan
    np.save(tmp_path / "features.npy", rows)
    with pytest.raises(ValueError, match=rf"features.npy must be finite.*such as ids \[{int(data.ids[3])}\]"):
        KNNConfig(str(tmp_path / "features.npy"), k=3).build(data)
    with pytest.raises(ValueError, match=r"features must be 'pixels' or a \.npy or \.npz file; found 'dino'"):
        KNNConfig("dino").build(data)


def test_pseudo_labels_find_separate_clouds_and_leave_out_what_lies_between() -> None:
    centres = torch.eye(4)[:3].repeat_interleave(30, 0)
    cloud = centres + 0.05 * torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    between = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    labels = pseudo_labels(torch.cat([cloud, between]), clusters=3, confidence=0.3)
    groups = labels[:90].reshape(3, 30)
    assert [len(set(group.tolist())) for group in groups] == [1, 1, 1]
    assert sorted(groups[:, 0].tolist()) == [0, 1, 2]
    assert labels[90] == -1
    assert pseudo_labels(torch.cat([cloud, between]), clusters=3)[90] >= 0
    data = DigitsConfig().load().test
    relation = PseudoLabelsConfig(clusters=20).build(data)
    assert relation.summary(data.ids[:100], 2)["own_class_mass"] > 0.6
    again = PseudoLabelsConfig(clusters=20).build(data)
    assert relation.labels.equal(again.labels)


def test_standardising_leaves_out_what_never_varies() -> None:
    found = standardised(torch.tensor([[1.0, 7.0, 0.1], [2.0, 7.0, 0.3], [3.0, 7.0, 0.2]], dtype=torch.float64))
    torch.testing.assert_close(found.mean(0), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found.square().mean(0), torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="relate nothing: all 3 of them have one value"):
        standardised(torch.full((4, 3), 0.1))


def bad_times(value: float) -> Tensor:
    return torch.where(IDS == 30, value, TIMES)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LabelsConfig("groups").build(source()), ValueError, "needs 'groups', and 'arrays' knows labels"),
        (lambda: LabelsConfig("times").build(source(times=TIMES)), TypeError, "times must be a tensor of integers"),
        (lambda: DistanceConfig().build(source()), ValueError, "a distance graph needs 'times'"),
        (
            lambda: DistanceConfig().build(source(times=bad_times(math.nan))),
            ValueError,
            r"times must be finite.*\[30\]",
        ),
        (lambda: DistanceConfig("text").build(source(text=list("abcde"))), TypeError, "needs numbers in 'text'"),
        (lambda: DistanceConfig(scale=0.0), ValueError, "scale must be above 0, in the unit of 'times'"),
        (lambda: DistanceConfig(kernel="cubic"), ValueError, "kernel must be one of laplace, gaussian"),
        (lambda: AttributesConfig(similarity="dot"), ValueError, "cosine, gaussian or jaccard; found 'dot'"),
        (
            lambda: AttributesConfig(similarity="jaccard").build(source(attributes=TAGS * 2)),
            ValueError,
            r"of ids \[40, 10, 30, 20, 50\] have other values",
        ),
        (
            lambda: AttributesConfig(similarity="jaccard").build(source(attributes=TAGS * (IDS != 20)[:, None])),
            ValueError,
            r"1 samples are all 0, such as ids \[20\]",
        ),
        (lambda: KNNConfig(k=5).build(source()), ValueError, "need at least 6 samples; 'arrays' has 5"),
        (lambda: KNNConfig(k=0), ValueError, "k counts neighbours"),
        (lambda: PseudoLabelsConfig(clusters=6).build(source()), ValueError, "6 clusters need as many samples"),
        (lambda: PseudoLabelsConfig(clusters=1), ValueError, "at least 2"),
        (lambda: PseudoLabelsConfig(confidence=1.0), ValueError, "confidence must be in"),
        (lambda: Neighbours(IDS, torch.tensor([[5]] * 5)), ValueError, "positions from 0 to 4, or -1; found 5 to 5"),
        (lambda: Neighbours(IDS, torch.tensor([[0]] * 4)), ValueError, "one row per id"),
        (lambda: MixedConfig(), ValueError, "found 0 parts, 0 weights"),
        (lambda: MixedConfig((LabelsConfig(),), (-1.0,)), ValueError, "weights must be shares"),
        (lambda: relation_config("caption"), ValueError, "no relation 'caption'; there are captions, class-names"),
        (
            lambda: relation_config("knn", perplexity=3),
            ValueError,
            "'knn' has no perplexity; it has features, k, mutual",
        ),
    ],
)
def test_what_cannot_be_built_is_explained(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", RELATIONS)
def test_a_stream_is_refused_with_a_way_out(name: str) -> None:
    stream = StreamSource(iter([]), source(times=TIMES), samples_per_epoch=5)
    for data in (stream, iter([])):
        with pytest.raises(TypeError, match=r"whose samples have no positions\. Prepare the data as a folder"):
            relation_config(name).build(data)


@pytest.mark.parametrize("config", [relation_config(name) for name in RELATIONS] + [
    MixedConfig((relation_config("captions", encoder="wordllama", perplexity=9), relation_config("knn", k=4)), (2, 1)),
    relation_config("hierarchy", wordnet="somewhere", synsets=(("a", "b.n.01"),)),
], ids=lambda config: config.kind)  # fmt: skip
def test_configs_survive_yaml(config) -> None:
    assert decode(type(config), encode(config)) == config


def test_configs_say_which_labels_training_sees() -> None:
    used = {name: relation_config(name).labels_used for name in RELATIONS}
    assert {name for name, labels in used.items() if labels == "all"} == {
        "class-names", "class-table", "hierarchy", "labels"}  # fmt: skip
    assert LabelsConfig("groups").labels_used == "none"
    assert MixedConfig((KNNConfig(), LabelsConfig())).labels_used == "all"
