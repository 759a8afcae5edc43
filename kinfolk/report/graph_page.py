"""The page of an inspected relation: what its targets are like, which temperature to take, whom it relates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from kinfolk.data import Source
from kinfolk.data.graph_inspection import GraphInspection, Sharpness
from kinfolk.data.graph_inspection_text import describe_pair, describe_sharpness
from kinfolk.report.graph_pictures import draw_pairs, draw_perplexities, draw_temperatures
from kinfolk.report.page import Section, figure_html, missing_html, page_html, paragraph_html
from kinfolk.train.files import write_text

_MOST_REPEATED = 20


def write_graph_page(found: GraphInspection, source: Source, out: str | Path) -> Path:
    """Write ``index.html`` and the pictures that it shows.

    Args:
        found: from `kinfolk.data.graph_inspection.inspect_graph`.
        source: that it was made from; the listed pairs' images are read.
        out: folder, made where it is missing; files of the same names are replaced.

    Returns:
        The page's path.

    Example:
        >>> import tempfile
        >>> from kinfolk.data import ClassTableConfig, DigitsConfig
        >>> from kinfolk.data.graph_inspection import inspect_graph
        >>> source = DigitsConfig().load().test
        >>> found = inspect_graph(source, ClassTableConfig(temperature=0.3).build(source), batch_size=64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_graph_page(found, source, folder).name
        'index.html'
    """
    folder = Path(out)
    sections = [_sharpness(found, folder), *_temperature(found, folder), _pairs(found, source, folder)]
    if found.captions is not None:
        sections.append(_captions(found))
    lead = (
        f"Targets from {found.about}, over {found.samples:,} samples, as training with batches of {found.batch_size}"
        f" and {found.views} views would see them."
    )
    page = folder / "index.html"
    write_text(page, page_html(f"Relation on {found.name}", lead, sections))
    return page


def _sharpness(found: GraphInspection, folder: Path) -> Section:
    png = draw_perplexities(found, folder / "perplexities.png")
    said = f"As it is: {describe_sharpness(found.now)}."
    weights = f"Pairs of different samples that do not relate at all: {100 * found.unrelated:.1f} %."
    alt = f"Histogram of perplexities, mean {found.now.perplexity:.3g}."
    caption = (
        "A row pulled to one row alone learns from its own views only; a row pulled to hundreds learns little from any."
    )
    body = paragraph_html(said) + paragraph_html(weights) + figure_html(png, alt=alt, caption=caption)
    return Section("sharpness", "How sharp the targets are", body)


def _temperature(found: GraphInspection, folder: Path) -> Iterable[Section]:
    if not found.curve:
        text = "This relation has no temperature: its samples relate or do not."
        yield Section("temperature", "Which temperature", paragraph_html(text))
        return
    png = draw_temperatures(found, folder / "temperatures.png")
    alt = "Perplexity and own masses against the temperature."
    caption = "Choose by perplexity, and look at what is left on the own sample; the batch size moves both."
    rows = [_suggestion_row(f"{s.perplexity:g}", s.found) for s in found.suggestions if s.found is not None] + [
        _suggestion_row(f"{found.now.perplexity:.3g} (as it is)", found.now)
    ]
    head = ("perplexity", "temperature", "half of the rows below", "own sample", "own class")
    notes = "".join(missing_html(s.why_not) for s in found.suggestions if s.found is None)
    body = table_html(head, rows) + notes + figure_html(png, alt=alt, caption=caption)
    yield Section("temperature", "Which temperature", body)


def _suggestion_row(name: str, found: Sharpness) -> tuple[str, ...]:
    own_class = "–" if found.own_class_mass is None else f"{100 * found.own_class_mass:.0f} %"
    temperature = "–" if found.temperature is None else f"{found.temperature:.4g}"
    return name, temperature, f"{found.median:.3g}", f"{100 * found.own_sample_mass:.0f} %", own_class


def _pairs(found: GraphInspection, source: Source, folder: Path) -> Section:
    title = "Whom it relates"
    if not found.most_related and not found.least_related:
        return Section("pairs", title, missing_html("No two different samples could be compared."))
    if source.channels not in (1, 3, 4) or source.image_size == (1, 1):
        listed = [(describe_pair(pair),) for pair in (*found.most_related, *found.least_related)]
        return Section("pairs", title, table_html(("most related first, then least related",), listed))
    png = draw_pairs(found, source, folder / "pairs.png")
    alt = "; ".join(describe_pair(pair) for pair in found.most_related[:3])
    caption = "Each sample, or caption, stands in one pair at most; pairs with equal captions are left out."
    return Section("pairs", title, figure_html(png, alt=f"Pairs of images. Most related: {alt}", caption=caption))


def _captions(found: GraphInspection) -> Section:
    repeats = found.repeated_captions
    samples = sum(len(ids) for ids in repeats.values())
    said = f"{found.captions:,} distinct captions; {samples:,} samples share theirs with another."
    note = (
        "Samples with one caption relate as strongly as a sample to itself: wanted where they show one thing, wrong"
        " where the caption says too little."
    )
    rows = [
        (caption, str(len(ids)), ", ".join(map(str, ids[:6])) + (", …" if len(ids) > 6 else ""))
        for caption, ids in list(repeats.items())[:_MOST_REPEATED]
    ]
    table = table_html(("caption", "samples", "ids"), rows) if rows else ""
    return Section("captions", "Captions that repeat", paragraph_html(said) + paragraph_html(note) + table)


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain text.

    Example:
        >>> "<td>&lt;b&gt;</td>" in table_html(("a",), [("<b>",)])
        True
    """
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
