"""Cells of tables as images, captions and labels, and what the columns of a table mean."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL

from kinfolk.data.sources.cells import caption, encoded_image, find_roles, number_labels
from kinfolk.data.sources.decode import UnreadableImage


class Image:
    """Stands for a feature of a Hugging Face data set, which is known by its name."""


class ClassLabel:
    dtype = "int64"

    def __init__(self, *names: str) -> None:
        self.names = names


class Value:
    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class List:
    def __init__(self, feature: Any) -> None:
        self.feature = feature


def pixels(cell: Any) -> np.ndarray:
    data = encoded_image(cell, where="row 3")
    assert isinstance(data, bytes)
    return np.asarray(PIL.open(io.BytesIO(data)))


class TestRoles:
    def test_features_say_more_than_names(self) -> None:
        features = {"img": Value("binary"), "photo": Image(), "target": Value("int64"), "breed": ClassLabel("a", "b")}
        roles = find_roles(features)
        assert (roles.image, roles.label, roles.text) == ("photo", "breed", None)
        assert roles.class_names == ("a", "b")

    def test_usual_names_choose_among_equals(self) -> None:
        features = {"thumb": Image(), "image": Image(), "coarse_label": ClassLabel("x"), "fine_label": ClassLabel("y")}
        roles = find_roles(features)
        assert (roles.image, roles.label) == ("image", "fine_label")

    def test_a_name_needs_a_type_that_fits(self) -> None:
        features = {
            "image": Image(),
            "label": Value("float32"),
            "text": Value("int64"),
            "caption": List(Value("string")),
        }
        roles = find_roles(features)
        assert (roles.label, roles.text) == (None, "caption")

    def test_webdataset_names_are_usual(self) -> None:
        roles = find_roles({"__key__": Value("string"), "jpg": Image(), "cls": Value("int64"), "txt": Value("string")})
        assert (roles.image, roles.label, roles.text) == ("jpg", "cls", "txt")

    def test_what_else_is_known_is_found_by_name_or_told(self) -> None:
        features = {name: Value("int64") for name in ("group", "time", "attribute_a", "year", "other")}
        roles = find_roles({"image": Image(), **features}, columns=[("time", "year")])
        assert dict(roles.records) == {"group": "group", "time": "year", "attribute_a": "attribute_a"}


class TestImages:
    @pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 1), (4, 6, 4), (3, 5, 6), (16,)])
    @pytest.mark.parametrize("as_list", [True, False])
    def test_numbers_become_the_same_pixels(self, shape: tuple[int, ...], as_list: bool) -> None:
        array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        expected = array.reshape(4, 4) if len(shape) == 1 else array.squeeze(2) if shape[-1] == 1 else array
        expected = expected.transpose(1, 2, 0) if shape == (3, 5, 6) else expected
        for cell in (array, array.astype(np.int64), array / 255):
            assert (pixels(cell.tolist() if as_list else cell) == expected).all()

    def test_bytes_and_paths_are_handed_on(self) -> None:
        assert encoded_image(memoryview(b"ab"), where="") == b"ab"
        assert encoded_image({"bytes": b"ab", "path": "x.png"}, where="") == b"ab"
        assert encoded_image("folder/x.png", where="") == Path("folder/x.png")

    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            (None, "row 3 has no image"),
            ([], "row 3 has no image"),
            (7, "row 3 has no image"),
            ({"bytes": None, "path": None}, "row 3 has no image"),
            ([[1, -1]], "row 3 holds no image: integers must be in 0..255; found -1 to 1"),
            ([[0.5, 1.5]], "row 3 holds no image: .*must be finite and in"),
            ([1, 2, 3], "row 3 holds no image: .*expected grey"),
            ([["a", "b"]], "row 3 holds no image: .*expected uint8"),
            ([[[1, 2]] * 5] * 5, "row 3 holds no image: .*expected grey"),
            ([[1, 2], [3]], "row 3 holds no image"),
        ],
    )
    def test_anything_else_is_named(self, cell: Any, message: str) -> None:
        with pytest.raises(UnreadableImage, match=message):
            encoded_image(cell, where="row 3")


def test_every_caption_of_several_can_be_chosen() -> None:
    cell = ["a", " ", None, b"b ", "c"]
    assert [caption(cell, where="", choice=choice) for choice in (0, 0.3, 0.34, 0.7, 0.999)] == [
        "a",
        "a",
        "b",
        "c",
        "c",
    ]
    assert caption("ä", where="") == caption("ä".encode(), where="") == "ä"
    with pytest.raises(UnreadableImage, match="row 3: the caption is not UTF-8"):
        caption("ä".encode("latin1"), where="row 3")


class TestLabels:
    def test_integers_stay_and_missing_is_unlabelled(self) -> None:
        labels, names = number_labels([3, None, True, 0], class_names=None, where="")
        assert labels.tolist() == [3, -1, 1, 0]
        assert labels.dtype == torch.int64
        assert names is None

    def test_numbers_as_text_are_sorted_as_numbers(self) -> None:
        labels, names = number_labels(["10", "9", "", "10"], class_names=None, where="")
        assert names == ("9", "10")
        assert labels.tolist() == [1, 0, -1, 1]

    @pytest.mark.parametrize("values", [[1.5], [[1, 0]], [1, "a"], [{"a": 1}]])
    def test_other_types_are_refused(self, values: list[Any]) -> None:
        with pytest.raises(TypeError, match="column x: labels must be integers or names, one per sample; found"):
            number_labels(values, class_names=None, where="column x")
