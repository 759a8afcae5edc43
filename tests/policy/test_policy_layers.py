"""Imports point down only, and importing the losses costs torch and numpy, nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kinfolk

ROOT = Path(kinfolk.__file__).parent

# From the bottom up; a room imports from rows above its own, and rooms in one row do not import one another.
LAYERS = [
    {"ops", "distributed"},
    {"graphs", "theory"},
    {"data", "nn", "losses"},
    {"methods", "evals"},
    {"train"},
    {"recipes", "report"},
    {"compare", "doctor"},
    {"cli", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def imported_rooms(source: str) -> set[str]:
    """Rooms of the package that a file imports, at run time or for types only."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "kinfolk":
            names = [f"kinfolk.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("kinfolk.")}
    return rooms & LEVEL.keys()


def upward_imports(room: str, source: str) -> set[str]:
    """Imports that do not point down."""
    return {other for other in imported_rooms(source) if other != room and LEVEL[other] >= LEVEL[room]}


def files() -> list[tuple[str, Path]]:
    found = [(path.relative_to(ROOT).parts[0].removesuffix(".py"), path) for path in sorted(ROOT.rglob("*.py"))]
    return [(room, path) for room, path in found if room != "__init__"]


def test_every_room_has_a_place() -> None:
    assert {room for room, _ in files()} <= LEVEL.keys()


@pytest.mark.parametrize(("room", "path"), [pytest.param(r, p, id=str(p.relative_to(ROOT))) for r, p in files()])
def test_imports_point_down(room: str, path: Path) -> None:
    assert upward_imports(room, path.read_text()) == set()


@pytest.mark.parametrize(
    "planted",
    [
        "from kinfolk.losses import NTXentLoss",
        "import kinfolk.train.loop",
        "from kinfolk import cli",
        "from kinfolk.graphs.base import x",
    ],
)
def test_an_upward_import_is_caught(planted: str) -> None:
    assert upward_imports("ops", f"def f():\n    {planted}") != set()


def loaded_modules(statement: str) -> set[str]:
    """Top-level modules from outside the standard library that a statement loads in a fresh interpreter."""
    code = f"import torch, numpy, sys; before = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names)


def test_losses_import_torch_and_numpy_only() -> None:
    assert {name for name in loaded_modules("import kinfolk.losses") if not name.startswith("_")} <= {
        "kinfolk",
        "torch",
        "numpy",
    }


def test_another_import_would_be_seen() -> None:
    assert "PIL" in loaded_modules("import kinfolk.losses, PIL.Image")


def test_the_package_itself_is_light() -> None:
    assert loaded_modules("import kinfolk") == {"kinfolk"}
