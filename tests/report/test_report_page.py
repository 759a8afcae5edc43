"""The page: it parses, stands alone, escapes what users wrote, and says what is missing."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from kinfolk.report.page import (
    Section,
    details_html,
    evaluation_html,
    figure_html,
    missing_html,
    page_html,
    paragraph_html,
    settings_html,
)
from kinfolk.report.style import picture
from kinfolk.report.table import encoders_in, evaluation_rows, few_label_bars, verdict

_HOSTILE = '"><script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(1)>'
_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on tags that close in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _record(
    encoder: str, value: float | None, *, metric: str = "accuracy", better: str | None = "higher", **more
) -> dict:
    shared = {"protocol": "kNN", "labels_used": "none", "sd": None, "low": None, "high": None, "draws": 1}
    return {
        **shared,
        "encoder": encoder,
        "metric": metric,
        "value": value,
        "better": better,
        "parameters": {"k": 20},
        **more,
    }


def test_the_parser_of_this_test_can_fail() -> None:
    with pytest.raises(AssertionError, match="closes another tag"):
        Page("<p><b></p></b>")
    with pytest.raises(AssertionError, match="never closed"):
        Page("<p>")


def test_the_page_stands_alone_and_its_contents_lead_to_its_sections(tmp_path: Path) -> None:
    with picture(tmp_path / "dot.png", height=0.5):
        pass
    sections = [
        Section("one", "First", paragraph_html("text") + figure_html(tmp_path / "dot.png", alt="a dot", caption="Dot")),
        Section("two", "Second & last", missing_html("nothing here")),
    ]
    page = Page(page_html("Title", "Lead", sections))
    assert [a["href"] for a in page.all("a")] == ["#one", "#two"]
    assert [s["id"] for s in page.all("section")] == ["one", "two"]
    assert [len(page.all(tag)) for tag in ("h1", "h2", "main", "nav", "header", "footer")] == [1, 2, 1, 1, 1, 1]
    assert page.all("img")[0]["src"].startswith("data:image/png;base64,iVBOR")
    assert page.all("img")[0]["alt"] == "a dot"
    assert not page.all("script") + page.all("link") + page.all("iframe")
    assert page.all("html")[0]["lang"] == "en"
    text = page_html("Title", "Lead", sections)
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_whatever_users_wrote_is_escaped(tmp_path: Path) -> None:
    with picture(tmp_path / "dot.png", height=0.5):
        pass
    records = [_record(_HOSTILE, 0.5, metric=_HOSTILE, protocol=_HOSTILE, labels_used=_HOSTILE)]
    body = "".join(
        [
            paragraph_html(_HOSTILE),
            missing_html(_HOSTILE),
            settings_html({_HOSTILE: _HOSTILE}),
            details_html(_HOSTILE, _HOSTILE),
            evaluation_html(evaluation_rows(records)),
            figure_html(tmp_path / "dot.png", alt=_HOSTILE, caption=_HOSTILE),
        ]
    )
    page = Page(page_html(_HOSTILE, _HOSTILE, [Section("x", _HOSTILE, body)]))
    assert not page.all("script")
    assert len(page.all("img")) == 1
    assert page.all("img")[0]["alt"] == _HOSTILE
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "".join(page.text).count("<script>alert(1)</script>") >= 12


def test_the_table_marks_the_best_of_a_row_also_where_raw_pixels_win() -> None:
    records = [_record("trained", 0.9), _record("untrained", 0.5), _record("raw pixels", 0.95, low=0.93, high=0.97)]
    page = Page(evaluation_html(evaluation_rows(records)))
    best = [attributes for attributes in page.all("td") if attributes.get("class") == "best"]
    text = " ".join("".join(page.text).split())
    assert len(best) == 1
    assert "0.950 ★ ± 0.020" in text
    assert "0.900 ★" not in text
    assert "labels that pretraining used" in text


@pytest.mark.parametrize(
    ("better", "values", "best"),
    [
        ("higher", (0.9, 0.8), ("trained",)),
        ("lower", (0.9, 0.8), ("raw pixels",)),
        ("higher", (0.9001, 0.9002), ("trained", "raw pixels")),
        ("higher", (float("nan"), 0.1), ()),
        ("higher", (None, 0.1), ()),
        (None, (0.9, 0.8), ()),
    ],
)
def test_best_follows_the_direction_and_what_is_printed(better, values, best) -> None:
    records = [
        _record(name, value, better=better) for name, value in zip(("trained", "raw pixels"), values, strict=True)
    ]
    rows = evaluation_rows(records)
    assert rows[0].best == best
    assert len(Page(evaluation_html(rows)).all("td")) == 2 + 1 + 2  # labels used, metric, values


def test_columns_stand_in_a_fixed_order_and_later_records_replace_earlier_ones() -> None:
    names = ["raw pixels", "mine", "trained", "centred raw pixels", "untrained"]
    rows = evaluation_rows([_record(name, 0.1) for name in names] + [_record("trained", 0.7)])
    assert encoders_in(rows) == ("trained", "untrained", "raw pixels", "centred raw pixels", "mine")
    assert rows[0].records["trained"]["value"] == 0.7
    assert len(rows) == 1


def test_the_verdict_counts_wins_and_names_losses() -> None:
    records = [
        _record("trained", 0.9),
        _record("raw pixels", 0.8),
        _record("trained", 0.1, metric="mAP"),
        _record("raw pixels", 0.8, metric="mAP"),
        _record("trained", -3.0, metric="uniformity", better=None),
        _record("raw pixels", -1.0, metric="uniformity", better=None),
    ]
    said = verdict(evaluation_rows(records))
    assert "best in 1 of 2" in said
    assert said.endswith("Not best: kNN mAP (raw pixels).")
    assert verdict([]).startswith("No row")


def test_few_label_bars_take_that_protocol_or_else_other_accuracies() -> None:
    few = [
        _record("trained", 0.5, metric=f"accuracy, {k} per class", protocol="few labels", low=0.4, high=0.6)
        for k in (1, 5)
    ]
    groups, bars = few_label_bars(evaluation_rows([*few, _record("trained", 0.9), _record("raw pixels", 0.8)]))
    assert groups == ["1 per class", "5 per class"]
    assert bars == {"trained": [(0.5, 0.4, 0.6)] * 2}
    groups, bars = few_label_bars(evaluation_rows([_record("trained", 0.9), _record("raw pixels", None)]))
    assert groups == ["kNN"]
    assert bars == {"trained": [(0.9, 0.9, 0.9)], "raw pixels": [None]}
    assert few_label_bars([]) == ([], {})
