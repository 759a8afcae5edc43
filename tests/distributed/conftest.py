"""Makes the cases importable and launches the processes of one world size once for the whole battery."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# tests/ has no __init__.py and pytest runs with --import-mode=importlib, which adds nothing to sys.path by itself.
sys.path.insert(0, str(Path(__file__).parent))

Answers = list[dict[str, Any]]


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Answers]:
    """Every rank's answers for a world size; parallel test workers share one launch."""
    from rank_launch import launch_once

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    found: dict[int, Answers] = {}

    def of(world: int) -> Answers:
        if world not in found:
            found[world] = launch_once(world, shared / f"world-{world}")
        return found[world]

    return of
