"""CIFAR in the published forms, written here byte by byte, and files that are damaged or hostile."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from kinfolk.data.sources.cifar import CIFARConfig

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COARSE = [f"super{i:02d}" for i in range(20)]
FINE = [f"kind{i:02d}" for i in range(100)]


def pixels(sample: int) -> bytes:
    """Red counts along the columns, green is the row, blue the sample's number."""
    red = bytes(column for _ in range(32) for column in range(32))
    green = bytes(row for row in range(32) for _ in range(32))
    return red + green + bytes([sample]) * 1024


def ten_binary(folder: Path) -> Path:
    """Write six batches of two records; labels count 0, 1, ..., 11 modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for batch, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records = (bytes([(2 * batch + i) % 10]) + pixels(2 * batch + i) for i in range(2))
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    (folder / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    return folder


def hundred_binary(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in (("train", range(4)), ("test", range(4, 6))):
        records = (bytes([i, 10 * i + 1]) + pixels(i) for i in samples)
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    (folder / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    (folder / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    return folder


def python_2_pickle(values: dict[str, object]) -> bytes:
    """Write opcodes as the published pickles have them: protocol 2 of Python 2, whose text is bytes."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    def item(value: object) -> bytes:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, int):
            return b"K" + bytes([value])
        if isinstance(value, list):
            return b"](" + b"".join(map(item, value)) + b"e"
        assert isinstance(value, np.ndarray)
        shape = b"".join(b"M" + struct.pack("<H", length) for length in value.shape)
        raw = value.tobytes(order="F" if value.flags.f_contiguous else "C")
        dtype = (
            b"cnumpy\ndtype\n"
            + text("u1")
            + b"K\0K\1\x87R(K\3"
            + text("|")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        )
        order = b"\x88" if value.flags.f_contiguous else b"\x89"
        new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text("b") + b"\x87R"
        return new + b"(K\1" + shape + b"\x86" + dtype + order + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"

    return b"\x80\x02}(" + b"".join(text(key) + item(value) for key, value in values.items()) + b"u."


def ten_python(folder: Path, *, order: str = "C") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for batch, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        samples = [2 * batch, 2 * batch + 1]
        data = np.frombuffer(b"".join(map(pixels, samples)), dtype=np.uint8).reshape(2, 3072)
        values = {
            "batch_label": "a batch",
            "labels": [i % 10 for i in samples],
            "data": np.asarray(data, order=order),  # type: ignore[call-overload]
            "filenames": [f"{i}.png" for i in samples],
        }
        (folder / name).write_bytes(python_2_pickle(values))
    (folder / "batches.meta").write_bytes(python_2_pickle({"num_vis": 30, "label_names": list(TEN)}))
    return folder


def test_binary_files_keep_pixels_labels_and_order(tmp_path: Path) -> None:
    ten_binary(tmp_path / "cifar-10-batches-bin")
    splits = CIFARConfig(str(tmp_path)).load()
    batch = splits.train.fetch(torch.tensor([9, 3]))
    assert batch["ids"].tolist() == [9, 3]
    assert batch["labels"].tolist() == [9, 3]
    assert batch["images"].shape == (2, 3, 32, 32)
    assert batch["images"][1, :, 5, 7].tolist() == [7, 5, 3]
    assert splits.test.ids.tolist() == [10, 11]
    assert splits.test.labels.tolist() == [0, 1]
    assert splits.test.class_names == tuple(TEN)
    assert CIFARConfig(str(tmp_path / "cifar-10-batches-bin")).load().train.name == "cifar-10 train"


def test_a_hundred_classes_know_their_superclass(tmp_path: Path) -> None:
    hundred_binary(tmp_path)
    fine, coarse = (CIFARConfig(str(tmp_path), classes=classes).load() for classes in ("100", "20"))
    assert fine.train.labels.tolist() == [1, 11, 21, 31]
    assert coarse.train.labels.tolist() == [0, 1, 2, 3]
    assert fine.train.class_names == tuple(FINE)
    assert coarse.test.class_names == tuple(COARSE)
    for splits in (fine, coarse):
        assert splits.test.describe(torch.tensor([1])) == {
            "ids": torch.tensor([5]),
            "labels": splits.test.labels[1:],
            "hierarchy": ["super05/kind51"],
        }
        assert splits.test.read(torch.tensor([1]))[0, :, 31, 0].tolist() == [0, 31, 5]


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_python_form_gives_the_same_as_the_binary_form(tmp_path: Path, order: str) -> None:
    ten_python(tmp_path / "python", order=order)
    ten_binary(tmp_path / "binary")
    python, binary = (CIFARConfig(str(tmp_path / form)).load() for form in ("python", "binary"))
    for first, second in ((python.train, binary.train), (python.test, binary.test)):
        everything = torch.arange(len(second))
        assert torch.equal(first.read(everything), second.read(everything))
        assert first.labels.tolist() == second.labels.tolist()
        assert first.ids.tolist() == second.ids.tolist()
        assert first.class_names == second.class_names


def test_pickles_of_python_3_with_coarse_and_fine_labels_are_read(tmp_path: Path) -> None:
    for name, samples in (("train", range(3)), ("test", range(3, 5))):
        data = np.frombuffer(b"".join(map(pixels, samples)), dtype=np.uint8).reshape(-1, 3072)
        values = {b"data": data, b"fine_labels": [5 * i for i in samples], b"coarse_labels": list(samples)}
        (tmp_path / name).write_bytes(pickle.dumps(values, protocol=2))
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": FINE, "coarse_label_names": COARSE}))
    splits = CIFARConfig(str(tmp_path), classes="100").load()
    assert splits.train.labels.tolist() == [0, 5, 10]
    assert splits.test[0]["hierarchy"] == "super03/kind15"
    assert int(splits.test[0]["image"][2, 0, 0]) == 3


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


def test_a_pickle_that_runs_a_program_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    ten_python(tmp_path)
    trace = tmp_path / "trace"
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps({"data": Evil(trace), "labels": [0]}))
    with pytest.raises(ValueError, match=r"data_batch_2 asks for pathlib\.Path.*can run any program"):
        CIFARConfig(str(tmp_path)).load()
    assert not trace.exists()
    pickle.loads((tmp_path / "data_batch_2").read_bytes())
    assert trace.exists()  # the plain reader would have run it


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no readable pickle .EOFError"),
        (python_2_pickle({"labels": [1]})[:-4], "no readable pickle"),
        (python_2_pickle({"labels": [1]}), r"has no 'data'; it has \['labels'\]"),
        (python_2_pickle({"labels": [1], "data": [1]}), r"data must be bytes \[N, 3072\]; found list"),
        (python_2_pickle({"labels": [1], "data": np.zeros((1, 9), np.uint8)}), r"\[N, 3072\]; found \(1, 9\)"),
        (python_2_pickle({"labels": [1], "data": np.zeros((2, 3072), np.uint8)}), "labels must be 2 integers"),
        (python_2_pickle({"labels": [11], "data": np.zeros((1, 3072), np.uint8)}), r"record 0: label \[11\]"),
        (pickle.dumps({"labels": [1], "data": np.zeros((1, 3072))}, protocol=2), "must hold bytes; found 'f8'"),
        (pickle.dumps([1]), "must hold a dict; found list"),
    ],
)
def test_a_damaged_python_batch_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    ten_python(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_3.*{message}"):
        CIFARConfig(str(tmp_path)).load()


def test_a_truncated_binary_batch_is_named_with_its_size(tmp_path: Path) -> None:
    path = ten_binary(tmp_path) / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_4.bin must hold records of 3073 bytes; it has 6145 bytes, 2.00"):
        CIFARConfig(str(tmp_path)).load()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="it has 0 bytes"):
        CIFARConfig(str(tmp_path)).load()


def test_labels_that_no_class_has_are_refused(tmp_path: Path) -> None:
    path = ten_binary(tmp_path / "ten") / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:3073] + bytes([10]) + pixels(0))
    with pytest.raises(ValueError, match=r"test_batch.bin, record 1: label \[10\] is out of range, there are 10"):
        CIFARConfig(str(tmp_path / "ten")).load()
    path = hundred_binary(tmp_path / "hundred") / "train.bin"
    path.write_bytes(bytes([20, 3]) + pixels(0))
    with pytest.raises(ValueError, match=r"label \[20, 3\] is out of range, there are 20 and 100 classes"):
        CIFARConfig(str(tmp_path / "hundred"), classes="20").load()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold CIFAR-100: train.bin .* found no such folder. Unpack"):
        CIFARConfig(str(tmp_path / "nowhere"), classes="100").load()
    with pytest.raises(FileNotFoundError, match=r"must hold CIFAR-10: data_batch_1.bin .* found \[\]"):
        CIFARConfig(str(tmp_path)).load()
    folder = ten_binary(tmp_path)
    (folder / "batches.meta.txt").rename(folder / "away.txt")
    with pytest.raises(FileNotFoundError, match=r"batches.meta.txt is missing"):
        CIFARConfig(str(tmp_path)).load()
    (folder / "batches.meta.txt").write_text("\n".join(TEN[:9]))
    with pytest.raises(ValueError, match=r"batches.meta.txt must name 10 classes; found 9"):
        CIFARConfig(str(tmp_path)).load()
    (folder / "batches.meta.txt").write_text("\n".join(TEN))
    (folder / "data_batch_5.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_5.bin is missing"):
        CIFARConfig(str(tmp_path)).load()


def test_other_class_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'10', '100' or '20'.*found '50'"):
        CIFARConfig("there", classes="50")  # type: ignore[arg-type]
