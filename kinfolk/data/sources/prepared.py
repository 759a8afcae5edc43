"""Where prepared data sets lie."""

from __future__ import annotations

import os
from pathlib import Path


def prepared_folder(name: str) -> Path:
    """Find a data set where `kinfolk data prepare` puts it: under ``$KINFOLK_DATA``, or else under ``.data``.

    Raises:
        FileNotFoundError: when it is in neither; the message names both and the command that fetches it.
    """
    roots = [Path(os.environ["KINFOLK_DATA"])] if os.environ.get("KINFOLK_DATA") else []
    candidates = [root / name for root in (*roots, Path(".data"))]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"{name} was not found in {' or '.join(map(str, candidates))}."
        f" Fetch it with `kinfolk data prepare {name}`, or give its folder as root."
    )
