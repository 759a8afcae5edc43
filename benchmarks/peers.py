"""Losses of other libraries, loaded from what is installed or from a folder of packages, and why one is missing.

lightly and open_clip import torchvision in their ``__init__``, which does not exist for every build of torch. Their
loss files do not need it, so these are loaded from the installed package without running its ``__init__``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path


class AbsentError(Exception):
    """A library that cannot be measured here, and why."""


def metric_learning(folder: Path | None) -> types.ModuleType:
    """Return ``pytorch_metric_learning.losses``."""
    return _installed("pytorch_metric_learning.losses", "pip install pytorch-metric-learning", folder)


def metric_learning_distributed(folder: Path | None) -> types.ModuleType:
    """Return ``pytorch_metric_learning.utils.distributed``."""
    return _installed("pytorch_metric_learning.utils.distributed", "pip install pytorch-metric-learning", folder)


def open_clip(folder: Path | None) -> types.ModuleType:
    """Return ``open_clip.loss``, loaded alone."""
    return _alone("open_clip.loss", bare=("open_clip",), folder=folder)


def lightly(folder: Path | None, module: str = "ntx_ent_loss") -> types.ModuleType:
    """Return a module of ``lightly.loss``, loaded alone.

    ``lightly.models.utils``, of which it needs nothing without a memory bank, imports torchvision: an empty module
    stands in for it.
    """
    parents = ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.utils")
    return _alone(f"lightly.loss.{module}", bare=parents, empty=("lightly.models.utils",), folder=folder)


def inf_cl(folder: Path | None) -> types.ModuleType:
    """Return ``inf_cl`` (needs triton and a GPU)."""
    return _installed("inf_cl", "pip install --no-deps inf-cl", folder)


def albumentations(folder: Path | None) -> types.ModuleType:
    """Return ``albumentations`` as the distribution AlbumentationsX ships it."""
    packages = "albumentationsx albucore numkong stringzilla opencv-python-headless"
    return _installed(
        "albumentations", f"pip install --no-deps --target FOLDER {packages}, then --peers FOLDER", folder
    )


def version(distribution: str, folder: Path | None) -> str:
    """Return the version of an installed distribution, or an empty string."""
    found = importlib.metadata.distributions(name=distribution, path=_search_path(folder))
    return next((d.version for d in found), "")


def _search_path(folder: Path | None) -> list[str]:
    return [*([str(folder)] if folder else []), *sys.path]


def _installed(module: str, how: str, folder: Path | None) -> types.ModuleType:
    if folder and str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AbsentError(f"{error}; {how}") from error


def _alone(module: str, *, bare: Sequence[str], folder: Path | None, empty: Sequence[str] = ()) -> types.ModuleType:
    """Import a module of a package whose parents' ``__init__`` must not run."""
    if module in sys.modules:
        return sys.modules[module]
    package = module.split(".")[0]
    spec = PathFinder.find_spec(package, _search_path(folder))
    if spec is None or not spec.submodule_search_locations:
        raise AbsentError(f"{package} is not installed; pip install --no-deps --target FOLDER, then --peers FOLDER")
    root = Path(next(iter(spec.submodule_search_locations))).parent
    for name in (*bare, *empty):
        if name in sys.modules:
            continue
        stub = types.ModuleType(name)
        if name in bare:
            stub.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = stub
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, stub)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AbsentError(f"{module} cannot be loaded alone: {error}") from error
