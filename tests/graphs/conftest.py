"""Makes this folder's oracle (graph_cases) and that of the primitives (pairwise_loops, mask_cases) importable."""

from __future__ import annotations

import sys
from pathlib import Path

# tests/ has no __init__.py and pytest runs with --import-mode=importlib, which adds nothing to sys.path by itself.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "ops")]
