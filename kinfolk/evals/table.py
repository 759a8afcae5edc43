"""Records as a table: one row per metric, one column per encoder."""

from __future__ import annotations

from collections.abc import Sequence

from kinfolk.evals.records import Record

_ENCODERS = ("trained", "raw pixels", "centred raw pixels", "untrained")
_LEGEND = (
    "best of a row where a direction exists; ± half the 95 % interval of the mean over draws; "
    "the last column says which labels pretraining saw (the baselines saw none)."
)


def format_table(records: Sequence[Record], *, notes: Sequence[str] = ()) -> str:
    """Plain text with aligned columns; a star marks the best of a row.

    Args:
        records: of one evaluation; the last one wins where two are of one encoder, protocol and metric.
        notes: lines to print below, such as what `Evaluation.notes` says was left out.

    Returns:
        The table, its legend and the notes.

    Example:
        >>> rows = [Record("trained", "kNN", "accuracy", 0.978, labels_used="none", better="higher"),
        ...         Record("raw pixels", "kNN", "accuracy", 0.981, labels_used="none", better="higher")]
        >>> print(format_table(rows).splitlines()[2])
        kNN       accuracy  0.978    0.981 *     none
    """
    header, rows = _cells(records, mark="{} *")
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*text, "", f"* {_LEGEND}", *notes])


def markdown_table(records: Sequence[Record], *, notes: Sequence[str] = ()) -> str:
    """The same table in Markdown; the best of a row is bold.

    Args:
        records: of one evaluation.
        notes: lines to print below.
    """
    header, rows = _cells(records, mark="**{}**")
    rule = ["---"] * 2 + ["---:"] * (len(header) - 3) + ["---"]
    text = ["| " + " | ".join(line) + " |" for line in (header, rule, *rows)]
    return "\n".join([*text, "", f"Bold: {_LEGEND}", *(f"\n{note}" for note in notes)])


def _cells(records: Sequence[Record], *, mark: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows as strings, the best of each row marked."""
    named = list(dict.fromkeys(record.encoder for record in records))
    encoders = [name for name in _ENCODERS if name in named] + [name for name in named if name not in _ENCODERS]
    table: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        table.setdefault((record.protocol, record.metric), {})[record.encoder] = record
    rows = []
    for (protocol, metric), row in table.items():
        best = _best(list(row.values()))
        cells = [_number(row[name], best, mark) if name in row else "" for name in encoders]
        first = next(row[name] for name in encoders if name in row)
        rows.append([protocol, metric, *cells, first.labels_used])
    return ["protocol", "metric", *encoders, "pretraining labels"], rows


def _best(row: list[Record]) -> str | None:
    """The best value as it is printed, so that two equal looking numbers are both marked; None without a direction."""
    directions = {record.better for record in row}
    if len(row) < 2 or len(directions) > 1 or None in directions:
        return None
    pick = max if "higher" in directions else min
    return f"{pick(record.value for record in row):.3f}"


def _number(record: Record, best: str | None, mark: str) -> str:
    value = f"{record.value:.3f}"
    text = value if record.low is None or record.high is None else f"{value} ± {(record.high - record.low) / 2:.3f}"
    return mark.format(text) if value == best else text
