"""CLIP on the forms in which people have captions: zero-shot names, retrieval by text, and captions without images."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinfolk.data import LooseCaptionsConfig, ShardWriter
from kinfolk.methods import CLIPConfig, PartnersConfig
from kinfolk.nn import TextTransformerConfig
from kinfolk.recipes import recipe, smoke, source_config
from kinfolk.train import TrainConfig, fit

COUNT = 60
WORDS = [f"a {('red', 'blue')[i % 2]} thing, number {i}" for i in range(COUNT)]


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 128, (16, 16, 3), dtype=np.uint8)
    pixels[..., 0 if seed % 2 == 0 else 2] += 127
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, *, captions: list[str] = WORDS) -> Path:
    base = root / "pictures"
    base.mkdir()
    records = []
    for i, text in enumerate(captions):
        (base / f"{i}.png").write_bytes(png(i))
        records.append(json.dumps({"file_name": f"{i}.png", "label": ("red", "blue")[i % 2], "text": text}))
    (base / "metadata.jsonl").write_text("\n".join(records))
    return base


def shards(root: Path) -> Path:
    with ShardWriter(root / "shards", class_names=("red", "blue")) as writer:
        for i, text in enumerate(WORDS):
            writer.write(f"{i:04}", png(i), metadata={"id": i, "label": i % 2, "text": text})
    return root / "shards"


def parquet(root: Path) -> Path:
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["red", "blue"]),
            "text": datasets.Value("string"),
        }
    )
    images = [{"bytes": png(i), "path": None} for i in range(COUNT)]
    rows = {"image": images, "label": [i % 2 for i in range(COUNT)], "text": WORDS}
    (root / "hub").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(root / "hub" / "train-00000.parquet"))
    return root / "hub"


def clip(source: Path) -> TrainConfig:
    config = smoke(recipe("clip-digits"))
    return replace(
        config,
        source=source_config(str(source)),
        derived=(),
        batch_size=16,
        method=CLIPConfig(text=TextTransformerConfig(width=16, layers=1, heads=2, length=32)),
        evaluation=replace(config.evaluation, protocols=("zero_shot", "text_retrieval")),
    )


@pytest.mark.parametrize("form", [folder, shards, parquet])
def test_names_and_captions_are_found_on_every_form(
    form: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    records = fit(clip(form(tmp_path)), out=tmp_path / "run").records
    assert {record["protocol"] for record in records} == {"zero-shot", "text retrieval"}
    assert all(math.isfinite(record["value"]) for record in records)
    assert {"accuracy", "R@1, image to text", "R@10, text to image"} <= {record["metric"] for record in records}


def test_a_folder_with_missing_captions_and_a_file_of_captions(tmp_path: Path) -> None:
    known = [text if i % 3 else "" for i, text in enumerate(WORDS)]
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(text for i, text in enumerate(WORDS) if not i % 3))
    config = clip(folder(tmp_path, captions=known))
    with pytest.raises(
        ValueError, match=r"0\.png has no caption; captions='some' keeps such images\. Mend or remove it"
    ):
        fit(config, out=tmp_path / "refused")
    config = replace(config, source=replace(config.source, captions="some"))
    with pytest.raises(ValueError, match="images have an empty caption; leave them out, or let them look for one"):
        fit(config, out=tmp_path / "refused too")
    found = replace(
        config,
        derived=(LooseCaptionsConfig(str(file)),),
        method=replace(config.method, partners=PartnersConfig("argmax", start=0.3, every=0.3)),
        log_every=1,
    )
    run = fit(found, out=tmp_path / "run")
    shares = [record["matched_share"] for record in run.metrics if "matched_share" in record]
    assert shares[0] == 0
    assert max(shares) > 0
    assert {record["protocol"] for record in run.records} == {"zero-shot", "text retrieval"}
