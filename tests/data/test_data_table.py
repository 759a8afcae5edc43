"""Tables: what becomes a feature and how, which rows are held out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kinfolk.data.sources.table import Feature, TableConfig, TableSource, is_table
from kinfolk.data.sources.table_file import read_table

CSV = """age,colour,site,kind,note
1.0,red,7,cat,a
2.0,blue,7,dog,b
3.0,red,7,cat,c
4.0,green,7,,d
"""


def written(folder: Path, text: str = CSV, name: str = "tiny.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def all_rows(config: TableConfig) -> tuple[TableSource, TableSource]:
    splits = config.load()
    assert isinstance(splits.train, TableSource)
    assert isinstance(splits.test, TableSource)
    return splits.train, splits.test


def test_columns_become_features_standardised_by_the_training_rows(tmp_path: Path) -> None:
    parts = CSV.replace("note", "part").replace(",,d\n", ",,test\n")
    for letter in "abc":
        parts = parts.replace(f",{letter}\n", ",train\n")
    train, test = all_rows(TableConfig(written(tmp_path, parts), label="kind", part="part"))
    assert [feature.name for feature in train.features] == ["age", "colour=blue", "colour=green", "colour=red", "site"]
    assert train.features[0] == Feature("age", "age", 2.0, pytest.approx((2 / 3) ** 0.5))
    expected = torch.tensor([[-1, -1 / 3, 0, 1 / 3, 0], [0, 2 / 3, 0, -2 / 3, 0], [1, -1 / 3, 0, 1 / 3, 0]])
    expected[:, 0] *= 1.5**0.5
    torch.testing.assert_close(train.rows, expected)
    torch.testing.assert_close(test.rows, torch.tensor([[2 * 1.5**0.5, -1 / 3, 1, -2 / 3, 0]]))
    assert train.class_names == ("cat", "dog")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 0]
    assert test.labels is not None
    assert test.labels.tolist() == [-1]
    assert (train.ids.tolist(), test.ids.tolist()) == ([0, 1, 2], [3])


def test_a_row_goes_where_an_image_goes(tmp_path: Path) -> None:
    train, _ = all_rows(TableConfig(written(tmp_path), ignored=("kind", "note"), test_fraction=0.25))
    batch = train.fetch(torch.tensor([2, 0]))
    assert batch["images"].shape == (2, train.channels, 1, 1)
    assert batch["images"].dtype == torch.float32
    assert train.image_size == (1, 1)
    assert is_table(train)
    assert torch.equal(train.subset(torch.tensor([1])).rows, train.rows[1:2])
    assert train[0]["image"].shape == (train.channels, 1, 1)


def test_a_constant_column_is_zero_whatever_the_test_rows_hold(tmp_path: Path) -> None:
    text = "a,b,part\n0.1,1,train\n0.1,2,train\n0.1,3,train\n9,4,test\n"
    train, test = all_rows(TableConfig(written(tmp_path, text), part="part"))
    assert train.rows[:, 0].tolist() == [0, 0, 0]
    assert test.rows[0, 0] == 0


def test_missing_values_are_refused_or_filled_and_counted(tmp_path: Path) -> None:
    text = "a,b\n1,x\n,y\nNaN,x\n3,\n"
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=r"missing in a \(2\), b \(1\); pass missing='mean'"):
        TableConfig(path).load()
    train, _ = all_rows(TableConfig(path, missing="mean", test_fraction=0.0))
    assert train.missing == {"a": 2, "b": 1}
    assert train.rows[:, 0].tolist() == pytest.approx([-1, 0, 0, 1])
    assert train.rows[3, 1:].tolist() == [0, 0]  # neither more nor less x or y than the mean row
    torch.testing.assert_close(train.rows.sum(0), torch.zeros(3))


@pytest.mark.parametrize("ending", [".parquet", ".npz"])
def test_other_files_hold_the_same_table(tmp_path: Path, ending: str) -> None:
    path = str(tmp_path / f"tiny{ending}")
    ages, colours, kinds = [1.0, 2.0, 3.0, 4.0], ["red", "blue", "red", "green"], [5, 5, 9, -1]
    if ending == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="reading Parquet needs pyarrow")
        import pyarrow as pa

        parquet.write_table(pa.table({"age": ages, "colour": colours, "kind": kinds}), path)
    else:
        np.savez(path, age=np.array(ages), colour=np.array(colours), kind=np.array(kinds))
    train, _ = all_rows(TableConfig(path, label="kind", test_fraction=0.0))
    assert [feature.name for feature in train.features] == ["age", "colour=blue", "colour=green", "colour=red"]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1, -1]
    assert train.class_names == ("5", "9")


def test_a_matrix_is_as_many_columns_and_digits_are_a_table_of_64(tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    digits = datasets.load_digits()
    np.savez(tmp_path / "digits.npz", features=digits.data, digit=digits.target)
    train, test = all_rows(TableConfig(str(tmp_path / "digits.npz"), label="digit"))
    assert (len(train), len(test), train.channels) == (1438, 359, 64)
    assert train.class_names == tuple("0123456789")
    torch.testing.assert_close(train.rows.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    varied = train.rows.std(0, correction=0)
    assert set(varied.round(decimals=3).tolist()) == {0.0, 1.0}  # the corners of every digit are empty
    np.save(tmp_path / "plain.npy", digits.data)
    assert list(read_table(tmp_path / "plain.npy"))[:2] == ["features_0", "features_1"]


def test_equal_rows_stay_on_one_side_of_the_hold_out(tmp_path: Path) -> None:
    lines = "".join(f"{i % 10},{i % 10 % 2}\n" for i in range(100))
    train, test = all_rows(TableConfig(written(tmp_path, f"a,b\n{lines}"), label="b", test_fraction=0.3))
    assert not {tuple(row) for row in train.rows.tolist()} & {tuple(row) for row in test.rows.tolist()}
    assert len(test) > 0
    again, _ = all_rows(TableConfig(written(tmp_path, f"a,b\n{lines}"), label="b", test_fraction=0.3))
    assert torch.equal(again.ids, train.ids)


def test_captions_and_ids_come_from_their_columns(tmp_path: Path) -> None:
    train, _ = all_rows(TableConfig(written(tmp_path), id="age", text="note", label="kind", test_fraction=0.0))
    assert train.ids.tolist() == [1, 2, 3, 4]
    assert train.text == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (CSV, {"label": "species"}, "has no column 'species'; it has age, colour"),
        (CSV, {"label": "kind", "strings": "raise"}, "column 'colour' holds text, 3 different ones such as 'blue'"),
        (CSV, {"label": "kind", "max_categories": 3}, "column 'note' holds text, 4 different ones"),
        (CSV, {"id": "note", "label": "kind"}, "must hold whole numbers, one per row, to be the ids"),
        (CSV, {"text": "kind", "label": "age", "ignored": ("note",)}, "must hold a text in every row"),
        ("a,b\n0.5,1\n0.7,2\n", {"label": "a"}, "numbers that are not whole, so they are no classes"),
        ("a,b\n1,1\n2,inf\n", {}, "column 'b' has 1 infinite values"),
        ("a\n1\n2\n", {"label": "a"}, "no column left for features"),
        ("a,part\n1,train\n2,dev\n", {"part": "part"}, "must say 'train' or 'test'; found dev, train"),
        ("a,part\n1,test\n", {"part": "part"}, "no row is left for training"),
        ("a,b\n1,2\n1\n", {}, "line 3: 1 entries for the 2 names of line 1"),
        ("a,a\n1,2\n", {}, "names of columns must differ; these occur more than once: a"),
        ("a,b\n", {}, "has no rows"),
        ("", {}, "not a CSV file with a line of names"),
    ],
)
def test_unfit_tables_are_refused_with_the_column_named(
    tmp_path: Path, text: str, settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TableConfig(written(tmp_path, text), **settings).load()


def test_unfit_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        TableConfig(str(tmp_path / "absent.csv")).load()
    with pytest.raises(ValueError, match=r"a table is a .csv, .parquet, .npz, .npy file; found 'tiny.txt'"):
        read_table(written(tmp_path, name="tiny.txt"))
    (tmp_path / "latin.csv").write_bytes("a,b\n1,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_table(tmp_path / "latin.csv")
    for name in ("broken.npz", "broken.npy"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not an archive")
        with pytest.raises(ValueError, match="is not a readable"):
            read_table(tmp_path / name)
    np.savez(tmp_path / "cube.npz", a=np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="must be a vector"):
        read_table(tmp_path / "cube.npz")
    np.savez(tmp_path / "uneven.npz", a=np.zeros(2), b=np.zeros(3))
    with pytest.raises(ValueError, match="one entry per row; found"):
        read_table(tmp_path / "uneven.npz")


def test_configs_and_sources_are_checked() -> None:
    with pytest.raises(ValueError, match="missing must be one of"):
        TableConfig("a.csv", missing="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="named more than once: kind"):
        TableConfig("a.csv", label="kind", ignored=("kind",))
    assert TableConfig("a.csv", ignored=["kind"]).ignored == ("kind",)  # type: ignore[arg-type]
    feature = [Feature("a", "a", 0.0, 1.0)]
    with pytest.raises(TypeError, match="must be float32"):
        TableSource(torch.zeros(2, 1).double(), features=feature)
    with pytest.raises(ValueError, match="F = 1 features"):
        TableSource(torch.zeros(2, 2), features=feature)
    with pytest.raises(ValueError, match="must be finite"):
        TableSource(torch.full((2, 1), torch.nan), features=feature)
