"""Fetching the data sets that kinfolk knows by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from kinfolk.data.sources.fashion_mnist import IDX_STEMS, FashionMNISTConfig

PREPARED = ("fashion-mnist",)
_PACKAGE = "dataset-fashion-mnist"
_BY_HAND = "Or place {files} in {out} by hand; they are the data set's original files."


def prepare(name: str, out: str | Path) -> Path:
    """Fetch a data set and convert it to the form that its source reads.

    ``fashion-mnist`` comes as a Debian package, which needs ``apt-get`` and ``dpkg-deb`` but no administrator's
    rights: nothing is installed. The files appear in `out` only when all of them are complete; a folder that holds
        them already is left as it is.

    Args:
        name: one of `PREPARED`.
        out: the folder to fill; made when it is missing.

    Returns:
        The folder.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: when a client is missing or the package cannot be fetched; the message says which, and what to
            do by hand.
    """
    if name not in PREPARED:
        raise ValueError(f"kinfolk prepares {', '.join(PREPARED)}; found {name!r}. The digits need no preparation.")
    out = Path(out)
    if _complete(out):
        return out
    by_hand = _BY_HAND.format(files=", ".join(f"{stem}.gz" for stem in IDX_STEMS), out=out)
    missing = [client for client in ("apt-get", "dpkg-deb") if shutil.which(client) is None]
    if missing:
        raise RuntimeError(f"fetching {name} needs {' and '.join(missing)}, which this machine has not. {by_hand}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".prepare-") as work:
        _fetch_package(Path(work), by_hand)
        _move(Path(work), out)
    return out


def _complete(folder: Path) -> bool:
    """Whether the data set can be read from the folder."""
    try:
        FashionMNISTConfig(root=str(folder)).load()
    except (FileNotFoundError, ValueError):
        return False
    return True


def _fetch_package(work: Path, by_hand: str) -> None:
    # apt drops to a user of its own to download, who must be allowed to write here
    work.chmod(0o755)
    command = ["apt-get", "download", "-o", "APT::Sandbox::User=", _PACKAGE]
    _run(command, work, f"the Debian package {_PACKAGE} could not be fetched", f"Try `apt-get update` first. {by_hand}")
    package = next(work.glob(f"{_PACKAGE}_*.deb"))
    _run(["dpkg-deb", "-x", package.name, "unpacked"], work, f"{package.name} could not be unpacked", by_hand)


def _run(command: list[str], work: Path, failure: str, advice: str) -> None:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"{failure} (`{' '.join(command)}`: {last}). {advice}")


def _move(work: Path, out: Path) -> None:
    """Gather the four files in one folder, check them, and let each appear under its name in one step."""
    gathered = work / "gathered"
    gathered.mkdir()
    for stem in IDX_STEMS:
        for path in (work / "unpacked").rglob(f"{stem}*"):
            shutil.move(path, gathered / path.name)
    FashionMNISTConfig(root=str(gathered)).load()
    if not out.exists():
        os.rename(gathered, out)
        return
    for path in sorted(gathered.iterdir()):
        os.replace(path, out / path.name)
