from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinfolk.cli import main
from kinfolk.doctor import doctor, extras, installed
from kinfolk.recipes import RECIPES, recipe, smoke
from kinfolk.train import load_config, to_yaml

_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def _kinfolk(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kinfolk.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=_ENVIRONMENT, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One real command: train on the moved digits, evaluate, write the report."""
    folder = tmp_path_factory.mktemp("cli")
    arguments = ("train", "simclr-digits-moved", "--smoke", "--seed", "3", "--method.temperature", "0.5")
    return folder / "runs" / "simclr-digits-moved-smoke", _kinfolk(*arguments, cwd=folder)


def test_one_command_trains_evaluates_and_reports(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run, done = trained
    assert done.returncode == 0, done.stderr
    config = load_config(run)
    assert (config.seed, config.method.temperature, config.epochs) == (3, 0.5, 2)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["protocol", "metric", "trained"]
    assert any(line.startswith("linear probe") for line in lines)
    assert lines[-2] == f"run     {Path('runs') / run.name}"
    assert lines[-1].startswith("report  ")
    assert (
        (run.parent.parent / lines[-1].removeprefix("report").strip()).read_text().lower().startswith("<!doctype html>")
    )
    assert "step 8/8" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_a_reader_that_leaves_ends_the_command_without_a_word() -> None:
    command = [sys.executable, "-u", "-m", "kinfolk.cli", "data", "inspect", "digits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENVIRONMENT) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141


def test_the_same_command_again_does_not_replace_the_run(trained, monkeypatch, capsys) -> None:
    run, _ = trained
    monkeypatch.chdir(run.parent.parent)
    before = (run / "encoder.safetensors").read_bytes()
    assert main(["train", "simclr-digits-moved", "--smoke"]) == 2
    assert "is not empty; use overwrite to replace it, resume to continue it" in capsys.readouterr().err
    assert (run / "encoder.safetensors").read_bytes() == before


def test_a_run_is_resumed_by_its_folder(trained, capsys) -> None:
    run, _ = trained
    before = (run / "encoder.safetensors").read_bytes()
    assert main(["train", str(run), "--resume", "--no-report"]) == 0
    assert (run / "encoder.safetensors").read_bytes() == before
    assert main(["train", str(run), "--resume", "--seed", "4"]) == 2
    assert "seed: 3 in the run, 4 now" in capsys.readouterr().err


def test_eval_and_embed(trained, tmp_path: Path, capsys) -> None:
    run, _ = trained
    before = json.loads((run / "evals.json").read_text())
    assert main(["eval", str(run)]) == 0
    assert "centred raw pixels" in capsys.readouterr().out
    assert json.loads((run / "evals.json").read_text()) == before
    assert main(["embed", str(run), "--data", "digits-moved", "--out", str(tmp_path / "features")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz") as file:
        assert file["features"].shape == (1437, load_config(run).encoder.width * 4)
        assert (file["test_features"].shape[0], file["test_labels"].shape, file["class_names"][9]) == (360, (360,), "9")
        assert np.array_equal(file["ids"], np.arange(1437))


def test_a_config_file_and_other_data(trained, tmp_path: Path, capsys) -> None:
    run, _ = trained
    config = replace(smoke(recipe("simclr-digits")), name="mine", epochs=1)
    (tmp_path / "mine.yaml").write_text(to_yaml(config))
    images = np.random.default_rng(0).random((100, 12, 10, 3))
    np.savez(tmp_path / "photos.npz", images=images, labels=np.arange(100) % 4)
    out = tmp_path / "out"
    arguments = ["train", str(tmp_path / "mine.yaml"), "--data", str(tmp_path / "photos.npz"), "--out", str(out)]
    assert main([*arguments, "--no-report"]) == 0
    assert (load_config(out).name, load_config(out).source.kind) == ("simclr-photos", "arrays")
    assert not (out / "report").exists()
    assert main(["eval", str(run), "--data", str(tmp_path / "photos.npz")]) == 2
    assert "takes images with 1 channel(s), and photos has 3" in capsys.readouterr().err


def test_help_is_fast_and_imports_no_torch() -> None:
    code = """
import sys
from kinfolk.cli import main
main(["--help"])
assert not {"torch", "tyro", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("train", "eval", "embed", "report", "data", "doctor", "compare", "fine-tune"):
        assert f"\n    {command}" in done.stdout
    assert "kinfolk train simclr-digits-moved" in done.stdout


def test_help_of_train_names_every_recipe(capsys) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split("recipes, METHOD-DATA:")[1].split())
    listed = {
        data: methods.split(", ") for data, methods in re.findall(r"([a-z0-9-]+): ((?:[a-z0-9-]+(?:, )?)+)", text)
    }
    assert {f"{method}-{data}" for data, methods in listed.items() for method in methods} == set(RECIPES)


def test_help_of_a_recipe_shows_its_settings(capsys) -> None:
    assert main(["train", "moco-digits", "--help"]) == 0
    text = capsys.readouterr().out
    for option in (
        "--overwrite",
        "--batch-size",
        "--method.queue-size",
        "--optimizer.learning-rate",
        "--encoder.width",
    ):
        assert option in text
    assert "(default: 1024)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "simclr-digit"], "did you mean simclr-digits?"),
        (["train"], "which recipe? One of simclr-digits, moco-digits"),
        (["train", "simclr-digits", "--data", "imagenet"], "no data set and no path 'imagenet'; data is one of digits"),
        (["train", "simclr-digits", "--epochs", "0"], "epochs must be 1 or more, found 0"),
        (["train", "simclr-digits", "--epohs", "3"], "--epochs"),
        (["train", "simclr-digits", "--resume", "--out", "nowhere"], "nothing to resume: nowhere is not a run"),
        (["train", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["train", "simclr-digits", "--smoke", "--init", "nowhere", "--out", "o"], "no encoder weights at nowhere"),
        (["train", "simclr-digits", "--batch-size", "5000", "--out", "o"], "batch_size"),
        (["eval", "nowhere"], "it is not a run"),
        (["embed", "nowhere", "--data", "digits", "--out", "x.npz"], "no run at nowhere"),
        (["embed", "nowhere"], "the following arguments are required: --data, --out"),
        (["report", "nowhere"], "nowhere"),
        (["data", "inspect", "nowhere"], "no data set and no path 'nowhere'"),
        (["data", "prepare", "imagenet"], "fashion-mnist"),
        (["eval", "nowhere", "--colour"], "unrecognized arguments: --colour"),
        (["paint"], "invalid choice: 'paint'"),
        ([], "required: COMMAND"),
    ],
)
def test_what_the_user_can_mend_exits_with_2_and_says_what_exists(
    arguments, message, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err + shown.out
    assert "Traceback" not in shown.err
    assert list(tmp_path.iterdir()) == []


def test_traceback_on_demand() -> None:
    with pytest.raises(ValueError, match="no recipe"):
        main(["train", "nope", "--traceback"])


def test_a_diverged_run_exits_with_1(tmp_path: Path, capsys) -> None:
    arguments = ["train", "simclr-digits", "--smoke", "--out", str(tmp_path / "run"), "--clip-norm", "None"]
    assert main([*arguments, "--optimizer.learning-rate", "1e30"]) == 1
    assert "training diverged: step" in capsys.readouterr().err


def test_inspect_says_what_a_source_holds(capsys) -> None:
    assert main(["data", "inspect", "digits"]) == 0
    text = capsys.readouterr().out
    assert "1437 images" in text
    assert "10 classes" in text


@pytest.mark.parametrize(
    ("missing", "command"),
    [("tyro", "train simclr-digits"), ("accelerate", "train simclr-digits --out x")],
)
def test_a_missing_extra_is_named(missing: str, command: str, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from kinfolk.cli import main
sys.exit(main({command.split()!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=_ENVIRONMENT, cwd=tmp_path, check=False
    )
    assert done.returncode == 2, done.stderr
    assert missing in done.stderr
    assert 'pip install "kinfolk[train]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra_doctor_still_works_and_fit_says_what_to_install() -> None:
    code = """
import sys
for name in ("tyro", "yaml", "safetensors", "accelerate", "rich", "sklearn", "PIL"):
    sys.modules[name] = None
from kinfolk.cli import main
assert main(["doctor"]) == 0
import kinfolk
try:
    kinfolk.fit
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert "training needs the train extra" in done.stdout
    assert "kinfolk.fit needs" in done.stdout
    assert 'pip install "kinfolk[train]"' in done.stdout


def test_doctor_says_what_is_there() -> None:
    text = doctor()
    assert f"torch {installed('torch')}" in text
    assert "training uses cpu in fp32" in text or "training uses cuda" in text
    assert "chunked on" in text
    assert {"torch", "numpy"} == set(extras()["core"])
    assert "accelerate" in extras()["train"]


def test_version(capsys) -> None:
    import kinfolk

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kinfolk {kinfolk.__version__}\n"
    assert "fit" in dir(kinfolk)
    with pytest.raises(AttributeError, match="no attribute 'train_all'"):
        kinfolk.train_all  # noqa: B018
