"""Alignment, uniformity, effective rank, repulsion and the classes, against loops, closed forms and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy
from sklearn.neighbors import NearestNeighbors
from torch.utils._python_dispatch import TorchDispatchMode

from kinfolk.data import DigitsConfig
from kinfolk.evals import Features, FeatureSplits, Geometry, RawPixels, extract
from kinfolk.evals.geometry import (
    alignment,
    effective_rank,
    repulsion_entropy,
    same_class_among_nearest,
    subset,
    uniformity,
)
from kinfolk.evals.neighbours import normalised
from kinfolk.losses import CACRLoss


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


SHAPE = ["uniformity", "effective rank", "repulsion entropy"]
NEGATIVES = ["false negatives, top 10", "false negatives, top 100"]


def test_what_cannot_be_measured_is_not_yielded() -> None:
    rows = randn(6, 3)
    assert list(measured(rows)) == SHAPE
    assert list(measured(rows, torch.zeros(6).long())) == [*SHAPE, "within-class variance", *NEGATIVES]
    assert list(measured(rows, torch.arange(6) % 2)) == [
        *SHAPE,
        "within-class variance",
        "class margin",
        *NEGATIVES,
    ]
    assert list(measured(rows[:2])) == ["uniformity", "effective rank"]
    assert list(measured(rows[:1])) == []
    assert list(measured(rows[:1], torch.tensor([3]))) == ["within-class variance"]
    assert next(iter(measured(rows, pair=(rows, rows)))) == "alignment"


def test_unlabelled_rows_count_for_the_shape_alone() -> None:
    rows = randn(6, 3)
    some = measured(rows, torch.tensor([0, 1, 0, 1, -1, -1]))
    known = measured(rows[:4], torch.tensor([0, 1, 0, 1]))
    for name in ("within-class variance", "class margin", *NEGATIVES):
        assert some[name] == known[name]
    assert some["uniformity"] != known["uniformity"]
    assert some["repulsion entropy"] != known["repulsion entropy"]
    split = Features.from_rows(rows, torch.arange(6), torch.tensor([0, 1, 0, 1, -1, -1]))
    details = {m.name: m.details for m in Geometry().run(FeatureSplits(split, split))}
    assert details["class margin"] == {"rows": 4, "unlabelled_left_out": 2}
    assert details[NEGATIVES[1]] == {"rows": 4, "unlabelled_left_out": 2, "k_used": 3, "anchors": 4}


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


def test_repulsion_entropy_by_hand() -> None:
    """Rows at 0, 60 and 180 degrees: squared distances 1, 3 and 4."""
    rows = normalised(torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2], [-1.0, 0.0]]))
    expected = 0.0
    for near, far in ((1, 4), (1, 3), (3, 4)):
        share = math.exp(-2 * near) / (math.exp(-2 * near) + math.exp(-2 * far))
        expected -= (share * math.log(share) + (1 - share) * math.log(1 - share)) / math.log(2) / 3
    assert repulsion_entropy(rows, t_neg=2.0) == pytest.approx(expected)


@pytest.mark.parametrize("t_neg", [0.5, 2.0, 30.0])
def test_repulsion_weights_are_those_of_the_cacr_loss(t_neg: float) -> None:
    rows = normalised(randn(40, 6))
    _, weights = CACRLoss(t_neg=t_neg).weights([rows, rows])
    each = entropy(weights[0].double().numpy(), axis=1) / math.log(39)
    assert repulsion_entropy(rows, t_neg=t_neg) == pytest.approx(each.mean(), abs=1e-6)


def test_a_row_without_length_repels_at_distance_one() -> None:
    rows = normalised(torch.cat([randn(12, 3), torch.zeros(1, 3)]))
    total = 0.0
    for i in range(13):
        weights = [math.exp(-2 * float((rows[i] - rows[j]).square().sum())) for j in range(13) if j != i]
        total += float(entropy(weights)) / math.log(12) / 13
    assert repulsion_entropy(rows, t_neg=2.0) == pytest.approx(total)


def test_repulsion_entropy_falls_as_the_weights_sharpen() -> None:
    rows = normalised(torch.cat([randn(60, 4), torch.zeros(1, 4)]))
    values = [repulsion_entropy(rows, t_neg=t) for t in (0.0, 1.0, 5.0, 1e4)]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values, reverse=True)
    assert 0 <= values[-1] < 0.2


def test_repulsion_among_equal_rows_is_even() -> None:
    assert repulsion_entropy(normalised(torch.ones(50, 4)), t_neg=2.0) == pytest.approx(1.0)
    assert repulsion_entropy(normalised(torch.eye(7)), t_neg=9.0) == pytest.approx(1.0)


class LargestTensor(TorchDispatchMode):
    """Remembers how many entries the largest result of any operation had."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_no_matrix_of_all_pairs_is_made_at_once() -> None:
    split = Features.from_rows(randn(5000, 2), torch.arange(5000), torch.arange(5000) % 7)
    rows = normalised(split.rows)
    with LargestTensor() as largest:
        tiled = repulsion_entropy(rows, t_neg=2.0)
        same_class_among_nearest(split, k=10)
        uniformity(rows)
    assert 0 < largest.entries < 5000 * 5000 / 2
    with LargestTensor() as largest:
        logits = (-2 * torch.cdist(rows, rows).square()).fill_diagonal_(-torch.inf)
        whole = torch.special.entr(logits.softmax(dim=1)).sum(dim=1).mean().item() / math.log(4999)
    assert largest.entries >= 5000 * 5000
    assert tiled == pytest.approx(whole, abs=1e-10)


def test_false_negatives_by_hand() -> None:
    """On the circle at 0, 10, 30, 70 degrees, classes 0 0 1 0."""
    angles = torch.tensor([0.0, 10.0, 30.0, 70.0]).deg2rad()
    split = Features.from_rows(
        torch.stack([angles.cos(), angles.sin()], dim=1), torch.arange(4), torch.tensor([0, 0, 1, 0])
    )
    found = list(Geometry(negatives=(1, 2, 3)).run(FeatureSplits(split, split)))
    values = {m.name: m.value for m in found if "false" in m.name}
    assert values == {
        "false negatives, top 1": pytest.approx((1 + 1 + 0 + 0) / 4),
        "false negatives, top 2": pytest.approx((1 / 2 + 1 / 2 + 0 + 1 / 2) / 4),
        "false negatives, top 3": pytest.approx((2 / 3 + 2 / 3 + 0 + 2 / 3) / 4),
    }


def test_false_negatives_against_scikit_learn_on_digits() -> None:
    source = DigitsConfig().load().test
    split = extract(RawPixels(channels=1, image_size=source.image_size), source)
    assert split.labels is not None
    unit = normalised(split.rows).numpy()
    found = NearestNeighbors(n_neighbors=100).fit(unit).kneighbors(return_distance=False)  # the own row left out
    same = split.labels.numpy()[found] == split.labels.numpy()[:, None]
    measurements = {m.name: m for m in Geometry().run(FeatureSplits(split, split))}
    for k in (10, 100):
        one = measurements[f"false negatives, top {k}"]
        assert one.value == pytest.approx(same[:, :k].mean(), abs=2e-4)  # equal cosines have no one order
        assert one.details == {"rows": 360, "unlabelled_left_out": 0, "k_used": k, "anchors": 360}
    assert measurements["false negatives, top 10"].value > 0.8
    assert 0 < measurements["repulsion entropy"].value < 1


def test_more_negatives_than_rows_are_cut_and_recorded() -> None:
    split = Features.from_rows(randn(7, 3), torch.arange(7), torch.tensor([0, 0, 0, 1, 1, 1, 1]))
    found = {m.name: m for m in Geometry().run(FeatureSplits(split, split))}
    everyone = (3 * 2 / 6 + 4 * 3 / 6) / 7
    for name in NEGATIVES:
        assert found[name].value == pytest.approx(everyone)
        assert found[name].details["k_used"] == 6


def test_false_negatives_of_one_class_are_all_and_of_equal_rows_chance() -> None:
    assert measured(randn(150, 3), torch.zeros(150).long())["false negatives, top 100"] == 1.0
    constant = measured(torch.ones(150, 3), torch.arange(150) % 5)
    assert constant["false negatives, top 10"] == pytest.approx(0.2, abs=0.02)
    assert all(math.isfinite(value) for value in constant.values())


def test_fewer_anchors_look_among_all_rows() -> None:
    split = Features.from_rows(randn(80, 3), torch.arange(80), torch.arange(80) % 4)
    chosen = subset(80, 20, seed=3)
    found = {m.name: m for m in Geometry(negative_anchors=20, seed=3).run(FeatureSplits(split, split))}
    every = same_class_among_nearest(split, k=10)
    assert found["false negatives, top 10"].value == pytest.approx(every[chosen].double().mean().item())
    assert found["false negatives, top 10"].details["anchors"] == 20
    assert found["false negatives, top 100"].details["k_used"] == 79


def test_geometry_refuses() -> None:
    with pytest.raises(ValueError, match=r"at least one aligned sample and two rows, got .*uniformity_rows=1"):
        Geometry(uniformity_rows=1)
    with pytest.raises(ValueError, match=r"need two others to differ, got repulsion_rows=2; take at least 3"):
        Geometry(repulsion_rows=2)
    with pytest.raises(ValueError, match=r"t_neg must be at least 0 and finite, got -1\.0"):
        Geometry(t_neg=-1.0)
    with pytest.raises(ValueError, match=r"different counts of at least 1.*negatives=\(10, 0\)"):
        Geometry(negatives=(10, 0))
    with pytest.raises(ValueError, match=r"negatives=\(5, 5\)"):
        Geometry(negatives=(5, 5))
    assert Geometry(negatives=[3]).negatives == (3,)  # type: ignore[arg-type]
    split = Features.from_rows(randn(9, 3), torch.arange(9), torch.arange(9) % 2)
    assert not any("false" in m.name for m in Geometry(negatives=()).run(FeatureSplits(split, split)))
