"""Icons of all permissively licensed sets, drawn at 64x64 and written into tar shards."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from kinfolk.data.optional import import_extra
from kinfolk.data.prepare.clients import Downloads
from kinfolk.data.prepare.icon_sets import PERMISSIVE, Collection, Icon, read_collection
from kinfolk.data.shard_writer import ShardWriter

_PACKAGE, _VERSION = "@iconify/json", "2.2.535"
_SIDE = 64
_CHUNK = 256
_FEW = 4 * _CHUNK
_MOST_PROCESSES = 8


def fill_icons(
    folder: Path, downloads: Downloads, *, only: int | None = None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Draw every icon in black, or its own colours, on white, and write ``train-*.tar``, ``names.json``, licences.

    Left out and counted: what cannot be drawn, what shows nothing (white on white, or an animation's empty start), and
    what is the same picture, pixel by pixel, as one before: sets copy one another, and a copy in the other part of a
    split or as "another hand" would be no test. A sample has `id`, `text` (the name in words), `group` (the concept)
    and `bias_label` (the set), numbers whose names ``names.json`` has, and `label` (the category) where it is known.

    With `only`, that many concepts out of those that at least two sets draw, with all their icons.

    Raises:
        RuntimeError: when the package cannot be had.
        ImportError: without resvg-py or Pillow.
        ValueError: for more concepts than there are.
    """
    import_extra("resvg_py", needed_for="drawing icons", extra="icons")
    progress(f"icons: fetching the npm package {_PACKAGE}")
    tarball = downloads.npm(_PACKAGE, _VERSION)
    progress("icons: reading the sets")
    collection = read_collection(tarball)
    concepts = sorted({icon.concept for icon in collection.icons})
    icons = list(enumerate(collection.icons))
    if only is not None:
        chosen = _some_concepts(collection.icons, only)
        icons = [(i, icon) for i, icon in icons if icon.concept in chosen]
    number = {name: i for i, name in enumerate(concepts)}
    set_number = {name: i for i, name in enumerate(collection.sets)}
    classes = sorted({icon.category for _, icon in icons if icon.category})
    dropped: Counter[str] = Counter()
    seen: set[bytes] = set()
    with ShardWriter(folder, max_samples=10_000, class_names=classes or None, channels=3) as writer:
        drawn = _draw_all([icon.svg(_SIDE) for _, icon in icons])
        for done, ((i, icon), picture) in enumerate(zip(icons, drawn, strict=True)):
            if done % 20_000 == 0:
                progress(f"icons: {done} of {len(icons)} drawn")
            if isinstance(picture, str):
                dropped[picture] += 1
                continue
            digest = hashlib.blake2b(picture, digest_size=16).digest()
            if digest in seen:
                dropped["the same picture as another"] += 1
                continue
            seen.add(digest)
            record = {
                "id": i,
                "text": icon.text,
                "group": number[icon.concept],
                "bias_label": set_number[icon.set_name],
            }
            writer.write(f"{i:06d}", picture, metadata=record | ({"label": icon.category} if icon.category else {}))
        written = writer.samples
    names = {"concepts": concepts, "sets": list(collection.sets)}
    (folder / "names.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
    (folder / "LICENSES.md").write_text(_licences(collection), encoding="utf-8")
    return {
        "packages": [tarball.name],
        "pictures": written,
        "sets": len(collection.sets),
        "dropped": dict(dropped),
        "sets_left_out": collection.left_out,
    }


def draw_icons(svgs: list[str]) -> list[bytes | str]:
    """Draw SVG files on white, as grey or RGB PNG; a picture that cannot be had is the reason in words.

    Example:
        >>> draw_icons([])
        []
    """
    return [_draw(svg) for svg in svgs]


def _draw(svg: str) -> bytes | str:
    resvg = import_extra("resvg_py", needed_for="drawing icons", extra="icons")
    pil = import_extra("PIL.Image", needed_for="writing pictures")
    try:
        # fonts of the machine would make the pictures its own
        png = resvg.svg_to_bytes(svg_string=svg, width=_SIDE, height=_SIDE, background="white", skip_system_fonts=True)
    except (ValueError, RuntimeError, OSError):
        return "cannot be drawn"
    pixels = np.asarray(pil.open(io.BytesIO(bytes(png))).convert("RGB"))
    if pixels.min() == pixels.max():
        return "shows nothing"
    grey = bool((pixels == pixels[..., :1]).all())
    buffer = io.BytesIO()
    pil.fromarray(pixels[..., 0].copy() if grey else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _draw_all(svgs: list[str]) -> Iterator[bytes | str]:
    """Draw in processes where there is much to do; the pictures do not depend on how many there are."""
    processes = min(os.cpu_count() or 1, _MOST_PROCESSES)
    chunks = (svgs[start : start + _CHUNK] for start in range(0, len(svgs), _CHUNK))
    if len(svgs) <= _FEW or processes == 1:
        for chunk in chunks:
            yield from draw_icons(chunk)
        return
    # spawned, since torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for result in _in_order(pool, chunks, ahead=4 * processes):
            yield from result


def _in_order(pool: ProcessPoolExecutor, chunks: Iterable[list[str]], *, ahead: int) -> Iterator[list[bytes | str]]:
    """Results in the order of the chunks, with only some of them under way at a time."""
    waiting = iter(chunks)
    running = [pool.submit(draw_icons, chunk) for chunk in islice(waiting, ahead)]
    while running:
        yield running.pop(0).result()
        running += [pool.submit(draw_icons, chunk) for chunk in islice(waiting, 1)]


def _some_concepts(icons: list[Icon], only: int) -> set[str]:
    sets: dict[str, set[str]] = defaultdict(set)
    for icon in icons:
        sets[icon.concept].add(icon.set_name)
    several = [name for name, drawn_by in sets.items() if len(drawn_by) > 1]
    if only > len(several):
        raise ValueError(f"{len(several)} concepts are drawn by several sets; only={only} asks for more")
    return set(sorted(several, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())[:only])


def _licences(collection: Collection) -> str:
    lines = [
        "# Licences of these icons",
        "",
        f"Only sets under one of {', '.join(sorted(PERMISSIVE))} are here: they ask for notice or attribution at most.",
        "",
        "| set | name | by | licence |",
        "|---|---|---|---|",
    ]
    for prefix, info in collection.sets.items():
        licence = f"[{info['license']['spdx']}]({info['license'].get('url', '')})"
        lines.append(f"| `{prefix}` | {info['name']} | {info.get('author', {}).get('name', '')} | {licence} |")
    lines += ["", "Left out for their licence:", ""]
    for licence, sets in sorted(collection.left_out.items()):
        lines.append(f"- {licence}: {', '.join(f'{name} ({count})' for name, count in sets.items())}")
    return "\n".join(lines) + "\n"
