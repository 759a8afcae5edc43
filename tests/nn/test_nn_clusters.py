"""Spherical k-means by either library: what it finds, and what it does with too little."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional as F

from kinfolk.nn import spherical_k_means

LIBRARIES = ["faiss", "scikit-learn"]


@pytest.fixture(params=LIBRARIES)
def library(request):
    """Return each library in turn."""
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return request.param


def blobs(groups: int = 4, each: int = 30, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(groups).repeat_interleave(each)
    return torch.eye(dim)[truth] + 0.05 * torch.randn(len(truth), dim, generator=generator), truth


def test_it_finds_directions_whatever_the_lengths(library):
    rows, truth = blobs()
    lengths = torch.linspace(0.1, 10, len(rows))[:, None]
    found = spherical_k_means(lengths * rows, 12, library=library)
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(12))
    for label in found.labels.unique():
        members = found.labels == label
        assert len(truth[members].unique()) == 1
        mean = F.normalize(F.normalize(rows[members]).mean(0), dim=0)
        assert found.centroids[label] @ mean > 0.995


def test_labels_and_confidence_are_those_of_the_softmax_over_centroids(library):
    rows, _ = blobs(groups=3)
    found = spherical_k_means(rows, 7, temperature=0.3, library=library)
    likely = (F.normalize(rows) @ found.centroids.T / 0.3).softmax(1)
    assert torch.equal(found.labels, likely.argmax(1))
    torch.testing.assert_close(found.confidence, likely.max(1).values)


def test_the_seed_decides_and_nothing_else(library):
    rows = F.normalize(torch.randn(300, 6, generator=torch.Generator().manual_seed(1)))
    first = spherical_k_means(rows, 20, seed=3, library=library)
    state = torch.random.get_rng_state()
    again = spherical_k_means(rows, 20, seed=3, library=library)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = spherical_k_means(rows, 20, seed=4, library=library)
    assert not torch.equal(first.labels, other.labels)


def test_fewer_rows_than_clusters_are_each_a_cluster(library):
    rows = torch.eye(3)
    found = spherical_k_means(rows, 10, library=library)
    assert len(found.centroids) == 3
    assert len(found.labels.unique()) == 3
    torch.testing.assert_close(found.centroids[found.labels], rows)


def test_rows_that_repeat_are_one_cluster(library):
    rows = torch.eye(3).repeat_interleave(50, dim=0)
    found = spherical_k_means(rows, 5, library=library)
    assert len(found.centroids) == 3
    assert found.labels.view(3, 50).unique(dim=1).shape == (3, 1)
    constant = spherical_k_means(torch.ones(9, 4), 5, library=library)
    assert constant.labels.tolist() == [0] * 9
    assert constant.confidence.tolist() == [1.0] * 9


def test_more_clusters_than_groups_may_leave_some_empty(library):
    rows = torch.cat([torch.eye(4).repeat(40, 1), F.normalize(torch.randn(8, 4))])
    found = spherical_k_means(rows, 11, library=library)
    assert found.centroids.isfinite().all()
    assert found.labels.max() < 11
    assert ((found.confidence > 0) & (found.confidence <= 1)).all()


def test_it_takes_half_and_double_precision(library):
    rows, _ = blobs()
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        found = spherical_k_means(rows.to(dtype), 4, library=library)
        assert found.centroids.dtype == found.confidence.dtype == wide
        torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(4, dtype=wide))


def test_errors_say_what_is_wrong(monkeypatch):
    with pytest.raises(ValueError, match="a row and a cluster at least, found 0 rows, 2 clusters"):
        spherical_k_means(torch.zeros(0, 2), 2)
    with pytest.raises(ValueError, match="found 2 rows, 0 clusters"):
        spherical_k_means(torch.eye(2), 0)
    with pytest.raises(ValueError, match="temperature must be positive, found 0"):
        spherical_k_means(torch.eye(2), 2, temperature=0)
    with pytest.raises(ValueError, match="library must be 'auto', 'faiss' or 'scikit-learn', found 'torch'"):
        spherical_k_means(torch.eye(2), 2, library="torch")
    for name in ("faiss", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("kinfolk.nn.clusters.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'scikit-learn, which is not installed: pip install "kinfolk\[train\]"'):
        spherical_k_means(torch.eye(2), 2)
    with pytest.raises(ImportError, match=r'faiss, which is not installed: pip install "kinfolk\[index\]"'):
        spherical_k_means(torch.eye(2), 2, library="faiss")
