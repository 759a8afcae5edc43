"""Records and the tables made of them."""

from __future__ import annotations

import json

import pytest

from kinfolk.evals import Record, format_table, markdown_table


def record(encoder: str, value: float, **fields) -> Record:
    given = {"protocol": "kNN", "metric": "accuracy", "better": "higher", **fields}
    return Record(encoder, given.pop("protocol"), given.pop("metric"), value, **given)


def test_records_survive_json() -> None:
    full = record(
        "trained", 0.9, sd=0.01, low=0.89, high=0.91, draws=5, labels_used="all", parameters={"seeds": [0, 1]}
    )
    assert Record.from_dict(json.loads(json.dumps(full.to_dict()))) == full
    assert list(full.to_dict()) == [
        "encoder",
        "protocol",
        "metric",
        "value",
        "sd",
        "low",
        "high",
        "draws",
        "labels_used",
        "better",
        "parameters",
    ]


def test_a_broken_record_says_what_is_wrong() -> None:
    data = record("trained", 0.9).to_dict()
    data["colour"] = data.pop("draws")
    with pytest.raises(
        ValueError, match=r"missing \['draws'\], unknown \['colour'\]; write it again with `kinfolk eval`"
    ):
        Record.from_dict(data)


def test_the_text_table() -> None:
    rows = [
        record("raw pixels", 0.981),
        record("trained", 0.978, labels_used="all"),
        record(
            "trained",
            0.9,
            metric="accuracy, 5 per class",
            protocol="few labels",
            low=0.88,
            high=0.92,
            labels_used="all",
        ),
        record("raw pixels", 0.8, metric="accuracy, 5 per class", protocol="few labels", low=0.77, high=0.83),
        record("trained", -2.0, metric="uniformity", protocol="geometry", better=None, labels_used="all"),
        record("raw pixels", -0.5, metric="uniformity", protocol="geometry", better=None),
    ]
    lines = format_table(rows, notes=("left out: nothing.",)).splitlines()
    assert lines[0].split("  ")[0] == "protocol"
    assert lines[2:5] == [
        "kNN         accuracy               0.978            0.981 *        all",
        "few labels  accuracy, 5 per class  0.900 ± 0.020 *  0.800 ± 0.030  all",
        "geometry    uniformity             -2.000           -0.500         all",
    ]
    assert lines[-2].startswith("* best of a row where a direction exists")
    assert lines[-1] == "left out: nothing."
    starts = [
        line.index(word) for line, word in zip(lines[:1] + lines[2:5], ("raw", "0.981", "0.800", "-0.500"), strict=True)
    ]
    assert len(set(starts)) == 1


def test_the_markdown_table() -> None:
    text = markdown_table([record("trained", 0.978), record("untrained", 0.5)], notes=("a note",))
    lines = text.splitlines()
    assert lines[:3] == [
        "| protocol | metric | trained | untrained | pretraining labels |",
        "| --- | --- | ---: | ---: | --- |",
        "| kNN | accuracy | **0.978** | 0.500 | none |",
    ]
    assert lines[-1] == "a note"


def test_ties_as_printed_are_all_marked_and_lower_can_be_better() -> None:
    tied = format_table([record("trained", 0.97801), record("untrained", 0.97799)]).splitlines()[2]
    assert tied.count("*") == 2
    lower = format_table(
        [record("trained", 0.3, better="lower"), record("untrained", 0.2, better="lower")]
    ).splitlines()[2]
    assert "0.200 *" in lower
    assert "0.300 *" not in lower


def test_a_lone_encoder_is_not_the_best_of_anything() -> None:
    assert "*" not in format_table([record("trained", 0.9)]).splitlines()[2]


def test_missing_cells_stay_empty_and_other_encoders_follow() -> None:
    rows = [record("another", 0.5), record("trained", 0.6), record("untrained", 0.1, metric="other")]
    lines = markdown_table(rows).splitlines()
    assert lines[0] == "| protocol | metric | trained | untrained | another | pretraining labels |"
    assert lines[3] == "| kNN | other |  | 0.100 |  | none |"


def test_no_records_give_an_empty_table() -> None:
    assert format_table([]).splitlines()[0].split() == ["protocol", "metric", "pretraining", "labels"]
