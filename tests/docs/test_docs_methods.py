"""Every method has a page with a picture of its data flow, and every recipe is named on one."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
import typing
from pathlib import Path

import pytest

from kinfolk.recipes import RECIPES
from kinfolk.train import MethodConfig

DOCS = Path(__file__).parents[2] / "docs"
KINDS = [config.kind for config in typing.get_args(MethodConfig)]


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("method_flows", DOCS / "pictures" / "method_flows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def page(kind: str) -> str:
    return (DOCS / "methods" / f"{kind}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_has_a_page_with_its_picture_and_recipes(kind: str, script: types.ModuleType) -> None:
    text = page(kind)
    assert f"({kind}.png)" in text
    assert (DOCS / "methods" / f"{kind}.png").stat().st_size > 5_000
    assert kind in script.FLOWS
    for heading in ("## Settings worth knowing", "## Recipes", "## Measured", "## Source"):
        assert heading in text, heading
    named = set(re.findall(r"`([a-z0-9-]+)`", text.split("## Recipes")[1].split("##")[0]))
    known = {name for name, make in RECIPES.items() if make().method.kind == kind}
    assert known <= named, known - named
    assert f"]({kind}.md)" in (DOCS / "methods" / "README.md").read_text(encoding="utf-8")


def test_pages_name_no_recipe_that_does_not_exist() -> None:
    text = "".join(page(kind) for kind in KINDS)
    named = set(re.findall(r"kinfolk train ([a-z0-9-]+)", text))
    assert named <= RECIPES.keys()


def test_a_flow_is_read_from_its_lines(script: types.ModuleType) -> None:
    flow = script.Flow.read("a -> b -> loss\n c ~> b\n b .> d")
    assert flow.arrows == [("a", "->", "b"), ("b", "->", "loss"), ("c", "~>", "b"), ("b", ".>", "d")]
    assert flow.places["c"] == (0, 1)
    assert flow.places["d"] == (1, 1)  # beneath b
    with pytest.raises(ValueError, match="a flow's line is a chain such as 'view 1 -> encoder'; found 'a b'"):
        script.Flow.read("a b")


def test_boxes_of_a_flow_do_not_overlap(script: types.ModuleType) -> None:
    for name, text in script.FLOWS.items():
        places = list(script.Flow.read(text).places.values())
        assert len(set(places)) == len(places), name


def test_a_flow_is_drawn(script: types.ModuleType, tmp_path: Path) -> None:
    assert script.Flow.read(script.FLOWS["moco"]).draw(tmp_path / "moco.png").stat().st_size > 5_000
