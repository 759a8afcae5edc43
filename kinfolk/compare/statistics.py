"""Means over seeds, differences paired by seed, and how sure one can be of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from scipy.special import stdtr

from kinfolk.compare.metrics import Metric, all_metrics
from kinfolk.compare.results import Comparison, Result
from kinfolk.evals import Measurement

Cell = tuple[str, str, Metric]
Verdict = Literal["better", "worse", "higher", "lower", "open", "one seed"]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with Student's 95 % interval.

    Args:
        seeds: over which it was taken, ascending.
        values: one for each seed.
        mean: of the values.
        sd: sample standard deviation; None for one seed.
        low: lower end of the interval of the mean; None for one seed.
        high: upper end of it.

    Example:
        >>> estimate = Estimate.of({0: 0.8, 1: 0.9, 2: 1.0})
        >>> round(estimate.mean, 3), round(estimate.half, 3), estimate.n, estimate.excludes_zero
        (0.9, 0.248, 3, True)
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, by_seed: Mapping[int, float]) -> Estimate:
        """Estimate from one value for each seed, at least one.

        Equal values give an interval without width.

        Raises:
            ValueError: without a seed.
        """
        seeds = tuple(sorted(by_seed))
        values = tuple(by_seed[seed] for seed in seeds)
        if values and min(values) == max(values):  # summing could leave a spread of one rounding
            spread = None if len(values) == 1 else (0.0, values[0], values[0])
            return cls(seeds, values, values[0], *(spread or (None, None, None)))
        drawn = Measurement.from_draws("an estimate", values)
        return cls(seeds, values, drawn.value, drawn.sd, drawn.low, drawn.high)

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.values)

    @property
    def half(self) -> float | None:
        """Half the width of the interval; None for one seed."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval exists and zero lies outside."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def p_value(self) -> float | None:
        """Student's two-sided p-value of a mean of zero; 1 for values that are all zero.

        None for one seed, and for equal values that are not zero: without spread there is nothing to judge them by.
        """
        if self.sd is None:
            return None
        if self.sd == 0:
            return None if self.mean else 1.0
        return float(2 * stdtr(self.n - 1, -abs(self.mean) / (self.sd / math.sqrt(self.n))))


@dataclass(frozen=True)
class Statistics:
    """All estimates of a comparison; what no run has measured is not in them.

    Args:
        settings: numbers in ascending order, anything else in the order of the comparison.
        metrics: in the order of the results.
        values: by contender, setting and metric.
        differences: contender minus baseline at the same seed and setting.
        changes: by contender and metric: the difference at the last setting minus that at the first.
    """

    settings: tuple[str, ...]
    metrics: tuple[Metric, ...]
    values: Mapping[Cell, Estimate]
    differences: Mapping[Cell, Estimate]
    changes: Mapping[tuple[str, Metric], Estimate]


def statistics_of(comparison: Comparison) -> Statistics:
    """Estimate every value, every paired difference, and every change of a difference.

    Pairs exist where contender and baseline both have the seed; changes need both at both ends. Intervals are each for
    itself, not corrected for their number; see `survivors`.

    Args:
        comparison: with any number of finished runs.

    Raises:
        ValueError: for a result that is not finite, appears twice, or belongs to no run of the comparison.

    Example:
        >>> numbers = {("a", 0): 0.5, ("a", 1): 0.6, ("b", 0): 0.6, ("b", 1): 0.8}
        >>> found = tuple(Result(who, "", seed, "kNN", "accuracy", "higher", x) for (who, seed), x in numbers.items())
        >>> statistics = statistics_of(Comparison("two", "a", ("a", "b"), ("",), None, (0, 1), found))
        >>> (difference,) = statistics.differences.values()
        >>> round(difference.mean, 3), difference.n, difference.excludes_zero
        (0.15, 2, False)
    """
    settings, metrics = ordered(comparison.settings), all_metrics(comparison)
    runs = _by_seed(comparison, metrics)
    baseline = comparison.baseline
    paired = {
        (one, setting, metric): _minus(by_seed, runs.get((baseline, setting, metric), {}))
        for (one, setting, metric), by_seed in runs.items()
        if one != baseline
    }
    changed = {
        (one, metric): _minus(paired.get((one, settings[-1], metric), {}), paired.get((one, settings[0], metric), {}))
        for one in comparison.contenders
        for metric in metrics
        if len(settings) > 1
    }
    return Statistics(settings, metrics, _estimates(runs), _estimates(paired), _estimates(changed))


def ordered(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Settings as one reads them: numbers ascending, anything else as it stands.

    Example:
        >>> ordered(("64", "512", "1e2")), ordered(("none", "imbalanced"))
        (('64', '1e2', '512'), ('none', 'imbalanced'))
    """
    numbers = [as_number(setting) for setting in settings]
    if any(number is None for number in numbers):
        return settings
    return tuple(sorted(settings, key=float))


def as_number(text: str) -> float | None:
    """The finite number that a text writes, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def verdict(difference: Estimate, metric: Metric) -> Verdict:
    """What a paired difference says: "better" or "worse" only where its interval excludes zero, "open" elsewhere.

    A diagnostic has no better side and is "higher" or "lower".
    """
    if difference.half is None:
        return "one seed"
    if not difference.excludes_zero:
        return "open"
    up = difference.mean > 0
    if metric.better is None:
        return "higher" if up else "lower"
    return "better" if up == (metric.better == "higher") else "worse"


def survivors(differences: Mapping[Key, Estimate], *, level: float = 0.05) -> frozenset[Key]:
    """Which differences remain after Holm's correction for their number.

    The probability that any of them is there by chance alone stays below the level, however they depend on each other.
    Differences of one seed are not tested and do not count.

    Args:
        differences: all that are looked at together.
        level: of the whole.

    Reference:
        Holm, 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> sure, unsure = Estimate.of({0: 1.0, 1: 1.1, 2: 0.9}), Estimate.of({0: 1.0, 1: 0.1, 2: 2.0})
        >>> survivors({"sure": sure, "unsure": unsure})
        frozenset({'sure'})
    """
    tested = {key: one.p_value for key, one in differences.items() if one.p_value is not None}
    kept: list[Key] = []
    for place, (key, p_value) in enumerate(sorted(tested.items(), key=lambda item: item[1])):
        if p_value > level / (len(tested) - place):
            break
        kept.append(key)
    return frozenset(kept)


def _by_seed(comparison: Comparison, metrics: tuple[Metric, ...]) -> dict[Cell, dict[int, float]]:
    named = {(metric.protocol, metric.name): metric for metric in metrics}
    found: dict[Cell, dict[int, float]] = {}
    for result in comparison.results:
        _check(comparison, result)
        cell = (result.contender, result.setting, named[result.protocol, result.metric])
        if result.seed in found.setdefault(cell, {}):
            raise ValueError(f"{_run(result)} is in the results twice; every run gives a metric once.")
        found[cell][result.seed] = result.value
    return found


def _check(comparison: Comparison, result: Result) -> None:
    if not math.isfinite(result.value):
        raise ValueError(
            f"{_run(result)} is {result.value}, and no mean can be taken over it. Look at this run's metrics.jsonl;"
            " remove its folder and start the comparison again, or leave the protocol out."
        )
    for kind, value, known in (
        ("contender", result.contender, comparison.contenders),
        ("setting", result.setting, comparison.settings),
        ("seed", result.seed, comparison.seeds),
    ):
        if value not in known:
            raise ValueError(f"{_run(result)}: the comparison has no {kind} {value!r}, only {known}.")


def _run(result: Result) -> str:
    run = ", ".join(filter(None, (result.contender, result.setting, f"seed {result.seed}")))
    return f"{result.protocol} {result.metric} of the run {run}"


def _minus(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """Seed by seed, where both have the seed."""
    return {seed: value - other[seed] for seed, value in one.items() if seed in other}


def _estimates(cells: Mapping[Key, Mapping[int, float]]) -> dict[Key, Estimate]:
    return {key: Estimate.of(by_seed) for key, by_seed in cells.items() if by_seed}
