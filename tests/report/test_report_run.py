"""The report of real, tiny runs: complete, with parts missing, without labels, and the targets of other methods."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from kinfolk.data import ArraysConfig, ClassTableConfig, SideEmbeddingsConfig, ViewsConfig
from kinfolk.evals import EvaluationConfig
from kinfolk.methods import CACRConfig, SimCLRConfig, SupConConfig, XCLRConfig
from kinfolk.nn import SmallConvConfig
from kinfolk.report import overview, write_report
from kinfolk.report.sample import PIXELS, take_sample
from kinfolk.report.target import OWN_VIEWS, Comparison, compare_with_target
from kinfolk.train import TrainConfig, fit

_HOSTILE = '<script>alert("$x_")</script>'
_NAMES = [_HOSTILE, *(f"digit {i}" for i in range(1, 4))]
_SECTIONS = ["summary", "evaluation", "curves", "map", "neighbours", "graph"]


def _arrays(folder: Path, *, labels: bool = True) -> ArraysConfig:
    digits = load_digits(n_class=4)
    kept = np.arange(120)
    described = {"labels": digits.target[kept], "class_names": np.array(_NAMES)} if labels else {}
    images = np.repeat((digits.images[kept] / 16)[..., None], 3, axis=-1)
    np.savez(folder / "digits.npz", images=images, **described)
    return ArraysConfig(str(folder / "digits.npz"))


def _config(source: ArraysConfig, **changes) -> TrainConfig:
    config = TrainConfig(
        name="tiny & small",
        source=source,
        views=ViewsConfig(count=3, shift=0.1, rotation=10.0),
        encoder=SmallConvConfig(width=4),
        method=CACRConfig(),
        evaluation=EvaluationConfig.smoke(),
        batch_size=32,
        epochs=2,
        log_every=1,
        device="cpu",
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    fit(_config(_arrays(folder)), out=folder / "run")
    write_report(folder / "run")
    return folder / "run"


def _page(run: Path) -> str:
    return (run / "report" / "index.html").read_text(encoding="utf-8")


def test_a_run_gets_every_section_and_every_picture(run: Path) -> None:
    page = _page(run)
    assert all(f'<section id="{name}"' in page for name in [*_SECTIONS, "weights", "settings"])
    pictures = {"curves.png", "map.png", "neighbours.png", "graph.png", "weights.png"}
    assert {path.name for path in (run / "report").iterdir()} == pictures | {"index.html"}
    assert page.count('<img src="data:image/png;base64,') == len(pictures)
    assert 'class="missing"' not in page
    assert "576 (3 per image and epoch)" in page  # 2 epochs of 96 images, 3 views each
    assert "tiny &amp; small" in page


def test_the_page_is_self_contained_and_escapes_class_names_and_paths(run: Path) -> None:
    page = _page(run)
    assert "<script" not in page
    assert 'src="http' not in page
    assert "://" not in page
    assert str(run.parent) in page  # the config is there in full


def test_the_evaluation_table_is_the_runs_records(run: Path) -> None:
    page, records = _page(run), json.loads((run / "evals.json").read_text())["records"]
    assert len({(r["protocol"], r["metric"]) for r in records}) == page.count('<th scope="row">') - 11  # settings rows
    assert all(f"{record['value']:.3f}" in page for record in records)


def test_a_report_is_repeatable(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
    write_report(run)
    assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == before


def test_the_overview_lies_beside_the_page_or_where_asked(run: Path, tmp_path: Path) -> None:
    assert overview(run, tmp_path / "readme.png").read_bytes()[:4] == b"\x89PNG"
    assert not (run / "report" / "overview.png").exists()


@pytest.mark.parametrize(
    ("missing", "said", "sections"),
    [
        (["evals.json", "checkpoints"], ["evals.json is missing", "no checkpoint", "encoder output, cosine"], 2),
        (["metrics.jsonl", "encoder.yaml"], ["has no training record", "not exported an encoder yet"], 5),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_written(
    run: Path, missing: list[str], said: list[str], sections: int, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report", *missing))
    page = write_report(copy).read_text(encoding="utf-8")
    assert all(text in page for text in said)
    assert page.count('class="missing"') == sections
    assert page.count("<section") == 8


def test_values_that_are_not_finite_are_counted(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report", "encoder.*"))
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 99, "loss": NaN, "positive_cosine": Infinity}\n')
        file.write('{"event": "failed", "step": 99, "loss": "nan", "gradient_norm": "nan", "ids": [1]}\n')
    page = write_report(copy).read_text(encoding="utf-8")
    assert "loss (1 times)" in page
    assert "positive_cosine (1 times)" in page
    assert "Training stopped at step 99" in page


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run at"):
        write_report(tmp_path)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_run_without_labels_has_a_report(tmp_path: Path) -> None:
    config = _config(_arrays(tmp_path, labels=False), method=SimCLRConfig(), epochs=1)
    fit(config, out=tmp_path / "run")
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert all(f'<section id="{name}"' in page for name in _SECTIONS)
    assert '<section id="weights"' not in page
    assert "left out, since the" in page
    assert "same-class" not in page
    overview(tmp_path / "run")


# The target that each kind of method has, over raw pixels alone, which needs no training.


def _compare(config: TrainConfig, rows: int = 20) -> Comparison:
    splits = config.source.load()
    sample = take_sample(splits.test, None, count=100, seed=0)
    assert list(sample.features) == [PIXELS]
    return compare_with_target(config, splits, sample, {"pixels": nn.Flatten()}, rows=rows, seed=0)


def test_the_target_of_labels_is_equal_labels(tmp_path: Path) -> None:
    found = _compare(_config(_arrays(tmp_path), method=SupConConfig()))
    same = (found.labels[:, None] == found.labels) & ~np.eye(20, dtype=bool)
    assert (np.diff(found.labels) >= 0).all()
    assert np.array_equal(found.target, same)
    assert found.learnt["pixels"].shape == (20, 20)


def test_the_target_of_a_self_supervised_method_is_own_views(tmp_path: Path) -> None:
    found = _compare(_config(_arrays(tmp_path)))
    assert found.name == OWN_VIEWS
    assert np.array_equal(found.target.sum(1), np.ones(20))
    assert np.array_equal(found.target, np.kron(np.eye(10), np.array([[0, 1], [1, 0]])))
    pairs = found.target == 1
    assert found.learnt["pixels"][pairs].mean() > found.learnt["pixels"][~pairs].mean()


def test_the_target_of_a_class_table_is_its_training_table(tmp_path: Path) -> None:
    relation = ClassTableConfig(temperature=0.5)  # from the training images' means
    config = _config(_arrays(tmp_path), method=XCLRConfig(), relation=relation)
    found = _compare(config)
    table = relation.build(config.source.load().train).similarities.double().numpy()
    expected = np.exp((table[found.labels][:, found.labels] - 1) / 0.5)
    off = ~np.eye(20, dtype=bool)
    np.testing.assert_allclose(found.target[off], expected[off], rtol=1e-4)


def test_a_relation_that_does_not_know_the_test_images_is_an_error(tmp_path: Path) -> None:
    source = _arrays(tmp_path)
    train = source.load().train.ids
    np.savez(tmp_path / "side.npz", embeddings=torch.rand(len(train), 3).numpy(), ids=train.numpy())
    relation = SideEmbeddingsConfig(path=str(tmp_path / "side.npz"))
    with pytest.raises(ValueError, match="none for"):
        _compare(_config(source, method=XCLRConfig(), relation=relation))
