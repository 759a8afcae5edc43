"""The page about two modalities: its files, what they say, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kinfolk.cli import main
from kinfolk.report import theory
from kinfolk.theory import experiments

_FEW = {
    "subspace": {"sizes": (60, 240), "clean": (1.0, 0.5)},
    "descent": {"n": 40, "steps": 4},
    "mismatch": {"n": 80, "clean": (1.0, 0.5)},
    "unpaired": {"pairs": 60, "unpaired": (20, 40), "noise": (0.1,), "how": ("mutual",), "test": 20},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every experiment through the command, on few rows."""
    out = tmp_path_factory.mktemp("theory")
    with pytest.MonkeyPatch.context() as patch:
        for name, (run, describe) in theory.EXPERIMENTS.items():
            few = _FEW[name]
            patch.setitem(theory.EXPERIMENTS, name, (lambda run=run, few=few, **more: run(**few, **more), describe))
        assert main(["theory", "--out", str(out), "--draws", "2", "--seed", "3"]) == 0
    return out


def test_the_page_shows_a_picture_and_a_table_for_every_experiment(folder: Path) -> None:
    page = (folder / "README.md").read_text()
    assert page.count("\n## ") == len(theory.EXPERIMENTS) == 4
    for name in theory.EXPERIMENTS:
        assert f"({name}.png)" in page
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    tables = [line for line in page.splitlines() if line.startswith("| ---")]
    assert len(tables) == 4


@pytest.mark.parametrize("name", _FEW)
def test_every_draw_is_in_the_csv_and_the_page_holds_its_means(name: str, folder: Path) -> None:
    with (folder / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["draw"] for row in rows} == {"0", "1"}
    first = rows[0]
    same = [
        float(row["error"])
        for row in rows
        if all(
            row[k] == first[k] for k in ("eta", "n", "form", "private", "learner", "noise", "unpaired") if k in first
        )
    ]
    assert f"{sum(same) / len(same):.3f} ± " in (folder / "README.md").read_text()


def test_experiments_can_be_chosen_and_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for out in ("one", "other"):
        assert main(["theory", "mismatch", "--draws", "1", "--out", str(tmp_path / out)]) == 0
        pages.append((tmp_path / out / "mismatch.csv").read_text())
    assert pages[0] == pages[1]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["README.md", "mismatch.csv", "mismatch.png"]
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [str(tmp_path / out / "README.md") for out in ("one", "other")]
    assert "measuring mismatch" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["spikes"], "no experiment 'spikes'; there are subspace,"), (["--draws", "0"], "draws must be at least 1")],
)
def test_what_cannot_be_run_is_said_and_nothing_is_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["theory", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_modalities_beat_one_where_each_has_directions_of_its_own() -> None:
    """And one beats two where it has none and most pairs are wrong: the two ends of the picture."""
    rows = experiments.mismatch_errors(n=600, clean=(0.8, 0.1), draws=2)
    error = {key: mean for key, (mean, *_) in experiments.summary(rows, ["private", "eta", "learner"], "error").items()}
    assert error[10, 0.8, "pairs"] < 0.6 * error[10, 0.8, "masked views"]
    assert error[0, 0.1, "masked views"] < 0.6 * error[0, 0.1, "pairs"]
    assert error[0, 0.8, "pairs"] < error[0, 0.8, "masked views"]


def test_a_mean_of_one_draw_has_no_deviation(tmp_path: Path) -> None:
    page = theory.write_theory(tmp_path, only=["subspace"], draws=1)
    assert "±" not in page.read_text().split("##")[1]
