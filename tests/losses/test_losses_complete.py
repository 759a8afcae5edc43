"""Nothing is missing for any public loss: a definition, an identity, a golden value, a docstring, a row in the docs."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from pathlib import Path

import pytest
from cases import CASES, DEFAULTS, GOLDEN, MEMORY, TRACED, losses_of

from kinfolk import losses

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "losses.md"
NAMES = sorted(losses_of(losses))
COMPARISONS = {"HardNegativeInfoNCELoss", "DebiasedInfoNCELoss", "SpectralContrastiveLoss", "GraphContrastiveLoss"}
"""Losses of which no value is published on the fixture; their identities stand in for it."""


def with_an_identity(source: str) -> set[str]:
    """Classes that a test in this source names in its ``@pytest.mark.identity("XLoss", ...)``."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
            for mark in function.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.identity":
                    found |= {ast.literal_eval(argument) for argument in mark.args}
    return found


@functools.cache
def all_identities() -> set[str]:
    return set().union(*(with_an_identity(path.read_text()) for path in HERE.glob("test_losses_*.py")))


def rows_of_the_docs(text: str) -> dict[str, list[str]]:
    """The first table's cells by the class in its first column."""
    rows = re.findall(r"^\| `(\w+Loss)` \|(.*)\|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


@pytest.mark.parametrize("name", NAMES)
def test_loss_has_everything(name: str) -> None:
    build = getattr(losses, name)
    identities = all_identities()
    cases = [case for case, row in CASES.items() if row.build is build]
    assert cases, f"{name} has no row in the battery"
    assert identities <= losses_of(losses), f"no such loss: {identities - losses_of(losses)}"
    assert name in identities, f"no test is marked as an identity of {name}"
    assert name in MEMORY, f"{name} has no memory test"
    assert build in DEFAULTS, f"the defaults of {name} are not pinned"
    assert set(cases) & TRACED.keys(), f"no case of {name} is compiled"
    prefix = name.removesuffix("Loss")
    published = [golden for golden in GOLDEN if golden.split(",")[0].split()[0] == prefix]
    assert published or name in COMPARISONS, f"{name} has no golden value"


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_complete(name: str) -> None:
    text = inspect.getdoc(getattr(losses, name)) or ""
    for part in ("Call:", "Returns:", "Raises:", "Reference:", "Example:", ">>>", f"{name}("):
        assert part in text, f"the docstring of {name} lacks {part}"
    assert re.search(r"\b(19|20)\d\d\b", text.split("Reference:")[1]), f"{name}: the source needs its year"


@pytest.mark.parametrize("name", NAMES)
def test_docs_have_a_whole_row(name: str) -> None:
    cells = rows_of_the_docs(DOCS.read_text())[name]
    assert len(cells) == 6, f"{name}: call, target, partition, weights, machinery, when and when not; found {cells}"
    assert all(cells)


def test_what_is_missing_is_noticed() -> None:
    assert with_an_identity('@pytest.mark.identity("XLoss", "YLoss")\ndef test_x():\n    assert 1') == {
        "XLoss",
        "YLoss",
    }
    assert with_an_identity('@pytest.mark.other("XLoss")\ndef test_x():\n    assert 1') == set()
    assert rows_of_the_docs("| `ALoss` | a | b |\n| `b` | c |") == {"ALoss": ["a", "b"]}
