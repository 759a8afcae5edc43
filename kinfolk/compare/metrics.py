"""Which of the measured numbers a comparison shows first, and how it writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kinfolk.compare.results import Comparison
from kinfolk.evals.protocol import Direction

_OF_A_PROTOCOL = 3


@dataclass(frozen=True)
class Metric:
    """One metric of one protocol, and how its numbers are written.

    Args:
        protocol: such as "kNN".
        name: such as "accuracy".
        better: "higher", "lower", or None for a diagnostic.
        share: whether it is written in per cent.
        decimals: digits after the point, as written.

    Example:
        >>> metric = Metric("kNN", "accuracy", "higher", share=True, decimals=1)
        >>> metric.label, metric.title, metric.written(0.8614), metric.change(-0.012, 0.0051)
        ('kNN accuracy', 'kNN accuracy, % ↑', '86.1', '-1.2 ± 0.5')
    """

    protocol: str
    name: str
    better: Direction | None
    share: bool
    decimals: int

    @property
    def label(self) -> str:
        """Protocol and name, without what everybody expects: "few labels, 5 per class"."""
        if self.name.startswith("accuracy, "):
            return f"{self.protocol}, {self.name.removeprefix('accuracy, ')}"
        return f"{self.protocol} {self.name}"

    @property
    def title(self) -> str:
        """The label with unit and direction, as a column is headed."""
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[self.better]
        return f"{self.label}{', %' if self.share else ''}{arrow}"

    @property
    def points(self) -> str:
        """What differences are counted in, with a space before it, or nothing."""
        return " points" if self.share else ""

    def scaled(self, value: float) -> float:
        """The number that is written: per cent of a share, anything else as it is."""
        return 100 * value if self.share else value

    def written(self, value: float, half: float | None = None) -> str:
        """A value, with ± half its interval where there is one."""
        return self._joined(f"{self._rounded(value):.{self.decimals}f}", half)

    def change(self, value: float, half: float | None = None) -> str:
        """A difference with its sign, with ± half its interval where there is one."""
        return self._joined(f"{self._rounded(value):+.{self.decimals}f}", half)

    def _joined(self, text: str, half: float | None) -> str:
        return text if half is None else f"{text} ± {self._rounded(half):.{self.decimals}f}"

    def _rounded(self, value: float) -> float:
        return round(self.scaled(value), self.decimals) + 0.0  # -0.0 becomes 0.0


def all_metrics(comparison: Comparison) -> tuple[Metric, ...]:
    """Every metric that a finished run has, in the order of the results.

    Where higher is better and every value lies in [0, 1], runs and references alike, the values are shares, written
    in per cent. Other numbers keep their unit, with digits by their size.

    Example:
        >>> from kinfolk.compare import Result
        >>> found = (Result("a", "", 0, "kNN", "accuracy", "higher", 0.5), Result("a", "", 0, "x", "rank", "lower", 40))
        >>> [metric.title for metric in all_metrics(Comparison("c", "a", ("a",), ("",), None, (0,), found))]
        ['kNN accuracy, % ↑', 'x rank ↓']
    """
    directions: dict[tuple[str, str], Direction | None] = {}
    values: dict[tuple[str, str], list[float]] = {}
    for result in comparison.results:
        directions.setdefault((result.protocol, result.metric), result.better)
        values.setdefault((result.protocol, result.metric), []).append(result.value)
    for _, record in comparison.references:
        if (record.protocol, record.metric) in values:
            values[record.protocol, record.metric].append(record.value)
    metrics = []
    for (protocol, name), better in directions.items():
        numbers = values[protocol, name]
        share = better == "higher" and all(0 <= value <= 1 for value in numbers)
        largest = max(abs(value) for value in numbers)
        decimals = 1 if share or 10 <= largest < 1000 else 3 if largest < 10 else 0
        metrics.append(Metric(protocol, name, better, share, decimals))
    return tuple(metrics)


def headline_metrics(metrics: Sequence[Metric], *, most: int = 7) -> tuple[Metric, ...]:
    """Choose what a table of a page's width holds.

    Only metrics with a direction: of a protocol its "accuracy" where it has one, otherwise its first three. Where that
    is too many, the later ones of each protocol go first. Without any direction, the first diagnostics.

    Args:
        metrics: to choose from, in their order.
        most: columns.

    Example:
        >>> names = [("kNN", "accuracy"), ("kNN", "precision@1"), ("few labels", "accuracy, 1 per class")]
        >>> metrics = [Metric(protocol, name, "higher", share=True, decimals=1) for protocol, name in names]
        >>> [metric.label for metric in headline_metrics(metrics)]
        ['kNN accuracy', 'few labels, 1 per class']
    """
    directed = [metric for metric in metrics if metric.better is not None]
    if not directed:
        return tuple(metrics[:most])
    ranked: list[tuple[int, Metric]] = []
    for protocol in dict.fromkeys(metric.protocol for metric in directed):
        own = [metric for metric in directed if metric.protocol == protocol]
        overall = [metric for metric in own if metric.name == "accuracy"]
        ranked.extend(enumerate(overall or own[:_OF_A_PROTOCOL]))
    ranked.sort(key=lambda item: item[0])  # stable: every protocol's first before anybody's second
    chosen = {metric for _, metric in ranked[:most]}
    return tuple(metric for metric in directed if metric in chosen)
