"""Contrastive representation learning with a similarity graph as the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinfolk.train import fit, load_config, load_encoder

    __version__: str

__all__ = ["__version__", "fit", "load_config", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Import the trainer only when it is asked for: the losses need nothing but torch and NumPy."""
    if name == "__version__":
        return _version()
    if name in ("fit", "load_config", "load_encoder"):
        try:
            from kinfolk import train
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("kinfolk"):
                raise
            raise ImportError(
                f'kinfolk.{name} needs {error.name}, which is not installed: pip install "kinfolk[train]"'
            ) from error
        return getattr(train, name)
    raise AttributeError(f"module 'kinfolk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("kinfolk")
    except PackageNotFoundError:
        return "unknown (not installed)"
