"""Captions of class names: every part gets them, and what has no names is refused."""

from __future__ import annotations

import pytest
import torch

from kinfolk.data import ArraySource, ClassCaptionsConfig, DigitsConfig
from kinfolk.data.sources.base import Splits


def source(labels: list[int], names: list[str] | None) -> ArraySource:
    return ArraySource(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels), class_names=names)


def test_all_parts_are_captioned_and_keep_what_they_had() -> None:
    splits = DigitsConfig().load()
    found = ClassCaptionsConfig("the digit {}").apply(Splits(splits.train, splits.test, probe=splits.test))
    for part, before in ((found.train, splits.train), (found.test, splits.test), (found.probe, splits.test)):
        assert part is not None
        assert part.text == [f"the digit {label}" for label in before.labels.tolist()]
        assert torch.equal(part.ids, before.ids)
        rows = torch.tensor([5, 3])
        assert part.fetch(rows)["text"] == [part.text[5], part.text[3]]
        assert torch.equal(part.fetch(rows)["images"], before.fetch(rows)["images"])


def test_a_name_with_braces_stands_as_it_is() -> None:
    data = source([0, 1], ["{x}", "b"])
    assert ClassCaptionsConfig("{} {}").apply(Splits(data, data)).train.text == ["{x} {x}", "b b"]


def test_what_cannot_be_captioned_is_refused() -> None:
    with pytest.raises(ValueError, match="where the class's name goes; found 'a photo'"):
        ClassCaptionsConfig("a photo")
    nameless, unlabelled = source([0, 1], None), source([0, -1], ["a", "b"])
    with pytest.raises(ValueError, match="has labels without"):
        ClassCaptionsConfig().apply(Splits(nameless, nameless))
    with pytest.raises(ValueError, match="1 unlabelled of 2"):
        ClassCaptionsConfig().apply(Splits(unlabelled, unlabelled))
