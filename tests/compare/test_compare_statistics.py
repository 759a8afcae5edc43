"""Means over seeds, paired differences, changes of differences, Holm's correction: against SciPy and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from made_comparisons import DIAGNOSTIC, RANK, comparison_of
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from kinfolk.compare.metrics import Metric
from kinfolk.compare.results import Comparison
from kinfolk.compare.statistics import Estimate, ordered, statistics_of, survivors, verdict

KNN = Metric("kNN", "accuracy", "higher", share=True, decimals=1)
LOWER = Metric("retrieval", "median rank", "lower", share=False, decimals=1)


def made(seeds: int, *, settings: tuple[str, ...] = ("",), effect: float = 0.03, seed: int = 0) -> Comparison:
    """Two contenders whose runs of one seed move together."""
    generator = np.random.default_rng(seed)
    common = {s: 0.05 * generator.standard_normal() for s in range(seeds)}
    values = {
        (one, setting, s): 0.5 + common[s] + shift + 0.01 * generator.standard_normal()
        for one, shift in (("a", 0.0), ("b", effect))
        for setting in settings
        for s in range(seeds)
    }
    return comparison_of(values)


def column(comparison: Comparison, contender: str, setting: str = "") -> list[float]:
    found = [r for r in comparison.results if (r.contender, r.setting) == (contender, setting)]
    return [r.value for r in sorted(found, key=lambda r: r.seed)]


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_means_and_intervals_are_scipys(seeds: int) -> None:
    comparison = made(seeds)
    estimate = statistics_of(comparison).values["a", "", KNN]
    values = column(comparison, "a")
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.n, estimate.seeds) == (seeds, tuple(range(seeds)))
    np.testing.assert_allclose([estimate.mean, estimate.sd], [np.mean(values), np.std(values, ddof=1)], rtol=1e-12)
    np.testing.assert_allclose([estimate.low, estimate.high], [interval.low, interval.high], rtol=1e-10)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_differences_are_paired_as_in_scipys_related_t_test(seeds: int) -> None:
    comparison = made(seeds)
    difference = statistics_of(comparison).differences["b", "", KNN]
    test = stats.ttest_rel(column(comparison, "b"), column(comparison, "a"))
    interval = test.confidence_interval(0.95)
    np.testing.assert_allclose([difference.low, difference.high], [interval.low, interval.high], rtol=1e-9)
    np.testing.assert_allclose(difference.p_value, test.pvalue, rtol=1e-9)
    unpaired = stats.ttest_ind(column(comparison, "b"), column(comparison, "a")).confidence_interval(0.95)
    assert seeds == 2 or difference.high - difference.low < unpaired.high - unpaired.low


def test_an_interval_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1, t(2) = 4.3027, so 2 ± 4.3027 / sqrt 3 = 2 ± 2.484."""
    values = {("a", s): 0.0 for s in range(3)} | {("b", s): float(s + 1) for s in range(3)}
    difference = statistics_of(comparison_of(values)).differences[
        "b", "", Metric("kNN", "accuracy", "higher", False, 3)
    ]
    assert (difference.mean, difference.sd) == (2.0, 1.0)
    assert difference.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert not difference.excludes_zero


def test_95_percent_of_intervals_cover_the_true_difference() -> None:
    covered = []
    for seed in range(300):
        difference = statistics_of(made(3, effect=0.02, seed=seed)).differences["b", "", KNN]
        covered.append(difference.low <= 0.02 <= difference.high)
    assert abs(np.mean(covered) - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / 300)


def test_one_seed_has_a_difference_and_no_interval() -> None:
    difference = statistics_of(comparison_of({("a", 4): 0.5, ("b", 4): 0.75})).differences["b", "", KNN]
    assert (difference.mean, difference.n, difference.seeds) == (0.25, 1, (4,))
    assert (difference.sd, difference.half, difference.p_value) == (None, None, None)
    assert not difference.excludes_zero
    assert verdict(difference, KNN) == "one seed"


def test_pairs_exist_only_where_both_have_the_seed() -> None:
    values = {("a", 0): 0.5, ("a", 1): 0.6, ("b", 1): 0.7, ("b", 2): 0.9, ("c", 3): 0.1}
    statistics = statistics_of(comparison_of(values))
    difference = statistics.differences["b", "", KNN]
    assert (difference.seeds, difference.n) == ((1,), 1)
    assert difference.mean == pytest.approx(0.1)
    assert statistics.values["b", "", KNN].n == 2
    assert ("c", "", KNN) not in statistics.differences, "no seed in common"
    assert ("a", "", KNN) not in statistics.differences, "the baseline has no difference to itself"


def test_the_order_of_results_does_not_matter() -> None:
    comparison = made(4, settings=("32", "64"))
    shuffled = Comparison(**{**vars(comparison), "results": comparison.results[::-1]})
    assert statistics_of(comparison).differences == statistics_of(shuffled).differences


def test_a_change_of_the_difference_is_the_interaction_seed_by_seed() -> None:
    comparison = made(5, settings=("512", "32", "128"))
    change = statistics_of(comparison).changes["b", KNN]
    gap = {s: np.subtract(column(comparison, "b", s), column(comparison, "a", s)) for s in ("32", "512")}
    test = stats.ttest_rel(gap["512"], gap["32"])
    np.testing.assert_allclose(
        [change.mean, change.low], [(gap["512"] - gap["32"]).mean(), test.confidence_interval().low]
    )
    assert statistics_of(comparison).settings == ("32", "128", "512")


def test_a_change_needs_both_ends() -> None:
    assert statistics_of(made(3)).changes == {}
    values = {("a", "32", 0): 0.5, ("a", "64", 0): 0.5, ("b", "32", 0): 0.6}
    assert statistics_of(comparison_of(values)).changes == {}


def test_values_that_are_equal_for_all_seeds_have_an_interval_without_width() -> None:
    values = {(one, s): value for one, value in (("a", 0.7), ("b", 0.7), ("c", 0.1)) for s in range(3)}
    statistics = statistics_of(comparison_of(values))
    same, other = statistics.differences["b", "", KNN], statistics.differences["c", "", KNN]
    assert (same.sd, same.half, same.p_value, same.excludes_zero) == (0.0, 0.0, 1.0, False)
    assert (other.sd, other.half, other.p_value, other.excludes_zero) == (0.0, 0.0, None, True)
    assert statistics.values["a", "", KNN].mean == 0.7, "no rounding of a sum"


def test_better_depends_on_the_direction() -> None:
    up = Estimate.of({0: 1.0, 1: 1.1, 2: 0.9})
    down = Estimate.of({0: -1.0, 1: -1.1, 2: -0.9})
    diagnostic = Metric("geometry", "effective rank", None, share=False, decimals=1)
    assert [verdict(one, metric) for metric in (KNN, LOWER, diagnostic) for one in (up, down)] == [
        "better", "worse", "worse", "better", "higher", "lower",
    ]  # fmt: skip
    assert verdict(Estimate.of({0: 1.0, 1: -1.0}), KNN) == "open"


def holm_by_definition(p_values: list[float], level: float) -> set[int]:
    """Reject i if every set of hypotheses that contains i is rejected by Bonferroni: the closed test."""
    everyone = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(everyone, size)]
    kept = {s for s in sets if min(p_values[i] for i in s) <= level / len(s)}
    return {i for i in everyone if all(s in kept for s in sets if i in s)}


@pytest.mark.parametrize("seed", range(6))
def test_holms_correction_is_the_closed_bonferroni_test(seed: int) -> None:
    generator = np.random.default_rng(seed)
    differences = {
        i: Estimate.of(dict(enumerate(generator.normal(generator.choice([0, 1, 4]), 0.3, size=4)))) for i in range(7)
    }
    expected = holm_by_definition([one.p_value for one in differences.values()], 0.05)
    assert survivors(differences) == expected
    assert 0 < len(expected) < 7


def test_holm_ignores_single_seeds_and_accepts_nothing() -> None:
    sure, single = Estimate.of({0: 1.0, 1: 1.001, 2: 0.999}), Estimate.of({0: 9.0})
    assert survivors({"sure": sure, "single": single}) == {"sure"}
    assert survivors({}) == frozenset()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_names_its_run(value: float) -> None:
    comparison = comparison_of({("a", "32", 0): 0.5, ("DCL", "32", 1): value})
    with pytest.raises(ValueError, match=rf"kNN accuracy of the run DCL, 32, seed 1 is {value}.*metrics\.jsonl"):
        statistics_of(comparison)


def test_results_that_do_not_belong_are_refused() -> None:
    comparison = comparison_of({("a", 0): 0.5})
    twice = Comparison(**{**vars(comparison), "results": comparison.results * 2})
    with pytest.raises(ValueError, match="kNN accuracy of the run a, seed 0 is in the results twice"):
        statistics_of(twice)
    for field, kind in (("contenders", "contender 'a'"), ("settings", "setting ''"), ("seeds", "seed 0")):
        with pytest.raises(ValueError, match=f"the comparison has no {kind}, only"):
            statistics_of(Comparison(**{**vars(comparison), field: ()}))


def test_a_comparison_without_results_has_no_statistics() -> None:
    statistics = statistics_of(comparison_of({("a", 0): 0.5}, results=()))
    assert (statistics.metrics, statistics.values, statistics.differences) == ((), {}, {})


def test_settings_are_ordered_as_numbers_only_where_all_are_numbers() -> None:
    assert ordered(("512", "32", "64")) == ("32", "64", "512")
    assert ordered(("0.5", "nan", "0.1")) == ("0.5", "nan", "0.1")
    assert ordered(("none", "10")) == ("none", "10")


def test_each_metric_has_its_own_statistics() -> None:
    numbers = {
        (one, s, metric): 10.0 * s + (one == "b") for one in "ab" for s in (0, 1) for metric in (RANK, DIAGNOSTIC)
    }
    statistics = statistics_of(comparison_of(numbers))
    assert [metric.name for metric in statistics.metrics] == ["median rank", "effective rank"]
    assert [verdict(one, cell[2]) for cell, one in statistics.differences.items()] == ["worse", "higher"]


def test_real_accuracies_of_two_classifiers_on_digits() -> None:
    """Three nearest neighbours against sixty-three on the same random training samples."""
    images, labels = load_digits(return_X_y=True)
    values = {}
    for name, k in (("3", 3), ("63", 63)):
        for seed in range(4):
            order = np.random.default_rng(seed).permutation(len(images))
            train, test = order[:300], order[1000:]
            values[name, seed] = (
                KNeighborsClassifier(k).fit(images[train], labels[train]).score(images[test], labels[test])
            )
    comparison = comparison_of(values)
    difference = statistics_of(comparison).differences["63", "", KNN]
    interval = stats.ttest_rel(column(comparison, "63"), column(comparison, "3")).confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert verdict(difference, KNN) == "worse"
