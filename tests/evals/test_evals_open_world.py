"""Open-world accuracy: every number by hand and by the papers' own code, and the protocol on frozen features."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from kinfolk.data import ArraySource, DigitsConfig, OpenWorldConfig, Splits
from kinfolk.evals import LinearProbe, RawPixels, Subject
from kinfolk.evals.clustering import KMeans
from kinfolk.evals.open_world import OpenWorld, OpenWorldAccuracy, open_world_accuracy
from kinfolk.train import from_yaml, to_yaml

QUICK = LinearProbe(l2=(1e-2,))
NAMES = (
    "accuracy, seen",
    "accuracy, novel",
    "accuracy, all",
    "accuracy, all-single seen",
    "accuracy, all-single novel",
    "NMI, novel",
    "ARI, novel",
)


def source(rows: torch.Tensor, labels: torch.Tensor, *, first_id: int = 0) -> ArraySource:
    """Rows of numbers in [0, 1] as pictures of one line."""
    pixels = (rows.clamp(0, 1) * 255).round().to(torch.uint8)
    return ArraySource(pixels[:, None, None, :], labels, ids=torch.arange(first_id, first_id + len(rows)))


def blobs(n: int, *, classes: int = 5, seed: int = 0, spread: float = 0.16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return 0.3 + 0.5 * torch.eye(8)[labels] + spread * torch.randn(n, 8, generator=generator), labels


def subject_of(splits: Splits) -> Subject:
    raw = RawPixels(channels=splits.test.channels, image_size=splits.test.image_size)
    return Subject.of("raw pixels", raw, train=splits.reference, test=splits.test, pretraining=splits.train)


def values(evaluator: OpenWorld, subject: Subject) -> dict[str, float]:
    return {m.name: m.value for m in evaluator.run(subject)}


@pytest.fixture(scope="module")
def world() -> Subject:
    """Classes 0 to 2 are seen, 3 and 4 novel."""
    train, test = source(*blobs(150)), source(*blobs(200, seed=1), first_id=1000)
    return subject_of(OpenWorldConfig(known=0.6).apply(Splits(train, test)))


def test_every_number_by_hand() -> None:
    """Classes 0 and 1 are seen, 2 and 3 novel; clusters 7, 8, 9 stand for whatever matches best.

    Counts, rows 7 8 9, columns 0 1 2 3: [3 0 1 2], [0 2 0 0], [0 0 1 1]. Over everything 7 is class 0 (3), 8 class 1
    (2), and 9 one of the novel ones (1): 6 of 10. Over novel rows alone 7 is class 3 (2) and 9 class 2 (1): 3 of 5.
    """
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
    clusters = torch.tensor([7, 7, 7, 8, 8, 7, 9, 7, 7, 9])
    direct = torch.tensor([0, 1, 0, 1, 2, 0, 0, 0, 0, 0])
    found = open_world_accuracy(clusters, labels, torch.tensor([0, 1]), direct=direct)
    assert (found.all, found.seen, found.novel) == (0.6, 0.6, 0.6)
    assert (found.single_seen, found.single_novel) == (1.0, 0.2)
    assert found.novel_nmi == pytest.approx(normalized_mutual_info_score([2, 2, 3, 3, 3], [7, 9, 7, 7, 9]), abs=1e-12)
    assert found.novel_ari == pytest.approx(adjusted_rand_score([2, 2, 3, 3, 3], [7, 9, 7, 7, 9]), abs=1e-12)


def cluster_acc(predicted: np.ndarray, true: np.ndarray) -> float:
    """As the code released with these papers has it: a square matrix, its cheapest assignment."""
    size = max(predicted.max(), true.max()) + 1
    counts = np.zeros((size, size), dtype=np.int64)
    for one, other in zip(predicted, true, strict=True):
        counts[one, other] += 1
    return float(sum(counts[i, j] for i, j in zip(*linear_sum_assignment(counts.max() - counts), strict=True))) / len(
        true
    )


def test_numbers_are_those_of_the_papers_code() -> None:
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 7, (90,), generator=generator)
        guessed = torch.randint(0, 7, (90,), generator=generator)
        predicted = torch.where(torch.rand(90, generator=generator) < 0.5, (labels * 3) % 7, guessed)
        found = open_world_accuracy(predicted, labels, torch.arange(4), direct=predicted)
        seen = (labels < 4).numpy()
        p, y = predicted.numpy(), labels.numpy()
        assert found.seen == pytest.approx((p[seen] == y[seen]).mean(), abs=1e-12)
        assert found.novel == pytest.approx(cluster_acc(p[~seen], y[~seen]), abs=1e-12)
        assert found.all == pytest.approx(cluster_acc(p, y), abs=1e-12)
        share = seen.mean()
        assert share * found.single_seen + (1 - share) * found.single_novel == pytest.approx(found.all, abs=1e-12)
        assert found.novel >= found.single_novel - 1e-12  # its own matching is the best one for it


def test_matching_does_not_repair_seen_classes() -> None:
    """A classifier that swaps two seen classes is right by matching and wrong by name."""
    labels, swapped = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 0, 2])
    found = open_world_accuracy(swapped, labels, torch.tensor([0, 1]), direct=swapped)
    assert (found.all, found.seen, found.single_seen) == (1.0, 0.0, 1.0)


def test_what_has_no_rows_or_no_prediction_has_no_number() -> None:
    labels = torch.tensor([0, 1, 1])
    nothing_novel = open_world_accuracy(labels, labels, torch.tensor([0, 1]))
    assert nothing_novel == OpenWorldAccuracy(all=1.0, single_seen=1.0)
    nothing_seen = open_world_accuracy(labels, labels, torch.tensor([5]), direct=labels)
    assert nothing_seen == OpenWorldAccuracy(all=1.0, novel=1.0, single_novel=1.0, novel_nmi=1.0, novel_ari=1.0)
    no_seen_class = open_world_accuracy(labels, labels, torch.empty(0, dtype=torch.int64))
    assert no_seen_class == nothing_seen
    one_row = open_world_accuracy(torch.tensor([3]), torch.tensor([8]), torch.tensor([0]))
    assert one_row == OpenWorldAccuracy(all=1.0, novel=1.0, single_novel=1.0, novel_nmi=1.0, novel_ari=1.0)
    assert len(astuple(one_row)) == 7


def test_unfit_predictions_are_refused() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"direct \(3,\), labels \(2,\)"):
        open_world_accuracy(labels, labels, labels, direct=torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"clusters \(3,\), labels \(2,\)"):
        open_world_accuracy(torch.zeros(3).long(), labels, labels)


def test_the_protocol_against_scikit_learn(world: Subject) -> None:
    found = {m.name: m for m in OpenWorld(probe=QUICK).run(world)}
    assert tuple(found) == NAMES
    train, test = world.features.train, world.features.test
    assert train.labels is not None
    assert test.labels is not None
    assert train.labels.unique().tolist() == [0, 1, 2]
    known = (test.labels < 3).numpy()
    x, y = test.rows.double().numpy(), test.labels.numpy()
    mean, sd = train.rows.double().numpy().mean(0), train.rows.double().numpy().std(0)
    theirs = LogisticRegression(C=1 / (1e-2 * len(train)), tol=1e-10, max_iter=1000)
    theirs.fit((train.rows.double().numpy() - mean) / sd, train.labels.numpy())
    right = theirs.predict((x[known] - mean) / sd) == y[known]
    assert found["accuracy, seen"].value == pytest.approx(right.mean(), abs=1e-12)
    clusters = KMeans().fit(test.rows, clusters=5).of_row.numpy()
    assert found["accuracy, all"].value == pytest.approx(cluster_acc(clusters, y), abs=1e-12)
    assert found["accuracy, novel"].value == pytest.approx(cluster_acc(clusters[~known], y[~known]), abs=1e-12)
    assert found["NMI, novel"].value == pytest.approx(normalized_mutual_info_score(y[~known], clusters[~known]))
    assert found["ARI, novel"].value == pytest.approx(adjusted_rand_score(y[~known], clusters[~known]))
    assert 0.6 < found["accuracy, all"].value < 1.0  # neither trivial nor hopeless


def test_records_say_how_each_number_came_about(world: Subject) -> None:
    found = {m.name: m.details for m in OpenWorld(probe=QUICK).run(world)}
    assert {name: details["how"] for name, details in found.items()} == {
        "accuracy, seen": "argmax of a linear head over the seen classes, no matching",
        "accuracy, novel": "matching on test rows of novel classes only",
        "accuracy, all": "one matching over all test rows",
        "accuracy, all-single seen": "one matching over all test rows",
        "accuracy, all-single novel": "one matching over all test rows",
        "NMI, novel": "clusters of test rows of novel classes",
        "ARI, novel": "clusters of test rows of novel classes",
    }
    for details in found.values():
        assert (details["seen_classes"], details["novel_classes"]) == (3, 2)
        assert (details["seen_rows"], details["novel_rows"]) == (120, 80)
    assert found["accuracy, seen"]["l2_used"] == 1e-2
    assert "clusters_used" not in found["accuracy, seen"]
    clusters = found["accuracy, all"]
    assert (clusters["clusters_used"], clusters["clusters_from"]) == (5, "number of classes")
    given = next(m for m in OpenWorld(clusters=9, probe=QUICK).run(world) if m.name == "accuracy, all").details
    assert (given["clusters_used"], given["clusters_from"]) == (9, "given")


def test_the_head_is_the_shared_one(world: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    world.head(QUICK)
    monkeypatch.setattr(LinearProbe, "fit", lambda *_: pytest.fail("the head was fitted again"))
    assert "accuracy, seen" in values(OpenWorld(probe=QUICK), world)


def test_a_seen_class_without_test_rows_still_counts_as_a_cluster() -> None:
    train, test = source(*blobs(60, classes=3)), blobs(60, classes=5, seed=1)
    kept = test[1] != 1
    subject = subject_of(Splits(train, source(test[0][kept], test[1][kept], first_id=100)))
    details = next(m for m in OpenWorld(probe=QUICK).run(subject) if m.name == "accuracy, all").details
    assert (details["seen_classes"], details["novel_classes"], details["clusters_used"]) == (3, 2, 5)


def test_without_novel_classes_nothing_is_yielded_and_it_says_why() -> None:
    both = source(*blobs(40))
    subject = subject_of(Splits(both, both))
    assert list(OpenWorld(probe=QUICK).run(subject)) == []
    assert OpenWorld().missing(subject) == "no novel classes"


def test_with_novel_classes_nothing_is_missing(world: Subject) -> None:
    assert OpenWorld().missing(world) is None


def test_unlabelled_rows_are_neither_seen_nor_novel(world: Subject) -> None:
    rows, labels = blobs(200, seed=1)
    hidden = torch.where(torch.arange(200) % 4 == 0, -1, labels)
    some = subject_of(Splits(world.train, source(rows, hidden, first_id=1000)))
    kept = subject_of(Splits(world.train, source(rows, hidden, first_id=1000).subset((hidden >= 0).nonzero()[:, 0])))
    assert values(OpenWorld(probe=QUICK), some) == values(OpenWorld(probe=QUICK), kept)
    nothing = Splits(world.train, source(rows, torch.full((200,), -1), first_id=1000))
    assert OpenWorld().missing(subject_of(nothing)) == "no novel classes"
    with pytest.raises(ValueError, match="needs labels"):
        list(OpenWorld(probe=QUICK).run(subject_of(nothing)))


def test_only_novel_rows_have_no_seen_number() -> None:
    train, test = source(*blobs(40, classes=2)), blobs(60, classes=4, seed=1)
    novel = test[1] >= 2
    subject = subject_of(Splits(train, source(test[0][novel], test[1][novel], first_id=100)))
    assert [m.name for m in OpenWorld(probe=QUICK).run(subject)] == [NAMES[i] for i in (1, 2, 4, 5, 6)]


def test_constant_features_give_shares_of_classes() -> None:
    """One cluster: it stands for class 2, the largest, both over everything and among the novel ones."""
    train = source(torch.full((4, 8), 0.5), torch.tensor([0, 0, 0, 1]))
    test = source(torch.full((10, 8), 0.5), torch.tensor([0, 0, 1, 2, 2, 2, 2, 3, 3, 3]), first_id=100)
    found = values(OpenWorld(probe=QUICK), subject_of(Splits(train, test)))
    assert found == {
        "accuracy, seen": pytest.approx(2 / 3),
        "accuracy, novel": pytest.approx(4 / 7),
        "accuracy, all": pytest.approx(0.4),
        "accuracy, all-single seen": 0.0,
        "accuracy, all-single novel": pytest.approx(4 / 7),
        "NMI, novel": 0.0,
        "ARI, novel": 0.0,
    }


def test_one_training_class_and_a_single_test_sample() -> None:
    train = source(torch.rand(3, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(3).long())
    subject = subject_of(Splits(train, source(torch.full((1, 8), 0.4), torch.tensor([6]), first_id=100)))
    found = values(OpenWorld(probe=QUICK), subject)
    assert found == {name: 1.0 for name in NAMES if "seen" not in name}


@pytest.mark.parametrize("clusters", [0, -3])
def test_unfit_settings_are_refused(clusters: int) -> None:
    with pytest.raises(ValueError, match=f"clusters must be at least 1, or None .* got {clusters}"):
        OpenWorld(clusters=clusters)


def test_settings_pass_through_yaml() -> None:
    config = OpenWorld(clusters=12, k_means=KMeans(starts=3), probe=QUICK)
    assert from_yaml(to_yaml(config), OpenWorld) == config
    assert isinstance(hash(config), int)


def test_half_of_the_real_digits_are_novel() -> None:
    """Measured at seen 0.93, novel 0.68, all 0.77 on pixels."""
    subject = subject_of(OpenWorldConfig().apply(DigitsConfig().load()))
    found = values(OpenWorld(), subject)
    assert 0.88 < found["accuracy, seen"] < 0.97
    assert 0.58 < found["accuracy, novel"] < 0.80
    assert 0.68 < found["accuracy, all"] < 0.86
    halves = (found["accuracy, all-single seen"] + found["accuracy, all-single novel"]) / 2
    assert halves == pytest.approx(found["accuracy, all"])  # 180 test rows of either kind


@pytest.mark.parametrize(("order", "seen"), [((0, 1, 2, 4, 3), 1.0), ((1, 0, 2, 3, 4), 1 / 3)])
def test_what_a_method_says_itself_is_named_on_seen_classes_and_matched_on_novel_ones(
    world: Subject, order: tuple[int, ...], seen: float
) -> None:
    """Outputs swapped among novel classes are as good; among seen ones they are errors, but in the matching of all."""
    outputs = torch.nn.Linear(8, 5, bias=False)
    torch.nn.init.zeros_(outputs.weight)
    with torch.no_grad():
        outputs.weight[torch.tensor(order), torch.arange(5)] = 1.0
    mine = replace(world, classifier_module=torch.nn.Sequential(torch.nn.Flatten(), outputs))
    found = values(OpenWorld(probe=QUICK), mine)
    assert found["own accuracy, seen"] == pytest.approx(seen, abs=0.05)
    assert min(found["own accuracy, novel"], found["own accuracy, all"]) > 0.85


def test_outputs_for_seen_classes_alone_are_no_answer_in_an_open_world(world: Subject) -> None:
    narrow = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3))
    found = values(OpenWorld(probe=QUICK), replace(world, classifier_module=narrow))
    assert tuple(found) == NAMES
