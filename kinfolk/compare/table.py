"""A comparison as tables: values, paired differences, and how differences change, as text and as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from kinfolk.compare.findings import labels_used
from kinfolk.compare.metrics import Metric, headline_metrics
from kinfolk.compare.results import Comparison
from kinfolk.compare.statistics import Estimate, Statistics, statistics_of, survivors

MISSING = "-"
_HEAD_WIDTH = 14  # characters at which the plain table breaks its headings


@dataclass(frozen=True)
class Cell:
    """What stands in one cell, whether it is among the best, and a mark such as † behind it."""

    text: str
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table that does not know yet how it will be written.

    Args:
        header: one title for each column.
        blocks: rows that belong together, set apart from other blocks.
        names: how many columns from the left are names; the others are numbers.

    Example:
        >>> table = Table(("who", "kNN, %"), (((Cell("a"), Cell("50.0")), (Cell("b"), Cell("60.0", best=True))),))
        >>> print(plain(table))
        who  kNN, %
        ---  ------
        a    50.0
        b    60.0 *
        >>> print(markdown(table).splitlines()[-1])
        | b | **60.0** |
    """

    header: tuple[str, ...]
    blocks: tuple[tuple[tuple[Cell, ...], ...], ...]
    names: int = 1


def format_comparison(comparison: Comparison, *, metrics: Sequence[Metric] | None = None) -> str:
    """The tables as plain text, with a legend.

    Args:
        comparison: with any number of finished runs.
        metrics: columns; None takes the `headline_metrics`.

    Raises:
        ValueError: for results that are not finite; the message names the run.

    Example:
        >>> from kinfolk.compare import Result
        >>> found = tuple(Result(who, "", 0, "kNN", "accuracy", "higher", x) for who, x in (("a", 0.5), ("b", 0.6)))
        >>> print(format_comparison(Comparison("two", "a", ("a", "b"), ("",), None, (0,), found)).splitlines()[4])
        b                 60.0 *      1       -        -
    """
    statistics = statistics_of(comparison)
    chosen = headline_metrics(statistics.metrics) if metrics is None else tuple(metrics)
    if not chosen:
        return "no run has finished yet"
    parts = [plain(value_table(comparison, statistics, chosen))]
    if differences := difference_table(comparison, statistics, chosen):
        parts += [f"difference to {comparison.baseline}, paired by seed:", plain(differences)]
    if changes := change_table(comparison, statistics, chosen):
        parts += [_change_title(statistics), plain(changes)]
    return "\n\n".join([*parts, "\n".join(legend(comparison, best="*"))])


def legend(comparison: Comparison, *, best: str) -> list[str]:
    """What the marks mean, line by line.

    Args:
        comparison: whose tables these are.
        best: how the best is marked.
    """
    return [
        f"{best} best mean of its {'setting' if comparison.varied else 'column'}; a reference has the mark where no"
        " contender's mean is better.",
        "± half of Student's 95 % interval over seeds; one seed has none; not corrected for the number of intervals.",
        "† the interval excludes zero; ‡ it does after Holm's correction for all differences of this table as well.",
    ]


def value_table(comparison: Comparison, statistics: Statistics, metrics: Sequence[Metric]) -> Table:
    """Means over seeds, one row for each contender and setting, the references beneath.

    The last columns are the number of seeds, the labels that pretraining saw, and seconds of training.
    """
    blocks = []
    for setting in statistics.settings:
        best = {metric: _best(comparison, statistics, setting, metric) for metric in metrics}
        rows = []
        for one in comparison.contenders:
            found = [statistics.values.get((one, setting, metric)) for metric in metrics]
            seeds = max((estimate.n for estimate in found if estimate), default=0)
            cells = [
                _value(metric, estimate, best[metric], seeds) for metric, estimate in zip(metrics, found, strict=True)
            ]
            tail = (str(seeds), labels_used(comparison, one) or MISSING, _seconds(comparison, one, setting))
            rows.append((*_names(comparison, one, setting), *cells, *map(Cell, tail)))
        blocks.append(tuple(rows))
    if references := _reference_rows(comparison, statistics, metrics):
        blocks.append(references)
    head = (*_name_titles(comparison), *(metric.title for metric in metrics), "seeds", "labels", "seconds")
    return Table(head, tuple(blocks), names=len(_name_titles(comparison)))


def difference_table(
    comparison: Comparison, statistics: Statistics, metrics: Sequence[Metric], *, corrected: bool = True
) -> Table | None:
    """Differences to the baseline, paired by seed; None where there is nobody to compare with it.

    Args:
        comparison: the results.
        statistics: of them.
        metrics: columns.
        corrected: whether differences that remain after Holm's correction over this table are marked.
    """
    shown = {cell: one for cell, one in statistics.differences.items() if cell[2] in metrics}
    kept = survivors(shown) if corrected else frozenset()
    blocks = []
    for setting in statistics.settings:
        rows = []
        for one in comparison.contenders:
            cells = [(one, setting, metric) for metric in metrics]
            found = [shown[cell] for cell in cells if cell in shown]
            if one == comparison.baseline or not found:
                continue
            pairs = max(difference.n for difference in found)
            written = [_difference(cell[2], shown.get(cell), pairs, kept=cell in kept) for cell in cells]
            rows.append((*_names(comparison, one, setting), *written, Cell(str(pairs))))
        blocks.append(tuple(rows))
    if not any(blocks):
        return None
    head = (*_name_titles(comparison), *(metric.title for metric in metrics), "pairs")
    return Table(head, tuple(filter(None, blocks)), names=len(_name_titles(comparison)))


def change_table(comparison: Comparison, statistics: Statistics, metrics: Sequence[Metric]) -> Table | None:
    """How the difference to the baseline changes from the first to the last setting; None where that cannot be said."""
    shown = {key: one for key, one in statistics.changes.items() if key[1] in metrics}
    kept = survivors(shown)
    rows = []
    for one in comparison.contenders:
        found = [shown[one, metric] for metric in metrics if (one, metric) in shown]
        if not found:
            continue
        pairs = max(change.n for change in found)
        written = [_difference(m, shown.get((one, m)), pairs, kept=(one, m) in kept) for m in metrics]
        rows.append((Cell(one), *written, Cell(str(pairs))))
    head = ("contender", *(metric.title for metric in metrics), "pairs")
    return Table(head, (tuple(rows),)) if rows else None


def plain(table: Table) -> str:
    """The table with aligned columns; a star marks the best."""
    head = [textwrap.wrap(title, _HEAD_WIDTH) or [""] for title in table.header]
    depth = max(map(len, head))
    columns = [[""] * (depth - len(title)) + title for title in head]
    for number, column in enumerate(columns):
        cells = [row[number] for block in table.blocks for row in block]
        marks = ["*" if cell.best else cell.mark for cell in cells]
        room = 1 if any(marks) else 0  # numbers stay beneath each other where only some have a mark
        column += [f"{cell.text} {mark:{room}}" if room else cell.text for cell, mark in zip(cells, marks, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    for number, column in enumerate(columns):
        width = widths[number]
        column[:] = [text.ljust(width) if number < table.names else text.rjust(width) for text in column]
        column.insert(depth, "-" * width)
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    text, after = lines[: depth + 1], depth + 1
    apart = any(len(block) > 1 for block in table.blocks)
    for block in table.blocks:
        text += [*([""] if apart and after > depth + 1 else []), *lines[after : after + len(block)]]
        after += len(block)
    return "\n".join(text)


def markdown(table: Table) -> str:
    """The table in Markdown; the best is bold."""
    rule = ["---"] * table.names + ["---:"] * (len(table.header) - table.names)
    lines = [[escaped(title) for title in table.header], rule]
    for block in table.blocks:
        for row in block:
            lines.append([_markdown_cell(cell) for cell in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    r"""Text that Markdown shows as it is, in one line.

    Example:
        >>> print(escaped("a|b *c*"))
        a\|b \*c\*
    """
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))


def _markdown_cell(cell: Cell) -> str:
    text = f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text)
    return f"{text} {cell.mark}" if cell.mark else text


def _name_titles(comparison: Comparison) -> tuple[str, ...]:
    return (comparison.varied, "contender") if comparison.varied else ("contender",)


def _names(comparison: Comparison, one: str, setting: str) -> tuple[Cell, ...]:
    return (Cell(setting), Cell(one)) if comparison.varied else (Cell(one),)


def _change_title(statistics: Statistics) -> str:
    return f"change of the difference from {statistics.settings[0]} to {statistics.settings[-1]}, paired by seed:"


def _value(metric: Metric, estimate: Estimate | None, best: str | None, seeds: int) -> Cell:
    if estimate is None:
        return Cell(MISSING)
    fewer = f" (n = {estimate.n})" if estimate.n < seeds else ""
    return Cell(metric.written(estimate.mean, estimate.half) + fewer, best=metric.written(estimate.mean) == best)


def _difference(metric: Metric, difference: Estimate | None, pairs: int, *, kept: bool) -> Cell:
    if difference is None:
        return Cell(MISSING)
    fewer = f" (n = {difference.n})" if difference.n < pairs else ""
    mark = "‡" if kept else "†" if difference.excludes_zero else ""
    return Cell(metric.change(difference.mean, difference.half) + fewer, mark=mark)


def _best(comparison: Comparison, statistics: Statistics, setting: str, metric: Metric) -> str | None:
    """The best contender's mean as it is printed, so that two that look equal are both marked; None without a rival."""
    cells = [(one, setting, metric) for one in comparison.contenders]
    means = [statistics.values[cell].mean for cell in cells if cell in statistics.values]
    if metric.better is None or len(means) < 2:
        return None
    return metric.written(max(means) if metric.better == "higher" else min(means))


def _reference_rows(
    comparison: Comparison, statistics: Statistics, metrics: Sequence[Metric]
) -> tuple[tuple[Cell, ...], ...]:
    """A row for each reference and setting; one row for all settings where it is the same at each."""
    found = {(r.encoder, setting, r.protocol, r.metric): r.value for setting, r in comparison.references}
    rows = []
    for name in dict.fromkeys(encoder for encoder, *_ in found):
        at = {
            setting: tuple(found.get((name, setting, metric.protocol, metric.name)) for metric in metrics)
            for setting in statistics.settings
        }
        same = len(set(at.values())) == 1
        for setting, values in at.items():
            where = statistics.settings if same else (setting,)
            cells = [
                _reference(statistics, metric, value, where) for metric, value in zip(metrics, values, strict=True)
            ]
            label = "all" if same and len(statistics.settings) > 1 else setting
            rows.append((*_names(comparison, name, label), *cells, *[Cell(MISSING)] * 3))
            if same:
                break
    return tuple(rows)


def _reference(statistics: Statistics, metric: Metric, value: float | None, where: Sequence[str]) -> Cell:
    if value is None:
        return Cell(MISSING)
    means = [one.mean for (_, at, which), one in statistics.values.items() if at in where and which == metric]
    sign = {"higher": 1, "lower": -1, None: 0}[metric.better]
    return Cell(metric.written(value), best=bool(sign and means) and all(sign * value >= sign * mean for mean in means))


def _seconds(comparison: Comparison, one: str, setting: str) -> str:
    took = [cost.seconds for (who, where, _), cost in comparison.costs.items() if (who, where) == (one, setting)]
    return f"{sum(took) / len(took):,.0f}" if took else MISSING
