"""What metadata files and mappings know beside label and caption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.data import ArraysConfig, ImageFolderConfig, MappingSource
from kinfolk.data.sources.records import number_names, read_records


def folder_with(tmp_path: Path, records: list[dict[str, object]], form: str) -> Path:
    for i, record in enumerate(records):
        Image.fromarray(np.full((4, 4), i, dtype=np.uint8)).save(tmp_path / str(record["file_name"]))
    if form == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    else:
        keys = sorted({key for record in records for key in record})
        rows = [",".join(keys), *(",".join(str(record.get(key, "")) for key in keys) for record in records)]
        (tmp_path / "metadata.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_metadata_file_brings_its_columns(tmp_path: Path, form: str) -> None:
    records: list[dict[str, object]] = [
        {"file_name": f"{i}.png", "label": "ab"[i % 2], "group": "xyz"[i % 3], "time": i / 2, "hierarchy": f"a/b{i}",
         "bias_label": "red" if i else "", "attribute_size": i, "attribute_age": 2 * i}
        for i in range(6)
    ]  # fmt: skip
    splits = ImageFolderConfig(str(folder_with(tmp_path, records, form)), image_size=(4, 4), test_fraction=0.4).load()
    for part in (splits.train, splits.test):
        batch = part.describe(torch.arange(len(part)))
        ids = part.ids
        assert batch["groups"].equal(ids % 3)
        assert batch["times"].equal(ids.double() / 2)
        assert batch["hierarchy"] == [f"a/b{i}" for i in ids.tolist()]
        assert batch["bias_labels"].equal(torch.where(ids == 0, -1, 0))
        assert batch["attributes"].equal(torch.stack([2 * ids, ids], 1).float())  # by name: age, size


def test_a_mapping_brings_them_too() -> None:
    samples = [{"image": torch.zeros(4, 4), "group": i // 2, "time": i, "attributes": np.ones(3) * i} for i in range(4)]
    source = MappingSource(samples)
    assert source.columns["groups"].tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]
    assert source.columns["attributes"].tolist() == [[i] * 3 for i in range(4)]  # type: ignore[union-attr]
    assert source.subset(torch.tensor([3, 1])).describe(torch.tensor([0]))["times"].tolist() == [3]


def test_names_are_numbered_by_their_order_and_integers_kept() -> None:
    assert number_names([7, None, 3]).tolist() == [7, -1, 3]
    assert number_names(["10", "9", None]).tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"time": "noon"}], "record 1: time must be a finite number; found 'noon'"),
        ([{"time": 1}, {}], "record 2: time must be a finite number; found None"),
        ([{"attributes": [1, float("nan")]}], "attribute 1 must be a finite number; found nan"),
        ([{"hierarchy": "a/b"}, {"hierarchy": ""}], "record 2: no hierarchy, which other records have"),
    ],
)
def test_what_is_no_number_or_missing_is_named(records: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_records(records, where="metadata.csv")


def test_an_archive_brings_its_columns(tmp_path: Path) -> None:
    known = {
        "groups": np.arange(6) // 2,
        "times": np.linspace(0, 1, 6),
        "attributes": np.eye(6),
        "hierarchy": np.array([f"a/{i}" for i in range(6)]),
        "saliency": np.full((6, 1, 4, 4), 255, dtype=np.uint8),
    }
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).integers(0, 255, (6, 4, 4), dtype=np.uint8), **known)  # type: ignore[arg-type]
    train = ArraysConfig(str(tmp_path / "x.npz"), test_fraction=0.3).load().train
    batch = train.describe(torch.tensor([1, 0]))
    for name, values in known.items():
        wanted = values[batch["ids"].numpy()]
        assert np.array_equal(np.asarray(batch[name]), wanted.astype(np.asarray(batch[name]).dtype)), name
    assert batch["attributes"].dtype == torch.float32
