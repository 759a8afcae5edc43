"""Settings for all tests, read before any of them is collected."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when it is first imported, which collecting the doctests of its kernels does.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Features that a test encodes must be made by the code of now, and are none of the user's.
os.environ.setdefault("KINFOLK_CACHE", tempfile.mkdtemp(prefix="kinfolk-tests-"))

_ROOT = Path(__file__).parents[1]
_MEASURED = tuple(_ROOT / top / room for top in ("kinfolk", "tests") for room in ("ops", "graphs", "losses"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "no_cover: lines that others cover; not traced (known without pytest-cov too)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Trace lines for the rooms whose coverage is asked for, by the tests of these rooms: tracing takes a third more
    time, and nobody reads the others'."""
    if not config.pluginmanager.hasplugin("_cov"):
        return
    for item in items:
        if not any(item.path.is_relative_to(room) for room in _MEASURED):
            item.add_marker("no_cover")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep the collector of garbage away from twenty thousand collected tests: every training ends with a collection,
    which would walk over all of them."""
    gc.collect()
    gc.freeze()
