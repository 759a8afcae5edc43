"""The data benchmark: what it compares makes the same views, and its tables become a fragment of the documentation."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
pytest.importorskip("PIL", reason="needs Pillow")
pytest.importorskip("sklearn", reason="needs scikit-learn's photographs")

from PIL import Image  # noqa: E402

from benchmarks import data, image_sets, one_at_a_time, page, pipelines  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.image_sets import SETS  # noqa: E402
from benchmarks.table import Row, Table, read  # noqa: E402
from kinfolk.data import ViewsConfig, simclr_views  # noqa: E402

ALIKE: Row = {"mean": 0.5, "deviation": 0.2}


def test_it_runs_from_the_command_line_and_leaves_real_figures(tmp_path: Path) -> None:
    out = tmp_path / "data.csv"
    main(["data", "--smoke", "--out", str(out)])
    rows = read(out)
    assert tuple(rows[0]) == data.COLUMNS
    done = [row for row in rows if row["status"] == "ok"]
    assert {row["part"] for row in done} == {data.DECODE, data.VIEWS, data.TRAINING, data.SHARE}
    for part in (data.DECODE, data.VIEWS, data.TRAINING):
        assert {pipelines.OURS, pipelines.PIL} <= {row["contender"] for row in done if row["part"] == part}
    for row in done:
        assert float(row["images / second"]) > 0
        if row["part"] != data.SHARE:
            assert float(row["slowest"]) <= float(row["images / second"]) <= float(row["fastest"])
        else:
            assert 0 < float(row["decode share"]) + float(row["views share"]) < 1
    for row in rows:
        assert row["status"] == "ok" or row["status"].startswith("absent"), row


def test_everyone_makes_views_of_the_same_brightness_and_contrast(tmp_path: Path) -> None:
    SETS["small"].write(tmp_path / "files", 16)
    settings = replace(data.smoke(), batch=16)
    looks = {w.name: data._look(w) for w in data.ways(settings, SETS["small"], tmp_path / "files") if not w.absent}
    assert len(looks) >= 2
    for look in looks.values():
        assert data.is_alike(look, looks[pipelines.PIL])
    brighter = pipelines.kinfolk(tmp_path / "files", 32, replace(simclr_views(), brightness=1.0), batch=16, workers=0)
    assert not data.is_alike(data._look(brighter), looks[pipelines.PIL])


@pytest.mark.parametrize("mean", [0.58, float("nan")])
def test_other_views_are_found_out(mean: float) -> None:
    assert data.is_alike({"mean": 0.52, "deviation": 0.21}, ALIKE)
    assert not data.is_alike({"mean": mean, "deviation": 0.2}, ALIKE)
    assert not data.is_alike({"mean": 0.5, "deviation": 0.12}, ALIKE)


def test_without_strength_a_view_is_the_image() -> None:
    image = Image.effect_noise((9, 9), 80).convert("RGB")
    assert one_at_a_time.augment(image, ViewsConfig()).tobytes() == image.tobytes()
    assert one_at_a_time.to_tensor(Image.new("RGB", (3, 2), (255, 0, 51)))[:, 0, 0].tolist() == pytest.approx(
        [1, 0, 0.2]
    )


def test_each_change_does_what_its_name_says() -> None:
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    assert one_at_a_time._turn_hue(red, 1 / 3).getpixel((0, 0)) == pytest.approx((0, 200, 0), abs=6)  # 256 hues
    assert one_at_a_time._turn_hue(red, -1 / 3).getpixel((0, 0)) == pytest.approx((0, 0, 200), abs=6)
    grey = one_at_a_time.augment(red, ViewsConfig(grey=1.0)).getpixel((0, 0))
    assert grey == (60, 60, 60)  # 0.299 of the red
    half = Image.new("RGB", (4, 4))
    half.paste((255, 255, 255), (0, 0, 2, 4))
    mirrored = one_at_a_time.augment(half, ViewsConfig(flip=1.0))
    assert (mirrored.getpixel((0, 0)), mirrored.getpixel((3, 0))) == ((0, 0, 0), (255, 255, 255))
    assert 0 < one_at_a_time.augment(half, ViewsConfig(blur=1.0, blur_sigma=(2.0, 2.0))).getpixel((0, 0))[0] < 255


def test_crops_have_the_area_that_was_asked_for() -> None:
    random.seed(0)
    image, config = Image.new("RGB", (100, 100)), ViewsConfig(crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.0))
    boxes = {one_at_a_time._crop(image, config) for _ in range(20)}
    assert len(boxes) > 5
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(50, 50)}
    assert min(min(box) for box in boxes) >= 0
    assert max(max(box) for box in boxes) <= 100


def test_without_emoji_crops_of_photographs_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sets, "EMOJI", tmp_path / "nothing")
    assert SETS["small"].write(tmp_path / "files", 3) == "crops of photographs, PNG 32 x 32"
    images = [one_at_a_time.open_rgb(file) for file in pipelines.files_of(tmp_path / "files")]
    assert [image.size for image in images] == [(32, 32)] * 3
    assert len({image.tobytes() for image in images}) == 3


def test_an_absent_library_is_a_row_that_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    way = pipelines.albumentations(tmp_path, 32, simclr_views(), batch=8, workers=0, packages=None)
    assert "--peers FOLDER" in way.absent


def test_the_page_states_the_ratios_and_the_shares(tmp_path: Path) -> None:
    machine: Row = {"device": "cpu", "cpu": "a chip, 2 cores", "threads": 2, "torch": "2"}
    base = machine | {"set": "small", "images": "emoji, PNG 32 x 32", "count": 2048, "batch": 256, "status": "ok"}
    rated = base | {"part": data.DECODE, "workers": 2}
    rows: list[Row] = [
        rated | {"contender": "kinfolk", "images / second": 9000.0, "speed / one at a time": 6.0},
        rated | {"contender": "PIL, one at a time", "images / second": 1500.0, "speed / one at a time": 1.0},
        base | {"part": data.DECODE, "workers": 2, "contender": "AlbumentationsX", "status": "absent: pip install it"},
        base | {"part": data.SHARE, "contender": "kinfolk, cache full", "decode share": 0.01, "views share": 0.2},
    ]
    table = Table(tmp_path / "data.csv", data.COLUMNS)
    for row in rows:
        table.add(row)
    (tmp_path / "benchmarks.md").write_text("<!-- data-cpu -->\nold\n<!-- /data-cpu -->")
    text = page.publish(tmp_path / "data.csv", tmp_path).read_text()
    assert "**emoji, PNG 32 x 32**, 2,048 files, batches of 256." in text
    assert "| files to views | kinfolk | 2 | 9,000 | 6.00x |" in text
    assert "| kinfolk, cache full | 1.0% | 20.0% |" in text
    assert "- AlbumentationsX, 2 workers: absent: pip install it" in text
    assert "old" not in text


def test_a_trainer_learns_from_a_batch() -> None:
    trainer = data.Trainer(8)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.step([torch.rand(8, 3, 8, 8), torch.rand(8, 3, 8, 8)])
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
