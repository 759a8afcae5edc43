"""Imports of optional packages that say what to install when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_extra(module: str, *, needed_for: str, extra: str = "train") -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        module: the module's import name, for example ``"PIL.Image"``.
        needed_for: what it is needed for, in words, for the message.
        extra: kinfolk's extra that installs it.

    Raises:
        ImportError: when the package is missing; the message is the command that installs it.

    Example:
        >>> import_extra("json", needed_for="this example").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{needed_for} needs {module.partition(".")[0]}, which is not installed: pip install "kinfolk[{extra}]"'
        ) from error
