"""The report's HTML: one self-contained page, legible in light, dark and print, without a script.

Functions whose names end in `_html` take plain text, escape it, and return markup; nothing else makes markup.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from kinfolk.report.table import Row, encoders_in, labels_used


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Args:
        anchor: its id, for the table of contents.
        title: its heading, plain text.
        body: its markup, made by this module's functions.
    """

    anchor: str
    title: str
    body: str


def page_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the whole page: title, lead sentence, table of contents, sections.

    Example:
        >>> page = page_html("A & B", "A run.", [Section("curves", "Curves", paragraph_html("x < y"))])
        >>> "<h1>A &amp; B</h1>" in page, "<p>x &lt; y</p>" in page
        (True, True)
    """
    contents = "".join(f'<li><a href="#{escape(s.anchor)}">{escape(s.title)}</a></li>' for s in sections)
    body = "\n".join(
        f'<section id="{escape(s.anchor)}" aria-labelledby="{escape(s.anchor)}-title">\n'
        f'<h2 id="{escape(s.anchor)}-title">{escape(s.title)}</h2>\n{s.body}\n</section>'
        for s in sections
    )
    return _TEMPLATE.format(title=escape(title), style=_STYLE, lead=escape(lead), contents=contents, body=body)


def paragraph_html(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def missing_html(text: str) -> str:
    """Return a paragraph that says what a section lacks and how to get it."""
    return f'<p class="missing">{escape(text)}</p>'


def figure_html(png: Path, *, alt: str, caption: str) -> str:
    """Return a picture with its bytes inlined.

    Args:
        png: the file.
        alt: what it shows, in words, for those who do not see it.
        caption: what a reader should look at.
    """
    data = base64.b64encode(png.read_bytes()).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
    return f"<figure>{image}<figcaption>{escape(caption)} <span>({escape(png.name)})</span></figcaption></figure>"


def settings_html(settings: Mapping[str, Any]) -> str:
    """Return a two-column table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(k))}</th><td>{escape(str(v))}</td></tr>' for k, v in settings.items()
    )
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def details_html(summary: str, text: str) -> str:
    """Return a block of preformatted text that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def evaluation_html(rows: Sequence[Row]) -> str:
    """Return the evaluation as a table: protocols down, encoders across, the best of a row in bold with a star."""
    encoders = encoders_in(rows)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in encoders)
    used = "".join(f"<td>{escape(labels_used(rows, name))}</td>" for name in encoders)
    body = "".join(_row_html(row, encoders) for row in rows)
    return (
        f'<div class="wide"><table class="evaluation"><caption>{_TABLE_CAPTION}</caption>'
        f'<thead><tr><th scope="col">protocol</th><th scope="col">metric</th>{head}</tr>'
        f'<tr class="used"><th scope="row" colspan="2">labels that pretraining used</th>{used}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


_TABLE_CAPTION = (
    "★ best of its row. ↑ higher is better, ↓ lower is better; rows without an arrow are diagnostics. "
    "± is half the 95 % interval of the mean over seeded draws; where intervals overlap, the order may be chance."
)


def _row_html(row: Row, encoders: Iterable[str]) -> str:
    arrow = {"higher": " ↑", "lower": " ↓"}.get(row.better or "", "")
    cells = "".join(_cell_html(row.records.get(name), best=name in row.best) for name in encoders)
    return f'<tr><th scope="row">{escape(row.protocol)}</th><td>{escape(row.metric)}{arrow}</td>{cells}</tr>'


def _cell_html(record: Mapping[str, Any] | None, *, best: bool) -> str:
    if record is None:
        return "<td>–</td>"
    value, low, high = record["value"], record.get("low"), record.get("high")
    text = "–" if value is None else f"{value:.3f}"
    spread = "" if low is None or high is None else f" <small>± {(high - low) / 2:.3f}</small>"
    return f'<td class="best"><strong>{text} ★</strong>{spread}</td>' if best else f"<td>{text}{spread}</td>"


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
</header>
<main>
{body}
</main>
<footer><p>Written by kinfolk. The pictures lie beside this page as PNG files.</p></footer>
</body>
</html>
"""

_STYLE = """
:root { --ground: #fdfdfc; --ink: #1f2328; --quiet: #5f6368; --line: #d9dce0; --soft: #f1f3f4; --accent: #0b5394; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #17191c; --ink: #e4e6e8; --quiet: #a6abb1; --line: #3a3f45; --soft: #22262a; --accent: #8ab8ec; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1rem 4rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; }
a { color: var(--accent); }
.lead { font-size: 1.08rem; }
nav ol { columns: 2 18rem; padding-left: 1.4rem; }
figure { margin: 1rem 0; }
img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: 6px; }
figcaption, caption, footer, .used { color: var(--quiet); font-size: .875rem; }
figcaption { margin-top: .4rem; max-width: 46rem; }
figcaption span { white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; }
th, td { text-align: left; padding: .28rem .9rem .28rem .4rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.evaluation { width: 100%; }
.evaluation thead th { border-bottom-width: 2px; }
.evaluation .best { background: var(--soft); }
.settings th { font-weight: 600; white-space: nowrap; }
.settings td { overflow-wrap: anywhere; }
.used th, .used td { font-weight: 400; }
small { color: var(--quiet); white-space: nowrap; }
.missing { border-left: 3px solid #d55e00; padding-left: .8rem; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; border-radius: 6px;
  font-size: .8rem; line-height: 1.4; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3rem; }
@media print {
  :root { --ground: #fff; --ink: #000; --quiet: #444; --line: #bbb; --soft: #f4f4f4; --accent: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
