"""Training on every form in which people have data: small real files, found out from the path alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinfolk.cli import main
from kinfolk.data import ShardWriter, TableViewsConfig
from kinfolk.nn import MLPConfig
from kinfolk.recipes import part_config, recipe, smoke, source_config
from kinfolk.train import fit, load_encoder

SIDE = 16


def picture(seed: int, *, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path) -> Path:
    for i in range(80):
        place = root / "photos" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(i))
    return root / "photos"


def shards(root: Path) -> Path:
    with ShardWriter(root / "shards", class_names=("a", "b")) as writer:
        for i in range(80):
            writer.write(f"{i:04}", png(i), metadata={"id": i, "label": i % 2, "text": f"number {i}"})
    return root / "shards"


def parquet(root: Path) -> Path:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(80)], "label": [i % 2 for i in range(80)]}
    (root / "hub").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(root / "hub" / "train-00000.parquet"))
    return root / "hub"


def parquet_file(root: Path) -> Path:
    return next(parquet(root).glob("*.parquet"))


def cifar(root: Path) -> Path:
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    base = root / "cifar-10-batches-bin"
    base.mkdir()
    (base / "batches.meta.txt").write_text("\n".join(names) + "\n")
    for k, file in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        records = [bytes([i % 10]) + picture(100 * k + i, side=32).transpose(2, 0, 1).tobytes() for i in range(20)]
        (base / file).write_bytes(b"".join(records))
    return base


def stl10(root: Path) -> Path:
    base = root / "stl"
    base.mkdir()
    (base / "class_names.txt").write_text("airplane bird car cat deer dog horse monkey ship truck".replace(" ", "\n"))
    for part, count in (("train", 80), ("test", 20)):
        images = b"".join(picture(i, side=96).transpose(2, 1, 0).tobytes() for i in range(count))  # column by column
        (base / f"{part}_X.bin").write_bytes(images)
        (base / f"{part}_y.bin").write_bytes(bytes(1 + i % 10 for i in range(count)))
    return base


def imagenet(root: Path) -> Path:
    for i in range(100):
        place = root / "imagenet" / ("train" if i < 80 else "val") / f"n0144076{i % 2}" / f"{i}.JPEG"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i, side=32)).save(place)
    return root / "imagenet"


def idx(root: Path) -> Path:
    base = root / "idx"
    base.mkdir()
    for part, count in (("train", 80), ("t10k", 20)):
        images = np.stack([picture(i)[..., 0] for i in range(count)])
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (base / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = bytes(i % 2 for i in range(count))
        (base / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + labels)
    return base


def archive(root: Path) -> Path:
    np.savez(root / "x.npz", images=np.stack([picture(i) for i in range(80)]), labels=np.arange(80) % 2)
    return root / "x.npz"


def table(root: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        f"{a:.3f},{b:.3f},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}"
        for i, (a, b) in enumerate(rng.normal(size=(80, 2)))
    ]
    (root / "people.csv").write_text("age,height,colour,ill\n" + "\n".join(rows) + "\n")
    return root / "people.csv"


FORMS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "image folder": (folder, "folder"),
    "tar shards": (shards, "shards"),
    "Parquet folder": (parquet, "huggingface"),
    "Parquet file": (parquet_file, "huggingface"),
    "CIFAR": (cifar, "cifar"),
    "STL-10": (stl10, "stl10"),
    "ImageNet": (imagenet, "imagenet"),
    "IDX": (idx, "fashion-mnist"),
    "archive": (archive, "arrays"),
    "table": (table, "table"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_on_every_form_of_data(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    make, kind = FORMS[form]
    source = source_config(str(make(tmp_path)))
    assert source.kind == kind
    config = smoke(recipe("simclr-digits"))
    if kind == "table":
        config = replace(config, views=TableViewsConfig(), encoder=MLPConfig(hidden=(16,)))
        source = replace(source, label="ill")
    elif hasattr(source, "image_size"):
        source = replace(source, image_size=(SIDE, SIDE))
    config = replace(config, source=source, batch_size=32, epochs=1, max_steps_per_epoch=2)
    run = fit(replace(config, evaluation=replace(config.evaluation, protocols=("knn",))), out=tmp_path / "run")
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == [1, 2]
    assert load_encoder(run).feature_dim > 0
    assert {record["metric"] for record in run.records} == {"accuracy", "balanced accuracy", "precision@1"}


def test_the_command_line_swaps_parts_and_derives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swapped = ("--sampler", "class-balanced per_class=4", "--relation", "labels", "--method", "xclr temperature=0.2")
    derived = ("--derive", "label-noise share=0.2", "--derive", "few-labels per_class=20")
    out = str(tmp_path / "run")
    arguments = ("train", "simclr-digits", "--smoke", "--no-report", "--out", out, "--batch-size", "32")
    assert main([*arguments, *swapped, *derived, "--method.temperature", "0.3"]) == 0, capsys.readouterr().err
    config = fit_config(tmp_path / "run")
    assert (config["sampler"]["kind"], config["sampler"]["per_class"]) == ("class-balanced", 4)
    assert (config["method"]["kind"], config["method"]["temperature"]) == ("xclr", 0.3)
    assert [part["kind"] for part in config["derived"]] == ["label-noise", "few-labels"]


def fit_config(run: Path) -> dict:
    import yaml

    return yaml.safe_load((run / "config.yaml").read_text())


@pytest.mark.parametrize(
    ("part", "text", "message"),
    [
        ("relation", "friends", r"relation\.kind is 'friends'; known kinds: .*captions"),
        ("sampler", "class-balanced per_class", "settings are written name=value; found 'per_class'"),
        ("derived", "imbalanced rule=cubic", "must be one of 'linear', 'exponential', 'long-tail', found 'cubic'"),
        ("encoder", "mlp hiden=[3]", r"no key 'hiden' \(did you mean 'hidden'\?\)"),
        ("derived", "", r"derived\.kind is ''; known kinds"),
    ],
)
def test_a_part_that_does_not_exist_is_named(part: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part_config(part, text)


def test_data_commands_work_from_the_path_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = folder(tmp_path)
    assert main(["data", "inspect", str(photos), "--sheet", str(tmp_path / "sheet.png")]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 100
    assert main(["data", "shard", str(photos), "--out", str(tmp_path / "tar")]) == 0
    assert main(["data", "shard", str(photos), "--out", str(tmp_path / "rows"), "--form", "parquet"]) == 0
    assert source_config(str(tmp_path / "tar")).kind == "shards"
    assert source_config(str(tmp_path / "rows")).kind == "huggingface"
    assert main(["data", "saliency", str(photos), "--out", str(tmp_path / "masks")]) == 0
    out = str(tmp_path / "graph")
    assert main(["graph", "inspect", str(photos), "--relation", "labels", "--batch-size", "32", "--out", out]) == 0
    assert "own sample" in capsys.readouterr().out
    assert list((tmp_path / "graph").glob("*.html"))


def test_a_prepared_folder_is_known_by_its_note(tmp_path: Path) -> None:
    (tmp_path / "prepared.json").write_text(json.dumps({"name": "emoji"}))
    assert source_config(str(tmp_path)).kind == "emoji"
