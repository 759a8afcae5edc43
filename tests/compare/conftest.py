"""Makes `made_comparisons` importable from the test files of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

# tests/ has no __init__.py and pytest runs with --import-mode=importlib, which adds nothing to sys.path by itself.
sys.path.insert(0, str(Path(__file__).parent))
