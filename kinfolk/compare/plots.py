"""The picture of one metric of a comparison."""

from __future__ import annotations

from pathlib import Path

from kinfolk.compare.config import folder_name
from kinfolk.compare.dot_plot import draw_dots
from kinfolk.compare.line_plot import draw_lines
from kinfolk.compare.metrics import Metric
from kinfolk.compare.results import Comparison
from kinfolk.compare.statistics import Statistics


def draw_metric(comparison: Comparison, statistics: Statistics, metric: Metric, folder: Path) -> Path:
    """Draw a metric against the varied setting, or contender by contender where nothing is varied.

    Args:
        comparison: with at least one finished run.
        statistics: of it.
        metric: one of theirs.
        folder: where the PNG goes, named after the metric.

    Returns:
        The PNG's path.

    Example:
        >>> import tempfile
        >>> from kinfolk.compare import Result
        >>> from kinfolk.compare.statistics import statistics_of
        >>> found = tuple(Result(who, "", 0, "kNN", "accuracy", "higher", x) for who, x in (("a", 0.5), ("b", 0.6)))
        >>> comparison = Comparison("two", "a", ("a", "b"), ("",), None, (0,), found)
        >>> statistics = statistics_of(comparison)
        >>> draw_metric(comparison, statistics, statistics.metrics[0], Path(tempfile.mkdtemp())).name
        'knn-accuracy.png'
    """
    draw = draw_lines if comparison.varied else draw_dots
    return draw(comparison, statistics, metric, folder / f"{folder_name(f'{metric.protocol} {metric.name}')}.png")


def alt_text(comparison: Comparison, statistics: Statistics, metric: Metric) -> str:
    """What the picture of a metric shows, in words, for those who do not see it."""
    who = ", ".join(comparison.contenders)
    minus = f" and their differences to {comparison.baseline}, paired by seed" if statistics.differences else ""
    spread = ", with 95 % intervals" if len(comparison.seeds) > 1 else ""
    against = f" against {comparison.varied}" if comparison.varied else ""
    return f"{metric.label}{against} of {who}{minus}{spread}."
