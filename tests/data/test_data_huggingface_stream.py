"""Hugging Face data sets as streams: the same samples as with random access, and what cannot be read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.data import Splits
from kinfolk.data.sources.decode import UnreadableImage
from kinfolk.data.sources.huggingface import HuggingFaceConfig
from kinfolk.data.sources.streaming import StreamSource


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, kept from looking for a hub."""
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_HUB_OFFLINE", True)
    module.disable_progress_bars()
    return module


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (grey,) * 3).save(file, "PNG")
    return file.getvalue()


def photos(datasets: Any, greys: range, path: Path, *, saved: bool = False) -> Path:
    """Write two Parquet shards, or what `save_to_disk` writes."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "ant"]),
            "captions": datasets.Sequence(datasets.Value("string")),
            "time": datasets.Value("int32"),
            "group": datasets.Value("int64"),
            "text_embedding": datasets.Sequence(datasets.Value("float32")),
        }
    )
    values = {
        "image": [{"bytes": png(grey), "path": None} for grey in greys],
        "label": [grey % 2 for grey in greys],
        "captions": [[f"first {grey}", f"second {grey}"] for grey in greys],
        "time": list(greys),
        "group": [None if grey % 5 == 0 else grey // 2 for grey in greys],
        "text_embedding": [[grey, 1.0] for grey in greys],
    }
    made = datasets.Dataset.from_dict(values, features)
    if saved:
        made.save_to_disk(path)
    else:
        path.mkdir(parents=True, exist_ok=True)
        for shard in range(2):
            made.shard(2, shard, contiguous=True).to_parquet(path / f"train-{shard:05d}-of-00002.parquet")
    return path


def parquet(path: Path, **columns: Any) -> Path:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(arrow.table(columns), path)
    return path


def load(path: Path, **options: Any) -> Splits:
    given = {"image_size": (5, 6), "streaming": True, "held_out": 3, "reference": 4, "shuffle_buffer": 6}
    return HuggingFaceConfig(str(path), cache=str(path.parent / "cache"), **{**given, **options}).load()


def stream(splits: Splits) -> StreamSource:
    assert isinstance(splits.train, StreamSource)
    return splits.train


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("caption", ["first", "random"])
def test_a_stream_gives_what_random_access_gives(datasets: Any, tmp_path: Path, saved: bool, caption: str) -> None:
    path = photos(datasets, range(10, 30), tmp_path / "birds", saved=saved)
    whole = load(path, streaming=False, test_fraction=0, caption=caption).train
    splits = load(path, samples_per_epoch=17, caption=caption)
    seen = []
    for batch in [*stream(splits).batches(0, batch_size=8), splits.test.fetch(torch.arange(3))]:
        expected = whole.fetch(batch["ids"])  # ids are positions in both
        assert batch.keys() == expected.keys()
        for key, values in expected.items():
            assert torch.equal(batch[key], values) if isinstance(values, torch.Tensor) else batch[key] == values, key
        seen += batch["ids"].tolist()
    assert len(set(seen)) == 19  # two batches of eight and three held-out samples
    assert sorted(seen)[:3] == splits.test.ids.tolist() == [0, 1, 2]
    assert splits.train.class_names == ("cat", "ant")
    assert splits.train.ids.tolist() == [3, 4, 5, 6]
    assert torch.equal(splits.train.read(torch.arange(4)), whole.read(torch.arange(3, 7)))


def test_resuming_and_ranks_on_real_files(datasets: Any, tmp_path: Path) -> None:
    path = photos(datasets, range(10, 30), tmp_path / "birds")

    def read(source: StreamSource, **options: int) -> list[list[int]]:
        return [batch["ids"].tolist() for batch in source.batches(2, batch_size=4, **options)]

    source, fresh = (stream(load(path, samples_per_epoch=12)) for _ in range(2))
    whole = read(source)
    assert read(fresh, start_step=2, workers=2) == whole[2:]
    shares = zip(read(source, rank=0, world_size=2), read(source, rank=1, world_size=2), strict=True)
    assert [first + second for first, second in shares] == whole


def test_a_test_split_is_tested_on_and_nothing_is_held_out(datasets: Any, tmp_path: Path) -> None:
    parquet(tmp_path / "a" / "train.parquet", image=[png(i) for i in range(8)], label=list(range(8)))
    parquet(tmp_path / "a" / "validation.parquet", image=[png(90 + i) for i in range(8)], label=list(range(8)))
    splits = load(tmp_path / "a", samples_per_epoch=8)
    assert splits.test.read(torch.arange(3))[:, 0, 0, 0].tolist() == [90, 91, 92]
    assert not set(splits.test.ids.tolist()) & set(range(10_000))
    assert splits.train.ids.tolist() == [0, 1, 2, 3]
    batches = list(stream(splits).batches(0, batch_size=4))
    assert sorted(torch.cat([batch["ids"] for batch in batches]).tolist()) == list(range(8))


def test_an_epoch_is_the_stream_where_its_length_is_known(datasets: Any, tmp_path: Path) -> None:
    source = stream(load(photos(datasets, range(20), tmp_path / "saved", saved=True)))
    assert source.samples_per_epoch == 17
    with pytest.raises(ValueError, match="does not say how many samples it has: give samples_per_epoch"):
        load(photos(datasets, range(20), tmp_path / "birds"))


def test_labels_that_are_names_need_the_class_names(datasets: Any, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", image=[png(i) for i in range(9)], label=["b", "a", "c"] * 3)
    with pytest.raises(ValueError, match=r"the labels of 'label' are names, .*; give class_names"):
        load(path, samples_per_epoch=6)
    assert load(path, samples_per_epoch=6, class_names=("a", "b", "c")).train.labels.tolist() == [1, 0, 2, 1]
    with pytest.raises(UnreadableImage, match=r"a train, sample 2: .*'c' is not among the 2 class names"):
        load(path, samples_per_epoch=6, class_names=("a", "b"))


def bad_caption() -> Any:
    """Nine captions of which the last but one is not UTF-8."""
    arrow = pytest.importorskip("pyarrow")
    ends = arrow.py_buffer(np.arange(0, 20, 2, dtype=np.int32).tobytes())
    return arrow.Array.from_buffers(arrow.string(), 9, [None, ends, arrow.py_buffer(b"ok" * 7 + b"\xff\xfeok")])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [*(png(i) for i in range(7)), png(7)[:40], png(8)]}, "sample 7 cannot be"),
        ({"image": [*(png(i) for i in range(7)), None, png(8)]}, "sample 7 has no image"),
        ({"text": [*"abcdefg", " ", "i"]}, "sample 7 has no caption"),
        ({"text": "bad"}, "sample 7: the caption is not UTF-8"),
        ({"label": [*range(7), 9, 8]}, "sample 7: label 9 is out of range; there are 9 classes"),
        ({"time": [*range(7), None, 8]}, "sample 7: no time, which other samples have"),
        ({"group": [*"abcdefg", "h", "i"]}, "sample 0: in a stream group must be a number, .*; found 'a'"),
    ],
)
def test_bad_samples_raise_or_are_replaced(
    datasets: Any, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    columns = {key: bad_caption() if values == "bad" else values for key, values in columns.items()}
    good = {"image": [png(i) for i in range(9)], "label": list(range(9))}
    path = parquet(tmp_path / "a.parquet", **{**good, **columns})
    names = tuple("abcdefghi")
    options = {"samples_per_epoch": 6, "reference": 2, "shuffle_buffer": 1, "class_names": names}
    with pytest.raises(UnreadableImage, match=f"a (train|test), {message}"):
        list(stream(load(path, **options)).batches(0, batch_size=3))
    if "group" in columns:
        return
    batches = list(stream(load(path, **options, on_error="skip")).batches(0, batch_size=3))
    assert [batch["ids"].tolist() for batch in batches] == [[3, 4, 5], [6, 8, 8]]
    assert [len(batch.get("skipped", [])) for batch in batches] == [0, 1]


def test_a_truncated_file_is_named(datasets: Any, tmp_path: Path) -> None:
    path = photos(datasets, range(10, 30), tmp_path / "birds")
    last = path / "train-00001-of-00002.parquet"
    last.write_bytes(last.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match=r"birds train cannot be read at sample 0 or one of the 256 after it: .*Parquet"
    ):
        load(path, samples_per_epoch=14)
