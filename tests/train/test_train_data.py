"""How data reaches the training loop: cached or not, with workers or without, with unreadable images listed."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kinfolk.data import ClassBalancedSamplerConfig, FileSource, HuggingFaceConfig, Splits
from kinfolk.data.sources.listing import list_folder
from kinfolk.recipes import recipe, smoke
from kinfolk.train import TrainConfig, fit, read_metrics
from kinfolk.train.tracking import MetricsFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(40):
        place = tmp_path / "photos" / "ab"[i % 2]
        place.mkdir(exist_ok=True, parents=True)
        Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(place / f"{i:02}.png")
    return tmp_path / "photos"


@dataclass(frozen=True)
class Files:
    """A config of someone's own: files that are decoded on every fetch, and a broken one is replaced."""

    kind: ClassVar[str] = "files"
    path: str

    def load(self) -> Splits:
        folder = Path(self.path)
        source = FileSource(folder, list_folder(folder), channels=3, image_size=(8, 8), on_error="skip")
        return Splits(source.subset(torch.arange(32)), source.subset(torch.arange(32, 40)))


def config_for(folder: Path, **changes: object) -> TrainConfig:
    base = replace(
        smoke(recipe("simclr-digits")), source=Files(str(folder)), batch_size=8, epochs=2, max_steps_per_epoch=None
    )  # type: ignore[arg-type]
    return replace(base, **changes)  # type: ignore[arg-type]


def weights(config: TrainConfig, out: Path) -> dict[str, torch.Tensor]:
    fit(config, out=out)
    return load_file(out / "encoder.safetensors")


@pytest.mark.parametrize("changes", [{"cache": "memory"}, {"cache": "disk"}, {"cache": "none", "workers": 2}])
def test_neither_cache_nor_workers_change_a_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.setenv("KINFOLK_CACHE", str(tmp_path / "kept"))
    plain = weights(config_for(folder, cache="none"), tmp_path / "plain")
    other = weights(config_for(folder, **changes), tmp_path / "other")
    assert plain.keys() == other.keys()
    for name, tensor in plain.items():
        assert tensor.equal(other[name]), name


def test_what_cannot_be_read_is_listed_once_and_nothing_else_is_lost(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a" / "04.png").write_bytes(b"broken")
    weights(config_for(folder), tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    listed = [sample for record in records if record["event"] == "skipped" for sample in record["samples"]]
    assert len(listed) == 1
    assert "04.png cannot be read as an image" in listed[0]
    assert max(record["step"] for record in records if record["event"] == "train") == 8
    assert "1 samples could not be read and were replaced by the next; see metrics.jsonl" in capsys.readouterr().err


def parquet(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = {"image": [], "label": [i % 2 for i in range(count)]}
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
        rows["image"].append({"bytes": b"broken" if i == 70 else buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "train-0.parquet"))
    return folder


def test_a_stream_trains_resumes_and_lists_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = HuggingFaceConfig(
        str(parquet(tmp_path / "rows", 120)),
        image_size=(8, 8),
        streaming=True,
        samples_per_epoch=48,
        shuffle_buffer=16,
        held_out=20,
        reference=30,
        on_error="skip",
    )
    base = smoke(recipe("simclr-digits"))
    base = replace(base, source=source, batch_size=8, epochs=2, max_steps_per_epoch=None, checkpoint_every_steps=1)
    whole = weights(base, tmp_path / "whole")
    records = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert max(record["step"] for record in records if record["event"] == "train") == 12
    listed = [sample for record in records if record["event"] == "skipped" for sample in record["samples"]]
    assert len(listed) == 1
    assert "70" in listed[0]

    stop = 8  # in the second epoch
    real = MetricsFile.write

    def interrupted(self: MetricsFile, event: str, *, step: int, **values: object) -> None:
        real(self, event, step=step, **values)
        if event == "train" and step > stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(MetricsFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(base, out=tmp_path / "stopped")
    monkeypatch.setattr(MetricsFile, "write", real)
    fit(base, out=tmp_path / "stopped", resume=True)
    resumed = load_file(tmp_path / "stopped" / "encoder.safetensors")
    for name, tensor in whole.items():
        assert tensor.equal(resumed[name]), name


def test_a_stream_has_an_order_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = str(parquet(tmp_path / "rows", 60))
    source = HuggingFaceConfig(rows, image_size=(8, 8), streaming=True, samples_per_epoch=16, held_out=8, reference=8)
    config = replace(smoke(recipe("simclr-digits")), source=source, batch_size=8, sampler=ClassBalancedSamplerConfig())
    with pytest.raises(ValueError, match=r"is a stream and comes in an order of its own.*kinfolk data shard"):
        fit(config, out=tmp_path / "run")
