"""The emoji recipes on real drawings, where `kinfolk data prepare emoji` has put them; a slice is enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kinfolk.data.text import encode_texts
from kinfolk.evals import CrossRetrieval, EvaluationConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.train import TrainConfig, fit


def small(name: str) -> TrainConfig:
    config = smoke(recipe(name))
    protocols = EvaluationConfig(protocols=("cross_retrieval",), cross_retrieval=CrossRetrieval(least_queries=5))
    return replace(config, evaluation=protocols, max_steps_per_epoch=2, epochs=2)


def loaded(config: TrainConfig) -> TrainConfig:
    try:
        config.source.load()
    except FileNotFoundError:
        pytest.skip("the emoji are not prepared here: kinfolk data prepare emoji --only 150")
    return config


@pytest.mark.parametrize("name", ["simclr-emoji", "simclr-emoji-hands", "moco-emoji", "supcon-emoji", "cacr-emoji"])
def test_a_recipe_trains_on_real_drawings(name: str, tmp_path: Path) -> None:
    run = fit(loaded(small(name)), out=tmp_path / "run")
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == [1, 2, 3, 4]
    found = {r["metric"]: r["value"] for r in run.records if r["encoder"] == "raw pixels"}
    assert 0 < found["R@1"] < found["R@10"] < 1


def test_the_caption_graph_has_the_perplexity_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINFOLK_CACHE", str(tmp_path / "cache"))
    config = loaded(small("xclr-emoji"))
    try:
        encode_texts(["a fox"], config.relation.encoder)  # type: ignore[union-attr]
    except ImportError as error:
        pytest.skip(str(error))
    run = fit(config, out=tmp_path / "run")
    (summary,) = (record for record in run.metrics if record["event"] == "relation")
    assert summary["perplexity"] == pytest.approx(10, rel=0.4)  # one batch of 64; the temperature is the mean's
    assert 0.1 < summary["own_sample_mass"] < 0.95
