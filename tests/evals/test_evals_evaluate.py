"""The whole evaluation on real digits: what is in the records, what is left out, and the levels that are known."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn

from kinfolk.data.sources import ArraySource, DigitsConfig, Splits
from kinfolk.data.views import ViewMaker, ViewsConfig
from kinfolk.evals import (
    KNN,
    Evaluation,
    EvaluationConfig,
    FeatureSplits,
    FewLabelProbe,
    Geometry,
    LinearProbe,
    RawPixels,
    Record,
    Retrieval,
    Transfer,
    evaluate,
    extract,
    format_table,
)
from kinfolk.evals.config import Protocol
from kinfolk.nn import SmallConvConfig
from kinfolk.recipes import recipe
from kinfolk.train import from_yaml, to_yaml

ENCODERS = ("trained", "raw pixels", "centred raw pixels", "untrained")
METRICS = (
    ("kNN", "accuracy"),
    ("kNN", "balanced accuracy"),
    ("kNN", "precision@1"),
    ("linear probe", "accuracy"),
    ("linear probe", "balanced accuracy"),
    ("few labels", "accuracy, 1 per class"),
    ("few labels", "accuracy, 5 per class"),
    ("few labels", "accuracy, 10 % of labels"),
    ("retrieval", "R@1"),
    ("retrieval", "R@5"),
    ("retrieval", "mAP"),
    ("geometry", "alignment"),
    ("geometry", "uniformity"),
    ("geometry", "effective rank"),
    ("geometry", "repulsion entropy"),
    ("geometry", "within-class variance"),
    ("geometry", "class margin"),
    ("geometry", "false negatives, top 10"),
    ("geometry", "false negatives, top 100"),
)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return DigitsConfig().load()


def encoder(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SmallConvConfig().build(channels=1, image_size=(8, 8))


def found_and_noted(splits: Splits, config: EvaluationConfig, *, views: int | None = 2) -> Evaluation:
    maker = None if views is None else ViewMaker(ViewsConfig(count=views, rotation=15.0), seed=0)
    return evaluate(encoder(0), splits, config, untrained=encoder(1), view_maker=maker, labels_used="all")


def run(splits: Splits, config: EvaluationConfig, *, views: int | None = 2) -> list[Record]:
    return found_and_noted(splits, config, views=views).records


@pytest.fixture(scope="module")
def smoke(digits: Splits) -> list[Record]:
    return run(digits, EvaluationConfig.smoke())


def test_every_encoder_passes_every_protocol(smoke: list[Record]) -> None:
    assert [(r.encoder, r.protocol, r.metric) for r in smoke] == [(e, p, m) for e in ENCODERS for p, m in METRICS]


def test_records_carry_the_protocol(smoke: list[Record]) -> None:
    by_key = {(r.encoder, r.protocol, r.metric): r for r in smoke}
    knn = by_key["trained", "kNN", "accuracy"]
    assert knn.parameters == {
        "layer": "encoder output",
        "feature_dim": knn.parameters["feature_dim"],
        "normalisation": "l2",
        "n_train": 300,
        "n_test": 150,
        "unlabelled_dropped": 0,
        "subset_seed": 0,
        "k": 20,
        "temperature": 0.07,
        "k_used": 20,
    }
    assert by_key["raw pixels", "kNN", "accuracy"].parameters["feature_dim"] == 64
    few = by_key["untrained", "few labels", "accuracy, 5 per class"]
    assert few.parameters["seeds"] == [0, 1]
    assert few.draws == 2
    assert few.low < few.value < few.high
    assert by_key["trained", "geometry", "alignment"].parameters["pairs"] == 64
    assert {r.encoder: r.labels_used for r in smoke} == dict.fromkeys(ENCODERS, "none") | {"trained": "all"}


def test_records_are_json(smoke: list[Record]) -> None:
    text = json.dumps({"records": [r.to_dict() for r in smoke]}, allow_nan=False)
    assert [Record.from_dict(r) for r in json.loads(text)["records"]] == smoke


def test_the_table_shows_every_row(smoke: list[Record]) -> None:
    lines = format_table(smoke).splitlines()
    assert len(lines) == 2 + len(METRICS) + 2
    assert all(line.endswith("all") for line in lines[2:-2])


def test_evaluation_repeats_exactly_and_batches_do_not_matter(digits: Splits, smoke: list[Record]) -> None:
    again = run(digits, replace(EvaluationConfig.smoke(), batch_size=37))
    discrete = ("kNN", "few labels", "retrieval")
    assert [r.value for r in again if r.protocol in discrete] == [r.value for r in smoke if r.protocol in discrete]
    assert [r.value for r in again] == pytest.approx([r.value for r in smoke], rel=1e-4, abs=1e-6)


def test_standardised_probes_cannot_tell_centred_from_raw_pixels(smoke: list[Record]) -> None:
    values = {name: [r.value for r in smoke if r.encoder == name and r.protocol == "linear probe"] for name in ENCODERS}
    assert values["raw pixels"] == pytest.approx(values["centred raw pixels"], abs=1 / 150 + 1e-12)


def test_known_levels_of_raw_digits(digits: Splits) -> None:
    """Measured once: kNN 0.958 at k = 5 and 0.919 at k = 200, linear 0.897, R@1 within the test set 0.983."""
    pixels = RawPixels(channels=1, image_size=(8, 8))
    splits = FeatureSplits(extract(pixels, digits.train), extract(pixels, digits.test))
    assert len(splits.train) == 1437
    few, many, linear = (next(iter(one.run(splits))) for one in (KNN(k=5), KNN(k=200), LinearProbe()))
    found = {m.name: m.value for m in Retrieval().run(splits)}
    assert few.value == pytest.approx(0.958, abs=0.006)
    assert many.value == pytest.approx(0.919, abs=0.006)
    assert linear.value == pytest.approx(0.897, abs=0.009)
    assert found["R@1"] == pytest.approx(0.983, abs=0.006)


def test_permuted_sources_give_the_same_numbers(digits: Splits) -> None:
    def shuffled(source: ArraySource, seed: int) -> ArraySource:
        return source.subset(torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)))

    probe = FewLabelProbe(labels_per_class=(5,), shares=(0.1,), seeds=(0, 1))
    config = EvaluationConfig(protocols=("knn", "few_label_probe", "retrieval"), knn=KNN(k=10), few_label_probe=probe)
    few = Splits(digits.train.subset(torch.arange(400)), digits.test.subset(torch.arange(100)))
    permuted = Splits(shuffled(few.train, 1), shuffled(few.test, 2))
    expected = [r for r in run(few, config) if "raw" in r.encoder]
    assert [r for r in run(permuted, config) if "raw" in r.encoder] == expected


def without_labels(source: ArraySource, *, labels: torch.Tensor | None = None) -> ArraySource:
    return ArraySource(source.images[:60], labels, ids=source.ids[:60])


def test_without_labels_only_geometry_is_left_and_the_reason_is_said(digits: Splits, caplog) -> None:
    splits = Splits(without_labels(digits.train), without_labels(digits.test))
    with caplog.at_level(logging.WARNING, logger="kinfolk.evals"):
        records = run(splits, EvaluationConfig.smoke())
    assert {r.metric for r in records} == {"alignment", "uniformity", "effective rank", "repulsion entropy"}
    expected = "left out, since the training split has no labels: kNN, linear probe, few labels, retrieval."
    assert expected in [r.getMessage() for r in caplog.records]


def test_labels_of_minus_one_are_no_labels_and_some_are_dropped_and_counted(digits: Splits) -> None:
    unlabelled = torch.full((60,), -1)
    nothing = Splits(without_labels(digits.train), without_labels(digits.test, labels=unlabelled))
    notes = found_and_noted(nothing, EvaluationConfig.smoke()).notes
    assert any("the test split has no labels" in note for note in notes)
    partly = digits.train.labels[:60].clone()
    partly[::2] = -1
    splits = Splits(without_labels(digits.train, labels=partly), digits.test)
    config = EvaluationConfig(protocols=("knn",))
    records, notes = (found := found_and_noted(splits, config)).records, found.notes
    assert notes == ("30 of 60 training samples have no label and are dropped from: kNN.",)
    assert {r.parameters["unlabelled_dropped"] for r in records} == {30}
    assert {r.parameters["n_train"] for r in records} == {30}


@pytest.mark.parametrize("views", [None, 1])
def test_without_two_views_alignment_is_left_out(digits: Splits, views: int | None) -> None:
    config = replace(EvaluationConfig.smoke(), protocols=("geometry",))
    found = found_and_noted(digits, config, views=views)
    assert "alignment" not in {r.metric for r in found.records}
    assert found.notes == ("left out, since there are no two views of a sample: alignment.",)


def test_nothing_is_noted_when_nothing_is_left_out(digits: Splits) -> None:
    assert found_and_noted(digits, EvaluationConfig.smoke()).notes == ()


def test_every_protocol_runs_or_says_what_the_data_lack(digits: Splits) -> None:
    protocols = get_args(Protocol)
    elsewhere = Transfer(targets=(DigitsConfig(),), max_train_rows=60, max_test_rows=30)
    config = replace(EvaluationConfig.smoke().of(*protocols), transfer=elsewhere)
    found = found_and_noted(digits, config)
    assert found.notes == (
        "left out, since the test split has no groups and no bias_labels: cross-hand retrieval.",
        "left out, since the test split has no bias_labels: bias.",
        "left out, since there are no novel classes: open world.",
        "left out, since there are no learnt classes: own classifier.",
        "left out, since there are no masks: background shift.",
        "left out, since there are no masks: attribution.",
        "left out, since there are no text towers: zero-shot.",
        "left out, since there are no text towers: text retrieval.",
    )
    left_out = {"cross-hand retrieval", "bias", "open world", "own classifier", "background shift", "attribution"}
    left_out |= {"zero-shot", "text retrieval"}
    everyone = {evaluator.protocol for evaluator in config.evaluators()}
    for name in ENCODERS:
        assert {r.protocol for r in found.records if r.encoder == name} == everyone - left_out
    assert all(math.isfinite(r.value) for r in found.records)
    json.dumps([r.to_dict() for r in found.records], allow_nan=False)


def test_the_whole_evaluation_round_trips_through_yaml() -> None:
    config = replace(recipe("simclr-digits"), evaluation=EvaluationConfig.smoke().of(*get_args(Protocol)))
    assert from_yaml(to_yaml(config)) == config


def test_encoders_keep_their_state_and_mode(digits: Splits) -> None:
    trained, untrained = encoder(0), encoder(1)
    trained.train()
    untrained.eval()
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in (trained, untrained)]
    evaluate(trained, digits, EvaluationConfig.smoke(), untrained=untrained, labels_used="none")
    assert trained.training
    assert not untrained.training
    for state, module in zip(before, (trained, untrained), strict=True):
        assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"protocols": ("knn", "magic")}, "protocols must name each of knn, linear_probe, .* at most once, got"),
        ({"protocols": ("knn", "knn")}, "at most once"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_test_rows": 0}, "max_test_rows must be at least 1, got 0"),
    ],
)
def test_the_config_refuses(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EvaluationConfig(**settings)


def squares(n: int, *, first_id: int) -> ArraySource:
    """Noise with a light or a dark square, by class, and a mask around it."""
    generator = torch.Generator().manual_seed(first_id)
    labels = torch.arange(n) % 2
    images = torch.randint(90, 160, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images[:, :, 2:4, 2:4] = (20 + 220 * labels)[:, None, None, None].byte()
    saliency = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    saliency[:, :, 1:5, 1:5] = 255
    bias = torch.arange(n) // 2 % 2
    columns = {"saliency": saliency, "groups": torch.arange(n) // 4}
    return ArraySource(images, labels, ids=torch.arange(n) + first_id, bias_labels=bias, columns=columns)


@pytest.fixture(scope="module")
def masked() -> Splits:
    return Splits(squares(60, first_id=0), squares(48, first_id=1000))


def noisy_encoder() -> nn.Sequential:
    """Other in training mode than in evaluation, which also changes it."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 6))
    return nn.Sequential(*layers)


def alone(one: nn.Module, splits: Splits, config: EvaluationConfig) -> Evaluation:
    return evaluate(one, splits, replace(config, baselines=False), untrained=nn.Identity(), labels_used="none")


def test_every_protocol_leaves_the_encoder_as_it_was(masked: Splits) -> None:
    one = noisy_encoder().train()
    one[1].eval()
    before = {name: value.clone() for name, value in one.state_dict().items()}
    config = EvaluationConfig.smoke().of(*get_args(Protocol))
    found = {record.protocol for record in alone(one, masked, config).records}
    assert {"attribution", "PGD", "background shift", "corruptions", "linear probe, SGD"} <= found
    assert [module.training for module in one] == [True, False, True, True, True, True]
    assert one.training
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in one.parameters())


class HalfFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = noisy_encoder()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.encoder(images).half()


@pytest.mark.parametrize(
    "precise",
    [noisy_encoder().double(), noisy_encoder().bfloat16(), HalfFeatures()],
    ids=["float64 weights", "bfloat16 weights", "float16 features"],
)
def test_an_encoder_may_have_another_precision(precise: nn.Module, masked: Splits) -> None:
    config = EvaluationConfig.smoke().of("knn", "linear_probe", "pgd", "attribution", "corruptions")
    expected, found = (alone(one, masked, config).records for one in (noisy_encoder(), precise))
    assert [(r.protocol, r.metric) for r in found] == [(r.protocol, r.metric) for r in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.value == pytest.approx(other.value, abs=0.1)


def test_what_measured_nothing_is_said(masked: Splits) -> None:
    lonely = masked.test.subset(torch.arange(2))  # one test row of each class
    config = EvaluationConfig.smoke().of("retrieval", "cross_retrieval", "linear_probe")
    found = alone(noisy_encoder(), Splits(masked.train, lonely), config)
    assert found.notes == (
        "left out, since there are too few samples to compare: retrieval.",
        "left out, since there are too few samples to compare: cross-hand retrieval.",
    )
    assert {record.protocol for record in found.records} == {"linear probe"}


def test_lists_as_yaml_gives_them_become_tuples() -> None:
    config = EvaluationConfig(protocols=["knn"], retrieval=Retrieval(recall_at=[1, 5]))  # type: ignore[arg-type]
    assert config == EvaluationConfig(protocols=("knn",))
    assert hash(config) == hash(EvaluationConfig(protocols=("knn",)))


def test_which_samples_a_limit_keeps_follows_from_ids_and_not_from_their_order() -> None:
    splits = DigitsConfig().load()
    config = EvaluationConfig(
        protocols=("knn", "geometry"), max_train_rows=60, max_test_rows=50, geometry=Geometry(alignment_samples=20)
    )
    kept = []
    for order in (slice(None), torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(2))):
        test = splits.test.subset(torch.arange(len(splits.test))[order])
        train = splits.train.subset(
            torch.arange(len(splits.train)).flip(0) if kept else torch.arange(len(splits.train))
        )
        found = evaluate(
            None, Splits(train, test), config, untrained=RawPixels(channels=1, image_size=(8, 8)),
            view_maker=ViewMaker(ViewsConfig(count=2, shift=0.1), seed=0), labels_used="none",
        )  # fmt: skip
        kept.append({(r.encoder, r.metric): r.value for r in found.records})
    assert kept[0] == pytest.approx(kept[1], abs=1e-6)
    assert ("raw pixels", "alignment") in kept[0]
