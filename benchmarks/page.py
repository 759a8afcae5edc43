"""From CSV files to the documentation: a fragment between two markers of a page, and a plot beside it.

No figure on those pages is typed by hand: ``python -m benchmarks docs FILE.csv ...`` writes them all.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.contenders import COMPILED, OURS, YARDSTICK
from benchmarks.losses import FLOOR
from benchmarks.probe import OK
from benchmarks.scaling import exponent
from benchmarks.table import number, read

Rows = list[dict[str, str]]

OWN_FORMS = (OURS, YARDSTICK, "dense", COMPILED, "SupContrast style", FLOOR)
"""Contenders that are not somebody else's package."""


def publish(csv: Path, docs: Path) -> Path:
    """Copy a table into the docs, draw it and rewrite its fragment; return the page."""
    rows = read(csv)
    if not rows:
        raise ValueError(f"{csv} has no rows: the benchmark stopped before its first result.")
    kind = kind_of(rows)
    name = kind if kind == "gradients" else f"{kind}-{'cpu' if rows[0]['device'] == 'cpu' else 'gpu'}"
    folder = docs / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    if csv.resolve() != (folder / f"{name}.csv").resolve():
        shutil.copyfile(csv, folder / f"{name}.csv")
    picture = plots.draw(kind, rows, folder / f"{name}.png")
    text = FRAGMENTS[kind](rows) + f"\nAll columns: [{name}.csv](benchmarks/{name}.csv).\n"
    if picture:
        text += f"\n![{name}](benchmarks/{name}.png)\n"
    page = docs / ("distributed.md" if kind == "gradients" else "benchmarks.md")
    page.write_text(between(page.read_text(), name, text))
    return page


def kind_of(rows: Rows) -> str:
    """Say which benchmark wrote a table, by a column that only it has."""
    marks = {
        "library": "gradients",
        "time / floor": "losses",
        "time / fused": "attention",
        "gigaflops / second": "scaling",
        "images / second": "data",
        "pairs / second": "towers",
    }
    found = [kind for column, kind in marks.items() if column in rows[0]]
    if len(found) != 1:
        raise ValueError(f"not a table of these benchmarks; its columns are {', '.join(rows[0])}.")
    return found[0]


def between(page: str, name: str, text: str) -> str:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        ValueError: unless both markers occur once, in this order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(start) != 1 or page.count(end) != 1 or page.index(start) > page.index(end):
        raise ValueError(f"the page needs {start} and then {end}, once each.")
    before, rest = page.split(start)
    return f"{before}{start}\n{text}{end}{rest.split(end)[1]}"


def losses(rows: Rows) -> str:
    """Headline ratios at the largest size of every d, then times and memory of everyone."""
    parts = [_machine(rows)]
    for d in _unique(rows, "d"):
        part = [row for row in rows if row["d"] == d]
        parts.append(_headline(part, max(map(int, _unique(part, "rows"))), d))
        parts.append(_everyone(part, d))
    return "\n".join(parts)


def scaling(rows: Rows) -> str:
    """Time and memory per size, and the exponent of memory."""
    names = _unique(rows, "contender")
    header = ["rows", *(f"{name} {what}" for name in names for what in ("ms", "MB"))]
    body = []
    for size in _unique(rows, "rows"):
        line = [f"{int(size):,}"]
        for name in names:
            row = next((r for r in rows if r["rows"] == size and r["contender"] == name), None)
            line += [_figure(row, "milliseconds"), _figure(row, "peak megabytes")]
        body.append(line)
    fits = []
    for name in names:
        points = [
            (float(r["rows"]), float(r["peak megabytes"]))
            for r in rows
            if r["contender"] == name and number(r["peak megabytes"])
        ]
        if len(points) > 1:
            fits.append(
                f"{name}: memory grows as rows^{exponent(points):.2f} over its last {min(4, len(points))} sizes."
            )
    notes = [f"- {r['contender']}, {int(r['rows']):,} rows: {r['status']}" for r in rows if r["status"] != OK]
    return "\n".join([_machine(rows), _table(header, body), *fits, "", *notes, ""])


def attention(rows: Rows) -> str:
    """Time, memory and agreement of every way."""
    header = ["anchors x keys, d, e", "way", "ms", "MB", "/ fused", "gradient cosine - 1", "status"]
    body = []
    for row in rows:
        cosine = number(row["gradient cosine"])
        size = f"{int(row['rows']):,} x {int(row['keys']):,}, {row['d']}, {row['e']}"
        figures = [_figure(row, c) for c in ("milliseconds", "peak megabytes", "time / fused")]
        off = "" if cosine is None else f"{cosine - 1:.0e}"
        body.append([size, row["contender"], *figures, off, row["status"]])
    return "\n".join([_machine(rows), _table(header, body)])


def gradients(rows: Rows) -> str:
    """One line a scheme: ratio / cosine on 2 and 4 processes, then what unequal and empty batches do."""
    header = ["loss", "library, form", "2 ranks", "4 ranks", "temperature, 4 ranks", "unequal", "one rank empty"]
    body, failures = [], []
    for loss, library, form in dict.fromkeys((r["loss"], r["library"], r["form"]) for r in rows):
        mine = [r for r in rows if (r["loss"], r["library"], r["form"]) == (loss, library, form)]
        who = " ".join(filter(None, [library, mine[0]["version"]])) + (f", {form}" if form else "")
        cells = [_agreement(mine, "equal", ("2",)), _agreement(mine, "equal", ("4",)), _temperature(mine)]
        cells += [_agreement(mine, batch, ("2", "4")) for batch in ("unequal", "one rank empty")]
        body.append([loss, who, *cells])
        happened = dict.fromkeys(row["status"].split(": ", 1)[-1] for row in mine if row["status"] != OK)
        if happened:
            failures.append(f"- {loss}, {who}: {'; '.join(f'`{text}`' for text in happened)}")
    text = ["Gradient ratio / cosine; **exact** stands for a relative error below 1e-10.", "", _table(header, body)]
    return "\n".join([*text, *(["What happened where a cell says so:", "", *failures, ""] if failures else [])])


def data(rows: Rows) -> str:
    """Per set of images: the ratios that count, then the rates of everyone and the shares of a step."""
    parts = [_machine(rows)]
    for name in _unique(rows, "set"):
        mine = [row for row in rows if row["set"] == name]
        first = mine[0]
        parts.append(f"**{first['images']}**, {int(first['count']):,} files, batches of {first['batch']}.\n")
        body = []
        for part in _unique([row for row in mine if row["speed / one at a time"]], "part"):
            rates = [row for row in mine if row["part"] == part and row["speed / one at a time"]]
            for row in rates:
                figures = [_figure(row, "images / second"), f"{float(row['speed / one at a time']):.2f}x"]
                body.append(
                    [part, " ".join(filter(None, [row["contender"], row["version"]])), row["workers"], *figures]
                )
        parts.append(_table(["part", "who", "workers", "images / s", "/ fastest PIL"], body))
        shares = [row for row in mine if row["views share"]]
        header = ["a step of training here", "decoding", "augmentation", "images / s"]
        body = [
            [row["contender"], *(f"{float(row[c]):.1%}" for c in ("decode share", "views share")), row["rate"]]
            for row in (known | {"rate": _figure(known, "images / second")} for known in shares)
        ]
        parts.append(_table(header, body))
        parts += [
            f"- {row['contender']}, {row['workers']} workers: {row['status']}" for row in mine if row["status"] != OK
        ]
    return "\n".join([*parts, ""])


FRAGMENTS: dict[str, Callable[[Rows], str]] = {
    "losses": losses,
    "scaling": scaling,
    "towers": scaling,
    "attention": attention,
    "gradients": gradients,
    "data": data,
}


def _headline(rows: Rows, size: int, d: str) -> str:
    """What the engine claims, each as a ratio within this run."""
    header = ["loss", "faster than dense compiled", "than dense", "than the best package", "of its memory", "/ floor"]
    body = []
    for (loss, e), part in _by_loss(rows, size).items():
        ours = part.get(OURS)
        if ours is None or not ours["milliseconds"]:
            continue
        packages = [r for n, r in part.items() if n not in OWN_FORMS and r["milliseconds"]]
        best = min(packages, key=lambda r: float(r["milliseconds"]), default=None)
        lean = [r["peak megabytes"] for n, r in part.items() if n in ("dense", COMPILED) and r["peak megabytes"]]
        share = (
            f"{float(ours['peak megabytes']) / min(map(float, lean)):.3f}" if lean and ours["peak megabytes"] else ""
        )
        named = f"{_times(best, ours)} ({best['contender']})" if best else "none ran"
        title = f"{loss}, e = {e}" if e else loss
        dense = [_times(part.get(name), ours) for name in (COMPILED, "dense")]
        body.append([title, *dense, named, share, f"{float(ours['time / floor']):.2f}"])
        if YARDSTICK in part and part[YARDSTICK]["milliseconds"]:
            cost = float(ours["milliseconds"]) / float(part[YARDSTICK]["milliseconds"])
            due = 1 + int(e) / (2 * int(d))
            body[-1][0] += f": {cost:.2f} x NT-Xent = {cost / due:.2f} (1 + e/2d)"
    return f"**{size:,} rows, d = {d}.** Memory as a share of the leaner dense form's.\n\n{_table(header, body)}"


def _everyone(rows: Rows, d: str) -> str:
    sizes = sorted(map(int, _unique(rows, "rows")))
    header = ["loss", "who", *(f"{size:,}: ms" for size in sizes), *(f"{size:,}: MB" for size in sizes)]
    body, notes = [], []
    for loss, e, name in dict.fromkeys((r["loss"], r["e"], r["contender"]) for r in rows):
        if name == YARDSTICK:
            continue
        mine = {int(r["rows"]): r for r in rows if (r["loss"], r["e"], r["contender"]) == (loss, e, name)}
        version = next(iter(mine.values()))["version"] if name not in OWN_FORMS else ""
        title = f"{loss}, e = {e}" if e else loss
        cells = [_figure(mine.get(size), column) for column in ("milliseconds", "peak megabytes") for size in sizes]
        body.append([title, f"{name} {version}".strip(), *cells])
        for size, row in mine.items():
            factor = number(row["gradient ratio"])
            if row["status"] != OK:
                notes.append(f"- {title}, {name}, {size:,} rows: {row['status']}")
            elif factor and abs(factor - 1) > (1e-3 if row["dtype"] == "float32" else 2e-2):
                notes.append(f"- {title}, {name}, {size:,} rows: the same loss times {factor:.4f}")
    return "\n".join([f"Everyone at d = {d}:", "", _table(header, body), *notes, ""])


def _by_loss(rows: Rows, size: int) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        if int(row["rows"]) == size:
            found.setdefault((row["loss"], row["e"]), {})[row["contender"]] = row
    return found


def _agreement(rows: Rows, batch: str, processes: tuple[str, ...]) -> str:
    """The cells of some rows in one: equal ones once."""
    texts = []
    for row in rows:
        if row["batch"] == batch and row["processes"] in processes:
            error = number(row["relative error"])
            if row["status"] != OK or error is None:
                texts.append(_happened(row["status"]))
            elif error < 1e-10:
                texts.append("**exact**")
            else:
                texts.append(f"{float(row['gradient ratio']):.3f} / {float(row['gradient cosine']):.4f}")
    if not texts and rows[0]["status"] != OK:
        return re.split(r"[:;]", rows[0]["status"])[0]
    return "; ".join(dict.fromkeys(texts))


def _happened(status: str) -> str:
    return "hangs" if status.startswith("no result") else "crashes" if "process died" in status else "raises"


def _temperature(rows: Rows) -> str:
    ratios = [number(r["temperature gradient ratio"]) for r in rows if (r["batch"], r["processes"]) == ("equal", "4")]
    return "".join(f"{ratio:.4f}" for ratio in ratios if ratio is not None)


def _times(other: dict[str, str] | None, ours: dict[str, str]) -> str:
    if other is None or not other["milliseconds"]:
        return "not run" if other is None else "failed"
    return f"{float(other['milliseconds']) / float(ours['milliseconds']):.2f}x"


def _machine(rows: Rows) -> str:
    first = rows[0]
    device = "" if first["device"] == "cpu" else f"{first['device']}; "
    return f"{device}{first['cpu']}, {first['threads']} threads, torch {first['torch']}.\n"


def _figure(row: dict[str, str] | None, column: str) -> str:
    value = number(row[column]) if row else None
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _unique(rows: Rows, column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
