"""One row per loss and form: how it is built, called, defined by loops, permuted. The battery runs over this table.

Every module beside this one is a family of losses; what it lists under CASES, GOLDEN, MEMORY, TRACED and DEFAULTS is
joined here.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from torch import nn

from cases.case import Call as Call
from cases.case import Case as Case
from cases.case import Golden as Golden


def _joined(table: str) -> dict[Any, Any]:
    """The rows of all families; a name that occurs twice is an error."""
    rows: dict[Any, Any] = {}
    for family in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        more = getattr(importlib.import_module(f"cases.{family}"), table, {})
        twice = rows.keys() & more.keys()
        assert not twice, f"{table} has {sorted(map(str, twice))} twice"
        rows |= more
    return rows


CASES: dict[str, Case] = _joined("CASES")
"""By name: the class without "Loss", and what is special about the row."""

GOLDEN: dict[str, Golden] = _joined("GOLDEN")
"""Published values on the fixture, by name as in CASES."""

MEMORY: dict[str, str] = _joined("MEMORY")
"""By class: an expression in losses, graphs, torch, impl and two leaves a, b [n, 64] that must stay linear in n."""

TRACED: dict[str, str] = _joined("TRACED")
"""Cases that torch.compile takes as one graph; for one it does not take, why."""

DEFAULTS: dict[type[nn.Module], dict[str, Any]] = _joined("DEFAULTS")
"""By class: defaults of its constructor, beyond those that all share."""


def losses_of(module: Any) -> set[str]:
    """Public loss classes of a module."""
    public = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    return {name for name in public if issubclass(getattr(module, name), nn.Module)}


def classes_without_a_case(module: Any, cases: dict[str, Case]) -> set[str]:
    """Public loss classes of a module that no row of the table builds."""
    return losses_of(module) - {case.build.__name__ for case in cases.values()}
