"""Online clusters: labels that follow, centroids that wait, small clusters that are refilled."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kinfolk.nn import OnlineClusters


def blobs(counts: list[int], *, seed: int = 0) -> torch.Tensor:
    """Unit rows near the coordinate axes, so many of each, in float64."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.eye(len(counts), dtype=torch.float64).repeat_interleave(torch.tensor(counts), dim=0)
    return F.normalize(axes + 0.05 * torch.randn(axes.shape, generator=generator, dtype=torch.float64), dim=1)


def started(rows: torch.Tensor, **settings) -> OnlineClusters:
    clusters = OnlineClusters(*rows.shape, **settings).to(rows.dtype)
    clusters.start(rows)
    return clusters


def test_well_separated_groups_are_found() -> None:
    rows = blobs([20, 30, 10])
    for seed in range(5):  # whatever the first centroids were: an empty place is filled by splitting
        labels = started(rows, clusters=3, min_cluster=4, seed=seed).labels
        parts = [labels[:20], labels[20:50], labels[50:]]
        if all(len(part.unique()) == 1 for part in parts):
            assert len({int(part[0]) for part in parts}) == 3
            return
    pytest.fail("no start found the three groups")


def test_labels_are_those_of_the_nearest_centroid_and_centroids_are_unit_means() -> None:
    rows = blobs([20, 30, 10])
    clusters = started(rows, clusters=3, min_cluster=1, centroid_every=1)
    for _ in range(10):
        clusters.follow(rows, torch.arange(60))
    assert torch.equal(clusters.labels, (rows @ clusters.centroids.T).argmax(1))
    for cluster in range(3):
        mean = F.normalize(rows[clusters.labels == cluster].sum(0), dim=0)
        torch.testing.assert_close(clusters.centroids[cluster], mean, rtol=0, atol=1e-12)


def test_only_changed_rows_move_and_centroids_wait() -> None:
    rows = blobs([10, 10])
    clusters = started(rows, clusters=2, min_cluster=1, centroid_every=3)
    before, labels = clusters.centroids.clone(), clusters.labels.clone()
    rows[0], rows[1] = rows[15].clone(), rows[16].clone()
    for call in range(3):
        clusters.follow(rows, torch.tensor([0]))
        assert int(clusters.labels[0]) == int(labels[15])
        assert int(clusters.labels[1]) == int(labels[1])  # nobody said that it had changed
        assert torch.equal(clusters.centroids, before) == (call < 2)


def test_small_clusters_are_dissolved_and_the_largest_is_split() -> None:
    rows = blobs([40, 40, 2])
    clusters = OnlineClusters(82, 3, clusters=3, min_cluster=5, centroid_every=1).double()
    clusters.labels.copy_(torch.tensor([0] * 40 + [1] * 40 + [2] * 2))
    clusters.centroids.copy_(torch.eye(3))
    clusters.follow(rows, torch.arange(0))
    sizes = clusters.sizes().tolist()
    assert sum(sizes) == 82
    assert min(sizes) >= 5
    assert sorted(sizes)[0] >= 20  # half of the largest


def test_an_empty_cluster_is_refilled_and_alike_rows_are_halved() -> None:
    rows = F.normalize(torch.ones(12, 3, dtype=torch.float64), dim=1)
    clusters = started(rows, clusters=4, min_cluster=2)
    assert sorted(clusters.sizes().tolist())[0] >= 2
    assert clusters.centroids.isfinite().all()


def test_more_clusters_than_rows_leave_one_row_each() -> None:
    clusters = started(blobs([2, 1]), clusters=10, min_cluster=5)
    assert len(clusters.centroids) == 3
    assert clusters.labels.max() < 3


def test_the_same_rows_give_the_same_clusters() -> None:
    rows = blobs([20, 30, 10])
    first, again = (started(rows, clusters=6, seed=3) for _ in range(2))
    assert torch.equal(first.labels, again.labels)
    assert not first.labels.eq(-1).any()
    assert not OnlineClusters(3, 2, clusters=2).started


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, where sums could come in any order")
def test_ranks_on_gpus_have_the_same_bits() -> None:
    rows = F.normalize(torch.randn(50_000, 32, generator=torch.Generator().manual_seed(0)), dim=1).cuda()
    found = []
    for _ in range(3):
        clusters = OnlineClusters(*rows.shape, clusters=7, centroid_every=1).cuda()
        clusters.start(rows)
        clusters.follow(rows, torch.arange(0, len(rows), 2, device=rows.device))
        found.append(clusters.centroids)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_an_empty_cluster_keeps_its_centroid() -> None:
    clusters = started(blobs([20, 30, 10]), clusters=3, min_cluster=1)
    before = clusters.centroids.clone()
    clusters.labels[clusters.labels == 1] = 0
    clusters._set_means(blobs([20, 30, 10]))
    assert torch.equal(clusters.centroids[1], before[1])
    assert not torch.equal(clusters.centroids[0], before[0])


def test_numbers_below_one_are_refused() -> None:
    for name in ("clusters", "centroid_every", "min_cluster"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, found 0"):
            OnlineClusters(5, 2, **{"clusters": 2, name: 0})
