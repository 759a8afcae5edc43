"""The linear probe, the accuracies it reports, and the logistic regression under it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.preprocessing import StandardScaler

from kinfolk.evals import Features, FeatureSplits, LinearProbe, Measurement
from kinfolk.evals.class_accuracy import accuracies, accuracy_by_group
from kinfolk.evals.linear_probe import cut_by_class
from kinfolk.evals.logistic import LogisticProblem, Standardiser


def features(rows: torch.Tensor, labels: torch.Tensor, *, first_id: int = 0) -> Features:
    return Features.from_rows(rows, torch.arange(first_id, first_id + len(rows)), labels)


def blobs(
    n: int, *, d: int = 6, classes: int = 4, seed: int = 0, spread: float = 1.5
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    scales = torch.logspace(0, -2, d)  # badly conditioned on purpose
    return (centres[labels] + spread * torch.randn(n, d, generator=generator)) * scales + 3, labels


def splits(n: int = 400, *, d: int = 6, classes: int = 4, n_test: int = 200) -> FeatureSplits:
    train = features(*blobs(n, d=d, classes=classes))
    return FeatureSplits(train, features(*blobs(n_test, d=d, classes=classes, seed=1), first_id=10_000))


def accuracy(evaluator: LinearProbe, data: FeatureSplits) -> Measurement:
    found, balanced = evaluator.run(data)
    assert [found.name, balanced.name] == ["accuracy", "balanced accuracy"]
    return found


@pytest.mark.parametrize(("n", "d", "classes"), [(90, 5, 3), (30, 70, 3), (64, 64, 2)])
@pytest.mark.parametrize("l2", [1e-3, 1e-1, 1.0])
def test_the_optimum_is_scikit_learns(n: int, d: int, classes: int, l2: float) -> None:
    rows, labels = blobs(n, d=d, classes=classes)
    x = Standardiser.fit(rows)(rows)
    ours = LogisticProblem(x, labels, classes=classes).fit(l2=l2, tolerance=1e-10, max_steps=5000)
    # scikit-learn adds up n cross-entropies and weighs them with C; with two classes it fits one weight vector, the
    # difference of ours, whose optimal halves have half the squared length
    strength = n * l2 / (2 if classes == 2 else 1)
    theirs = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=50_000).fit(x.numpy(), labels.numpy())
    weight = torch.from_numpy(theirs.coef_.T)
    found = ours.weight[:, 1:] - ours.weight[:, :1] if classes == 2 else ours.weight
    torch.testing.assert_close(found, weight, atol=2e-5, rtol=1e-4)
    logits = x @ ours.weight + ours.bias
    expected = torch.from_numpy(theirs.predict_proba(x.numpy()))
    torch.testing.assert_close(logits.softmax(1), expected, atol=1e-5, rtol=1e-4)


def test_the_gradient_vanishes_in_the_coordinates_of_the_rows() -> None:
    rows, labels = blobs(120, d=7, classes=3)
    x = Standardiser.fit(rows)(rows)
    model = LogisticProblem(x, labels, classes=3).fit(l2=0.01, tolerance=1e-10, max_steps=5000)
    weight, bias = model.weight.requires_grad_(), model.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight + bias, labels) + 0.005 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-7
    assert bias.grad is not None
    assert bias.grad.abs().max() < 1e-7


@pytest.mark.parametrize("d", [5, 60])
def test_without_the_eigenbasis_the_optimum_is_the_same(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = blobs(40, d=d, classes=4)
    x = Standardiser.fit(rows)(rows)
    with_basis = LogisticProblem(x, labels, classes=4).fit(l2=0.01, tolerance=1e-10, max_steps=5000)
    monkeypatch.setattr("kinfolk.evals.logistic._LARGEST_BASIS", 1)
    plain = LogisticProblem(x, labels, classes=4)
    assert plain.basis is None
    model = plain.fit(l2=0.01, tolerance=1e-10, max_steps=5000)
    torch.testing.assert_close(model.weight, with_basis.weight, atol=1e-6, rtol=1e-5)


def test_a_start_changes_the_steps_and_not_the_optimum() -> None:
    rows, labels = blobs(100)
    x = Standardiser.fit(rows)(rows)
    problem = LogisticProblem(x, labels, classes=4)
    cold = problem.fit(l2=0.01, tolerance=1e-9)
    warm = problem.fit(l2=0.01, tolerance=1e-9, start=problem.fit(l2=0.1))
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-6, rtol=1e-6)
    again = problem.fit(l2=0.01, tolerance=1e-6, max_steps=1, start=cold)
    torch.testing.assert_close(again.weight, cold.weight, atol=1e-6, rtol=1e-6)


def test_too_few_steps_are_reported() -> None:
    rows, labels = blobs(100)
    assert not LogisticProblem(rows.double(), labels, classes=4).fit(l2=1e-6, max_steps=2).converged


def test_standardiser_is_scikit_learns_and_zeroes_constants() -> None:
    rows, _ = blobs(50)
    fitted = Standardiser.fit(rows)
    np.testing.assert_allclose(fitted(rows).numpy(), StandardScaler().fit_transform(rows.double().numpy()), atol=1e-9)
    rows[:, 2] = 0.1  # not representable: its float64 mean is off by a rounding
    rows[0, 2] += 1e-8
    assert torch.equal(Standardiser.fit(rows)(rows)[:, 2], torch.zeros(50, dtype=torch.float64))


def test_the_probe_is_logistic_regression_at_the_chosen_penalty() -> None:
    data = splits()
    found = accuracy(LinearProbe(), data)
    scaler = StandardScaler().fit(data.train.rows.double().numpy())
    l2 = found.details["l2_used"]
    theirs = LogisticRegression(C=1 / (400 * l2), tol=1e-8, max_iter=10_000)
    theirs.fit(scaler.transform(data.train.rows.double().numpy()), data.train.labels.numpy())
    expected = theirs.score(scaler.transform(data.test.rows.double().numpy()), data.test.labels.numpy())
    assert abs(found.value - expected) <= 1 / 200 + 1e-12  # one sample on the boundary at most
    assert found.details["converged"]


def test_validation_chooses_a_strong_penalty_where_features_are_noise() -> None:
    """100 noise features beside one good one overfit 60 rows unless the penalty is strong."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    rows = torch.cat(
        [labels[:, None] * 2.0 + torch.randn(60, 1, generator=generator), torch.randn(60, 100, generator=generator)], 1
    )
    data = FeatureSplits(features(rows, labels), features(rows, labels, first_id=100))
    assert accuracy(LinearProbe(l2=(1e-6, 1.0)), data).details["l2_used"] == 1.0


def test_the_test_set_does_not_choose_the_penalty() -> None:
    data = splits()
    reversed_labels = FeatureSplits(data.train, features(data.test.rows, 3 - data.test.labels, first_id=10_000))
    chosen = [accuracy(LinearProbe(), which).details["l2_used"] for which in (data, reversed_labels)]
    assert chosen[0] == chosen[1]


def test_the_probe_is_deterministic_and_blind_to_order_scale_and_shift() -> None:
    data = splits()
    expected = accuracy(LinearProbe(), data)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(4))
    shuffled = Features.from_rows(data.train.rows[order], order, data.train.labels[order])
    assert accuracy(LinearProbe(), FeatureSplits(shuffled, data.test)) == expected
    moved = FeatureSplits(
        features(8 * data.train.rows - 2, data.train.labels),
        features(8 * data.test.rows - 2, data.test.labels, first_id=10_000),
    )
    assert accuracy(LinearProbe(), moved).value == pytest.approx(expected.value, abs=1 / 200 + 1e-12)


def test_selection_on_a_part_of_the_rows_still_fits_all() -> None:
    data = splits()
    found = accuracy(LinearProbe(selection_rows=100), data)
    same_penalty = LinearProbe(l2=(found.details["l2_used"],))
    assert accuracy(same_penalty, data).value == found.value


@pytest.mark.parametrize("labels", [[0], [0, 1], [3, 3, 3], [0, 0, 1, 1, 2]])
def test_tiny_training_sets(labels: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(len(labels), 3, generator=generator)
    train = features(rows, torch.tensor(labels))
    test = features(rows, torch.tensor(labels), first_id=100)
    found = accuracy(LinearProbe(), FeatureSplits(train, test))
    assert found.value == 1.0
    assert found.details["l2_used"] == 1e-3  # nothing could be set aside: the middle of seven


def test_constant_features_give_the_largest_class() -> None:
    labels = torch.tensor([0] * 10 + [1] * 20)
    data = FeatureSplits(features(torch.ones(30, 3), labels), features(torch.ones(30, 3), labels, first_id=100))
    assert accuracy(LinearProbe(), data).value == pytest.approx(2 / 3)


def test_a_class_that_training_lacks_counts_as_errors() -> None:
    data = splits(classes=2)
    labels = data.test.labels.clone()
    before = accuracy(LinearProbe(), data).value
    labels[::2] = 7
    after = accuracy(LinearProbe(), FeatureSplits(data.train, features(data.test.rows, labels, first_id=10_000))).value
    right_before = round(before * 200)
    assert 0 < round(after * 200) < right_before


def test_unlabelled_rows_are_dropped() -> None:
    data = splits()
    labels = data.train.labels.clone()
    labels[::4] = -1
    keep = labels >= 0
    dropped = FeatureSplits(Features(data.train.rows[keep], data.train.ids[keep], labels[keep]), data.test)
    with_unlabelled = FeatureSplits(features(data.train.rows, labels), data.test)
    assert accuracy(LinearProbe(), with_unlabelled) == accuracy(LinearProbe(), dropped)


def test_accuracies_of_classes_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 50 + [2] * 5 + [9] * 20)  # imbalanced, with gaps
    predicted = torch.where(torch.rand(75, generator=generator) < 0.6, labels, labels.roll(30))
    plain, balanced = accuracies(predicted, labels, details={"k": 3})
    assert plain.value == pytest.approx((predicted == labels).double().mean().item())
    assert plain.details == {"k": 3}
    assert balanced.value == pytest.approx(balanced_accuracy_score(labels.numpy(), predicted.numpy()))
    by_class = dict(zip("029", recall_score(labels.numpy(), predicted.numpy(), average=None), strict=True))
    assert balanced.details["accuracy_by_class"] == pytest.approx(by_class)
    assert balanced.details["k"] == 3
    assert balanced.better == "higher"


def test_a_predicted_class_that_the_test_lacks_is_only_an_error() -> None:
    plain, balanced = accuracies(torch.tensor([-1, 4, 7, 7]), torch.tensor([4, 4, 7, 7]), details={})
    assert (plain.value, balanced.value) == (0.75, 0.75)
    assert balanced.details["accuracy_by_class"] == {"4": 0.5, "7": 1.0}


def test_classes_are_listed_up_to_200() -> None:
    for count, listed in ((200, True), (201, False)):
        labels = torch.arange(count)
        _, balanced = accuracies(labels, labels, details={})
        assert balanced.value == 1.0
        assert ("accuracy_by_class" in balanced.details) == listed


def test_accuracy_by_group_is_the_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    labels, predicted, groups = (torch.randint(0, high, (60,), generator=generator) for high in (3, 3, 7))
    present, values, sizes = accuracy_by_group(predicted, labels, groups * 5 - 2)
    for group, value, size in zip(present.tolist(), values.tolist(), sizes.tolist(), strict=True):
        rows = [i for i in range(60) if int(groups[i]) * 5 - 2 == group]
        assert size == len(rows)
        assert value == pytest.approx(np.mean([int(predicted[i]) == int(labels[i]) for i in rows]))
    assert int(sizes.sum()) == 60


def test_the_probe_reports_every_class_and_their_mean() -> None:
    data = splits()
    plain, balanced = LinearProbe().run(data)
    head = LinearProbe().fit(data.train)
    predicted = head.predict(data.test.rows)
    assert balanced.value == pytest.approx(balanced_accuracy_score(data.test.labels.numpy(), predicted.numpy()))
    assert set(balanced.details["accuracy_by_class"]) == {"0", "1", "2", "3"}
    assert plain.details == head.details


def test_rare_test_classes_move_balanced_accuracy_only() -> None:
    """A constant predictor on 9 to 1: accuracy 0.9, balanced accuracy chance."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    data = FeatureSplits(features(torch.ones(100, 2), labels), features(torch.ones(100, 2), labels, first_id=500))
    plain, balanced = LinearProbe().run(data)
    assert (plain.value, balanced.value) == (0.9, 0.5)


@pytest.mark.parametrize("held_out", [0.2, 0.5])
def test_a_cut_takes_its_share_of_every_class_and_loses_no_row(held_out: float) -> None:
    labels = torch.tensor([0] * 20 + [1] * 5 + [2] * 1)
    fit, validation = cut_by_class(labels, held_out=held_out, seed=0)
    assert torch.cat([fit, validation]).sort().values.tolist() == list(range(26))
    assert labels[validation].bincount(minlength=3).tolist() == [int(held_out * n) for n in (20, 5, 1)]
    again, _ = cut_by_class(labels, held_out=held_out, seed=0)
    other, _ = cut_by_class(labels, held_out=held_out, seed=1)
    assert torch.equal(fit, again)
    assert not torch.equal(fit, other)


def test_a_cut_of_a_part_keeps_the_ratio_of_the_classes() -> None:
    labels = torch.tensor([0] * 400 + [1] * 100)
    fit, validation = cut_by_class(labels, held_out=0.2, seed=0, rows=100)
    assert labels[fit].bincount().tolist() == [64, 16]
    assert labels[validation].bincount().tolist() == [16, 4]


def test_speed_allows_large_sets() -> None:
    """60,000 x 128 takes about half a minute on two cores; a tenth of it must take seconds here."""
    data = splits(6000, d=128, classes=10, n_test=500)
    start = time.perf_counter()
    accuracy(LinearProbe(), data)
    assert time.perf_counter() - start < 30


def test_the_interval_is_students() -> None:
    values = [0.71, 0.74, 0.69, 0.80, 0.77]
    found = Measurement.from_draws("accuracy", values)
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (found.value, found.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.draws == 5


def test_a_single_draw_has_no_spread_and_none_is_refused() -> None:
    found = Measurement.from_draws("accuracy", [0.5])
    assert (found.value, found.sd, found.low, found.high, found.draws) == (0.5, None, None, None, 1)
    with pytest.raises(ValueError, match="accuracy needs at least one draw"):
        Measurement.from_draws("accuracy", [])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: LinearProbe(l2=()), "l2 must be at least one penalty, each positive"),
        (lambda: LinearProbe(l2=(0.0, 1.0)), "each positive, got"),
        (lambda: LinearProbe(validation_fraction=1.0), r"validation_fraction must lie in \(0, 1\), got 1.0"),
    ],
)
def test_probes_refuse(build, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()
