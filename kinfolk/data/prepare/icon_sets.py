"""What iconify's collection says about its icons: licence, set, concept, name in words, category."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinfolk.data.prepare.clients import tar_members

PERMISSIVE = frozenset(
    (
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "Unlicense",
    )
)
"""Licences that ask for no more than notice or attribution. Whatever else a set says is left out: non-commercial
(NC), copyleft (GPL, LGPL, AGPL, MPL), share-alike (SA, OFL), and nothing at all."""

_TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_STYLES: tuple[str, ...] = (
    "outline",
    "outlined",
    "filled",
    "fill",
    "solid",
    "line",
    "duotone",
    "twotone",
    "rounded",
    "sharp",
)
_STYLES = (*_STYLES, *(f"{tone}-skin-tone" for tone in _TONES))
_LEAST_SETS = 3


@dataclass(frozen=True)
class Icon:
    """One drawing of the collection.

    Attributes:
        set_name: iconify's prefix of the set.
        name: within the set.
        concept: the name without words for a style.
        category: in words, or None.
        body: the SVG file's inner part.
        box: left, top, width, height of the view box.
    """

    set_name: str
    name: str
    concept: str
    category: str | None
    body: str
    box: tuple[float, float, float, float]

    @property
    def text(self) -> str:
        """The name in words."""
        return self.name.replace("-", " ")

    @property
    def order(self) -> bytes:
        """A hash by which icons are shuffled: neighbours in a shard come from different sets."""
        return hashlib.blake2b(f"{self.set_name}:{self.name}".encode(), digest_size=8).digest()

    def svg(self, side: int) -> str:
        """The whole SVG file, black where the icon takes the text's colour."""
        box = " ".join(f"{value:g}" for value in self.box)
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="black"'
            f' width="{side}" height="{side}" viewBox="{box}">{self.body}</svg>'
        )


@dataclass(frozen=True)
class Collection:
    """The icons of all sets under a permissive licence.

    Attributes:
        icons: ordered by `Icon.order`, which says nothing about what they show.
        sets: what the collection says about each set whose icons are here, by prefix, in alphabetical order.
        left_out: sets under other licences and their number of icons, by licence.
    """

    icons: list[Icon]
    sets: dict[str, dict[str, Any]]
    left_out: dict[str, dict[str, int]]


def read_collection(tarball: Path) -> Collection:
    """Read the sets under a permissive licence; aliases and icons marked as hidden (withdrawn ones) are passed over.

    Raises:
        RuntimeError: when the tarball is damaged or holds no such set.
    """
    icons: list[Icon] = []
    allowed: dict[str, dict[str, Any]] = {}
    left_out: dict[str, dict[str, int]] = defaultdict(dict)
    for name, content in tar_members(tarball, under="json/"):
        prefix, known = Path(name).stem, json.loads(content)
        info = known.get("info", {})
        licence = str(info.get("license", {}).get("spdx") or "unknown")
        if licence in PERMISSIVE:
            allowed[prefix] = info
            icons += _read_set(prefix, known)
        else:
            left_out[licence][prefix] = len(known["icons"])
    if not icons:
        raise RuntimeError(f"{tarball} has no set under a permissive licence; is it the package @iconify/json?")
    icons = _with_shared_categories(sorted(icons, key=lambda icon: icon.order))
    return Collection(icons, dict(sorted(allowed.items())), {name: dict(sets) for name, sets in left_out.items()})


def concept_of(name: str, *, prefixes: Sequence[str] = (), suffixes: Sequence[str] = ()) -> str:
    """Take the words for a style off a name: those that its set lists, and the usual ones at the end.

    Example:
        >>> concept_of("arrow-left-24-filled", suffixes=["24-filled"]), concept_of("heart-outline"), concept_of("line")
        ('arrow-left', 'heart', 'line')
    """
    for prefix in sorted(prefixes, key=len, reverse=True):
        if prefix and name.startswith(f"{prefix}-"):
            name = name.removeprefix(f"{prefix}-")
            break
    endings = sorted({ending for ending in (*suffixes, *_STYLES) if ending}, key=lambda e: (-len(e), e))
    while (ending := next((e for e in endings if name.endswith(f"-{e}")), None)) is not None:
        name = name.removesuffix(f"-{ending}")
    return name


def _read_set(prefix: str, content: dict[str, Any]) -> Iterator[Icon]:
    categories: dict[str, str] = {}
    for category, names in content.get("categories", {}).items():
        for name in names:
            categories.setdefault(name, _words(category))
    prefixes, suffixes = (list(content.get(kind) or ()) for kind in ("prefixes", "suffixes"))
    for name, icon in content["icons"].items():
        if icon.get("hidden"):
            continue
        left, top, width, height = (
            float(icon.get(key, content.get(key, default)))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        concept = concept_of(name, prefixes=prefixes, suffixes=suffixes)
        yield Icon(prefix, name, concept, categories.get(name) or None, icon["body"], (left, top, width, height))


def _words(category: str) -> str:
    """``"ComputerDevices"`` and ``"Computer & Devices"`` as ``"computer devices"``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category).lower().replace(" and ", " ")
    return " ".join(re.findall(r"[a-z0-9]+", spaced))


def _with_shared_categories(icons: list[Icon]) -> list[Icon]:
    """Keep categories that several sets have under one name; the others say more about the set than the icon."""
    used = {(icon.category, icon.set_name) for icon in icons if icon.category}
    sets = Counter(category for category, _ in used)
    return [
        icon
        if icon.category is None or sets[icon.category] >= _LEAST_SETS
        else Icon(icon.set_name, icon.name, icon.concept, None, icon.body, icon.box)
        for icon in icons
    ]
