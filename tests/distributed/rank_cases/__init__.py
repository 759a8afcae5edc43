"""One row per loss and form: how a model's views become a loss. The battery runs over this table on every rank.

Every module beside this one is a family of losses; what it lists under CASES and RING is joined here. With RANK_CASES
in the environment, only the rows whose names begin with it run: the quick way to work on one loss.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from typing import Any

from torch import nn

from rank_cases.case import LOCAL as LOCAL
from rank_cases.case import PARTITIONS as PARTITIONS
from rank_cases.case import Batch as Batch
from rank_cases.case import Case as Case
from rank_cases.case import Model as Model
from rank_cases.case import N as N
from rank_cases.case import joined_batch as joined_batch
from rank_cases.case import part as part

_FAMILIES = [
    importlib.import_module(f"rank_cases.{name}") for name in sorted(m.name for m in pkgutil.iter_modules(__path__))
]

CASES: dict[str, Case] = {
    name: case
    for family in _FAMILIES
    for name, case in getattr(family, "CASES", {}).items()
    if name.startswith(os.environ.get("RANK_CASES", ""))
}

RING: list[str] = [name for family in _FAMILIES for name in getattr(family, "RING", []) if name in CASES]
"""Rows whose keys may visit, ``gather="ring"``."""


def cases(world: int) -> dict[str, Case]:
    """The rows that so many ranks run: all, and on four, which have to share few cores, one of every loss.

    Rows whose keys may visit run on four ranks too: a ring of two is no ring.
    """
    if world < 4:
        return CASES
    first = {case.build: name for name, case in reversed(CASES.items())}
    return {name: case for name, case in CASES.items() if name in RING or name == first[case.build]}


def ways(name: str) -> list[Any]:
    """The values of ``gather`` that a case is tried with."""
    return [True, "ring"] if name in RING else [True]


def classes_without_a_case(module: Any, cases: dict[str, Case]) -> set[str]:
    """Public loss classes of a module that no row of the table builds."""
    public = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    modules = {name for name in public if issubclass(getattr(module, name), nn.Module)}
    return modules - {case.build.__name__ for case in cases.values()}
