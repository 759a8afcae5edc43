"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return a folder of ``$KINFOLK_CACHE``, or of ``~/.cache/kinfolk``; it may not be there yet.

    Args:
        name: what it is for: `images` (decoded) or `text` (encoded captions).

    Example:
        >>> cache_folder("text").name
        'text'
    """
    root = os.environ.get("KINFOLK_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "kinfolk") / name
