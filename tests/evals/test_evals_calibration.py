"""Calibration error, temperature scaling and the evaluator, by hand, against scikit-learn and SciPy, and on digits."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from kinfolk.data import ArraySource, DigitsConfig
from kinfolk.evals import Features, FeatureSplits, LinearProbe, RawPixels, Subject
from kinfolk.evals.calibration import Calibration, _folds
from kinfolk.evals.confidence import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from kinfolk.evals.protocol import Measurement
from kinfolk.train.serialization import decode, encode

PLAIN, SCALED = ["ECE", "NLL", "Brier score"], ["ECE, scaled", "NLL, scaled", "Brier score, scaled"]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(n: int = 300, classes: int = 4, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax: calibrated at temperature 1 but for chance."""
    logits = 2 * randn(n, classes, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)


def subject_of(train: Features, test: Features) -> Subject:
    images = torch.zeros(1, 1, 1, 1).byte()
    source = ArraySource(images)
    return Subject("test", RawPixels(channels=1, image_size=(1, 1)), FeatureSplits(train, test), source, source, source)


def blobs(n: int, classes: int, *, spread: float, seed: int, first_id: int = 0) -> Features:
    labels = torch.arange(n) % classes
    rows = 2 * torch.eye(8)[labels] + spread * randn(n, 8, seed=seed)
    return Features.from_rows(rows, first_id + torch.arange(n), labels)


def measured(evaluator: Calibration, subject: Subject) -> dict[str, Measurement]:
    return {m.name: m for m in evaluator.run(subject)}


def test_the_error_by_hand() -> None:
    """Four bins: two rows at 0.6 with one right, one at 0.8 that is wrong, one at 1 that is right."""
    p = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.8, 0.2], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    counts, confidences, accuracies = reliability(p, labels, bins=4)
    assert counts == [0, 0, 2, 2]
    assert confidences == [None, None, pytest.approx(0.6), pytest.approx(0.9)]
    assert accuracies == [None, None, 0.5, 0.5]
    assert expected_calibration_error(p, labels, bins=4) == pytest.approx(0.5 * 0.1 + 0.5 * 0.4)
    assert expected_calibration_error(p, labels, bins=1) == pytest.approx(abs(0.5 - 3 / 4))
    assert brier_score(p, labels) == pytest.approx((2 * 0.4**2 + 2 * 0.6**2 + 2 * 0.8**2 + 0) / 4)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_bins_against_scikit_learn(bins: int) -> None:
    logits, labels = drawn()
    p = logits.double().softmax(dim=1)
    confidence, right = p.max(dim=1).values.numpy(), (p.argmax(dim=1) == labels).numpy()
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins)
    counts, confidences, accuracies = reliability(p, labels, bins=bins)
    assert sum(counts) == 300
    np.testing.assert_allclose([c for c in confidences if c is not None], mean)
    np.testing.assert_allclose([a for a in accuracies if a is not None], accuracy)
    expected = sum(n / 300 * abs(a - m) for n, a, m in zip([n for n in counts if n], accuracy, mean, strict=True))
    assert expected_calibration_error(p, labels, bins=bins) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(dtype: torch.dtype) -> None:
    for place in range(8, 16):  # of two classes the larger probability is at least a half
        top = torch.tensor(place, dtype=torch.float64).div(15).to(dtype)
        row = torch.stack([top, 1 - top])[None]
        counts, _, _ = reliability(row, torch.tensor([0]), bins=15)
        assert counts.index(1) == place - 1
    even = torch.full((1, 15), 1 / 15, dtype=dtype)
    assert reliability(even, torch.tensor([3]), bins=15)[0][0] == 1
    above = even.clone()
    above[0, 0] = torch.nextafter(even[0, 0], torch.ones((), dtype=dtype))
    assert reliability(above, torch.tensor([3]), bins=15)[0][:2] == [0, 1]


def test_certain_and_right_or_wrong() -> None:
    p, right = torch.eye(3), torch.arange(3)
    assert expected_calibration_error(p, right) == 0.0
    assert brier_score(p, right) == 0.0
    assert expected_calibration_error(p, (right + 1) % 3) == 1.0
    assert brier_score(p, (right + 1) % 3) == 2.0
    assert reliability(p, right)[0] == [0] * 14 + [3]
    one = torch.ones(5, 1)
    assert expected_calibration_error(one, torch.zeros(5).long()) == 0.0
    assert reliability(one[:1], torch.zeros(1).long())[2][-1] == 1.0


def test_a_class_without_a_column_is_an_error_and_keeps_the_log_loss_finite() -> None:
    logits, labels = drawn()
    p, unknown = logits.double().softmax(dim=1), labels.clone()
    unknown[:100] = -1
    assert sum(
        n * a for n, a in zip(*(reliability(p, unknown)[i] for i in (0, 2)), strict=True) if n and a is not None
    ) == pytest.approx(int((p.argmax(dim=1) == unknown).sum()))
    assert negative_log_likelihood(logits, unknown) == pytest.approx(
        negative_log_likelihood(logits[100:], labels[100:])
    )
    assert fit_temperature(logits, unknown) == pytest.approx(fit_temperature(logits[100:], labels[100:]))
    alone = brier_score(p[:100], unknown[:100])
    assert alone == pytest.approx(float((p[:100].square().sum(dim=1) + 1).mean()))


def test_log_loss_against_scikit_learn() -> None:
    logits, labels = drawn()
    expected = log_loss(labels.numpy(), logits.double().softmax(dim=1).numpy())
    assert negative_log_likelihood(logits, labels) == pytest.approx(expected)
    assert negative_log_likelihood(torch.tensor([[1e4, 0.0]]), torch.tensor([1])) == pytest.approx(1e4)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_the_temperature_is_scipys_minimum_and_undoes_a_sharpening(sharpness: float) -> None:
    logits, labels = drawn(2000)
    found = fit_temperature(sharpness * logits, labels)

    def loss(temperature: float) -> float:
        p = (sharpness * logits.double() / temperature).softmax(dim=1).numpy()
        return float(-np.log(p[np.arange(2000), labels.numpy()]).mean())

    best = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-8})
    assert found == pytest.approx(best.x, rel=1e-4)
    assert found == pytest.approx(sharpness, rel=0.1)
    assert fit_temperature(sharpness * logits + randn(2000, 1), labels) == pytest.approx(found, rel=1e-4)


def test_temperatures_that_have_no_optimum_inside_are_the_ends() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 0.01
    assert fit_temperature(logits, torch.tensor([1, 0])) == 100.0
    assert fit_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == 1.0
    assert fit_temperature(torch.randn(4, 1), torch.zeros(4).long()) == 1.0
    assert fit_temperature(1e6 * logits, torch.tensor([0, 1])) == 0.01


def test_functions_refuse_what_does_not_fit() -> None:
    p, labels = torch.full((2, 2), 0.5), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"found scores \(2, 2\), labels \(3,\)"):
        expected_calibration_error(p, torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"at least one: found scores \(0, 2\)"):
        brier_score(p[:0], labels[:0])
    with pytest.raises(ValueError, match=r"columns from 0 to 1, or -1 .* found 0 to 2"):
        fit_temperature(p, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="take the softmax of logits first"):
        expected_calibration_error(torch.tensor([[3.0, -2.0]]), labels[:1])
    with pytest.raises(ValueError, match="take the softmax of logits first"):
        expected_calibration_error(torch.full((2, 2), math.nan), labels)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        reliability(p, labels, bins=0)
    for function in (fit_temperature, negative_log_likelihood):
        with pytest.raises(ValueError, match="none of the 2 rows has a class with a column"):
            function(p, torch.tensor([-1, -1]))


@pytest.fixture(scope="module")
def digits() -> Subject:
    source = DigitsConfig().load().train
    train, test = source.subset(torch.arange(200)), source.subset(torch.arange(200, 500))
    return Subject.of("raw pixels", RawPixels(channels=1, image_size=(8, 8)), train=train, test=test)


PROBE = LinearProbe(l2=(1e-6,))  # so weak a penalty that the head is far too sure


def test_digits_before_and_after_a_temperature(digits: Subject) -> None:
    found = measured(Calibration(PROBE), digits)
    assert list(found) == [*PLAIN, "temperature", *SCALED]
    assert [found[name].better for name in (*PLAIN, *SCALED)] == ["lower"] * 6
    assert found["temperature"].better is None
    assert found["temperature"].value > 1.5
    assert found["NLL, scaled"].value < 0.8 * found["NLL"].value
    assert found["ECE, scaled"].value < found["ECE"].value
    head, test = digits.head(PROBE), digits.features.test
    assert test.labels is not None
    logits = head.logits(test.rows)
    assert found["ECE"].value == expected_calibration_error(logits.softmax(dim=1), test.labels)
    assert found["NLL"].value == pytest.approx(log_loss(test.labels.numpy(), logits.softmax(dim=1).numpy()))
    scaled = (logits / found["temperature"].value).softmax(dim=1)
    assert found["ECE, scaled"].value == expected_calibration_error(scaled, test.labels)
    assert found["Brier score, scaled"].value == brier_score(scaled, test.labels)


def test_the_record_holds_what_the_diagram_needs(digits: Subject) -> None:
    found = measured(Calibration(PROBE, bins=10), digits)
    for name in ("ECE", "ECE, scaled"):
        details = json.loads(json.dumps(found[name].details))
        counts, confidences, accuracies = (details[f"bin_{what}"] for what in ("counts", "confidences", "accuracies"))
        assert len(counts) == len(confidences) == len(accuracies) == 10
        assert sum(counts) == 300
        gaps = [n * abs(a - c) for n, c, a in zip(counts, confidences, accuracies, strict=True) if n]
        assert sum(gaps) / 300 == pytest.approx(found[name].value)
        assert [c is None for c in confidences] == [n == 0 for n in counts]
    assert found["ECE, scaled"].details["temperature"] == found["temperature"].value
    assert found["temperature"].details == {"temperature_rows": 200}


def test_the_temperature_comes_from_rows_its_head_has_not_seen(digits: Subject) -> None:
    """On the rows that a head was fitted on, every row is right and no temperature is small enough."""
    head, train = digits.head(PROBE), digits.features.train
    assert train.labels is not None
    assert fit_temperature(head.logits(train.rows), train.labels) == 0.01
    fitted = Calibration(PROBE).temperature(head, train)
    assert fitted is not None
    assert fitted[0] > 1.5
    assert fitted == Calibration(PROBE).temperature(head, train)
    assert fitted != Calibration(PROBE, seed=1).temperature(head, train)


def test_the_penalty_that_the_shared_head_chose_is_kept() -> None:
    train, test = blobs(160, 4, spread=1.5, seed=0), blobs(80, 4, spread=1.5, seed=1, first_id=1000)
    subject = subject_of(train, test)
    probe = LinearProbe(l2=(1e-4, 1e-1))
    found = measured(Calibration(probe), subject)
    chosen = subject.head(probe).details["l2_used"]
    assert found["ECE"].details["l2_used"] == chosen
    alone = measured(Calibration(LinearProbe(l2=(chosen,))), subject)
    assert found["temperature"].value == pytest.approx(alone["temperature"].value, rel=1e-3)


def test_one_class_is_certain_and_right() -> None:
    train = Features.from_rows(randn(20, 8), torch.arange(20), torch.full((20,), 3))
    found = measured(Calibration(), subject_of(train, train))
    assert {name: m.value for name, m in found.items()} == {
        **dict.fromkeys([*PLAIN, *SCALED], pytest.approx(0.0, abs=1e-12)),
        "temperature": 1.0,
    }


def test_constant_features_say_the_share_of_every_class() -> None:
    labels = torch.tensor([0, 0, 0, 1]).repeat(10)
    train = Features.from_rows(torch.ones(40, 8), torch.arange(40), labels)
    found = measured(Calibration(), subject_of(train, train))
    assert found["ECE"].value == pytest.approx(0.0, abs=1e-4)
    assert found["NLL"].value == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=1e-4)
    assert found["Brier score"].value == pytest.approx(2 * 0.75 * 0.25, abs=1e-4)
    assert all(math.isfinite(m.value) for m in found.values())


def test_folds_are_set_aside_until_there_are_rows_enough() -> None:
    train, probe = blobs(100, 4, spread=1.5, seed=0), LinearProbe(l2=(1e-2,))
    head = probe.fit(train)
    for enough, rows in ((1, 20), (20, 20), (21, 40), (75, 80), (100, 100), (2_000, 100)):
        fitted = Calibration(probe, rows_enough=enough).temperature(head, train)
        assert fitted is not None
        assert fitted[1] == rows


def test_the_folds_by_hand_and_by_loop() -> None:
    """Three rows of class 0, one of class 5: two folds, the single row never set aside."""
    labels = torch.tensor([0, 5, 0, 0])
    fold = _folds(labels, 2, seed=0)
    assert fold[1] == -1
    assert sorted(fold[labels == 0].tolist()) == [0, 0, 1]
    train = replace(blobs(60, 3, spread=1.5, seed=0), labels=torch.cat([torch.arange(59) % 3, torch.tensor([7])]))
    probe = LinearProbe(l2=(1e-2,))
    fitted = Calibration(probe, folds=3).temperature(probe.fit(train), train)
    assert train.labels is not None
    fold = _folds(train.labels, 3, seed=0)
    logits, columns = [], []
    for part in range(3):
        places = torch.nonzero(fold != part).squeeze(1)
        rest = probe.fit(Features(train.rows[places], train.ids[places], train.labels[places]))
        assert rest.classes.tolist() == [0, 1, 2, 7]
        for i in torch.nonzero(fold == part).squeeze(1).tolist():
            logits.append(rest.logits(train.rows[i : i + 1]))
            columns.append(rest.classes.tolist().index(train.labels[i]))
    assert fitted == (pytest.approx(fit_temperature(torch.cat(logits), torch.tensor(columns))), 59)


def test_without_a_minimum_or_rows_to_set_aside_there_is_no_temperature() -> None:
    train, test = blobs(40, 4, spread=0.1, seed=0), blobs(40, 4, spread=0.1, seed=1, first_id=100)
    assert list(measured(Calibration(), subject_of(train, test))) == PLAIN  # every row is right in every fold
    train = blobs(4, 4, spread=0.1, seed=0)
    assert list(measured(Calibration(), subject_of(train, test))) == PLAIN
    single = Features.from_rows(randn(1, 8), torch.tensor([0]), torch.tensor([1]))
    assert list(measured(Calibration(), subject_of(single, single))) == PLAIN


def test_classes_without_training_rows_and_rows_without_a_class() -> None:
    train, test = blobs(80, 4, spread=1.0, seed=0), blobs(60, 6, spread=1.0, seed=1, first_id=1000)
    found = measured(Calibration(), subject_of(train, test))
    assert found["ECE"].details["unknown_class"] == 20
    assert all(math.isfinite(m.value) for m in found.values())
    assert test.labels is not None
    known = replace(test, labels=torch.where(test.labels < 4, test.labels, -1))
    without = measured(Calibration(), subject_of(train, known))
    assert sum(without["ECE"].details["bin_counts"]) == 40
    assert without["ECE"].details["unknown_class"] == 0
    assert without["NLL"].value == pytest.approx(found["NLL"].value)
    assert without["Brier score"].value < found["Brier score"].value
    none = replace(test, labels=torch.full_like(test.labels, 9))
    strangers = measured(Calibration(), subject_of(train, none))
    assert list(strangers) == ["ECE", "Brier score", "temperature", "ECE, scaled", "Brier score, scaled"]
    assert strangers["ECE"].value == pytest.approx(
        np.average(
            [c or 0.0 for c in strangers["ECE"].details["bin_confidences"]],
            weights=strangers["ECE"].details["bin_counts"],
        )
    )


def test_labels_are_needed() -> None:
    bare = Features.from_rows(randn(5, 8), torch.arange(5))
    with pytest.raises(ValueError, match="needs labels, and none of the 5 rows has one"):
        measured(Calibration(), subject_of(bare, bare))


def test_the_config_survives_yaml_and_refuses() -> None:
    evaluator = Calibration(LinearProbe(l2=(0.1, 1.0)), bins=12, seed=3)
    assert decode(Calibration, encode(evaluator)) == evaluator
    assert hash(evaluator) == hash(decode(Calibration, encode(evaluator)))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        Calibration(bins=0)
    with pytest.raises(ValueError, match="at least 2 folds and 1 row to be fitted on, got folds=1, rows_enough=2000"):
        Calibration(folds=1)
