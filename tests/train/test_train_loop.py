from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import kinfolk
from kinfolk.data import ArraysConfig, ClassBalancedSamplerConfig, PlainSamplerConfig
from kinfolk.evals import EvaluationConfig
from kinfolk.methods import Method, SimCLRConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.train import TrainConfig, evaluate_run, fit, load_encoder, load_method, read_metrics
from kinfolk.train.checkpoint import checkpoints
from kinfolk.train.evaluation import labels_used
from kinfolk.train.optimizers import SGDConfig, cosine_schedule

BALANCED = ClassBalancedSamplerConfig()


def _small(name: str = "simclr-digits", **changes: Any) -> TrainConfig:
    """A smoke recipe that is measured by one protocol, for speed."""
    config = smoke(recipe(name))
    return replace(config, **{"evaluation": replace(config.evaluation, protocols=("knn",)), **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "simclr"
    fit(_small(), out=folder)
    return folder


def test_a_run_is_a_folder(finished: Path) -> None:
    expected = {"README.md", "checkpoints", "config.yaml", "encoder.safetensors", "encoder.yaml"}
    assert {path.name for path in finished.iterdir()} == expected | {"evals.json", "metrics.jsonl"}
    assert [path.name for path in checkpoints(finished / "checkpoints")] == ["step-00000004", "step-00000008"]
    assert kinfolk.load_config(finished) == _small()


def test_metrics_tell_the_whole_run(finished: Path) -> None:
    records = read_metrics(finished / "metrics.jsonl")
    assert [record["event"] for record in records if record["event"] != "eval"] == ["start", *["train"] * 8, "end"]
    train = [record for record in records if record["event"] == "train"]
    assert [record["step"] for record in train] == list(range(1, 9))
    assert [record["epoch"] for record in train] == [0] * 4 + [1] * 4
    rate = _small().optimizer.learning_rate
    assert [record["learning_rate"] for record in train] == pytest.approx(
        [rate * cosine_schedule(step, total_steps=8, warmup_fraction=0.1) for step in range(8)]
    )
    assert all(record["gradient_norm"] > 0 and record["images_per_second"] > 0 for record in train)
    assert {"positive_cosine", "seconds", "loss"} <= set(train[0])
    assert records[0] | {"precision": "fp32", "device": "cpu", "total_steps": 8} == records[0]


def test_every_encoder_stands_in_the_table(finished: Path) -> None:
    records = json.loads((finished / "evals.json").read_text())["records"]
    assert {record["encoder"] for record in records} == {"trained", "raw pixels", "centred raw pixels", "untrained"}
    card = (finished / "README.md").read_text()
    assert "Pretraining saw no labels" in card
    assert "centred raw pixels" in card


def test_the_exported_encoder_is_the_trained_one(finished: Path) -> None:
    encoder, method = kinfolk.load_encoder(finished), load_method(finished)
    assert not encoder.training
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(encoder(images), method.encoder(images))
    assert encoder(images).shape == (3, encoder.feature_dim)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(finished: Path, tmp_path: Path) -> None:
    first = load_encoder(finished).state_dict()
    again = load_encoder(fit(_small(), out=tmp_path / "again")).state_dict()
    other = load_encoder(fit(_small(seed=1), out=tmp_path / "other")).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_folder_with_something_in_it_is_never_replaced_unasked(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="use overwrite to replace it, resume to continue it"):
        fit(_small(), out=finished)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a run, so it is not overwritten"):
        fit(_small(), out=tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_overwrite_starts_anew_and_keeps_what_is_not_the_runs(tmp_path: Path) -> None:
    fit(_small(), out=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    run = fit(_small(epochs=1), out=tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name for path in checkpoints(run.checkpoints)] == ["step-00000004"]
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == [1, 2, 3, 4]


def test_resume_needs_a_run_and_the_same_config(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        fit(_small(), out=tmp_path / "nothing", resume=True)
    with pytest.raises(ValueError, match=r"method\.temperature: 0\.1 in the run, 0\.5 now; seed: 0 in the run, 7 now"):
        fit(_small(seed=7, method=SimCLRConfig(temperature=0.5)), out=finished, resume=True)
    with pytest.raises(ValueError, match="exclude each other"):
        fit(_small(), out=finished, resume=True, overwrite=True)


def test_resuming_a_finished_run_changes_no_weight(finished: Path) -> None:
    before = load_encoder(finished).state_dict()
    run = fit(_small(), out=finished, resume=True)
    after = load_encoder(run).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == list(range(1, 9))


def test_init_starts_from_other_weights(finished: Path, tmp_path: Path) -> None:
    still = _small(epochs=1, max_steps_per_epoch=1, optimizer=SGDConfig(learning_rate=1e-30, weight_decay=0))
    run = fit(still, out=tmp_path / "run", init=finished)
    given, kept = load_encoder(finished).state_dict(), load_encoder(run).state_dict()
    assert all(torch.equal(given[name], kept[name]) for name in given if name.endswith("weight"))


def test_init_errors(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no encoder weights at"):
        fit(_small(), out=tmp_path / "a", init=tmp_path)
    wider = _small(encoder=replace(_small().encoder, width=12))
    with pytest.raises(ValueError, match=r"does not fit the encoder.*other shape \(15\)"):
        fit(wider, out=tmp_path / "b", init=finished)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@dataclass(frozen=True)
class DivergingConfig:
    """A method of the user's own whose loss, or only its gradient, stops being a number at one step."""

    kind: ClassVar[str] = "diverging"
    labels_used: ClassVar[str] = "none"
    at: int = 6
    gradient_only: bool = False
    seen: list = field(default_factory=list, compare=False)

    def build(self, encoder: nn.Module, *, relation: object = None) -> Diverging:
        return Diverging(encoder, self)


class Diverging(Method):
    def __init__(self, encoder: nn.Module, config: DivergingConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config

    def embed(self, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        return (self.encoder(batch["views"][0]),)

    def terms(
        self, embeddings: Sequence[torch.Tensor], batch: dict[str, Any], *, keys: Sequence[torch.Tensor] = ()
    ) -> dict[str, torch.Tensor]:
        self.config.seen.append(batch["ids"].tolist())
        loss = embeddings[0].square().mean()
        if len(self.config.seen) < self.config.at:
            return {"loss": loss}
        # sqrt at 0 has a finite value and an infinite slope
        return {"loss": (0 * loss).sqrt() if self.config.gradient_only else loss * float("inf")}


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, gradient_only: bool) -> None:
    method = DivergingConfig(gradient_only=gradient_only)
    with pytest.raises(FloatingPointError, match=r"step 6: .*Last good checkpoint: .*step-00000004") as caught:
        fit(_small(method=method), out=tmp_path / "run")
    ids = method.seen[-1]
    assert ", ".join(map(str, ids[:16])) + f" and {len(ids) - 16} more" in str(caught.value)
    failed = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert (failed["event"], failed["step"], failed["ids"]) == ("failed", 6, ids)
    assert not (tmp_path / "run" / "encoder.safetensors").exists()
    with pytest.raises(FileNotFoundError, match="has not finished; continue it with resume"):
        load_encoder(tmp_path / "run")
    # mended, the run goes on from its last good checkpoint; the method is one that YAML does not know
    method.seen.clear()
    run = fit(_small(method=method), out=tmp_path / "run", resume=True)
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == list(range(1, 9))
    assert not any(record["event"] == "failed" for record in run.metrics)


@pytest.mark.parametrize("name", ["supcon-digits", "xclr-digits", "cacr-digits", "moco-digits-moved"])
def test_every_method_trains(name: str, tmp_path: Path) -> None:
    run = fit(_small(name, sampler=BALANCED if name == "supcon-digits" else PlainSamplerConfig()), out=tmp_path / "run")
    events = [record["event"] for record in run.metrics]
    assert ("relation" in events) == (name == "xclr-digits")
    if name == "xclr-digits":
        relation = next(record for record in run.metrics if record["event"] == "relation")
        assert any("perplexity" in key for key in relation)
    seen = {record["labels_used"] for record in run.records if record["encoder"] == "trained"}
    assert seen == {"all" if name in ("supcon-digits", "xclr-digits") else "none"}


def test_a_balanced_sampler_and_a_class_table_count_as_labels() -> None:
    assert labels_used(_small("cacr-digits")) == "none"
    assert labels_used(_small("cacr-digits", sampler=BALANCED)) == "all"
    assert labels_used(_small("simclr-digits", relation=_small("xclr-digits").relation)) == "all"


def test_unlabelled_data(tmp_path: Path) -> None:
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (90, 9, 11, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    source = ArraysConfig(path=str(tmp_path / "data.npz"))
    with pytest.raises(ValueError, match="sampler 'class-balanced' needs labels, and data has none"):
        fit(_small(source=source, sampler=BALANCED), out=tmp_path / "balanced")
    run = fit(_small(source=source, evaluation=EvaluationConfig.smoke()), out=tmp_path / "run")
    assert {record["protocol"] for record in run.records} <= {"geometry", "uniformity", "alignment"}
    assert load_encoder(run)(torch.rand(2, 3, 9, 11)).shape[0] == 2


def test_evaluation_can_be_done_again_and_on_other_data(finished: Path) -> None:
    before = (finished / "evals.json").read_text()
    evaluate_run(finished)
    assert (finished / "evals.json").read_text() == before
    other = evaluate_run(finished, source=replace(_small().source, split="stratified"))
    assert (finished / "evals.json").read_text() == before
    assert json.loads((finished / "evals-digits.json").read_text())["records"] == [record.to_dict() for record in other]


def test_bf16_is_refused_where_the_device_lacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(ValueError, match="this cpu does not compute in it; use 'auto' or 'fp32'"):
        fit(_small(precision="bf16", device="cpu"), out=tmp_path / "run")


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx512_bf16"), reason="this CPU has no bf16 arithmetic")
def test_bf16_trains_and_is_recorded(tmp_path: Path) -> None:
    run = fit(_small(precision="bf16", device="cpu", epochs=1), out=tmp_path / "run")
    assert run.metrics[0]["precision"] == "bf16"
    assert {tensor.dtype for tensor in load_encoder(run).parameters()} == {torch.float32}
    again = fit(_small(precision="fp32", epochs=1), out=tmp_path / "fp32")  # one process, another precision
    assert again.metrics[0]["precision"] == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torch sees no GPU; use device 'cpu' or 'auto'"):
        fit(_small(device="cuda"), out=tmp_path / "run")
