"""The page of a comparison: Markdown that says what was compared, what shows, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kinfolk.compare.findings import chance, finding, labels_sentence, references_ahead
from kinfolk.compare.metrics import Metric, headline_metrics
from kinfolk.compare.plots import alt_text, draw_metric
from kinfolk.compare.results import Comparison, Cost
from kinfolk.compare.statistics import Statistics, statistics_of
from kinfolk.compare.table import (
    MISSING,
    Cell,
    Table,
    change_table,
    difference_table,
    escaped,
    legend,
    markdown,
    value_table,
)
from kinfolk.train.files import write_text

_WIDE = 6  # columns of numbers in the tables of everything


def write_page(comparison: Comparison, folder: Path, *, metrics: Sequence[Metric] | None = None) -> Path:
    """Write ``results.json``, one picture for each metric, and last ``README.md``, each whole or not at all.

    Args:
        comparison: with any number of finished runs.
        folder: where they go.
        metrics: what the first tables and the pictures show; None takes the `headline_metrics`. Everything else is in
            tables at the end of the page.

    Returns:
        The path of ``README.md``.

    Raises:
        ValueError: for results that are not finite; the message names the run. ``results.json`` is there all the same.

    Example:
        >>> import tempfile
        >>> from kinfolk.compare import Result
        >>> found = tuple(Result(who, "", 0, "kNN", "accuracy", "higher", x) for who, x in (("a", 0.5), ("b", 0.6)))
        >>> page = write_page(Comparison("two", "a", ("a", "b"), ("",), None, (0,), found), Path(tempfile.mkdtemp()))
        >>> sorted(file.name for file in page.parent.iterdir())
        ['README.md', 'knn-accuracy.png', 'results.json']
    """
    write_text(folder / "results.json", comparison.to_json())
    statistics = statistics_of(comparison)
    chosen = headline_metrics(statistics.metrics) if metrics is None else tuple(metrics)
    pictures = {metric: draw_metric(comparison, statistics, metric, folder).name for metric in chosen}
    write_text(folder / "README.md", page_text(comparison, statistics, pictures))
    return folder / "README.md"


def page_text(comparison: Comparison, statistics: Statistics, pictures: Mapping[Metric, str]) -> str:
    """The page's Markdown.

    Args:
        comparison: the results.
        statistics: of them.
        pictures: the file name of each metric's picture, beside the page; the metrics are those that the page shows.
    """
    metrics = tuple(pictures)
    parts = [f"# {escaped(comparison.name)}", _lead(comparison)]
    if metrics:
        parts += ["## Values", _values(comparison, statistics, metrics)]
        parts += _difference_section(comparison, statistics, metrics)
        parts += [
            "## Metric by metric",
            *(_picture(comparison, statistics, metric, pictures[metric]) for metric in metrics),
        ]
    else:
        parts.append("No run has finished yet.")
    parts += ["## What was compared", _compared(comparison)]
    if comparison.failed:
        failed = [f"- `{name}`: {escaped(why)}" for name, why in comparison.failed.items()]
        parts += ["## Runs that failed", "They are missing from all tables.", "\n".join(failed)]
    if comparison.costs:
        parts += ["## Cost", _costs(comparison, statistics)]
    if metrics:
        parts += ["## How to read this", _how_to_read(comparison)]
        parts += _others(comparison, statistics, metrics)
    if comparison.command:
        parts += ["## Made with", f"```bash\n{comparison.command}\n```"]
    return "\n\n".join(parts) + "\n"


def _lead(comparison: Comparison) -> str:
    contenders, seeds = len(comparison.contenders), len(comparison.seeds)
    runs = contenders * len(comparison.settings) * seeds
    names = _and([escaped(one) for one in comparison.contenders])
    finished = "" if len(comparison.costs) == runs else f", {len(comparison.costs)} of them finished"
    parts = [
        f"{names}, {'one seed' if seeds == 1 else f'{seeds} seeds'} each",
        f"{'one run' if runs == 1 else f'{runs} runs'}{finished}",
    ]
    if comparison.varied:
        parts.insert(1, f"`{comparison.varied}` at {', '.join(escaped(setting) for setting in comparison.settings)}")
    if views := {cost.image_views for cost in comparison.costs.values()}:
        amount = f"{min(views):,}" if len(views) == 1 else f"{min(views):,} to {max(views):,} (whole steps)"
        parts.append(f"a budget of {amount} image views a run")
    if contenders > 1:
        parts.append(f"the baseline is {escaped(comparison.baseline)}")
    labels = labels_sentence(comparison)
    return f"{'; '.join(parts)}.{f' {escaped(labels)}' if labels else ''}"


def _values(comparison: Comparison, statistics: Statistics, metrics: Sequence[Metric]) -> str:
    notes = legend(comparison, best="Bold:")[:2]
    return "\n\n".join([markdown(value_table(comparison, statistics, metrics)), " ".join(notes)])


def _difference_section(comparison: Comparison, statistics: Statistics, metrics: Sequence[Metric]) -> list[str]:
    table = difference_table(comparison, statistics, metrics)
    if table is None:
        return []
    parts = [f"## Differences to {escaped(comparison.baseline)}, paired by seed", markdown(table)]
    if changes := change_table(comparison, statistics, metrics):
        first, last = escaped(statistics.settings[0]), escaped(statistics.settings[-1])
        parts += [f"How these differences change from {first} to {last}, paired by seed:", markdown(changes)]
    return [*parts, f"{legend(comparison, best='')[2]} {chance(statistics, metrics)}"]


def _picture(comparison: Comparison, statistics: Statistics, metric: Metric, file: str) -> str:
    alt = escaped(alt_text(comparison, statistics, metric))
    said = (finding(comparison, statistics, metric), references_ahead(comparison, statistics, metric))
    return f"![{alt}]({file})\n\n{escaped(' '.join(filter(None, said)))}"


def _compared(comparison: Comparison) -> str:
    same = [(Cell(name), Cell(value)) for name, value in comparison.shared.items()]
    parts = ["The same for all:", markdown(Table(("part", "value"), (tuple(same),), names=2))] if same else []
    if comparison.differing:
        rows = [
            (Cell(field), *(Cell(values.get(one, MISSING)) for one in comparison.contenders))
            for field, values in comparison.differing.items()
        ]
        header = ("field", *comparison.contenders)
        table = Table(header, (tuple(rows),), names=len(header))
        beside = f" beside `{comparison.varied}`" if comparison.varied else ""
        parts += [f"Fields in which contenders differ{beside}:", markdown(table)]
    elif len(comparison.contenders) > 1:
        parts.append("The contenders' configs do not differ in any field.")
    return "\n\n".join(parts)


def _costs(comparison: Comparison, statistics: Statistics) -> str:
    rows = []
    for setting in statistics.settings:
        for one in comparison.contenders:
            costs = [cost for (who, where, _), cost in comparison.costs.items() if (who, where) == (one, setting)]
            if costs:
                rows.append((*([setting] if comparison.varied else []), one, *_cost(costs)))
    names = ((comparison.varied,) if comparison.varied else ()) + ("contender",)
    header = (*names, "runs", "image views", "steps", "batch", "seconds", "least", "most", "peak memory, MB")
    table = Table(header, (tuple(tuple(map(Cell, row)) for row in rows),), names=len(names))
    machine = f" Machine: {escaped(comparison.machine)}." if comparison.machine else ""
    return f"{markdown(table)}\n\nSeconds are of training, the mean over runs, without evaluation.{machine}"


def _cost(costs: Sequence[Cost]) -> tuple[str, ...]:
    seconds = [cost.seconds for cost in costs]
    memory = [cost.peak_memory_mb for cost in costs if cost.peak_memory_mb is not None]
    return (
        str(len(costs)),
        _range([cost.image_views for cost in costs]),
        _range([cost.steps for cost in costs]),
        _range([cost.batch_size for cost in costs]),
        f"{sum(seconds) / len(seconds):,.0f}",
        f"{min(seconds):,.0f}",
        f"{max(seconds):,.0f}",
        f"{max(memory):,.0f}" if memory else MISSING,
    )


def _range(numbers: Sequence[int]) -> str:
    ends = sorted({min(numbers), max(numbers)})
    return " to ".join(f"{number:,}" for number in ends)


def _how_to_read(comparison: Comparison) -> str:
    lines = [
        "A run's seed sets its initial weights, batches and views. Intervals are over seeds, so they say how much"
        " training moves by chance, not how the result would be on other data.",
        "Differences are taken between runs of the same seed and setting. What moves all runs of a seed alike cancels,"
        " so a difference can be clear where the intervals of two values overlap.",
        "No difference that shows is not the same as no difference: the interval says how large it could still be.",
        "With few seeds intervals are wide, and one without width (all seeds gave the same difference) can be chance"
        " where the test set is small.",
        "References (raw pixels, an untrained encoder) are measured once, under the same protocols.",
    ]
    if len({cost.labels_used for cost in comparison.costs.values()}) > 1:
        lines.append(
            "Pretraining saw labels for some contenders and not for others (column labels); a difference between"
            " such two is one of method and labels together."
        )
    return "\n".join(f"- {line}" for line in lines)


def _others(comparison: Comparison, statistics: Statistics, shown: Sequence[Metric]) -> list[str]:
    """What the tables above leave out, by protocol, folded away, in tables that fit a page."""
    left = [metric for metric in statistics.metrics if metric not in shown]
    parts = ["## What else was measured"] if left else []
    for protocol in dict.fromkeys(metric.protocol for metric in left):
        own = [metric for metric in left if metric.protocol == protocol]
        tables = []
        for start in range(0, len(own), _WIDE):
            some = own[start : start + _WIDE]
            tables.append(markdown(value_table(comparison, statistics, some)))
            if differences := difference_table(comparison, statistics, some, corrected=False):
                tables += [f"Differences to {escaped(comparison.baseline)}:", markdown(differences)]
        body = "\n\n".join(tables)
        parts.append(f"<details><summary>{escaped(protocol)}</summary>\n\n{body}\n\n</details>")
    return parts


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
