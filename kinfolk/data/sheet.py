"""A picture of a data set: some samples of its classes on one sheet."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from kinfolk.data.counter import counter_generator
from kinfolk.data.optional import import_extra
from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.sources.decode import UnreadableImage

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

_GAP, _MARGIN = 10, 20
_NAMES_WIDTH = 150
_INK, _FAINT, _WHITE, _ALARM = (25, 25, 25), (120, 120, 120), (255, 255, 255), (200, 60, 50)
_CHECKS = (255, 226)


@dataclass(frozen=True)
class _Row:
    """Samples that stand side by side, and what stands before them."""

    name: str
    note: str
    positions: list[int]


def sample_sheet(
    splits: Splits,
    path: str | Path,
    *,
    part: Literal["train", "test", "probe"] = "train",
    columns: int = 8,
    rows: int = 12,
    tile: int = 128,
    seed: int = 0,
) -> Path:
    """Write one PNG with samples of a data set: a row per class, captions below, transparency on a checkerboard.

    Of more classes than rows some are shown, evenly spread from the most to the least frequent. Without labels the
    sheet is filled with samples drawn at random. An image that cannot be read leaves a marked tile.

    Args:
        splits: the data set.
        path: the file to write.
        part: which part to show.
        columns: samples per row.
        rows: at most so many.
        tile: largest side of a sample's square in pixels; small images are enlarged by whole numbers up to it.
        seed: which samples are drawn.

    Returns:
        The file.

    Raises:
        ValueError: for an empty or missing part, a table, or a size below one.

    Example:
        >>> import tempfile
        >>> from kinfolk.data import DigitsConfig
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sample_sheet(DigitsConfig().load(), f"{folder}/digits.png").name
        'digits.png'
    """
    source = {"train": splits.train, "test": splits.test, "probe": splits.probe}[part]
    if source is None or len(source) == 0:
        raise ValueError(f"{splits.train.name!r} has no samples in the part {part!r}; show another one")
    if min(columns, rows, tile) < 1:
        raise ValueError(f"columns, rows and tile must be at least 1; found {columns}, {rows}, {tile}")
    if source.image_size == (1, 1) and source.read(torch.tensor([0])).is_floating_point():
        raise ValueError(f"{source.name!r} is a table and has no images to show; `inspect_source` counts its features")
    longest = max(source.image_size)
    side = max(longest * (tile // longest), tile // 2) if longest <= tile else tile
    return _write(_draw(source, _choose(source, columns, rows, seed), part, columns, side), Path(path))


def _choose(source: Source, columns: int, rows: int, seed: int) -> list[_Row]:
    order = torch.randperm(len(source), generator=counter_generator(seed))
    labels = None if source.labels is None else source.labels[order]
    if labels is None or not bool((labels >= 0).any()):
        drawn = order[: columns * rows].tolist()
        return [_Row("", "", drawn[start : start + columns]) for start in range(0, len(drawn), columns)]
    counts = labels[labels >= 0].bincount()
    classes = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())]
    if len(classes) > rows:
        classes = classes[torch.linspace(0, len(classes) - 1, rows).round().long()]
    else:
        classes = classes.sort().values
    return [
        _Row(
            str(label) if source.class_names is None else source.class_names[label],
            f"{int(counts[label]):,} sample{'s' * (int(counts[label]) > 1)}",
            order[labels == label][:columns].tolist(),
        )
        for label in classes.tolist()
    ]


def _draw(source: Source, rows: list[_Row], part: str, columns: int, tile: int) -> Image:
    pil = import_extra("PIL.Image", needed_for="a sample sheet")
    draw_on = import_extra("PIL.ImageDraw", needed_for="a sample sheet").Draw
    title, body, small = _font(18), _font(13), _font(11)
    left = _MARGIN + (_NAMES_WIDTH if rows[0].name else 0)
    caption = 2 * 14 + 2 if source.text is not None else 0
    top, height = _MARGIN + 46, tile + caption + _GAP
    size = (left + columns * (tile + _GAP) - _GAP + _MARGIN, top + len(rows) * height - _GAP + _MARGIN)
    sheet = pil.new("RGB", size, _WHITE)
    draw = draw_on(sheet)
    draw.text((_MARGIN, _MARGIN - 4), source.name, font=title, fill=_INK)
    draw.text((_MARGIN, _MARGIN + 20), _about(source, rows, part), font=small, fill=_FAINT)
    for number, row in enumerate(rows):
        y = top + number * height
        if row.name:
            lines = [*_wrapped(row.name, body, _NAMES_WIDTH - _GAP, 3), row.note]
            for line, text in enumerate(lines):
                last = line == len(lines) - 1
                draw.text((_MARGIN, y + 17 * line), text, font=small if last else body, fill=_FAINT if last else _INK)
        for column, position in enumerate(row.positions):
            x = left + column * (tile + _GAP)
            sheet.paste(_tile(source, position, tile), (x, y))
            for line, text in enumerate(_wrapped(source.text[position], small, tile, 2) if source.text else []):
                draw.text((x, y + tile + 2 + 14 * line), text, font=small, fill=_FAINT)
    return sheet


def _about(source: Source, rows: list[_Row], part: str) -> str:
    height, width = source.image_size
    about = f"{part}: {len(source):,} images, {source.channels} x {height} x {width}"
    if not rows[0].name:
        return f"{about}, drawn at random"
    assert source.labels is not None
    classes = len(source.labels[source.labels >= 0].unique())
    shown = "" if len(rows) == classes else f", {len(rows)} of them from the most to the least frequent"
    return f"{about}, {classes} classes{shown}"


def _tile(source: Source, position: int, side: int) -> Image:
    """Bring one sample to a square: by whole numbers where it grows, smoothly where it shrinks."""
    pil = import_extra("PIL.Image", needed_for="a sample sheet")
    square = pil.new("RGB", (side, side), (246, 246, 246))
    try:
        array = source.read(torch.tensor([position]))[0].numpy()
    except UnreadableImage:
        _mark_unreadable(square)
        return square
    image = pil.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0).copy())
    longest = max(image.size)
    if longest <= side:
        image = image.resize([edge * (side // longest) for edge in image.size], pil.Resampling.NEAREST)
    else:
        image.thumbnail((side, side), pil.Resampling.LANCZOS)
    if image.mode == "RGBA":
        image = pil.alpha_composite(_checkerboard(image.size), image)
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _checkerboard(size: tuple[int, int]) -> Image:
    pil = import_extra("PIL.Image", needed_for="a sample sheet")
    across, down = torch.arange(size[0]) // 8, torch.arange(size[1]) // 8
    odd = (down[:, None] + across[None, :]) % 2 == 1
    shade = torch.where(odd, _CHECKS[1], _CHECKS[0]).to(torch.uint8)
    return pil.fromarray(shade.numpy()).convert("RGBA")


def _mark_unreadable(square: Image) -> None:
    draw = import_extra("PIL.ImageDraw", needed_for="a sample sheet").Draw(square)
    side = square.width - 1
    draw.line([(0, 0), (side, side)], fill=_ALARM)
    draw.line([(0, side), (side, 0)], fill=_ALARM)
    draw.rectangle([0, 0, side, side], outline=_ALARM)
    font = _font(11)
    if font.getlength("unreadable") < side:
        middle = (side / 2, side / 2)
        draw.text(middle, "unreadable", font=font, fill=_ALARM, anchor="mm", stroke_width=2, stroke_fill=_WHITE)


def _wrapped(text: str, font: FreeTypeFont, width: int, most: int) -> list[str]:
    """Break a text into at most so many lines of a width in pixels; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < most:
        fits = _longest_fit(rest, font, width)
        if fits < len(rest) and len(lines) == most - 1:
            return [*lines, rest[: _longest_fit(rest, font, width - font.getlength("…"))].rstrip() + "…"]
        space = rest.rfind(" ", 0, fits + 1)
        cut = fits if fits == len(rest) or space <= 0 else space
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return lines


def _longest_fit(text: str, font: FreeTypeFont, width: float) -> int:
    """Count the characters that fit, at least one."""
    low, high = 1, max(len(text), 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _font(size: int) -> Any:
    """Load DejaVu Sans, which matplotlib brings and which knows more scripts than PIL's own."""
    fonts = import_extra("PIL.ImageFont", needed_for="a sample sheet")
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return fonts.truetype(str(file), size)
    return fonts.load_default(size)


def _write(sheet: Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    sheet.save(temporary, format="png")
    os.replace(temporary, path)
    return path
