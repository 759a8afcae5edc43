"""The page of an inspected relation: it stands alone, escapes captions, shows the pairs, says what is out of reach."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.data.graph_inspection import GraphInspection, inspect_graph
from kinfolk.data.relations.distance import DistanceConfig
from kinfolk.data.relations.labels import EqualLabels
from kinfolk.data.sources import ArraySource
from kinfolk.report.graph_page import write_graph_page
from kinfolk.report.graph_pictures import draw_pairs, draw_temperatures

_HOSTILE = "<script>alert(1)</script> & $x_"


@pytest.fixture(scope="module")
def source() -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (60, 3, 8, 8), dtype=torch.uint8, generator=generator)
    text = [_HOSTILE if i % 20 == 0 else f"scene {i}" for i in range(60)]
    times = torch.rand(60, dtype=torch.float64, generator=generator)
    return ArraySource(images, torch.arange(60) % 30, text=text, columns={"times": times})


@pytest.fixture(scope="module")
def found(source: ArraySource) -> GraphInspection:
    return inspect_graph(source, DistanceConfig(scale=0.1).build(source), batch_size=30)


def test_the_page_holds_its_pictures_and_no_script(found: GraphInspection, source: ArraySource, tmp_path: Path) -> None:
    page = write_graph_page(found, source, tmp_path / "graph")
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    files = sorted(p.name for p in (tmp_path / "graph").glob("*.png"))
    assert files == ["pairs.png", "perplexities.png", "temperatures.png"]
    assert len(pictures) == 3
    for data in pictures:
        size = Image.open(io.BytesIO(base64.b64decode(data))).size
        assert size[0] == 1536
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []
    assert "<script" not in text
    assert "<script>alert(1)</script> & $x_" in unescape(text)  # the caption that repeats, as it was written


def test_the_page_says_what_the_inspection_found(found: GraphInspection, source: ArraySource, tmp_path: Path) -> None:
    text = unescape(write_graph_page(found, source, tmp_path).read_text(encoding="utf-8"))
    assert "laplace kernel on times" in text
    assert "58 distinct captions; 3 samples share theirs with another." in text
    for suggestion in found.suggestions:
        if suggestion.found is not None:
            assert f"<td>{suggestion.found.temperature:.4g}</td>" in text
    impossible = inspect_graph(source, DistanceConfig(scale=0.1).build(source), batch_size=8)
    text = unescape(write_graph_page(impossible, source, tmp_path).read_text(encoding="utf-8"))
    assert "perplexity 20 cannot be reached: 8 samples with 2 views" in text


def test_relations_without_temperature_and_tables_have_pages_too(source: ArraySource, tmp_path: Path) -> None:
    labels = inspect_graph(source, EqualLabels(source.ids, torch.arange(60) % 3))
    text = write_graph_page(labels, source, tmp_path / "labels").read_text(encoding="utf-8")
    assert "This relation has no temperature" in text
    assert not (tmp_path / "labels" / "temperatures.png").exists()
    with pytest.raises(ValueError, match="has no temperature, so there is no curve"):
        draw_temperatures(labels, tmp_path / "x.png")
    dots = ArraySource(torch.zeros(60, 1, 1, 1, dtype=torch.uint8), columns={"times": source.columns["times"]})
    seen = inspect_graph(dots, DistanceConfig(scale=0.1).build(dots))
    text = write_graph_page(seen, dots, tmp_path / "table").read_text(encoding="utf-8")
    assert "below own: ids" in text
    assert not (tmp_path / "table" / "pairs.png").exists()
    one = dots.subset(torch.tensor([0]))
    seen = inspect_graph(one, EqualLabels(one.ids, torch.tensor([0])), views=1)
    assert "No two different samples" in write_graph_page(seen, one, tmp_path / "one").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="lists no pairs"):
        draw_pairs(seen, one, tmp_path / "x.png")


def test_the_pairs_pictures_are_those_of_the_pairs(tmp_path: Path) -> None:
    """Images of one colour each: the first pair's colours stand side by side on the left."""
    colours = torch.tensor([[255, 0, 0], [0, 0, 255], [0, 255, 0], [255, 255, 0]], dtype=torch.uint8)
    images = colours[:, :, None, None].expand(4, 3, 8, 8).clone()
    data = ArraySource(images, columns={"times": torch.tensor([0.0, 5.0, 0.1, 50.0])})  # red and green are near
    found = inspect_graph(data, DistanceConfig().build(data), pairs=1)
    path = draw_pairs(found, data, tmp_path / "pairs.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]

    def share(part: np.ndarray, colour: tuple[int, int, int]) -> float:
        return float((np.abs(part - np.array(colour)).sum(-1) < 30).mean())

    assert min(share(left, (255, 0, 0)), share(left, (0, 255, 0))) > 0.02
    assert min(share(right, (255, 0, 0)), share(right, (255, 255, 0))) > 0.02
    assert max(share(left, (255, 255, 0)), share(right, (0, 255, 0)), share(pixels, (0, 0, 255))) < 0.001
