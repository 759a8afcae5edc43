"""Tables become fragments of the documentation, between markers, and numbers survive the way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import attention, gradients, losses, page, scaling, towers  # noqa: E402
from benchmarks.ranks import Outcome, Step  # noqa: E402
from benchmarks.table import Row, Table, read  # noqa: E402

MACHINE: Row = {"device": "cpu", "cpu": "a chip, 2 cores", "threads": 2, "torch": "2"}


def written(path: Path, columns: tuple[str, ...], rows: list[Row]) -> Path:
    table = Table(path, columns)
    for row in rows:
        table.add(MACHINE | row)
    return path


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    names = ("data-cpu", "losses-cpu", "losses-gpu", "scaling-cpu", "towers-cpu", "attention-cpu")
    (folder / "benchmarks.md").write_text("intro\n" + "\n".join(f"<!-- {n} -->\nold\n<!-- /{n} -->" for n in names))
    (folder / "distributed.md").write_text("<!-- gradients -->\n<!-- /gradients -->\nend\n")
    return folder


def loss_row(contender: str, milliseconds: float, peak: float, status: str = "ok") -> Row:
    same: Row = {"loss": "NT-Xent", "rows": 8192, "d": 128, "dtype": "float32", "gradient ratio": 1.0}
    return same | {
        "contender": contender,
        "status": status,
        "milliseconds": milliseconds if status == "ok" else None,
        "peak megabytes": peak if status == "ok" else None,
        "time / floor": milliseconds / 100,
    }


def test_losses_page_states_the_ratios(tmp_path: Path, docs: Path) -> None:
    rows = [loss_row("kinfolk", 120.0, 20.0), loss_row("dense", 480.0, 900.0), loss_row("dense compiled", 300.0, 400.0)]
    rows += [loss_row("lightly", 600.0, 999.0), loss_row("pytorch-metric-learning", 1.0, 1.0, "out of memory: 9 GB")]
    text = page.publish(written(tmp_path / "l.csv", losses.COLUMNS, rows), docs).read_text()
    assert "| NT-Xent | 2.50x | 4.00x | 5.00x (lightly) | 0.050 | 1.20 |" in text
    assert "pytorch-metric-learning, 8,192 rows: out of memory: 9 GB" in text
    assert "a chip, 2 cores, 2 threads, torch 2." in text
    assert text.startswith("intro")
    assert text.count("old") == 5  # the other fragments are untouched
    assert (docs / "benchmarks" / "losses-cpu.csv").exists()
    assert (docs / "benchmarks" / "losses-cpu.png").stat().st_size > 1000


def test_x_clr_is_held_against_nt_xent_and_its_own_products(tmp_path: Path, docs: Path) -> None:
    rows = [loss_row("kinfolk", 150.0, 20.0), loss_row("kinfolk NT-Xent", 100.0, 20.0)]
    for row in rows:
        row |= {"loss": "X-CLR", "e": 128}
    text = page.publish(written(tmp_path / "l.csv", losses.COLUMNS, rows), docs).read_text()
    assert "X-CLR, e = 128: 1.50 x NT-Xent = 1.00 (1 + e/2d)" in text


def test_scaling_page_fits_the_exponent(tmp_path: Path, docs: Path) -> None:
    base: Row = {"loss": "NT-Xent", "d": 8, "status": "ok", "gigaflops / second": 1.0}
    rows: list[Row] = [
        base | {"contender": name, "rows": n, "milliseconds": 1.0, "peak megabytes": 1e-6 * n**power}
        for n in (1024, 2048, 4096)
        for name, power in (("kinfolk", 1.0), ("dense", 2.0))
    ]
    rows.append(base | {"contender": "dense", "rows": 8192, "status": "does not fit: 9 GB expected"})
    text = page.publish(written(tmp_path / "s.csv", scaling.COLUMNS, rows), docs).read_text()
    assert "kinfolk: memory grows as rows^1.00" in text
    assert "dense: memory grows as rows^2.00" in text
    assert "- dense, 8,192 rows: does not fit" in text


def test_towers_page_has_the_forms_beside_one_another(tmp_path: Path, docs: Path) -> None:
    rows: list[Row] = [
        {"contender": name, "rows": n, "status": "ok", "milliseconds": 5.0, "peak megabytes": peak * n}
        for n in (256, 512)
        for name, peak in (("kinfolk, cached", 0.5), ("dense", 2.0))
    ]
    text = page.publish(written(tmp_path / "t.csv", towers.COLUMNS, rows), docs).read_text()
    assert "| 256 | 5 | 128 | 5 | 512 |" in text
    assert (docs / "benchmarks" / "towers-cpu.png").is_file()


def test_attention_page(tmp_path: Path, docs: Path) -> None:
    row: Row = {"contender": "SDPA, math", "rows": 10, "keys": 20, "d": 4, "e": 2, "dtype": "float32", "status": "ok"}
    row |= {"milliseconds": 3.0, "gradient cosine": 1.0, "time / fused": 1.5}
    text = page.publish(written(tmp_path / "a.csv", attention.COLUMNS, [row]), docs).read_text()
    assert "| 10 x 20, 4, 2 | SDPA, math | 3 |  | 1.5 |" in text


def test_distributed_page_says_exact_wrong_and_what_happened(tmp_path: Path, docs: Path) -> None:
    single = Step(2.0, [1.0, 0.0], 0.5)
    outcomes = {
        ("ours", "equal", 4): Outcome((Step(1.0, [1.0, 0.0], 0.5), Step(3.0, [1.0, 0.0], 0.5))),
        ("theirs", "equal", 4): Outcome((Step(2.0, [0.5, 0.0], 0.25),)),
        ("theirs", "unequal", 4): Outcome(failure="rank 1: RuntimeError: sizes"),
        ("theirs", "one rank empty", 4): Outcome(failure="no result within 9 s"),
    }
    rows: list[Row] = [
        {"loss": "NTXentLoss", "library": library, "batch": batch, "processes": world, "sizes": "4 4"}
        | gradients.against(outcome, single)
        for (library, batch, world), outcome in outcomes.items()
    ]
    text = page.publish(written(tmp_path / "g.csv", gradients.COLUMNS, rows), docs).read_text()
    assert "| NTXentLoss | ours |  | **exact** | 1.0000 |" in text
    assert "| NTXentLoss | theirs |  | 0.500 / 1.0000 | 0.5000 | raises | hangs |" in text
    assert "- NTXentLoss, theirs: `RuntimeError: sizes`; `no result within 9 s`" in text
    assert text.endswith("<!-- /gradients -->\nend\n")


def test_gradients_that_differ_between_ranks_are_no_result() -> None:
    outcome = Outcome((Step(1.0, [1.0, 0.0]), Step(1.0, [0.0, 1.0])))
    assert gradients.against(outcome, Step(1.0, [1.0, 0.0]))["status"] == "ranks disagree about the gradient after DDP"


@pytest.mark.parametrize("text", ["no marker", "<!-- /x --> <!-- x -->", "<!-- x --> <!-- x --> <!-- /x -->"])
def test_a_page_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the page needs <!-- x --> and then"):
        page.between(text, "x", "new")


def test_a_table_of_something_else_is_refused(tmp_path: Path, docs: Path) -> None:
    with pytest.raises(ValueError, match="not a table of these benchmarks"):
        page.publish(written(tmp_path / "o.csv", ("rows", *MACHINE), [{"rows": 1}]), docs)


def test_rows_are_on_disk_as_they_come_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ("a", "b"))
    table.add({"a": 1.5})
    assert read(tmp_path / "t.csv") == [{"a": "1.5", "b": ""}]
    with pytest.raises(ValueError, match="no such columns: c"):
        table.add({"c": 1})


def test_the_real_pages_have_all_markers() -> None:
    text = {name: (ROOT / "docs" / name).read_text() for name in ("benchmarks.md", "distributed.md")}
    for name in (
        "data-cpu",
        "losses-cpu",
        "losses-gpu",
        "scaling-cpu",
        "scaling-gpu",
        "towers-cpu",
        "attention-cpu",
        "attention-gpu",
    ):
        assert page.between(text["benchmarks.md"], name, "x\n").count("x\n") >= 1
    assert "x\n" in page.between(text["distributed.md"], "gradients", "x\n")
