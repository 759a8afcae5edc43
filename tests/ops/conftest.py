"""Makes the oracle (pairwise_loops) importable from the test files of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# tests/ has no __init__.py and pytest runs with --import-mode=importlib, which adds nothing to sys.path by itself.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 3 x 4, so that a dozen rows take many of them, with ragged edges, and loops can still be the judge."""
    import torch

    from kinfolk import ops
    from kinfolk.ops.chunked import tiles

    monkeypatch.setattr(tiles, "_ROWS", 3)
    monkeypatch.setattr(tiles, "_COLUMNS", 4)
    assert "tiles of 3 x 4" in ops.explain(torch.zeros(11, 2), torch.zeros(10, 2))


@pytest.fixture(params=["kept", "recomputed"])
def both_backward_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with scores kept for the backward pass, and with scores computed again."""
    from kinfolk.ops.chunked import tiles

    monkeypatch.setattr(tiles, "_KEPT_BYTES", 1 << 30 if request.param == "kept" else 0)
