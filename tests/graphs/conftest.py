"""Makes this folder's oracle (graph_cases) and that of the primitives (pairwise_loops, mask_cases) importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# tests/ has no __init__.py and pytest runs with --import-mode=importlib, which adds nothing to sys.path by itself.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "ops")]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 3 x 4, so that a dozen rows take many of them, with ragged edges, and loops can still be the judge."""
    import torch

    from kinfolk import ops
    from kinfolk.ops.chunked import tiles

    monkeypatch.setattr(tiles, "_ROWS", 3)
    monkeypatch.setattr(tiles, "_COLUMNS", 4)
    assert "tiles of 3 x 4" in ops.explain(torch.zeros(11, 2), torch.zeros(10, 2))
