"""Alignment, uniformity, effective rank and the classes' spread, against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from kinfolk.evals import Features, FeatureSplits, Geometry
from kinfolk.evals.geometry import alignment, effective_rank, subset, uniformity
from kinfolk.evals.neighbours import normalised


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(
    rows: torch.Tensor, labels: torch.Tensor | None = None, pair: tuple[torch.Tensor, torch.Tensor] | None = None
) -> dict[str, float]:
    split = Features.from_rows(rows, torch.arange(len(rows)), labels)
    found = list(Geometry().run(FeatureSplits(split, split, pair)))
    assert all(m.better is None for m in found)
    return {m.name: m.value for m in found}


def test_uniformity_against_loops() -> None:
    rows = normalised(torch.cat([randn(16, 3), torch.zeros(1, 3)]))
    pairs = [math.exp(-2 * float((rows[i] - rows[j]).square().sum())) for i in range(17) for j in range(i + 1, 17)]
    assert uniformity(rows) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-12)


def test_uniformity_over_several_tiles_is_that_of_one() -> None:
    rows = normalised(randn(5000, 3))  # 5,000 columns leave 1,677 rows a tile
    squared = torch.pdist(rows).square()
    assert uniformity(rows) == pytest.approx(squared.mul(-2).exp().mean().log().item(), abs=1e-10)


def test_uniformity_range() -> None:
    assert uniformity(normalised(torch.ones(9, 4))) == pytest.approx(0.0, abs=1e-12)
    assert uniformity(normalised(torch.tensor([[1.0], [-1.0]]))) == pytest.approx(-8.0)
    # E exp(4 t - 4) for the uniform distribution, t the cosine: about -4 + 8 / d
    assert uniformity(normalised(randn(4000, 64))) == pytest.approx(-4 + 8 / 64, abs=0.02)


def test_alignment() -> None:
    first, second = randn(20, 5), randn(20, 5, seed=1)
    cosines = torch.cosine_similarity(first.double(), second.double())
    assert alignment(first, second) == pytest.approx((2 - 2 * cosines).mean().item())
    assert alignment(first, 7 * first) == pytest.approx(0.0, abs=1e-12)
    assert alignment(first, -first) == pytest.approx(4.0)


def test_effective_rank_of_known_spectra() -> None:
    axes = torch.cat([torch.eye(6), -torch.eye(6)]).double()  # six equal variances
    assert effective_rank(axes) == pytest.approx(6.0)
    padded = torch.cat([axes, torch.zeros(12, 30, dtype=torch.float64)], dim=1)  # more columns than rows
    assert effective_rank(padded) == pytest.approx(6.0)
    line = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]).double()
    assert effective_rank(line) == pytest.approx(1.0)
    shares = torch.tensor([0.5, 0.25, 0.25]).sqrt().double()
    spread = torch.cat([torch.diag(shares), -torch.diag(shares)])
    assert effective_rank(spread) == pytest.approx(2**1.5)


def test_effective_rank_of_a_collapsed_encoder_is_one() -> None:
    rows = torch.ones(50, 8) + 1e-7 * randn(50, 8)
    assert effective_rank(normalised(rows)) == 1.0


def test_rotation_and_scale_do_not_matter() -> None:
    rows, labels = randn(60, 5), torch.arange(60) % 3
    rotation = torch.linalg.qr(randn(5, 5, seed=7)).Q
    assert measured(3 * rows @ rotation, labels) == pytest.approx(measured(rows, labels), abs=1e-5)


def test_class_geometry_by_hand() -> None:
    """On the circle, one class at +60 and -60 degrees, the other twice at 180."""
    half, root = 0.5, math.sqrt(3) / 2
    rows = torch.tensor([[half, root], [half, -root], [-1.0, 0.0], [-1.0, 0.0]])
    found = measured(rows, torch.tensor([0, 0, 1, 1]))
    # means (0.5, 0) and (-1, 0); radii root, root, 0, 0
    assert found["within-class variance"] == pytest.approx(3 / 8)
    assert found["class margin"] == pytest.approx(1.5 - root / 2)


def test_what_cannot_be_measured_is_not_yielded() -> None:
    rows = randn(6, 3)
    assert list(measured(rows)) == ["uniformity", "effective rank"]
    assert list(measured(rows, torch.zeros(6).long())) == ["uniformity", "effective rank", "within-class variance"]
    assert list(measured(rows[:1])) == []
    assert next(iter(measured(rows, pair=(rows, rows)))) == "alignment"
    some = measured(rows, torch.tensor([0, 1, 0, 1, -1, -1]))
    known = measured(rows[:4], torch.tensor([0, 1, 0, 1]))
    assert some["class margin"] == known["class margin"]
    assert some["uniformity"] != known["uniformity"]


def test_a_single_sample_per_class_has_no_radius() -> None:
    found = measured(torch.eye(3), torch.arange(3))
    assert found["within-class variance"] == 0.0
    assert found["class margin"] == pytest.approx(math.sqrt(2))


def test_subsets_bound_the_rows_and_are_seeded() -> None:
    assert subset(100, 10, seed=0).tolist() == subset(100, 10, seed=0).tolist()
    assert subset(100, 10, seed=0).tolist() != subset(100, 10, seed=1).tolist()
    chosen = subset(100, 10, seed=0)
    assert len(chosen.unique()) == 10
    assert bool((chosen.diff() > 0).all())
    split = Features.from_rows(randn(50, 3), torch.arange(50))
    found = {m.name: m for m in Geometry(uniformity_rows=20, rank_rows=30, seed=4).run(FeatureSplits(split, split))}
    assert found["uniformity"].details == {"rows": 20}
    assert found["effective rank"].details == {"rows": 30}
    assert found["uniformity"].value == uniformity(normalised(split.rows[subset(50, 20, seed=4)]))


def test_geometry_refuses() -> None:
    with pytest.raises(ValueError, match=r"at least one aligned sample and two rows, got .*uniformity_rows=1"):
        Geometry(uniformity_rows=1)
