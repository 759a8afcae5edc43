"""Clusters that follow a memory bank: labels move every step, centroids now and then, small clusters are refilled."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.ops import row_topk

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

_ROUNDS = 5  # of labels and centroids in turn, when clusters are first made


@final
class OnlineClusters(nn.Module):
    """Pseudo-labels of all rows of a bank, kept up to date while the rows move.

    Every row belongs to the nearest of C unit centroids. `follow` gives the rows that changed new labels at once, and
    recomputes the centroids (means of their rows, of unit length) every ``centroid_every`` calls. A cluster with fewer
    than ``min_cluster`` rows is then dissolved: its rows go to the nearest other centroid, and the largest cluster is
    split in two to fill its place. Nothing is drawn but the first centroids, and everything is a function of the bank,
    so that ranks with the same bank have the same clusters.

    Args:
        size: rows of the bank.
        dim: length of a row.
        clusters: C; at most ``size`` are used.
        centroid_every: calls of `follow` between two computations of the centroids.
        min_cluster: smaller clusters are dissolved.
        seed: of the first centroids.

    Attributes:
        labels: int64 [N], the cluster of each row; -1 before `start`.
        centroids: [C, d].
        step: int64 scalar, calls of `follow` since `start`.

    Raises:
        ValueError: for numbers below 1.

    Reference: Zhan, Xie, Liu, Ong, Loy (2020), Online Deep Clustering for Unsupervised Representation Learning; Xie,
        Zhan, Liu, Ong, Loy (2022), Delving into Inter-Image Invariance for Unsupervised Visual Representations.

    Example:
        >>> rows = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), dim=1)
        >>> clusters = OnlineClusters(4, 2, clusters=2, min_cluster=1)
        >>> clusters.start(rows)
        >>> first = clusters.labels.tolist()
        >>> first[0] == first[1] != first[2] == first[3]
        True
    """

    labels: Tensor
    centroids: Tensor
    step: Tensor

    def __init__(
        self, size: int, dim: int, *, clusters: int, centroid_every: int = 10, min_cluster: int = 5, seed: int = 0
    ) -> None:
        super().__init__()
        for name, number in {
            "clusters": clusters,
            "centroid_every": centroid_every,
            "min_cluster": min_cluster,
        }.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, found {number}.")
        self.centroid_every, self.min_cluster, self.seed = centroid_every, min_cluster, seed
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("centroids", torch.zeros(min(clusters, size), dim))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def started(self) -> bool:
        """Whether rows have labels."""
        return bool(self.labels[0] >= 0)

    @torch.no_grad()
    def start(self, rows: Float[Tensor, "N d"]) -> None:
        """Make clusters of all rows: some of them as first centroids, then labels and centroids in turn.

        Args:
            rows: unit rows, as many as the bank has.
        """
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))[: len(self.centroids)]
        self.centroids.copy_(rows[chosen.to(rows.device)])
        for _ in range(_ROUNDS):
            self.labels.copy_(self._nearest(rows))
            self._recompute(rows)

    @torch.no_grad()
    def follow(self, rows: Float[Tensor, "N d"], changed: Int64[Tensor, " m"]) -> None:
        """Give changed rows new labels and, when it is time, recompute the centroids.

        Args:
            rows: all rows of the bank.
            changed: numbers of the rows that moved.
        """
        if len(changed):
            self.labels[changed] = self._nearest(rows[changed])
        self.step += 1
        if int(self.step) % self.centroid_every == 0:
            self._recompute(rows)

    def sizes(self) -> Int64[Tensor, " C"]:
        """Return how many rows each cluster has."""
        return torch.bincount(self.labels.clamp(min=0), minlength=len(self.centroids))

    def _nearest(self, rows: Tensor) -> Tensor:
        return row_topk(rows.to(self.centroids), self.centroids, k=1, normalize=False)[1][:, 0]

    def _recompute(self, rows: Tensor) -> None:
        """Set centroids to the means of their rows; dissolve small clusters and split the largest in their place."""
        rows = rows.to(self.centroids)
        least = min(self.min_cluster, len(rows) // len(self.centroids))  # more rows than there are cannot be asked for
        self._set_means(rows)
        small = (self.sizes() < least).nonzero().flatten()
        if len(small) in (0, len(self.centroids)):
            return
        orphans = torch.isin(self.labels, small)
        large = torch.ones(len(self.centroids), dtype=torch.bool, device=rows.device)
        large[small] = False
        numbers = large.nonzero().flatten()
        nearest = row_topk(rows[orphans], self.centroids[numbers], k=1, normalize=False)[1][:, 0]
        self.labels[orphans] = numbers[nearest]
        for cluster in small.tolist():
            self._split_largest_into(cluster, rows)
        self._set_means(rows)

    def _split_largest_into(self, empty: int, rows: Tensor) -> None:
        """Halve the largest cluster across its longest extent: from its outermost row to the row farthest from that."""
        members = (self.labels == int(self.sizes().argmax())).nonzero().flatten()
        mine = rows[members]
        far = mine[int((mine @ F.normalize(mine.sum(0), dim=0)).argmin())]
        other = mine[int((mine @ far).argmin())]
        # Equal halves: the outermost rows alone would be the small cluster over again.
        order = (mine @ (far - other)).argsort(descending=True, stable=True)
        self.labels[members[order[: len(mine) // 2]]] = empty

    def _set_means(self, rows: Tensor) -> None:
        # Row after row: `index_add_` on a GPU sums in no fixed order, and the clusters of the ranks would drift apart.
        sums = torch.segment_reduce(rows[self.labels.argsort(stable=True)], "sum", lengths=self.sizes(), axis=0)
        length = sums.norm(dim=1, keepdim=True)
        self.centroids.copy_(torch.where(length > 1e-6, sums / length.clamp_min(1e-6), self.centroids))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"rows={len(self.labels)}, clusters={len(self.centroids)}, min_cluster={self.min_cluster}"
