"""What the numbers of a comparison say, in sentences that say no more than they do."""

from __future__ import annotations

from collections.abc import Sequence

from kinfolk.compare.metrics import Metric
from kinfolk.compare.results import Comparison
from kinfolk.compare.statistics import Estimate, Statistics, Verdict, survivors, verdict

_SIDES: tuple[Verdict, ...] = ("better", "worse", "higher", "lower")
_NO_SIDE: dict[Verdict, str] = {"open": "no difference shows", "one seed": "one pair of runs and no interval"}


def finding(comparison: Comparison, statistics: Statistics, metric: Metric) -> str:
    """Say for one metric who is better than the baseline, where, and by how much, and where no difference shows.

    Args:
        comparison: the results.
        statistics: of them.
        metric: one of theirs.

    Example:
        >>> from kinfolk.compare import Result
        >>> from kinfolk.compare.statistics import statistics_of
        >>> found = tuple(Result(who, "", seed, "kNN", "accuracy", "higher", 0.5 + 0.1 * (who == "b") + seed / 100)
        ...               for who in "ab" for seed in (0, 1))
        >>> comparison = Comparison("two", "a", ("a", "b"), ("",), None, (0, 1), found)
        >>> statistics = statistics_of(comparison)
        >>> finding(comparison, statistics, statistics.metrics[0])
        'kNN accuracy, 2 seeds: b (+10.0 ± 0.0 points) is better than a.'
    """
    sentences = _over_settings if comparison.varied else _over_contenders
    parts = sentences(comparison, statistics, metric)
    against = f" against {comparison.varied}" if comparison.varied else ""
    lead = f"{metric.label}{against}, {_seeds(len(comparison.seeds))}"
    return f"{lead}: {'. '.join(parts) or f'nobody to compare with {comparison.baseline}'}."


def references_ahead(comparison: Comparison, statistics: Statistics, metric: Metric) -> str:
    """Name the references that no contender's mean is better than, or return an empty text.

    Args:
        comparison: the results.
        statistics: of them.
        metric: one of theirs; nothing is ahead without a direction.
    """
    sign = {"higher": 1, "lower": -1, None: 0}[metric.better]
    ahead: dict[str, list[str]] = {}
    for setting in statistics.settings:
        means = [
            one.mean for (_, where, which), one in statistics.values.items() if (where, which) == (setting, metric)
        ]
        for where, record in comparison.references:
            ours = (where, record.protocol, record.metric) == (setting, metric.protocol, metric.name)
            if ours and sign and means and all(sign * record.value >= sign * mean for mean in means):
                ahead.setdefault(f"{record.encoder} ({metric.written(record.value)})", []).append(setting)
    if not ahead:
        return ""
    named = [
        f"{name}{'' if tuple(where) == statistics.settings else f' at {_and(where)}'}" for name, where in ahead.items()
    ]
    return f"No contender's mean is better than {_and(named, word='or')}."


def chance(statistics: Statistics, metrics: Sequence[Metric]) -> str:
    """Count the differences whose interval excludes zero, and those that remain after a correction for their number.

    Args:
        statistics: of a comparison.
        metrics: the ones that are looked at together.
    """
    together = {cell: one for cell, one in statistics.differences.items() if cell[2] in metrics and one.n > 1}
    if not together:
        return "No difference is over more than one seed, so none can be told from chance."
    outside = sum(one.excludes_zero for one in together.values())
    kept = len(survivors(together))
    return (
        f"Of {len(together)} paired differences {outside} {'has' if outside == 1 else 'have'} an interval that excludes"
        f" zero ({0.05 * len(together):.1f} would on average if no contender differed); {kept}"
        f" {'remains' if kept == 1 else 'remain'} after Holm's correction for looking at all of them."
    )


def labels_sentence(comparison: Comparison) -> str:
    """Say which labels contenders saw in pretraining, or return an empty text where no run has finished."""
    saw: dict[str, list[str]] = {}
    for one in comparison.contenders:
        if used := labels_used(comparison, one):
            saw.setdefault(used, []).append(one)
    if not saw:
        return ""
    return f"Class labels seen in pretraining: {'; '.join(f'{used} ({_and(names)})' for used, names in saw.items())}."


def labels_used(comparison: Comparison, contender: str) -> str:
    """Which labels a contender's pretraining saw, such as "none"; empty where no run of it has finished."""
    used = {cost.labels_used for (one, _, _), cost in comparison.costs.items() if one == contender}
    return ", ".join(sorted(used))


def _over_contenders(comparison: Comparison, statistics: Statistics, metric: Metric) -> list[str]:
    """One sentence for all, since there is one difference for each."""
    found: dict[Verdict, list[str]] = {}
    for one in comparison.contenders:
        if difference := statistics.differences.get((one, statistics.settings[0], metric)):
            kind = verdict(difference, metric)
            found.setdefault(kind, []).append(f"{one} ({_signed(comparison, metric, difference)})")
    parts = [
        f"{_and(found[kind])} {'is' if len(found[kind]) == 1 else 'are'} {kind} than {comparison.baseline}"
        for kind in _SIDES
        if kind in found
    ]
    parts += [f"{words} for {_and(found[kind])}" for kind, words in _NO_SIDE.items() if kind in found]
    return ["; ".join(parts)] if parts else []


def _over_settings(comparison: Comparison, statistics: Statistics, metric: Metric) -> list[str]:
    """One sentence for each contender."""
    sentences = []
    for one in comparison.contenders:
        found: dict[Verdict, list[str]] = {}
        for setting in statistics.settings:
            if difference := statistics.differences.get((one, setting, metric)):
                kind = verdict(difference, metric)
                found.setdefault(kind, []).append(f"{setting} ({_signed(comparison, metric, difference)})")
        parts = [f"is {kind} than {comparison.baseline} at {_and(found[kind])}" for kind in _SIDES if kind in found]
        parts += [f"{words} at {_and(found[kind])}" for kind, words in _NO_SIDE.items() if kind in found]
        if parts:
            opening = f"{one} " if set(found) & set(_SIDES) else f"{one}: "
            sentences.append(opening + "; ".join([*parts, *_change(comparison, statistics, metric, one)]))
    return sentences


def _change(comparison: Comparison, statistics: Statistics, metric: Metric, one: str) -> list[str]:
    change = statistics.changes.get((one, metric))
    if change is None or change.half is None:
        return []
    ends = f"from {statistics.settings[0]} to {statistics.settings[-1]}"
    amount = _signed(comparison, metric, change)
    if change.excludes_zero:
        return [f"{ends} its difference to {comparison.baseline} changes by {amount}"]
    return [f"that its difference changes {ends} does not show ({amount})"]


def _signed(comparison: Comparison, metric: Metric, difference: Estimate) -> str:
    fewer = "" if difference.n == len(comparison.seeds) else f", {_seeds(difference.n)}"
    return f"{metric.change(difference.mean, difference.half)}{metric.points}{fewer}"


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"


def _and(names: Sequence[str], *, word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
