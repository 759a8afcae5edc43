"""Emoji drawn by three hands, from npm packages: pictures of 64x64 and what is known about each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinfolk.data.counter import counter_generator
from kinfolk.data.optional import import_extra
from kinfolk.data.prepare.clients import Downloads, tar_members
from kinfolk.data.sources.decode import read_image
from kinfolk.data.sources.emoji import EMOJI_HANDS
from kinfolk.data.sources.hold_out import image_digests

_SIZE = (64, 64)
_VERSIONS = {
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
    "openmoji": "17.0.0",
    "emojilib": "4.0.3",
}
_SLICE_SEED = 16
_LICENCES = """# Licences of these pictures

| folder | drawn by | licence | what it asks |
|---|---|---|---|
| `google` | Google, Noto Emoji | Apache-2.0 | keep the notice |
| `twitter` | Twitter and contributors, Twemoji | CC-BY-4.0 | name the authors |
| `openmoji` | OpenMoji, HfG Schwäbisch Gmünd | CC-BY-SA-4.0 | name the authors; adaptations carry this licence |

The pictures of the first two come from `emoji-datasource` (MIT), the third are drawn here from the project's SVG files.
Names are the annotations of OpenMoji's table, keywords come from `emojilib` (MIT).
"""


@dataclass(frozen=True)
class _Picture:
    """One emoji, or one skin tone of it, before it is written for every hand."""

    concept: str
    code: str
    file_name: str
    skin_tone: str
    text: str
    keywords: list[str]
    category: str
    subcategory: str


def fill_emoji(
    folder: Path, downloads: Downloads, *, only: int | None = None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Write ``HAND/CODE.png`` and one record a line in ``metadata.jsonl``.

    A record has `file_name`, `text` (the name in words, without the skin tone), `keywords`, `category`,
    `subcategory`, `hand`, `concept` (the base emoji: skin tones belong to theirs), `skin_tone` (code points of one or
    two persons, empty = as drawn by default) and `pixels` (a hash: some flags are drawn alike). The order is that of
    the emoji table, then skin tones, then hands.

    Raises:
        RuntimeError: when a package cannot be had.
        ImportError: without resvg-py, which draws the third hand's SVG files.
        ValueError: for more concepts than there are.
    """
    draw = import_extra("resvg_py", needed_for="drawing OpenMoji's SVG files", extra="icons").svg_to_bytes
    tarballs = {}
    for package, version in _VERSIONS.items():
        progress(f"emoji: fetching the npm package {package}")
        tarballs[package] = downloads.npm(package, version)
    read: dict[str, bytes] = {}
    for hand in EMOJI_HANDS[:2]:
        progress(f"emoji: reading {hand}'s pictures")
        for name, data in tar_members(tarballs[f"emoji-datasource-{hand}"], under=f"emoji.json img/{hand}/64/"):
            read[name.replace("img/", "").replace("/64/", "/")] = data
    read.update(tar_members(tarballs["openmoji"], under="color/svg/ data/openmoji.csv"))
    read.update(tar_members(tarballs["emojilib"], under="dist/emoji-en-US.json"))
    pictures = list(_pictures(read, only))
    svgs = {_plain(Path(name).stem): name for name in read if name.startswith("color/svg/")}
    lines = []
    progress(f"emoji: writing {len(pictures)} emoji by {len(EMOJI_HANDS)} hands")
    for hand in EMOJI_HANDS:
        (folder / hand).mkdir()
    for picture in pictures:
        for hand in EMOJI_HANDS:
            if hand != "openmoji":
                content: bytes | None = read.get(f"{hand}/{picture.file_name}")
            elif (svg := svgs.get(_plain(picture.code))) is not None:
                content = bytes(draw(svg_string=read[svg].decode(), width=_SIZE[1], height=_SIZE[0]))
            else:
                content = None
            if content:
                (folder / hand / picture.file_name).write_bytes(content)
                lines.append(json.dumps(_record(picture, hand, content), ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "LICENSES.md").write_text(_LICENCES, encoding="utf-8")
    concepts = len({picture.concept for picture in pictures})
    return {"packages": sorted(path.name for path in tarballs.values()), "pictures": len(lines), "concepts": concepts}


def _pictures(read: dict[str, bytes], only: int | None) -> Iterator[_Picture]:
    """Every emoji of the table and its skin tones; of a seeded choice of base emoji where `only` is given."""
    table = json.loads(read["emoji.json"])
    if only is not None:
        if only > len(table):
            raise ValueError(f"there are {len(table)} emoji; only={only} asks for more")
        chosen = torch.randperm(len(table), generator=counter_generator(_SLICE_SEED))[:only].sort().values.tolist()
        table = [table[i] for i in chosen]
    rows = csv.DictReader(io.StringIO(read["data/openmoji.csv"].decode()))
    names = {_plain(row["hexcode"]): row["annotation"] for row in rows}
    emojilib = json.loads(read["dist/emoji-en-US.json"]).items()
    keywords = {_plain("-".join(f"{ord(sign):X}" for sign in emoji)): words for emoji, words in emojilib}
    for entry in table:
        code = _plain(entry["unified"])
        text = names.get(code, entry["name"].lower())
        words = dict.fromkeys(word.replace("_", " ").strip() for word in keywords.get(code, ()))
        for tone, form in {"": entry, **entry.get("skin_variations", {})}.items():
            yield _Picture(
                concept=entry["short_name"],
                code=form["unified"],
                file_name=form["image"],
                skin_tone=tone,
                text=text,
                keywords=[word for word in words if word and word.casefold() != text.casefold()],
                category=entry["category"],
                subcategory=entry["subcategory"],
            )


def _record(picture: _Picture, hand: str, content: bytes) -> dict[str, Any]:
    return {
        "file_name": f"{hand}/{picture.file_name}",
        "text": picture.text,
        "keywords": picture.keywords,
        "category": picture.category,
        "subcategory": picture.subcategory,
        "hand": hand,
        "concept": picture.concept,
        "skin_tone": picture.skin_tone,
        "pixels": image_digests(read_image(content, channels=4, size=_SIZE, where=picture.file_name)[None])[0].hex(),
    }


def _plain(code: str) -> str:
    """A sequence of code points without the selector of the emoji presentation, which the packages write or omit."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F").removeprefix("00")
