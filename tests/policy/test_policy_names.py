"""Public names are documented, importable and short of surprises."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ["ops", "graphs", "theory", "losses", "nn", "data", "methods", "evals", "train", "recipes", "report"]


def public(room: str) -> list[tuple[str, object]]:
    module = importlib.import_module(f"kinfolk.{room}")
    return [(name, getattr(module, name)) for name in module.__all__]


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_sorted_and_unique(room: str) -> None:
    names = importlib.import_module(f"kinfolk.{room}").__all__
    assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize("room", ROOMS)
def test_public_functions_and_classes_have_docstrings(room: str) -> None:
    bare = [name for name, item in public(room) if callable(item) and not (inspect.getdoc(item) or "").strip()]
    assert bare == []


@pytest.mark.parametrize("room", ["ops", "graphs", "theory", "losses"])
def test_the_core_s_public_names_have_examples(room: str) -> None:
    bare = [name for name, item in public(room) if callable(item) and ">>>" not in (inspect.getdoc(item) or "")]
    assert [name for name in bare if name not in {"SimilarityGraph"}] == []


def test_every_loss_names_its_source() -> None:
    for name, item in public("losses"):
        assert re.search(r"Reference:\s+\S.*?\b(19|20)\d\d\b", inspect.getdoc(item) or "", re.S), name


def test_every_loss_and_graph_has_a_row_in_the_docs() -> None:
    page = (ROOT / "docs" / "losses.md").read_text()
    missing = [name for room in ("losses", "graphs") for name, _ in public(room) if f"`{name}`" not in page]
    assert missing == []


def test_loss_options_are_keyword_only() -> None:
    for name, item in public("losses"):
        parameters = list(inspect.signature(item).parameters.values())  # type: ignore[arg-type]
        assert all(p.kind is p.KEYWORD_ONLY or p.default is p.empty for p in parameters), name


def test_no_room_for_odds_and_ends() -> None:
    names = {path.stem for path in (ROOT / "kinfolk").rglob("*.py")}
    assert names & {"utils", "helpers", "common", "misc"} == set()
