"""The textures of OpenArena from their Debian package, as an image folder."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from kinfolk.data.prepare.clients import Downloads

_PACKAGE = "openarena-081-textures"


def fill_textures(
    folder: Path, downloads: Downloads, *, only: int | None = None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Write every JPEG of the package into the folder of its theme, ``base_wall/metalfloor.jpg``.

    Themes that stand under ``env`` (the six sides of skies) are named ``env-NAME``.

    Raises:
        RuntimeError: when the package does not hold the archive of textures.
    """
    progress(f"textures: fetching the Debian package {_PACKAGE}")
    unpacked = downloads.debian(_PACKAGE)
    archives = sorted(unpacked.rglob("*textures.pk3"))
    if not archives:
        raise RuntimeError(f"the package {_PACKAGE} has no archive *textures.pk3; its layout has changed")
    themes: dict[str, int] = {}
    with zipfile.ZipFile(archives[0]) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.suffix.lower() != ".jpg":
                continue
            theme = "-".join(path.parts[1:-1] if path.parts[0] == "textures" else path.parts[:-1])
            (folder / theme).mkdir(exist_ok=True)
            (folder / theme / path.name).write_bytes(archive.read(name))
            themes[theme] = themes.get(theme, 0) + 1
    licence = (unpacked / "usr/share/doc" / _PACKAGE / "copyright").read_text(encoding="utf-8")
    (folder / "LICENSES.md").write_text(
        "# OpenArena's textures: GPL-2 or later\n\nFetched for use on this machine; who passes them on, or pictures"
        f" that show them, does so under that licence.\n\n```\n{licence}```\n",
        encoding="utf-8",
    )
    return {"packages": [_PACKAGE], "pictures": sum(themes.values()), "themes": len(themes)}
