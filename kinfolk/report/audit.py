"""The page of an audit: pairs that may not belong together, captions that fit each other's images, and the CSV."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from kinfolk.evals.pair_audit import PairAudit, audit_pairs, detection
from kinfolk.evals.towers import Towers, image_rows, text_rows
from kinfolk.report.graph_page import table_html
from kinfolk.report.page import Section, figure_html, missing_html, page_html, paragraph_html
from kinfolk.report.style import MUTED, WIDTH, board, headline, paste, picture, to_rgb
from kinfolk.train.device import resolve_device
from kinfolk.train.files import write_text
from kinfolk.train.runs import load_method

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

    from kinfolk.data.sources import Source

_COLUMNS, _ROWS = 6, 5
_LINE = 0.16  # inches of a line of text below a picture


def write_audit(
    run: str | os.PathLike[str],
    source: Source,
    out: str | Path,
    *,
    neighbours: int = 10,
    most_alike: int = 100,
) -> PairAudit:
    """Look through a source's pairs of image and caption with a trained run, and write what seems wrong.

    Args:
        run: a finished run of a method with a text tower, trained on these pairs or on others.
        source: with captions; where it knows the true ones (`true_text`, as `caption-noise` leaves them), the page says
            how many of the wrong pairs were found.
        out: folder for ``index.html``, ``pairs.csv`` (every pair, most suspicious first), ``alike.csv`` and pictures;
            files of these names are replaced.
        neighbours: images that are asked about a caption.
        most_alike: pairs of captions to list at most.

    Returns:
        What was found, rows in ascending order of id.

    Raises:
        ValueError: for a run without a text tower, a source without captions, or fewer than three pairs; images whose
            caption is empty are left out.
        FileNotFoundError: when there is no such run.
    """
    towers = load_method(run)
    if not isinstance(towers, Towers):
        raise ValueError(
            f"{Path(run)} was trained by {type(towers).__name__}, which has no text tower; audit with a run of CLIP or "
            "SigLIP, such as kinfolk train clip-emoji"
        )
    if source.text is None:
        raise ValueError(f"an audit looks at captions, and source {source.name!r} has none")
    told = torch.tensor([bool(text.strip()) for text in source.text], dtype=torch.bool)
    if int(told.sum()) < 3:
        raise ValueError(f"an audit needs at least three pairs; {source.name!r} has {int(told.sum())} captions")
    if not bool(told.all()):
        source = source.subset(told.nonzero().flatten())
    assert source.text is not None
    assert isinstance(towers, nn.Module)
    device = resolve_device("auto")
    images = image_rows(towers, source, device=device)
    place = {number: i for i, number in enumerate(source.ids.tolist())}
    rows = torch.tensor([place[number] for number in images.ids.tolist()])
    captions = [source.text[i] for i in rows.tolist()]
    distinct = sorted(set(captions))
    number = {caption: i for i, caption in enumerate(distinct)}
    texts = text_rows(towers, distinct, device=device)[torch.tensor([number[caption] for caption in captions])]
    found = audit_pairs(images.rows, texts, captions, neighbours=neighbours, most_alike=most_alike)
    _write(Path(out), Path(run), source, found, images.ids, rows, captions)
    return found


def _write(
    folder: Path,
    run: Path,
    source: Source,
    found: PairAudit,
    ids: Int64[Tensor, " n"],
    rows: Int64[Tensor, " n"],
    captions: Sequence[str],
) -> None:
    truth = cast("list[str] | None", source.columns.get("true_text"))
    true = None if truth is None else [truth[i] for i in rows.tolist()]
    order = found.order.tolist()
    head = ["id", "caption", "suspected", "suspicion", "similarity", "agreement", *([] if true is None else ["true"])]
    write_text(
        folder / "pairs.csv",
        _csv(
            head,
            [
                [
                    int(ids[i]),
                    captions[i],
                    int(found.suspected[i]),
                    f"{float(found.suspicion[i]):.4f}",
                    f"{float(found.similarity[i]):.4f}",
                    f"{float(found.agreement[i]):.4f}",
                    *([] if true is None else [true[i]]),
                ]
                for i in order
            ],
        ),
    )
    alike = found.alike.tolist()
    write_text(
        folder / "alike.csv",
        _csv(
            ["id", "caption", "other id", "other caption"],
            [[int(ids[i]), captions[i], int(ids[j]), captions[j]] for i, j in alike],
        ),
    )
    sections = [_suspects(folder, source, found, rows, captions, true), _fits(folder, source, rows, captions, alike)]
    if true is not None:
        sections.append(_truth(found, captions, true))
    lead = (
        f"{len(captions):,} pairs of {source.name}, by the towers of {run.name}: {int(found.suspected.sum()):,} are "
        f"suspected of not belonging together; about {100 * found.wrong_share:.1f} % are no better than chance "
        f"pairings. {len(alike):,} pairs of captions fit each other's images."
    )
    write_text(folder / "index.html", page_html(f"Audit of {source.name}", lead, sections))


def _suspects(
    folder: Path,
    source: Source,
    found: PairAudit,
    rows: Int64[Tensor, " n"],
    captions: Sequence[str],
    true: Sequence[str] | None,
) -> Section:
    title = "Pairs that may not belong together"
    shown = found.order[: _COLUMNS * _ROWS].tolist()
    lines = [
        [captions[i], *([] if true is None or true[i] == captions[i] else [f"in truth: {true[i]}"])] for i in shown
    ]
    png = _draw(
        folder / "suspects.png",
        source,
        rows[shown],
        lines,
        title="Most suspicious first: does the caption say what the picture shows?",
        note="little similarity between image and caption, and look-alikes whose captions say something else",
    )
    said = (
        "Low similarity of a pair, and captions of look-alike images that say something else, make it suspicious. All "
        "pairs are in pairs.csv, most suspicious first; suspected is what is more probably a chance pairing of "
        "these images and captions than not. A rare or an abstract thing is suspicious too: look before deleting."
    )
    return Section("suspects", title, paragraph_html(said) + figure_html(png, alt=title, caption="Read row by row."))


def _fits(
    folder: Path, source: Source, rows: Int64[Tensor, " n"], captions: Sequence[str], alike: Sequence[Sequence[int]]
) -> Section:
    title = "Captions that fit each other's images"
    if not alike:
        return Section("alike", title, missing_html("No two different captions fit each other's images."))
    shown = [i for pair in alike[: _COLUMNS * _ROWS // 2] for i in pair]
    png = _draw(
        folder / "alike.png",
        source,
        rows[shown],
        [[captions[i]] for i in shown],
        title="Pairs, side by side: each caption fits the other's image as well as its own",
        note="to CLIP each is a wrong answer for the other; a caption share of the target tells it otherwise",
    )
    said = "False negatives of a contrast between images and captions. All are in alike.csv."
    return Section("alike", title, paragraph_html(said) + figure_html(png, alt=title, caption="Two pictures a pair."))


def _truth(found: PairAudit, captions: Sequence[str], true: Sequence[str]) -> Section:
    wrong = torch.tensor([a != b for a, b in zip(captions, true, strict=True)])
    none = torch.zeros_like(found.suspected)
    scores = {
        "this audit": detection(found.suspected, found.suspicion, wrong),
        "similarity alone": detection(none, -found.similarity, wrong),
        "agreement alone": detection(none, -found.agreement, wrong),
    }
    head = ("by", *next(iter(scores.values())))
    table = table_html(head, [(name, *map(_percent, one.values())) for name, one in scores.items()])
    said = f"The source knows the true captions: {int(wrong.sum()):,} of {len(wrong):,} are wrong."
    return Section("truth", "How many wrong pairs were found", paragraph_html(said) + table)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _draw(
    png: Path, source: Source, rows: Int64[Tensor, " k"], lines: Sequence[Sequence[str]], *, title: str, note: str
) -> Path:
    """Pictures in a grid with lines of text below each."""
    pixels = to_rgb(source.fetch(rows)["images"])
    below = max(map(len, lines), default=1)
    height_of_rows = -(-len(rows) // _COLUMNS)
    cell = 0.98 * WIDTH / _COLUMNS
    pitch = 1 + (below * _LINE + 0.06) / cell
    with picture(png, height=0.75 + pitch * cell * height_of_rows) as figure:
        headline(figure, title, note)
        axes = board(figure, columns=_COLUMNS, rows=pitch * height_of_rows, top=0.7)
        for number, image in enumerate(pixels):
            row, column = divmod(number, _COLUMNS)
            paste(axes, image, column + 0.5, row * pitch + 0.5, side=0.86)
            for line, text in enumerate(lines[number]):
                y = row * pitch + 1 + (line + 0.3) * _LINE / cell
                shown = text if len(text) <= 26 else f"{text[:25]}…"
                axes.text(
                    column + 0.5, y, shown, ha="center", va="center", fontsize=7, color=MUTED if line else "black"
                )
    return png


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
