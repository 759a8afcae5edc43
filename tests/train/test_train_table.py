"""A run on a table from end to end: rows in, features, records and a report out."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="the example tables come with scikit-learn")
from sklearn.datasets import load_breast_cancer

from kinfolk.data.sources.table import TableConfig
from kinfolk.data.views.table import TableViewsConfig
from kinfolk.evals import KNN, EvaluationConfig, LinearProbe
from kinfolk.methods import CACRConfig, SimCLRConfig
from kinfolk.nn import HeadConfig
from kinfolk.nn.mlp import MLPConfig
from kinfolk.report import write_report
from kinfolk.train import TrainConfig, fit, from_yaml, load_encoder, to_yaml
from kinfolk.train.evaluation import embed_run


@pytest.fixture(scope="module")
def cancer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = load_breast_cancer()
    path = tmp_path_factory.mktemp("table") / "cancer.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*found.feature_names, "diagnosis"])
        writer.writerows([*row, found.target_names[k]] for row, k in zip(found.data, found.target, strict=True))
    return path


def config(path: Path, **changes: object) -> TrainConfig:
    settings: dict = {
        "name": "cancer",
        "source": TableConfig(str(path), label="diagnosis"),
        "views": TableViewsConfig(corruption=0.5),
        "encoder": MLPConfig(hidden=(32,)),
        "method": SimCLRConfig(head=HeadConfig(hidden=16, out_dim=16)),
        "evaluation": EvaluationConfig(
            protocols=("knn", "linear_probe", "geometry"), knn=KNN(k=20), linear_probe=LinearProbe(max_steps=50)
        ),
        "batch_size": 64,
        "epochs": 3,
        "device": "cpu",
        **changes,
    }
    return TrainConfig(**settings)


@pytest.fixture(scope="module")
def run(cancer: Path, tmp_path_factory: pytest.TempPathFactory):
    return fit(config(cancer), out=tmp_path_factory.mktemp("runs") / "cancer")


def test_a_table_trains_and_is_measured_beside_its_raw_features(run) -> None:
    values = {(r["encoder"], r["protocol"], r["metric"]): r["value"] for r in run.records}
    assert {encoder for encoder, _, _ in values} == {"trained", "raw features", "untrained"}
    assert all(values[encoder, "kNN", "accuracy"] > 0.9 for encoder in ("trained", "raw features"))
    assert any(protocol == "geometry" for _, protocol, _ in values)
    layers = {r["parameters"]["layer"] for r in run.records if r["encoder"] == "raw features"}
    assert layers == {"features of the table"}


def test_the_encoder_comes_back_and_embeds_the_table(run, cancer: Path, tmp_path: Path) -> None:
    encoder = load_encoder(run)
    assert encoder(torch.zeros(2, 30, 1, 1)).shape == (2, 32)
    with pytest.raises(ValueError, match="takes 30 numbers per sample"):
        encoder(torch.zeros(2, 29, 1, 1))
    assert embed_run(run, source=TableConfig(str(cancer), label="diagnosis"), out=tmp_path / "rows").is_file()


def test_the_config_survives_yaml(cancer: Path) -> None:
    given = config(cancer)
    assert from_yaml(to_yaml(given)) == given


def test_the_report_speaks_of_rows_and_shows_no_broken_picture(run) -> None:
    page = write_report(run)
    text = page.read_text(encoding="utf-8")
    assert "456 rows of 30 features" in text
    assert "Rows of a table have no picture" in text
    assert "beside those of raw features" in text
    for wrong in ("image views", "thumbnails", "raw pixels", "test images", "images of"):
        assert wrong not in text, wrong
    assert sorted(path.name for path in page.parent.glob("*.png")) == ["curves.png", "graph.png", "map.png"]


def test_the_picture_of_a_run_has_dots_for_rows(run) -> None:
    from kinfolk.report.overview import overview

    assert overview(run).stat().st_size > 10_000


def test_a_run_with_weights_of_views_reports_without_their_pictures(cancer: Path, tmp_path: Path) -> None:
    method = CACRConfig(head=HeadConfig(hidden=16, out_dim=16))
    made = fit(config(cancer, method=method, views=TableViewsConfig(count=3), epochs=1), out=tmp_path / "run")
    text = write_report(made).read_text(encoding="utf-8")
    assert "no picture to show with their weights" in text
