"""What a user of folders, streams, tables and caches ran into: links, names, derived sets, workers, other data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.cli import main
from kinfolk.data import (
    ArraySource,
    BatchReader,
    CachedSource,
    FewLabelsConfig,
    FileSource,
    ImageFolderConfig,
    PlainSampler,
    Splits,
    StreamSource,
    cached,
    shard,
)
from kinfolk.data.sources.base import Subset
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.listing import list_folder
from kinfolk.data.sources.table import TableConfig, TableSource
from kinfolk.nn import SmallConvConfig
from kinfolk.nn.initial_weights import load_initial_weights
from kinfolk.recipes import part_config, recipe, smoke
from kinfolk.train import fit, read_metrics


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(16):
        place = tmp_path / "photos" / "ab"[i % 2]
        place.mkdir(exist_ok=True, parents=True)
        Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(place / f"{i:02}.png")
    return tmp_path / "photos"


def files(folder: Path) -> FileSource:
    return FileSource(folder, list_folder(folder), channels=3, image_size=(8, 8))


def test_a_linked_class_folder_is_a_class_and_a_link_back_is_not_followed(photos: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    (chosen / "a").mkdir(parents=True)
    (chosen / "a" / "00.png").symlink_to(photos / "a" / "00.png")
    (chosen / "b").symlink_to(photos / "b")
    (chosen / "b2").symlink_to(chosen)
    entries = list_folder(chosen)
    assert [entry.path for entry in entries] == ["a/00.png", *(f"b/{i:02}.png" for i in range(1, 16, 2))]
    assert {entry.label for entry in entries} == {"a", "b"}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_named_in_one_line_with_workers_or_without(photos: Path, workers: int) -> None:
    (photos / "a" / "04.png").write_bytes(b"broken")
    with (
        BatchReader(files(photos), PlainSampler(16, batch_size=16, seed=0), workers=workers) as reader,
        pytest.raises(UnreadableImage, match=r"^\S*04\.png cannot be read as an image[^\n]*$"),
    ):
        list(reader.epoch(0))


def test_a_later_run_finds_what_a_derived_set_cached_on_disk(photos: Path, tmp_path: Path) -> None:
    whole = files(photos)
    selection = cached(Subset(whole, torch.arange(8)), where="disk", folder=tmp_path / "kept")
    with BatchReader(selection, PlainSampler(8, batch_size=8, seed=0)) as reader:
        list(reader.epoch(0))
    assert CachedSource(whole, tmp_path / "kept").filled == 8


def test_two_ranks_do_not_forget_what_the_other_cached_on_disk(photos: Path, tmp_path: Path) -> None:
    whole = files(photos)
    first, second = CachedSource(whole, tmp_path), CachedSource(whole, tmp_path)
    first.read(torch.arange(8))
    second.read(torch.arange(8, 16))
    first.flush()
    second.flush()
    again = CachedSource(whole, tmp_path)
    assert again.is_complete
    assert again.read(torch.arange(16)).equal(whole.read(torch.arange(16)))


def test_notes_without_their_images_are_dropped_and_not_taken_up_again(photos: Path, tmp_path: Path) -> None:
    whole = files(photos)
    kept = CachedSource(whole, tmp_path)
    kept.read(torch.arange(16))
    kept.flush()
    next(tmp_path.glob("*.images")).unlink()
    fresh = CachedSource(whole, tmp_path)
    fresh.read(torch.arange(2))
    fresh.flush()
    again = CachedSource(whole, tmp_path)
    assert again.filled == 2


class _Counting:
    def open(self, start: int):
        return iter(range(start, 40))

    def decode(self, sample: int, position: int):
        return {"images": torch.full((1, 8, 8), sample, dtype=torch.uint8), "labels": sample % 2}


class _Streamed:
    kind = "streamed"

    def load(self) -> Splits:
        head = ArraySource(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels=torch.tensor([0, 1, 0, 1]))
        return Splits(StreamSource(_Counting(), head, samples_per_epoch=40), head)


def test_nothing_is_derived_from_or_written_of_the_few_samples_of_a_stream_that_are_at_hand(tmp_path: Path) -> None:
    config = replace(smoke(recipe("simclr-digits")), source=_Streamed(), derived=(FewLabelsConfig(per_class=1),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is a stream, and 'few-labels' would be made of its first 4 samples only"):
        config.load()
    with pytest.raises(ValueError, match="is a stream, of which only the first 4 samples are at hand"):
        shard(_Streamed().load(), tmp_path / "out")


def test_metrics_list_what_only_another_rank_could_not_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinfolk.train.loop.gather_names", lambda names: {*names, "a picture of the second rank"})
    source = ImageFolderConfig(str(photos), image_size=(8, 8))
    fit(replace(smoke(recipe("simclr-digits")), source=source, batch_size=4, epochs=2), out=tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    listed = [record["samples"] for record in records if record["event"] == "skipped"]
    assert listed == [["a picture of the second rank"]]


TABLE = "age,site,kind\n1,x,cat\n2,y,dog\n3,x,cat\n6,z,dog\n"


def table(folder: Path, text: str, name: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_rows_of_another_table_become_the_features_of_the_first(tmp_path: Path) -> None:
    known = TableConfig(table(tmp_path, TABLE, "old.csv"), label="kind", test_fraction=0).load().train
    assert isinstance(known, TableSource)
    other = "note,site,age\nu,new,3\nv,x,\nv,,6\nv,y,2\n"
    new = TableConfig(table(tmp_path, other, "new.csv"), ignored=("note",), missing="mean", test_fraction=0.5)
    splits = new.load(like=known.features)
    rows = torch.zeros(4, known.channels)
    for part in (splits.train, splits.test):
        assert isinstance(part, TableSource)
        rows[part.ids] = part.rows
    torch.testing.assert_close(rows[3], known.rows[1])  # the same row, though the table around it is another
    torch.testing.assert_close(rows[0, 0], known.rows[2, 0])
    torch.testing.assert_close(rows[0, 1:], torch.tensor([-0.5, -0.25, -0.25]))  # a text that nobody knew
    assert rows[1, 0] == 0
    assert rows[2, 1:].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"lacks 'site', or holds something else"):
        TableConfig(table(tmp_path, "age\n1\n2\n", "less.csv")).load(like=known.features)


def test_an_encoder_of_a_table_embeds_its_rows_and_unlabelled_ones_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},{'xy'[i % 2]}" for i, (a, b) in enumerate(rng.normal(size=(40, 2)))]
    path = table(tmp_path, "a,b,kind\n" + "\n".join(lines) + "\n", "all.csv")
    bare = table(tmp_path, "b,a\n" + "\n".join(",".join(s.split(",")[1::-1]) for s in lines[:3]) + "\n", "bare.csv")
    run = str(tmp_path / "run")
    options = ["--source.label", "kind", "--smoke", "--no-report", "--out", run, "--batch-size", "8"]
    assert main(["train", "simclr-table", "--data", path, *options]) == 0
    features = []
    for data in (path, bare):
        out = tmp_path / f"{Path(data).stem}.npz"
        assert main(["embed", run, "--data", data, "--out", str(out)]) == 0, capsys.readouterr().err
        with np.load(out) as found:
            parts = [(found[f"{part}ids"], found[f"{part}features"]) for part in ("", "test_")]
        features.append({int(i): row for ids, rows in parts for i, row in zip(ids, rows, strict=True)})
    assert len(features[1]) == 3
    for i, row in features[1].items():
        np.testing.assert_allclose(row, features[0][i], rtol=1e-4, atol=1e-5)


def test_other_images_are_read_in_the_size_and_colours_of_the_run(photos: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    options = ["--source.image-size", "16", "16", "--source.channels", "1", "--smoke", "--no-report"]
    assert main(["train", "simclr-digits", "--data", str(photos), *options, "--out", run, "--batch-size", "8"]) == 0
    assert main(["embed", run, "--data", str(photos / "a"), "--out", str(tmp_path / "a.npz")]) == 0
    assert main(["eval", run, "--data", str(photos)]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("few-labels per_class=[1", r"the value in 'per_class=\[1' is no YAML"),
        ("few-labels per_class='1", "cannot be taken apart: No closing quotation"),
        ("few-labels a=1 a.b=2", "a has a value already, so 'a.b=2' cannot be set within it"),
    ],
)
def test_a_line_that_is_not_well_formed_is_a_plain_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part_config("derived", text)


@pytest.mark.parametrize(
    "content", [b"a,b\n0.1,-2\n", b"", b"PK\x03\x04no zip", b"c\xff\xfe\n", b"0 1 2", b"V\\uzz\n."]
)
def test_initial_weights_from_a_file_of_another_kind_are_a_plain_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.csv"
    file.write_bytes(content)
    encoder = SmallConvConfig().build(channels=1, image_size=(8, 8))
    with pytest.raises(ValueError, match=r"is no torch file|is not a readable torch file"):
        load_initial_weights(encoder, file)
