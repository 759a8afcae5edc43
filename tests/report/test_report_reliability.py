"""The reliability diagram: a PNG whose bars stand where the bins say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.data import DigitsConfig
from kinfolk.evals import LinearProbe, RawPixels, Record, Subject
from kinfolk.evals.calibration import Calibration
from kinfolk.report.reliability import write_reliability
from kinfolk.report.style import ACCENT, DPI, WIDTH, WRONG


def record(
    accuracies: list[float | None], *, counts: list[int] | None = None, encoder: str = "trained", **parameters: Any
) -> dict[str, Any]:
    """Bins whose mean confidence is their middle."""
    bins = len(accuracies)
    confidences = [None if a is None else (place + 0.5) / bins for place, a in enumerate(accuracies)]
    filled = [0 if a is None else 50 for a in accuracies] if counts is None else counts
    held = {"bin_counts": filled, "bin_confidences": confidences, "bin_accuracies": accuracies}
    metric = "ECE, scaled" if "temperature" in parameters else "ECE"
    one = Record(encoder, "calibration", metric, 0.123, better="lower", parameters={**held, **parameters})
    return json.loads(json.dumps(one.to_dict()))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count(path: Path, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels(path) - wanted).max(-1) <= 2).sum())


def test_bars_are_as_high_as_accuracies(tmp_path: Path) -> None:
    low = write_reliability([record([None, None, 0.4, 0.4])], tmp_path / "low.png")
    high = write_reliability([record([None, None, 0.8, 0.8])], tmp_path / "deep" / "high.png")
    assert pixels(low).shape[1] == round(WIDTH * DPI)
    # 2.4 rather than 2: the gap's hatching covers none of the lower bars and some of the higher ones' tips
    assert 1.6 < count(high, ACCENT) / count(low, ACCENT) < 2.4


def test_gaps_are_orange_only_where_the_head_is_too_sure(tmp_path: Path) -> None:
    sure = write_reliability([record([None, None, 0.2, 0.2])], tmp_path / "sure.png")
    modest = write_reliability([record([0.9, 0.9, None, None])], tmp_path / "modest.png")
    line = count(modest, WRONG)  # the mean confidence, in the histogram
    assert count(sure, WRONG) > 10 * line > 0


def test_few_rows_are_pale(tmp_path: Path) -> None:
    many = write_reliability([record([0.5, 0.5], counts=[10, 10])], tmp_path / "many.png")
    few = write_reliability([record([0.5, 0.5], counts=[9, 9])], tmp_path / "few.png")
    assert count(many, ACCENT) > 10 * count(few, ACCENT)


def test_a_scaled_record_is_drawn_beside_the_plain_one(tmp_path: Path) -> None:
    both = [record([None, 0.6]), record([None, 0.9], temperature=2.5)]
    one = pixels(write_reliability(both[:1], tmp_path / "one.png"))
    two = pixels(write_reliability(both, tmp_path / "two.png"))
    assert one.shape == two.shape
    below, half = 2 * DPI // 3, one.shape[1] // 2 + DPI // 4  # below the headline, right of the first panel
    assert (one[below:, half:] == 255).all()
    assert (two[below:, half:] != 255).any(-1).mean() > 0.1


def test_one_picture_for_one_data_and_another_for_others(tmp_path: Path) -> None:
    paths = [
        write_reliability([record([0.2, accuracy])], tmp_path / f"{place}.png")
        for place, accuracy in enumerate((0.7, 0.7, 0.8))
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


def test_the_encoder_is_the_trained_one_or_the_one_asked_for(tmp_path: Path) -> None:
    other, trained = record([0.1, 0.9], encoder="raw pixels"), record([0.5, 0.6])
    noise = {**trained, "protocol": "kNN"}
    chosen = write_reliability([other, noise, trained], tmp_path / "a.png")
    assert chosen.read_bytes() == write_reliability([trained], tmp_path / "b.png").read_bytes()
    asked = write_reliability([other, trained], tmp_path / "c.png", encoder="raw pixels")
    assert asked.read_bytes() == write_reliability([other], tmp_path / "d.png").read_bytes() != chosen.read_bytes()


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    trained = record([0.5, 0.6])
    with pytest.raises(ValueError, match=r"no calibration record of 'untrained'.*that have one: trained"):
        write_reliability([trained], tmp_path / "x.png", encoder="untrained")
    with pytest.raises(ValueError, match=r"that have one: none\. Evaluate with the protocol 'calibration'"):
        write_reliability([{**trained, "protocol": "kNN"}], tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_records_of_digits_are_drawn_with_one_bin_and_with_many(tmp_path: Path) -> None:
    source = DigitsConfig().load().test
    train, test = source.subset(torch.arange(100)), source.subset(torch.arange(100, 360))
    subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(8, 8)), train=train, test=test)
    for bins in (1, 40):
        found = Calibration(LinearProbe(l2=(1e-2,)), bins=bins).run(subject)
        records = [
            Record(subject.name, Calibration.protocol, m.name, m.value, parameters=m.details).to_dict() for m in found
        ]
        path = write_reliability(json.loads(json.dumps(records)), tmp_path / f"{bins}.png")
        assert count(path, ACCENT) > 1000
