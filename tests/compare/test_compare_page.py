"""The page of a comparison: what it says, that its links hold, and that it is written whole."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from made_comparisons import ACCURACY, DIAGNOSTIC, comparison_of

from kinfolk.compare import page
from kinfolk.compare.page import write_page
from kinfolk.compare.results import Comparison, Cost

VALUES = {
    (one, setting, s, metric): 0.5 + 0.01 * s + (gap if one == "DCL" else 0.0)
    for setting, gap in (("32", 0.1), ("64", 0.05))
    for one in ("SimCLR", "DCL")
    for s in range(3)
    for metric in (ACCURACY, ("kNN", "precision@1", "higher"), DIAGNOSTIC)
}
COMPARISON = comparison_of(
    VALUES,
    name="DCL against SimCLR",
    references={"raw pixels": 0.7},
    failed={"dcl-64-seed-3": "loss is nan at step 12"},
    command="kinfolk compare simclr-digits 'dcl=simclr-digits method.decoupled=true'",
    configs={"dcl-64-seed-0": "seed: 0\n"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(COMPARISON, tmp_path_factory.mktemp("page")).parent


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_page_says_what_was_compared(text: str) -> None:
    assert text.startswith("# DCL against SimCLR\n\nSimCLR and DCL, 3 seeds each; `batch_size` at 32, 64; 12 runs;")
    assert "a budget of 1,280 image views a run; the baseline is SimCLR" in text
    compared = section(text, "What was compared")
    assert "| source | digits |" in compared
    assert "| field | SimCLR | DCL |" in compared
    assert "| method.decoupled | False | True |" in compared


def test_sections_come_in_the_order_in_which_one_reads(text: str) -> None:
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == [
        "Values", "Differences to SimCLR, paired by seed", "Metric by metric", "What was compared", "Runs that failed",
        "Cost", "How to read this", "What else was measured", "Made with",
    ]  # fmt: skip


def test_every_picture_is_there_with_a_text_for_it_and_a_caption_from_the_numbers(text: str, folder: Path) -> None:
    found = re.findall(r"!\[(.+?)\]\((.+?)\)\n\n(.+)", text)
    assert [file for _, file, _ in found] == ["knn-accuracy.png"]
    assert all((folder / file).is_file() for _, file, _ in found)
    alt, _, caption = found[0]
    assert alt.startswith("kNN accuracy against batch\\_size of SimCLR, DCL")
    assert "DCL is better than SimCLR at 32 (+10.0 ± 0.0 points) and 64 (+5.0 ± 0.0 points)" in caption
    assert caption.endswith("No contender's mean is better than raw pixels (70.0).")


def test_tables_have_as_many_cells_in_every_row(text: str) -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table


def test_other_metrics_are_folded_away_and_none_is_there_twice(text: str) -> None:
    others = section(text, "What else was measured")
    assert re.findall(r"<summary>(.*?)</summary>", others) == ["kNN", "geometry"]
    assert others.count("<details>") == others.count("</details>") == 2
    assert "kNN accuracy" not in others
    assert "precision@1" in others
    assert "effective rank" not in section(text, "Values")


def test_costs_and_failures_and_the_command_are_on_the_page(text: str) -> None:
    assert "| 32 | SimCLR | 3 | 1,280 | 10 | 64 | 6 | 5 | 7 | 100 |" in section(text, "Cost")
    assert "Machine: a made machine." in section(text, "Cost")
    assert "- `dcl-64-seed-3`: loss is nan at step 12" in section(text, "Runs that failed")
    assert section(text, "Made with").strip() == f"```bash\n{COMPARISON.command}\n```"


def test_the_results_read_back(folder: Path) -> None:
    assert Comparison.from_json((folder / "results.json").read_text(encoding="utf-8")) == COMPARISON
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "knn-accuracy.png", "results.json"]


def test_writing_again_gives_the_same_page(folder: Path, text: str, tmp_path: Path) -> None:
    again = write_page(Comparison.from_json((folder / "results.json").read_text(encoding="utf-8")), tmp_path)
    assert again.read_text(encoding="utf-8") == text


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("the old page", encoding="utf-8")

    def broken(*_: object) -> Path:
        raise OSError("the disk is full")

    monkeypatch.setattr(page, "draw_metric", broken)
    with pytest.raises(OSError, match="the disk is full"):
        write_page(COMPARISON, tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "the old page"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "results.json"]


def test_a_number_that_is_not_finite_names_its_run_and_keeps_the_results(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kNN accuracy of the run DCL, seed 1 is nan"):
        write_page(comparison_of({("SimCLR", 1): 0.5, ("DCL", 1): math.nan}), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_a_comparison_without_a_finished_run_has_a_page_that_says_so(tmp_path: Path) -> None:
    empty = comparison_of(VALUES, results=(), costs={}, failed={"simclr-seed-0": "diverged"}, command=None)
    text = write_page(empty, tmp_path).read_text(encoding="utf-8")
    assert "12 runs, 0 of them finished" in text
    assert "No run has finished yet." in text
    assert "- `simclr-seed-0`: diverged" in text
    assert "## Cost" not in text


def test_one_contender_with_one_seed_has_a_page_without_differences(tmp_path: Path) -> None:
    alone = comparison_of({("SimCLR", 0): 0.5}, differing={}, shared={}, machine="")
    text = write_page(alone, tmp_path).read_text(encoding="utf-8")
    assert "## Differences" not in text
    assert "baseline" not in text.split("## Values")[0]
    assert "SimCLR, one seed each; one run; " in text
    assert "Machine" not in text


def test_budgets_that_differ_by_rounding_and_labels_that_differ_are_said(tmp_path: Path) -> None:
    costs = {
        ("SimCLR", "", 0): Cost(1280, 10, 64, 5.0, None, "none"),
        ("SupCon", "", 0): Cost(1264, 10, 64, 5.0, None, "all"),
    }
    values = {("SimCLR", 0): 0.5, ("SupCon", 0): 0.6}
    text = write_page(comparison_of(values, costs=costs), tmp_path).read_text(encoding="utf-8")
    assert "a budget of 1,264 to 1,280 (whole steps) image views a run" in text
    assert "Class labels seen in pretraining: none (SimCLR); all (SupCon)." in text
    assert "one of method and labels together" in text
    assert section(text, "Cost").split("\n")[3].endswith("| 5 | 5 | 5 | - |")
