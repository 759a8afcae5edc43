"""Fetching the data sets that kinfolk knows by name, and bringing them into the form that its sources read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kinfolk.data.prepare.emoji import fill_emoji
from kinfolk.data.prepare.fashion_mnist import prepare_fashion_mnist
from kinfolk.data.prepare.folder import Fill, fill_folder
from kinfolk.data.prepare.icons import fill_icons
from kinfolk.data.prepare.textures import fill_textures
from kinfolk.data.prepare.wordnet import fill_wordnet

_FILLS: dict[str, Fill] = {
    "emoji": fill_emoji,
    "icons": fill_icons,
    "textures": fill_textures,
    "wordnet": fill_wordnet,
}
_SLICED = ("emoji", "icons")
PREPARED = ("fashion-mnist", *_FILLS)


def prepare(
    name: str, out: str | Path, *, only: int | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """Fetch a data set and convert it to the form that its source reads.

    =============== =============== =================================================================================
    `fashion-mnist` Debian package  the four IDX files that `FashionMNISTConfig` reads
    `emoji`         npm packages    pictures of 64x64 by three hands and ``metadata.jsonl``, for `EmojiConfig`
    `icons`         npm package     tar shards of 64x64 pictures from all sets under a permissive licence, for
                                    `IconsConfig`
    `textures`      Debian package  an image folder, one class per folder
    `wordnet`       Debian package  ``data.noun`` and ``index.noun``, the hierarchy of nouns
    =============== =============== =================================================================================

    Packages come through their ordinary clients, ``npm pack`` and ``apt-get download``, which install nothing and need
    no administrator's rights. A package file that lies in ``$KINFOLK_DOWNLOADS`` or beside `out` is used instead,
    so that this works without a network; where the variable is set, fetched files are kept there. The folder appears
    only when it is complete, and one that holds the data set already is left as it is. ``LICENSES.md`` in the folder
    says what its content may be used for.

    Args:
        name: one of `PREPARED`.
        out: the folder to fill; made when it is missing.
        only: how many concepts, a seeded choice with every picture of each, instead of all; for `emoji` and `icons`.
            A folder that holds the whole set is left as it is.
        progress: is told in a line what is being done, now and then; for example `print`.

    Returns:
        The folder.

    Raises:
        ValueError: for an unknown name, an `only` that cannot be, or a folder that holds something else.
        RuntimeError: when a client is missing or a package cannot be fetched; the message says which, and what to do
            by hand.
        ImportError: when pictures must be drawn and no renderer is installed.
    """
    if name not in PREPARED:
        raise ValueError(f"kinfolk prepares {', '.join(PREPARED)}; found {name!r}. The digits need no preparation.")
    if only is not None and name not in _SLICED:
        raise ValueError(f"only a part of {' or '.join(_SLICED)} can be prepared; {name} comes whole")
    if only is not None and only < 1:
        raise ValueError(f"only must be a number of concepts, at least 1; found {only}")
    if name == "fashion-mnist":
        return prepare_fashion_mnist(Path(out))
    return fill_folder(Path(out), name, _FILLS[name], only=only, progress=progress)
