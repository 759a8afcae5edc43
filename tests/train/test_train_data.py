"""How data reaches the training loop: cached or not, with workers or without, with unreadable images listed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kinfolk.data import FileSource, Splits
from kinfolk.data.sources.listing import list_folder
from kinfolk.recipes import recipe, smoke
from kinfolk.train import TrainConfig, fit, read_metrics


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
