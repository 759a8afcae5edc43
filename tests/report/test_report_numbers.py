"""What the pictures compute before they draw."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from kinfolk.report.curves import series_of, smoothed
from kinfolk.report.embedding_map import embed_2d, spread_out, tinted, unit_rows
from kinfolk.report.neighbours import nearest, same_class
from kinfolk.report.sample import choose
from kinfolk.report.similarities import rank_agreement
from kinfolk.report.style import _TEN, class_colour, class_title, to_rgb
from kinfolk.report.weights import extreme_negatives

# Machado, Oliveira, Fernandes (2009): linear RGB as seen with full protanopia, deuteranopia, tritanopia.
_VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def _lab(colour: str, vision: str) -> np.ndarray:
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = _XYZ @ np.clip(np.asarray(_VISION[vision]) @ linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _smallest_distance(colours: tuple[str, ...], vision: str) -> float:
    seen = [_lab(colour, vision) for colour in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("vision", _VISION)
def test_ten_classes_are_told_apart_with_every_kind_of_vision(vision: str) -> None:
    assert _smallest_distance(_TEN, vision) > 20
    assert all(_lab(colour, vision)[0] < 80 for colour in _TEN), "too light on white"


def test_the_palette_check_can_fail() -> None:
    widespread = ("#ff7f0e", "#2ca02c")  # neighbours in a popular palette
    assert _smallest_distance(widespread, "normal") > 20
    assert _smallest_distance(widespread, "protanopia") < 20


def test_colours_differ_for_twenty_classes_and_then_repeat() -> None:
    assert len({class_colour(label) for label in range(20)}) == 20
    assert class_colour(0) == class_colour(20)
    assert class_colour(-1) not in {class_colour(label) for label in range(20)}


def test_class_titles_are_one_short_line() -> None:
    assert class_title(0, ("a\nb  c",)) == "a b c"
    assert len(class_title(0, ("x" * 99,), longest=10)) == 10
    assert class_title(5, ("only one",)) == "5"


def test_nearest_agrees_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(17, 5)), np.array([3, 11, 16])
    for query, found in zip(queries, nearest(rows, queries, k=4), strict=True):
        cosines = [
            -2.0 if i == query else rows[i] @ rows[query] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[query])
            for i in range(17)
        ]
        assert found.tolist() == sorted(range(17), key=lambda i: -cosines[i])[:4]


def test_nearest_takes_tensors_ignores_length_and_fills_up_with_minus_one() -> None:
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 0.0]])
    assert nearest(rows, torch.tensor([0]), k=5).tolist() == [[1, 2, -1, -1, -1]]
    assert nearest(rows * torch.tensor([[9.0], [0.1], [1.0]]), torch.tensor([0]), k=1).tolist() == [[1]]


def test_same_class_knows_what_it_does_not_know() -> None:
    labels = np.array([0, 0, 1, -1])
    right = same_class(np.array([[1, 2, 3, -1], [0, 1, 2, -1]]), np.array([0, 3]), labels)
    assert right[0, :2].tolist() == [1.0, 0.0]
    assert np.isnan(right[0, 2:]).all()
    assert np.isnan(right[1]).all()


def test_rank_agreement_is_spearman_off_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    target, learnt = rng.integers(0, 4, (9, 9)).astype(float), rng.normal(size=(9, 9))
    off = ~np.eye(9, dtype=bool)
    assert rank_agreement(target, learnt) == pytest.approx(spearmanr(target[off], learnt[off]).statistic, abs=1e-11)
    assert rank_agreement(target + 100 * np.eye(9), learnt) == rank_agreement(target, learnt)
    assert rank_agreement(target, -(target**3)) == pytest.approx(-1)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_rank_agreement_is_none_where_it_is_not_defined(n: int) -> None:
    assert rank_agreement(np.ones((n, n)), np.random.default_rng(0).normal(size=(n, n))) is None
    assert rank_agreement(np.full((n, n), np.nan), np.eye(n)) is None


def test_t_sne_keeps_groups_together_and_is_seeded() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3)[np.arange(60) % 3]
    points = embed_2d(centres + 0.05 * rng.normal(size=(60, 3)), seed=3)
    assert points.min() >= 0
    assert points.max() <= 1
    nearest_point = np.argsort(((points[:, None] - points) ** 2).sum(-1), axis=1)[:, 1]
    assert (nearest_point % 3 == np.arange(60) % 3).all()
    assert np.array_equal(points, embed_2d(centres + 0.05 * np.random.default_rng(0).normal(size=(60, 3)), seed=3))


@pytest.mark.parametrize(
    "features", [np.zeros((0, 4)), np.ones((1, 4)), np.eye(3), np.ones((20, 4)), np.zeros((12, 2))]
)
def test_degenerate_features_still_have_places(features: np.ndarray) -> None:
    points = embed_2d(features)
    assert points.shape == (len(features), 2)
    assert np.isfinite(points).all()
    assert ((points >= 0) & (points <= 1)).all()


def test_one_feature_and_features_with_nan_have_places() -> None:
    features = np.linspace(-1, 1, 15)[:, None].copy()
    features[3] = np.nan
    assert np.isfinite(embed_2d(features)).all()
    assert np.isfinite(unit_rows(features)).all()


def test_thumbnails_do_not_overlap_and_leave_no_room_for_another() -> None:
    points = np.random.default_rng(0).random((300, 2))
    chosen = spread_out(points, side=0.1, seed=1)
    apart = np.abs(points[chosen][:, None] - points[chosen]).max(-1)
    assert (apart[~np.eye(len(chosen), dtype=bool)] >= 0.1).all()
    assert (np.abs(points[:, None] - points[chosen]).max(-1).min(1) < 0.1).all()
    assert not np.array_equal(np.sort(chosen), np.sort(spread_out(points, side=0.1, seed=2)))


def test_images_of_any_kind_become_rgb() -> None:
    grey = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    assert to_rgb(grey)[0, 0].tolist() == [[0, 0, 0], [1, 1, 1]]
    rgba = torch.tensor([1.0, 0.0, 0.0, 0.25]).reshape(1, 4, 1, 1)
    assert to_rgb(rgba)[0, 0, 0].tolist() == [1.0, 0.75, 0.75]
    assert to_rgb(torch.tensor([0.0, 2.0, float("nan")]).reshape(1, 3, 1, 1))[0, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", [(4, 8, 8), (2, 2, 8, 8)])
def test_other_shapes_are_refused_with_what_to_do(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"C = 1, 3 or 4 channels, found \(.*stack"):
        to_rgb(np.zeros(shape))


def test_ink_is_the_drawing_on_dark_and_on_light_paper() -> None:
    drawing = np.zeros((5, 5))
    drawing[2, 2] = 1
    assert tinted(drawing, "#102030")[2, 2, 3] == 1
    assert np.array_equal(tinted(drawing, "#102030"), tinted(1 - drawing, "#102030"))


def test_series_keep_the_last_record_of_a_step_and_non_finite_values() -> None:
    events = [
        {"event": "start", "step": 0, "loss": 9.0},
        {"event": "train", "step": 2, "loss": 5.0, "learning_rate": 0.1, "device": "cpu", "done": True},
        {"event": "train", "step": 1, "loss": float("inf"), "zebra": 1},
        {"event": "train", "step": 2, "loss": 4.0, "learning_rate": 0.2},
    ]
    series = series_of(events)
    assert list(series) == ["loss", "learning_rate", "zebra"]
    assert series["loss"][0].tolist() == [1, 2]
    assert np.isnan(series["loss"][1][0])
    assert series["loss"][1][1] == 4.0
    assert series["learning_rate"][1].tolist() == [0.2]


@pytest.mark.parametrize("span", [1, 2, 5, 40])
def test_smoothing_is_the_mean_of_the_finite_window(span: int) -> None:
    values = np.random.default_rng(0).normal(size=23)
    values[[4, 5, 22]] = np.nan
    after, before = (span - 1) // 2, span - 1 - (span - 1) // 2
    for i, mean in enumerate(smoothed(values, span=span)):
        window = values[max(0, i - before) : i + after + 1]
        assert mean == pytest.approx(np.nanmean(window), nan_ok=True) if np.isfinite(window).any() else np.isnan(mean)


def test_extreme_negatives_never_hold_the_query_or_one_sample_twice() -> None:
    weights = np.array([0.3, 0.0, 0.1, 0.2, 0.4])
    high, low = extreme_negatives(weights, 1, count=9)
    assert high.tolist() == [4, 0]
    assert low.tolist() == [2, 3]
    assert extreme_negatives(np.array([0.0, 1.0]), 0, count=3).shape == (2, 0)


def test_the_choice_of_images_is_seeded() -> None:
    assert torch.equal(choose(50, 7, seed=1), choose(50, 7, seed=1))
    assert not torch.equal(choose(50, 7, seed=1), choose(50, 7, seed=2))
    assert choose(5, 9, seed=0).tolist() == list(range(5))
