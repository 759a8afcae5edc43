"""Spherical k-means: clusters of unit rows, and how surely each row belongs to its own."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kinfolk import distributed

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

Library = Literal["auto", "faiss", "scikit-learn"]

_ROWS = 4096  # whose similarities to all centroids are held at once


class SphericalClusters(NamedTuple):
    """Result of `spherical_k_means`.

    Attributes:
        centroids: unit rows [C, d].
        labels: int64 [N], the nearest centroid of each row.
        confidence: [N] in (0, 1], the softmax of a row's cosines with all centroids, at its own.
    """

    centroids: Float[Tensor, "C d"]
    labels: Int64[Tensor, " N"]
    confidence: Float[Tensor, " N"]


@torch.no_grad()
def spherical_k_means(
    rows: Float[Tensor, "N d"], clusters: int, *, temperature: float = 0.2, seed: int = 0, library: Library = "auto"
) -> SphericalClusters:
    """Cluster unit rows by cosine.

    The centroids come from faiss, or from scikit-learn's mini-batch k-means, and are made unit vectors; labels and
    confidence follow from them. With several processes rank 0 computes and hands the result round, so that all have the
    same bits.

    Rows that repeat make at most as many clusters as there are different ones: each of them is then a cluster of its
    own, and fewer than ``clusters`` centroids come back. A cluster may be empty.

    Args:
        rows: of any length, taken as unit vectors, the same on all ranks; on any device.
        clusters: C, at least 1.
        temperature: of the softmax; smaller makes all rows surer.
        seed: of the start; the same one gives the same clusters with the same library.
        library: "auto" takes faiss where it is installed.

    Raises:
        ValueError: for no rows, fewer than one cluster, a temperature that is not positive, or another library.
        ImportError: where the library is missing, with the command that installs it.

    Reference: Dhillon, Modha (2001), Concept decompositions for large sparse text data using clustering.

    Example:
        >>> found = spherical_k_means(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), 2)
        >>> found.labels[0] == found.labels[1] != found.labels[2]
        tensor(True)
        >>> round(found.confidence[0].item(), 4)
        0.9933
    """
    if len(rows) < 1 or clusters < 1:
        raise ValueError(f"clustering needs a row and a cluster at least, found {len(rows)} rows, {clusters} clusters.")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, found {temperature}.")
    train = _trainer(library)  # on every rank, so that a missing library stops them all
    unit = F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
    if distributed.rank() == 0:
        centroids = _few_distinct(unit, clusters)
        if centroids is None:
            centroids = F.normalize(train(unit, clusters, seed).to(unit), dim=1)
        found = SphericalClusters(centroids, *_assign(unit, centroids, temperature))
    else:
        found = SphericalClusters(unit[:0], unit.new_empty(0, dtype=torch.int64), unit.new_empty(0))
    return SphericalClusters(*(distributed.all_gather(part) for part in found))


def _few_distinct(unit: Tensor, clusters: int) -> Tensor | None:
    """The different rows, where there are no more than clusters: k-means would divide them by rounding."""
    if len(unit[: 4 * clusters].unique(dim=0)) > clusters:
        return None
    distinct = unit.unique(dim=0)
    return distinct if len(distinct) <= clusters else None


def _assign(unit: Tensor, centroids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each row, and the softmax at it."""
    labels, confidence = [], []
    for part in unit.split(_ROWS):
        best = (part @ centroids.T / temperature).softmax(1).max(1)
        labels.append(best.indices)
        confidence.append(best.values)
    return torch.cat(labels), torch.cat(confidence)


def _trainer(library: Library) -> Any:
    """The function from unit rows, a number and a seed to centroids of any length."""
    if library not in ("auto", "faiss", "scikit-learn"):
        raise ValueError(f"library must be 'auto', 'faiss' or 'scikit-learn', found {library!r}.")
    if library == "auto":
        library = "scikit-learn" if find_spec("faiss") is None else "faiss"
    # nn may not import data, and so has no `import_extra`.
    module, extra = ("faiss", "index") if library == "faiss" else ("sklearn", "train")
    if find_spec(module) is None:
        raise ImportError(f'clustering needs {library}, which is not installed: pip install "kinfolk[{extra}]"')
    return _by_faiss if library == "faiss" else _by_scikit_learn


def _by_faiss(unit: Tensor, clusters: int, seed: int) -> Tensor:
    import faiss  # half a second, for those who cluster

    # The default would warn below 39 rows for each cluster; fewer are usual here, and no harm.
    means = faiss.Kmeans(unit.shape[1], clusters, niter=20, spherical=True, seed=seed, min_points_per_centroid=1)
    means.train(unit.float().cpu().numpy())
    return torch.from_numpy(means.centroids)


def _by_scikit_learn(unit: Tensor, clusters: int, seed: int) -> Tensor:
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    means = MiniBatchKMeans(clusters, batch_size=4096, n_init=1, random_state=seed)
    with threadpool_limits(1):  # sums over several threads come in no fixed order
        means.fit(unit.float().cpu().numpy())
    return torch.from_numpy(means.cluster_centers_)
