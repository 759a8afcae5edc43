"""A prepared folder: filled beside its place, put there in one step, and left alone when it is complete."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from kinfolk.data.prepare.clients import Downloads

RECORD = "prepared.json"


class Fill(Protocol):
    """Writes a data set into an empty folder and returns what is to be recorded about it."""

    def __call__(
        self, folder: Path, downloads: Downloads, *, only: int | None, progress: Callable[[str], None]
    ) -> dict[str, Any]:
        """Fill the folder."""


def fill_folder(
    out: Path, name: str, fill: Fill, *, only: int | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """Fill a folder with a data set, or leave it when it holds what is asked for.

    Args:
        out: the folder; it appears, or replaces an earlier one, only when all is written.
        name: the data set's name, recorded in ``prepared.json``.
        fill: writes the data set.
        only: how many concepts; where another part than this one is recorded it is prepared anew, and a whole data set
            is never replaced by a part.
        progress: is told what is being done.

    Returns:
        The folder.

    Raises:
        ValueError: when the folder holds something that was not prepared here.
    """
    if out.exists():
        found = _recorded(out)
        if found is None and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} holds something else than {name} (it has no {RECORD}); give another folder")
        if found is not None and found["name"] != name:
            raise ValueError(f"{out} holds {found['name']}, not {name}; give another folder")
        if found is not None and found["only"] in (None, only):
            return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".prepare-") as work:
        gathered = Path(work, "gathered")
        gathered.mkdir()
        downloads = Downloads.for_folder(out, work=Path(work))
        facts = fill(gathered, downloads, only=only, progress=progress or _silent)
        record = {"name": name, "only": only, **facts}
        (gathered / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            os.rename(out, Path(work, "earlier"))
        os.rename(gathered, out)
    return out


def _recorded(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"name", "only"} <= set(record) else None


def _silent(line: str) -> None:
    pass
