"""Fashion-MNIST from its Debian package."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from kinfolk.data.prepare.clients import Downloads
from kinfolk.data.sources.fashion_mnist import IDX_STEMS, FashionMNISTConfig

_PACKAGE = "dataset-fashion-mnist"


def prepare_fashion_mnist(out: Path) -> Path:
    """Put the four files into a folder, each in one step; what is readable is left as it is.

    Files that a user placed there by hand count, so this folder needs no record of its own.

    Raises:
        RuntimeError: when a client is missing or the package cannot be fetched.
    """
    if _complete(out):
        return out
    files = ", ".join(f"{stem}.gz" for stem in IDX_STEMS)
    by_hand = f"Or place {files} in {out} by hand; they are the data set's original files."
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".prepare-") as work:
        unpacked = Downloads.for_folder(out, work=Path(work)).debian(_PACKAGE, by_hand=by_hand)
        _move(unpacked, Path(work, "gathered"), out)
    return out


def _complete(folder: Path) -> bool:
    """Whether the data set can be read from the folder."""
    try:
        FashionMNISTConfig(root=str(folder)).load()
    except (FileNotFoundError, ValueError):
        return False
    return True


def _move(unpacked: Path, gathered: Path, out: Path) -> None:
    """Gather the four files in one folder, check them, and let each appear under its name in one step."""
    gathered.mkdir()
    for stem in IDX_STEMS:
        for path in unpacked.rglob(f"{stem}*"):
            shutil.move(path, gathered / path.name)
    FashionMNISTConfig(root=str(gathered)).load()
    if not out.exists():
        os.rename(gathered, out)
        return
    for path in sorted(gathered.iterdir()):
        os.replace(path, out / path.name)
