"""The classifier that a method learns, measured at the end of a run, and how sure it may be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kinfolk.data import ArraySource, DigitsConfig
from kinfolk.evals import EvaluationConfig, OwnClassifier, RawPixels, Subject, expected_calibration_error
from kinfolk.methods import FineTuneConfig, SimCLRConfig
from kinfolk.nn import SmallConvConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.train import calibrate, evaluate_run, fit, load_method
from kinfolk.train.calibration import load_classifier


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = smoke(recipe("simclr-digits"))
    evaluation = replace(config.evaluation, protocols=("knn", "own_classifier"))
    config = replace(config, method=FineTuneConfig(), evaluation=evaluation)
    return fit(config, out=tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture(scope="module")
def test_part():
    return DigitsConfig().load().test


def test_a_run_measures_its_own_classifier_and_nobody_else_s(run, test_part):
    records = [r for r in evaluate_run(run) if r.protocol == "own classifier"]
    assert {record.encoder for record in records} == {"trained"}
    values = {record.metric: record.value for record in records}
    rows = evaluate_run(run, evaluation=EvaluationConfig(protocols=("own_classifier",)))
    accuracy = next(r.value for r in rows if r.metric == "accuracy")  # on all test images
    method = load_method(run)
    predicted = method.predict(test_part.fetch(torch.arange(len(test_part)))["images"].float() / 255)
    assert accuracy == pytest.approx((predicted == test_part.labels).double().mean().item())
    assert {"accuracy", "balanced accuracy", "ECE", "NLL"} <= values.keys()


def test_an_open_world_run_measures_its_own_prototypes(tmp_path):
    config = smoke(recipe("opencon-digits"))
    evaluation = replace(config.evaluation, protocols=("open_world",))
    run = fit(replace(config, evaluation=evaluation), out=tmp_path / "run")
    records = evaluate_run(run.folder)
    own = {record.metric for record in records if record.metric.startswith("own") and record.encoder == "trained"}
    assert own == {"own accuracy, seen", "own accuracy, novel", "own accuracy, all"}
    assert not any(record.metric.startswith("own") for record in records if record.encoder != "trained")


def test_who_asks_for_no_classifier_gets_none(run):
    config = smoke(recipe("simclr-digits"))
    assert load_classifier(run, config) is None
    assert load_classifier(run, replace(config, evaluation=EvaluationConfig(protocols=("own_classifier",)))) is None
    assert not hasattr(SimCLRConfig(), "classes")


def test_calibration_changes_how_sure_it_is_and_not_what_it_says(run, test_part):
    method = load_method(run)
    half = test_part.subset(torch.arange(0, 180))
    images = test_part.fetch(torch.arange(180, 360))["images"].float() / 255
    labels = test_part.labels[180:]
    with torch.no_grad():  # far too sure
        method.classifier[1].weight *= 80
        method.classifier[1].bias *= 80
    before, said = method.probabilities(images), method.predict(images)
    temperature = calibrate(method, half)
    after = method.probabilities(images)
    assert temperature > 1.5
    assert torch.equal(method.predict(images), said)
    assert expected_calibration_error(after, labels) < expected_calibration_error(before, labels)
    assert "calibration" in method.state_dict()
    with pytest.raises(ValueError, match="calibration needs labelled samples"):
        calibrate(method, ArraySource(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)))
    assert method.calibration.item() == pytest.approx(temperature)


def test_a_class_beyond_the_classifier_s_is_an_error_and_has_no_log_loss(test_part):
    part = test_part.subset(torch.arange(100))
    classifier = FineTuneConfig(classes=5).build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
    logits = torch.nn.Sequential(classifier.encoder, classifier.classifier)
    pixels = RawPixels(channels=1, image_size=(8, 8))
    found = {
        m.name: m for m in OwnClassifier().run(Subject.of("trained", pixels, train=part, test=part, classifier=logits))
    }
    unknown = int((part.labels >= 5).sum())
    assert found["accuracy"].details["unknown_class"] == unknown > 0
    assert found["accuracy"].value <= 1 - unknown / 100
    assert found["NLL"].value == pytest.approx(torch.log(torch.tensor(5.0)).item(), abs=1e-6)
    assert OwnClassifier().missing(Subject.of("pixels", pixels, train=part, test=part)) == "no learnt classes"
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        OwnClassifier(bins=0)
