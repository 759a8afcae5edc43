"""Which metrics a comparison shows, how numbers are written, and what stands in the tables."""

from __future__ import annotations

import math

import pytest
from made_comparisons import ACCURACY, DIAGNOSTIC, RANK, comparison_of

from kinfolk.compare.findings import chance, finding, labels_sentence, references_ahead
from kinfolk.compare.metrics import Metric, all_metrics, headline_metrics
from kinfolk.compare.results import Comparison, Cost
from kinfolk.compare.statistics import statistics_of
from kinfolk.compare.table import (
    change_table,
    difference_table,
    escaped,
    format_comparison,
    markdown,
    plain,
    value_table,
)

THREE = {
    ("SimCLR", 0): 0.500, ("SimCLR", 1): 0.520, ("SimCLR", 2): 0.510,
    ("DCL", 0): 0.600, ("DCL", 1): 0.621, ("DCL", 2): 0.611,
    ("CACR", 0): 0.480, ("CACR", 1): 0.540, ("CACR", 2): 0.505,
}  # fmt: skip


def rows_of(comparison: Comparison, which: str = "values") -> list[list[str]]:
    """The cells of a Markdown table, header first."""
    statistics = statistics_of(comparison)
    make = {"values": value_table, "differences": difference_table, "changes": change_table}[which]
    table = make(comparison, statistics, statistics.metrics)
    assert table is not None
    lines = markdown(table).splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def test_values_have_half_the_interval_behind_them_and_the_best_is_bold() -> None:
    header, simclr, dcl, cacr = rows_of(comparison_of(THREE))
    assert header == ["contender", "kNN accuracy, % ↑", "seeds", "labels", "seconds"]
    # sd 0.01 over 3 seeds: 4.3027 * 0.01 / sqrt 3 = 0.0248
    assert simclr == ["SimCLR", "51.0 ± 2.5", "3", "none", "6"]
    assert dcl[1] == "**61.1 ± 2.6**"
    assert cacr[1] == "50.8 ± 7.5"


def test_differences_are_signed_and_marked_where_their_interval_excludes_zero() -> None:
    header, dcl, cacr = rows_of(comparison_of(THREE), "differences")
    assert header == ["contender", "kNN accuracy, % ↑", "pairs"]
    # 0.100, 0.101, 0.101 and -0.020, 0.020, -0.005
    assert dcl == ["DCL", "+10.1 ± 0.1 ‡", "3"]
    assert cacr == ["CACR", "-0.2 ± 5.0", "3"]


def test_holms_mark_falls_away_when_there_are_many_differences() -> None:
    few = {("a", 0): 0.5, ("a", 1): 0.5, ("a", 2): 0.5, ("b", 0): 0.51, ("b", 1): 0.52, ("b", 2): 0.53}
    assert rows_of(comparison_of(few), "differences")[1][1] == "+2.0 ± 2.5", "t(2) = 3.46, below 4.30"
    few[("b", 2)] = 0.522
    assert rows_of(comparison_of(few), "differences")[1][1].endswith("†") is False
    clear = few | {("b", 0): 0.515, ("b", 1): 0.520, ("b", 2): 0.525}
    assert rows_of(comparison_of(clear), "differences")[1][1] == "+2.0 ± 1.2 ‡"
    many = clear | {(f"c{i}", s): 0.5 + 0.01 * (s - 1) for i in range(10) for s in range(3)}
    assert rows_of(comparison_of(many), "differences")[1][1] == "+2.0 ± 1.2 †"


def test_a_lower_median_rank_is_best_and_keeps_its_unit() -> None:
    ranks = {(one, s, RANK): value + s for one, value in (("a", 40.0), ("b", 30.0)) for s in (0, 1)}
    header, a, b = rows_of(comparison_of(ranks))
    assert header[1] == "retrieval median rank ↓"
    assert (a[1], b[1]) == ("40.5 ± 6.4", "**30.5 ± 6.4**")


def test_contenders_that_look_equal_are_both_best_and_one_alone_is_not() -> None:
    _, a, b = rows_of(comparison_of({("a", 0): 0.50001, ("b", 0): 0.50002}))
    assert (a[1], b[1]) == ("**50.0**", "**50.0**")
    assert rows_of(comparison_of({("a", 0): 0.5}))[1][1] == "50.0"


def test_references_stand_beneath_and_are_bold_where_no_contender_is_better() -> None:
    found = rows_of(comparison_of(THREE, references={"raw pixels": 0.3, "centred raw pixels": 0.7}))
    assert found[-2:] == [["raw pixels", "30.0", "-", "-", "-"], ["centred raw pixels", "**70.0**", "-", "-", "-"]]
    assert found[2][1].startswith("**"), "the best contender keeps its mark"


def test_references_share_a_row_only_where_they_are_the_same_at_all_settings() -> None:
    comparison = comparison_of({("a", s, 0): 0.5 for s in ("32", "64")}, references={"raw pixels": 0.4})
    assert [row[:3] for row in rows_of(comparison)[3:]] == [["all", "raw pixels", "40.0"]]
    (first, record), (second, _) = comparison.references
    moved = ((first, record), (second, type(record)(**{**vars(record), "value": 0.6})))
    found = rows_of(Comparison(**{**vars(comparison), "references": moved}))
    assert [row[:3] for row in found[3:]] == [["32", "raw pixels", "40.0"], ["64", "raw pixels", "**60.0**"]]


def test_with_a_varied_field_each_setting_has_its_best_and_the_change_is_shown() -> None:
    gaps = {"32": 0.10, "512": 0.02}
    values = {
        (one, setting, s): 0.5 + 0.01 * s + (gap + 0.001 * s if one == "b" else 0.0)
        for setting, gap in gaps.items()
        for one in "ab"
        for s in range(3)
    }
    comparison = comparison_of(values)
    found = rows_of(comparison)
    assert found[0][:3] == ["batch\\_size", "contender", "kNN accuracy, % ↑"]
    assert [row[:2] for row in found[1:]] == [["32", "a"], ["32", "b"], ["512", "a"], ["512", "b"]]
    assert ["**" in row[2] for row in found[1:]] == [False, True, False, True]
    assert rows_of(comparison, "changes") == [["contender", "kNN accuracy, % ↑", "pairs"], ["b", "-8.0 ± 0.0 †", "3"]]


def test_missing_runs_are_counted_cell_by_cell() -> None:
    values = {
        ("a", 0): 0.5, ("a", 1): 0.5, ("b", 0): 0.6,
        ("a", 0, RANK): 3.0, ("b", 0, RANK): 2.0, ("b", 1, RANK): 4.0,
    }  # fmt: skip
    comparison = Comparison(**{**vars(comparison_of(values)), "contenders": ("a", "b", "none finished")})
    _, a, b, never = rows_of(comparison)
    assert a[1:4] == ["50.0 ± 0.0", "**3.000 (n = 1)**", "2"]
    assert b[1:4] == ["**60.0 (n = 1)**", "**3.000 ± 12.706**", "2"]
    assert never[1:] == ["-", "-", "0", "-", "-"]
    assert [row[-1] for row in rows_of(comparison, "differences")[1:]] == ["1"]


def test_there_is_no_table_of_differences_for_one_contender() -> None:
    comparison = comparison_of({("a", "32", 0): 0.5, ("a", "64", 0): 0.5})
    statistics = statistics_of(comparison)
    assert difference_table(comparison, statistics, statistics.metrics) is None
    assert change_table(comparison, statistics, statistics.metrics) is None


def test_the_plain_table_is_aligned_and_breaks_long_headings() -> None:
    comparison = comparison_of({**THREE, **{(*key, RANK): 40.0 for key in THREE}}, references={"raw pixels": 0.3})
    lines = format_comparison(comparison).splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("---"))
    assert max(map(len, lines[: rule + 6])) < 80
    rows = lines[rule + 1 : rule + 4]
    assert len({row.index("±") for row in rows}) == 1, "numbers stand beneath each other, marked or not"
    assert rows[1].split()[:5] == ["DCL", "61.1", "±", "2.6", "*"]
    assert lines[rule + 4] == "", "references are set apart"
    assert "difference to SimCLR, paired by seed:" in lines
    assert lines[-1].startswith("† the interval excludes zero")


def test_text_that_markdown_would_read_is_escaped() -> None:
    assert escaped("a_b | [c] *d* `e` <f>\n g") == r"a\_b \| \[c\] \*d\* \`e\` \<f\> g"
    assert rows_of(comparison_of({("a", "[0.2,1]", 0): 0.5}))[1][0] == r"\[0.2,1\]"


@pytest.mark.parametrize(
    ("values", "better", "title", "texts"),
    [
        ((0.0, 1.0), "higher", "x y, % ↑", ("0.0", "100.0")),
        ((0.5, 1.01), "higher", "x y ↑", ("0.500", "1.010")),
        ((-0.1, 0.9), "higher", "x y ↑", ("-0.100", "0.900")),
        ((0.2, 0.4), "lower", "x y ↓", ("0.200", "0.400")),
        ((0.2, 0.4), None, "x y", ("0.200", "0.400")),
        ((12.0, 999.0), None, "x y", ("12.0", "999.0")),
        ((-1200.4, 3.0), None, "x y", ("-1200", "3")),
    ],
)
def test_shares_are_in_per_cent_and_other_numbers_as_they_are(
    values: tuple[float, ...], better: str | None, title: str, texts: tuple[str, ...]
) -> None:
    (metric,) = all_metrics(comparison_of({("a", s, ("x", "y", better)): value for s, value in enumerate(values)}))
    assert metric.title == title
    assert tuple(metric.written(value) for value in values) == texts


def test_a_reference_beyond_one_keeps_the_metric_from_being_a_share() -> None:
    (metric,) = all_metrics(comparison_of({("a", 0): 0.5}, references={"raw pixels": 1.5}))
    assert not metric.share


def test_no_number_is_written_as_minus_zero() -> None:
    metric = Metric("kNN", "accuracy", "higher", share=True, decimals=1)
    assert (metric.written(-0.0001), metric.change(-0.0001), metric.change(0.0)) == ("0.0", "+0.0", "+0.0")


def test_the_headline_is_an_accuracy_or_the_first_three_and_later_ones_go_first() -> None:
    names = [
        ("kNN", "accuracy"), ("kNN", "precision@1"), ("few labels", "accuracy, 1 per class"),
        ("few labels", "accuracy, 5 per class"), ("few labels", "accuracy, 10 per class"), ("few labels", "fourth"),
        ("retrieval", "R@1"), ("retrieval", "R@5"), ("retrieval", "mAP"), ("linear probe", "accuracy"),
    ]  # fmt: skip
    metrics = [Metric(*name, better="higher", share=True, decimals=1) for name in names]
    metrics.insert(1, Metric("geometry", "effective rank", None, share=False, decimals=1))
    assert [metric.label for metric in headline_metrics(metrics)] == [
        "kNN accuracy", "few labels, 1 per class", "few labels, 5 per class", "few labels, 10 per class",
        "retrieval R@1", "retrieval R@5", "linear probe accuracy",
    ]  # fmt: skip
    assert [metric.protocol for metric in headline_metrics(metrics, most=2)] == ["kNN", "few labels"]
    assert headline_metrics(metrics[1:2]) == (metrics[1],), "without a direction, what there is"
    assert headline_metrics([]) == ()


def test_a_finding_names_each_contender_once_and_claims_only_what_excludes_zero() -> None:
    comparison = comparison_of(THREE)
    statistics = statistics_of(comparison)
    assert finding(comparison, statistics, statistics.metrics[0]) == (
        "kNN accuracy, 3 seeds: DCL (+10.1 ± 0.1 points) is better than SimCLR; no difference shows for CACR"
        " (-0.2 ± 5.0 points)."
    )


def test_a_finding_over_settings_says_where_and_how_the_difference_changes() -> None:
    gaps = {"32": (0.10, 0.10, 0.11), "64": (-0.05, 0.05, 0.01), "512": (-0.03, -0.03, -0.02)}
    values = {("a", setting, s): 0.5 for setting in gaps for s in range(3)}
    values |= {("b", setting, s): 0.5 + gap for setting, own in gaps.items() for s, gap in enumerate(own)}
    comparison = comparison_of(values)
    statistics = statistics_of(comparison)
    assert finding(comparison, statistics, statistics.metrics[0]) == (
        "kNN accuracy against batch_size, 3 seeds: b is better than a at 32 (+10.3 ± 1.4 points); is worse than a at"
        " 512 (-2.7 ± 1.4 points); no difference shows at 64 (+0.3 ± 12.5 points); from 32 to 512 its difference to a"
        " changes by -13.0 ± 0.0 points."
    )


def test_a_finding_from_one_seed_claims_nothing() -> None:
    for setting in ("", "32"):
        comparison = comparison_of({("a", setting, 0): 0.5, ("b", setting, 0): 0.9})
        statistics = statistics_of(comparison)
        text = finding(comparison, statistics, statistics.metrics[0])
        assert "one pair of runs and no interval" in text
        assert "+40.0 points" in text
        assert "better" not in text
        assert "none can be told from chance" in chance(statistics, statistics.metrics)


def test_a_finding_for_one_contender_says_that_there_is_no_other() -> None:
    comparison = comparison_of({("a", 0): 0.5})
    statistics = statistics_of(comparison)
    assert finding(comparison, statistics, statistics.metrics[0]).endswith("nobody to compare with a.")


def test_references_that_are_ahead_are_named_with_their_settings() -> None:
    comparison = comparison_of(
        {("a", "32", 0): 0.5, ("a", "64", 0): 0.8}, references={"raw pixels": 0.6, "centred": 0.9, "untrained": 0.1}
    )
    statistics = statistics_of(comparison)
    assert references_ahead(comparison, statistics, statistics.metrics[0]) == (
        "No contender's mean is better than raw pixels (60.0) at 32 or centred (90.0)."
    )
    diagnostic = comparison_of({("a", 0, DIAGNOSTIC): 5.0})
    assert references_ahead(diagnostic, statistics_of(diagnostic), all_metrics(diagnostic)[0]) == ""


def test_chance_counts_what_is_looked_at_together() -> None:
    comparison = comparison_of(THREE)
    statistics = statistics_of(comparison)
    assert chance(statistics, statistics.metrics) == (
        "Of 2 paired differences 1 has an interval that excludes zero (0.1 would on average if no contender differed);"
        " 1 remains after Holm's correction for looking at all of them."
    )


def test_labels_seen_in_pretraining_are_named() -> None:
    comparison = comparison_of({("SimCLR", 0): 0.5, ("SupCon", 0): 0.5, ("X-CLR", 0): 0.5})
    costs = {
        (one, "", 0): Cost(10, 1, 5, 1.0, None, "none" if one == "SimCLR" else "all") for one in comparison.contenders
    }
    labelled = Comparison(**{**vars(comparison), "costs": costs})
    assert labels_sentence(labelled) == "Class labels seen in pretraining: none (SimCLR); all (SupCon and X-CLR)."
    assert [row[3] for row in rows_of(labelled)[1:]] == ["none", "all", "all"]
    assert labels_sentence(comparison_of({("a", 0): 0.5}, costs={})) == ""


def test_a_comparison_without_a_finished_run_says_so() -> None:
    assert format_comparison(comparison_of({("a", 0): 0.5}, results=())) == "no run has finished yet"


def test_a_table_refuses_numbers_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="kNN accuracy of the run b, seed 0 is nan"):
        format_comparison(comparison_of({("a", 0): 0.5, ("b", 0): math.nan}))


def test_columns_can_be_chosen() -> None:
    comparison = comparison_of({("a", 0, metric): 0.5 for metric in (ACCURACY, DIAGNOSTIC)})
    diagnostic = all_metrics(comparison)[1]
    text = format_comparison(comparison, metrics=[diagnostic])
    assert "effective rank" in " ".join(text.split())
    assert "kNN" not in text
    assert plain(value_table(comparison, statistics_of(comparison), [diagnostic])) in text
