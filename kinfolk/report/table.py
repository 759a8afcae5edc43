"""The evaluation's records as rows of a table, with the best of each row and a sentence that sums them up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinfolk.report.bars import Bar

ENCODERS = ("trained", "untrained", "raw pixels", "centred raw pixels", "raw features")


@dataclass(frozen=True)
class Row:
    """One metric of one protocol, for every encoder that was measured.

    Args:
        protocol: such as "kNN".
        metric: such as "accuracy".
        better: "higher", "lower" or None for a diagnostic without a direction.
        records: encoder -> record, as `evals.json` holds it.
    """

    protocol: str
    metric: str
    better: str | None
    records: Mapping[str, Mapping[str, Any]]

    @property
    def best(self) -> tuple[str, ...]:
        """Encoders whose printed value is the best; empty without a direction or without a rival."""
        values = {
            name: round(record["value"], 3) for name, record in self.records.items() if _is_number(record["value"])
        }
        if self.better not in ("higher", "lower") or len(values) < 2:
            return ()
        first = (max if self.better == "higher" else min)(values.values())
        return tuple(name for name, value in values.items() if value == first)


def evaluation_rows(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Group records into rows in their first order; the last of two records of one encoder counts.

    Example:
        >>> shared = {"protocol": "kNN", "metric": "accuracy", "better": "higher"}
        >>> trained = {"encoder": "trained", "value": 0.978, **shared}
        >>> pixels = {**trained, "encoder": "raw pixels", "value": 0.981}
        >>> [row.best for row in evaluation_rows([trained, pixels])]
        [('raw pixels',)]
    """
    grouped: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for record in records:
        grouped.setdefault((record["protocol"], record["metric"]), {})[record["encoder"]] = record
    return [
        Row(protocol, metric, next(iter(found.values())).get("better"), found)
        for (protocol, metric), found in grouped.items()
    ]


def encoders_in(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the encoders that occur, the known ones first, in their fixed order."""
    found = dict.fromkeys(name for row in rows for name in row.records)
    return tuple(name for name in ENCODERS if name in found) + tuple(name for name in found if name not in ENCODERS)


def labels_used(rows: Sequence[Row], encoder: str) -> str:
    """Return which labels an encoder's pretraining saw, as its records say."""
    return ", ".join(
        sorted({str(row.records[encoder].get("labels_used", "?")) for row in rows if encoder in row.records})
    )


def verdict(rows: Sequence[Row]) -> str:
    """Say in how many rows the trained encoder is best, and name the rows where something else is.

    Example:
        >>> shared = {"protocol": "kNN", "metric": "accuracy", "better": "higher"}
        >>> trained = {"encoder": "trained", "value": 0.978, **shared}
        >>> verdict(evaluation_rows([trained, {**trained, "encoder": "raw pixels", "value": 0.981}]))
        'The trained encoder is best in 0 of 1 rows that have a direction. Not best: kNN accuracy (raw pixels).'
    """
    judged = [row for row in rows if row.best and "trained" in row.records]
    if not judged:
        return "No row has a direction and a baseline, so nothing here can be called best."
    lost = [row for row in judged if "trained" not in row.best]
    text = f"The trained encoder is best in {len(judged) - len(lost)} of {len(judged)} rows that have a direction."
    if not lost:
        return text
    names = "; ".join(f"{row.protocol} {row.metric} ({', '.join(row.best)})" for row in lost)
    return f"{text} Not best: {names}."


def few_label_bars(rows: Sequence[Row]) -> tuple[list[str], dict[str, list[Bar | None]]]:
    """Return group names and each encoder's bars for the accuracies with few labels.

    A run without that protocol gives its other accuracies; a run without labels gives no group.
    """
    chosen = [row for row in rows if row.protocol == "few labels"]
    names = [row.metric.removeprefix("accuracy, ") for row in chosen]
    if not chosen:
        chosen = [row for row in rows if row.metric.startswith("accuracy")]
        names = [row.protocol for row in chosen]
    return names, {encoder: [_bar(row.records.get(encoder)) for row in chosen] for encoder in encoders_in(chosen)}


def _bar(record: Mapping[str, Any] | None) -> Bar | None:
    if record is None or not _is_number(record["value"]):
        return None
    value, low, high = record["value"], record.get("low"), record.get("high")
    return Bar(value, value if low is None else low, value if high is None else high)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value  # NaN differs from itself
