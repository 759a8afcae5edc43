"""Fine-tuning a run of real digits: what is trained on what, that nothing is done twice, and what the numbers are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score

import kinfolk.train.fine_tuning as fine_tuning
import kinfolk.train.loop as loop
from kinfolk.data import ArraysConfig, DigitsConfig, ImbalancedConfig
from kinfolk.evals import EvaluationConfig, Record
from kinfolk.methods.fine_tune import FineTuneConfig
from kinfolk.nn import SmallConvConfig
from kinfolk.recipes import recipe
from kinfolk.train import AdamWConfig, Run, TrainConfig, fit, load_config, load_encoder, to_yaml
from kinfolk.train.checkpoint import checkpoints
from kinfolk.train.fine_tuning import RECORDS_FILE, FineTuningConfig, fine_tune
from kinfolk.train.serialization import decode, encode

NOTHING = EvaluationConfig(protocols=(), baselines=False, max_train_rows=1, max_test_rows=1)
SHORT = FineTuningConfig(
    fractions=(0.05, 1.0), image_views=640, batch_size=64, optimizer=AdamWConfig(learning_rate=4e-3)
)


def _pretraining(**changes: Any) -> TrainConfig:
    config = replace(
        recipe("simclr-digits"),
        encoder=SmallConvConfig(width=8, pool="flatten"),
        evaluation=NOTHING,
        batch_size=128,
        epochs=3,
        checkpoint_every_epochs=3,
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(_pretraining(), out=tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def tuned(pretrained: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, fine_tune(pretrained, out=folder, config=SHORT)


def part(folder: Path, encoder: str = "trained", share: int = 100, seed: int = 0) -> Run:
    return Run(folder / encoder / f"{share}-percent" / f"seed-{seed}")


def written(run: Run) -> Any:
    """A part's config as a document: the union in `TrainConfig` need not know its method to read it here."""
    import yaml

    return yaml.safe_load(run.config_file.read_text())


def test_every_share_has_a_record_for_both_encoders(tuned: tuple[Path, list[Record]]) -> None:
    folder, records = tuned
    metrics = [f"{name}, {share} % of labels" for share in (5, 100) for name in ("accuracy", "balanced accuracy")]
    assert [(r.encoder, r.metric) for r in records] == [(e, m) for e in ("trained", "untrained") for m in metrics]
    assert {(r.protocol, r.better, r.draws, r.labels_used, r.sd) for r in records} == {
        ("fine-tuning", "higher", 1, "none", None)
    }
    assert [r.parameters["labels"] for r in records[:4]] == [70, 70, 1437, 1437]
    assert [(r.parameters["batch_size"], r.parameters["steps"]) for r in records[1:3]] == [(64, 10), (64, 10)]
    assert all(r.parameters["n_test"] == 360 and r.parameters["method"]["classes"] == 10 for r in records)
    table = (folder / "README.md").read_text()
    assert "| protocol | metric | trained | untrained | pretraining labels |" in table
    assert "accuracy, 5 % of labels" in table
    assert records[2].value > 0.3  # all labels, ten steps


def test_the_numbers_are_those_of_the_last_checkpoint(tuned: tuple[Path, list[Record]]) -> None:
    folder, records = tuned
    test = DigitsConfig().load().test
    for encoder in ("trained", "untrained"):
        weights = load_file(checkpoints(part(folder, encoder).checkpoints)[-1] / "weights.safetensors")
        network = SmallConvConfig(width=8, pool="flatten").build(channels=1, image_size=(8, 8)).eval()
        network.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
        with torch.no_grad():
            features = network(test.read(torch.arange(len(test))).float() / 255)
        mean, variance = (weights[f"classifier.0.running_{name}"] for name in ("mean", "var"))
        features = (features - mean) / (variance + 1e-5).sqrt()
        predicted = (features @ weights["classifier.1.weight"].T + weights["classifier.1.bias"]).argmax(1)
        found = [r.value for r in records if r.encoder == encoder and ", 100 %" in r.metric]
        theirs = [score(test.labels, predicted) for score in (accuracy_score, balanced_accuracy_score)]
        assert found == pytest.approx(theirs)


def test_both_encoders_are_trained_alike_but_for_where_they_start(tuned: tuple[Path, list[Record]]) -> None:
    one, other = (written(part(tuned[0], encoder, share=5)) for encoder in ("trained", "untrained"))
    assert {name for name in one if one[name] != other[name]} == {"name"}
    first = [part(tuned[0], encoder, share=5).metrics[1] for encoder in ("trained", "untrained")]
    assert [record["loss"] for record in first] == pytest.approx([np.log(10)] * 2)
    assert (one["views"]["count"], one["views"]["rotation"], one["views"]["erasing"]) == (1, 20, 0)
    assert [derived["kind"] for derived in one["derived"]] == ["labelled-part", "few-labels", "labelled-part"]


def test_nothing_finished_is_repeated_and_more_seeds_run_only_what_is_new(
    pretrained: Run, tuned: tuple[Path, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tuned[0], tmp_path, dirs_exist_ok=True)
    seen: list[Path] = []

    def spy(*args: Any, out: Path, **options: Any) -> Run:
        seen.append(out)
        return fit(*args, out=out, **options)

    monkeypatch.setattr(fine_tuning, "fit", spy)
    assert fine_tune(pretrained, out=tmp_path, config=SHORT) == tuned[1]
    assert seen == []
    more = fine_tune(
        pretrained, out=tmp_path, config=replace(SHORT, fractions=(0.05,), seeds=(0, 1), from_scratch=False)
    )
    assert seen == [part(tmp_path, share=5, seed=1).folder]
    values = more[0].parameters["values"]
    assert values[0] == tuned[1][0].value
    assert (more[0].value, more[0].sd, more[0].draws) == (np.mean(values), pytest.approx(np.std(values, ddof=1)), 2)
    assert more[0].low < more[0].value < more[0].high  # type: ignore[operator]


def test_an_interrupted_fine_tuning_is_continued_and_gives_the_same(
    pretrained: Run, tuned: tuple[Path, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, calls = replace(SHORT, from_scratch=False), []

    def killed(*args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        finish(*args, **options)

    finish: Callable[..., None] = loop._finish
    monkeypatch.setattr(loop, "_finish", killed)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(pretrained, out=tmp_path, config=config)
    assert [path.parent.parent.name for path in tmp_path.rglob("config.yaml")].count("100-percent") == 1
    assert not (tmp_path / RECORDS_FILE).exists()
    assert fine_tune(pretrained, out=tmp_path, config=config) == tuned[1][:4]
    assert [record["event"] for record in part(tmp_path).metrics].count("resume") == 1


def test_other_settings_and_other_weights_need_another_folder(
    pretrained: Run, tuned: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"holds a training with other settings: .*learning_rate: 0.004 in the run, 0"):
        fine_tune(pretrained, out=tuned[0], config=replace(SHORT, optimizer=AdamWConfig(learning_rate=0.01)))
    other = tmp_path / "other"
    shutil.copytree(pretrained.folder, other)
    (other / "encoder.safetensors").write_bytes(b"retrained")
    with pytest.raises(ValueError, match=r"trainings that start from other weights than .*other has now"):
        fine_tune(other, out=tuned[0], config=SHORT)
    with pytest.raises(FileNotFoundError, match=r"has no encoder.yaml: it is not a run"):
        fine_tune(tmp_path, out=tmp_path / "out", config=SHORT)


def test_a_frozen_encoder_is_the_run_s_and_only_the_classifier_learns(pretrained: Run, tmp_path: Path) -> None:
    config = replace(SHORT, fractions=(1.0,), from_scratch=False, method=FineTuneConfig(freeze_encoder=True))
    records = fine_tune(pretrained, out=tmp_path, config=config)
    assert {record.encoder for record in records} == {"trained"}
    before, after = (load_encoder(run).state_dict() for run in (pretrained, part(tmp_path)))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert records[0].value > 0.3


def test_labels_come_from_the_whole_set_where_pretraining_saw_an_imbalanced_one(
    pretrained: Run, tmp_path: Path
) -> None:
    shutil.copytree(pretrained.folder, tmp_path / "run")
    imbalanced = replace(load_config(pretrained.folder), derived=(ImbalancedConfig(rule="exponential"),))
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(imbalanced))
    for fraction, labels in ((1.0, 1437), (0.05, 70)):
        planned = fine_tuning._planned(SHORT, tmp_path / "run", encoder="trained", fraction=fraction, seed=0)
        assert len(planned.load().train) == labels


def test_unlabelled_samples_and_a_class_without_a_training_sample(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels, test_labels = np.arange(40) % 2, np.array([0, 1, 2, 2, -1, -1])
    labels[:8] = -1
    images, test_images = (generator.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8) for n in (40, 6))
    np.savez(tmp_path / "some.npz", images=images, labels=labels, test_images=test_images, test_labels=test_labels)
    source = ArraysConfig(path=str(tmp_path / "some.npz"))
    run = fit(_pretraining(source=source, batch_size=16, epochs=1), out=tmp_path / "run")
    config = FineTuningConfig(fractions=(1.0,), image_views=32, from_scratch=False)
    accuracy, balanced = fine_tune(run, out=tmp_path / "out", config=config)
    assert {name: accuracy.parameters[name] for name in ("labels", "n_test", "unlabelled_dropped", "batch_size")} == {
        "labels": 32, "n_test": 4, "unlabelled_dropped": 2, "batch_size": 32}  # fmt: skip
    assert accuracy.parameters["method"]["classes"] == 3
    assert accuracy.value <= 0.5  # the two samples of class 2 are errors
    assert balanced.value <= 2 / 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fractions": ()}, r"fractions must hold at least one value, each once; found \(\)"),
        ({"seeds": (1, 1)}, r"seeds must hold at least one value, each once; found \(1, 1\)"),
        ({"fractions": (10.0,)}, r"fractions must lie in \(0, 1\], found \(10.0,\); 1 % is 0.01"),
        ({"image_views": 0}, "image_views must be at least 1, found 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
    ],
)
def test_settings_out_of_range_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTuningConfig(**changes)


def test_a_config_survives_yaml() -> None:
    config = FineTuningConfig(fractions=(0.5,), seeds=(3,), method=FineTuneConfig(encoder_rate=0.1))
    assert decode(FineTuningConfig, encode(config)) == config
