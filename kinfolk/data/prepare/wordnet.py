"""WordNet's nouns from its Debian package."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kinfolk.data.prepare.clients import Downloads

WORDNET_FILES = ("data.noun", "index.noun", "noun.exc")
_PACKAGE = "wordnet-base"


def fill_wordnet(
    folder: Path, downloads: Downloads, *, only: int | None = None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Write ``data.noun`` (the synsets and their hypernyms), ``index.noun`` and ``noun.exc`` (irregular plurals).

    Reference: Fellbaum (ed.) (1998), WordNet: an electronic lexical database.
    """
    progress(f"wordnet: fetching the Debian package {_PACKAGE}")
    unpacked = downloads.debian(_PACKAGE)
    for name in WORDNET_FILES:
        shutil.copyfile(unpacked / "usr/share/wordnet" / name, folder / name)
    licence = (unpacked / "usr/share/doc" / _PACKAGE / "copyright").read_text(encoding="utf-8")
    (folder / "LICENSES.md").write_text(f"# WordNet 3.0, the package's own statement\n\n```\n{licence}```\n", "utf-8")
    return {"packages": [_PACKAGE], "files": list(WORDNET_FILES)}
