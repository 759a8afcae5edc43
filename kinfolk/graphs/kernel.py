"""Side embeddings relate: captions, class names, another model's features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.graphs.base import SimilarityGraph
from kinfolk.ops import PairMask, chunked, logsumexp_and_kernel_attraction, prepare
from kinfolk.ops.masks import Span

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from kinfolk.distributed import Ranks


class KernelGraph(SimilarityGraph):
    """Anchor i relates to candidate j by a softmax over ``cos(u_i, v_j) / temperature``.

    The weights are never stored: partition and attraction come from one sweep over tiles. Side embeddings that
    require gradient receive it, unless a loss treats its target as a constant.

    Args:
        queries: side embeddings of the anchors u [n, e], l2-normalised inside.
        keys: side embeddings of the candidates v [m, e]; by default the queries.
        temperature: softness of the relations, positive. Choose it by the perplexity of the target.

    Example:
        >>> side = torch.eye(3)
        >>> KernelGraph(side, temperature=0.5).row_normalised(~torch.eye(3, dtype=torch.bool)).to_dense()
        tensor([[0.0000, 0.5000, 0.5000],
                [0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """

    def __init__(
        self, queries: Float[Tensor, "n e"], keys: Float[Tensor, "m e"] | None = None, *, temperature: float
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}.")
        with torch.autocast(queries.device.type, enabled=False):
            self.u, self.v = prepare(queries, queries if keys is None else keys, normalize=True)
        self.temperature = float(temperature)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        return self.u.shape[0], self.v.shape[0]

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return a block of relations divided by the temperature."""
        with torch.autocast(self.u.device.type, enabled=False):
            return self.u[slice(*rows)] @ self.v[slice(*columns)].T / self.temperature

    def to_dense(self) -> Float[Tensor, "n m"]:
        """Return the softmax over all candidates."""
        return self.dense_target(None)

    def neighbours(self, i: int, k: int) -> tuple[Tensor, Tensor]:
        """Return the k candidates that row i relates to most strongly, and their softmax weights."""
        values, columns = self.log_weights((i, i + 1), (0, self.shape[1]))[0].softmax(0).topk(min(k, self.shape[1]))
        return columns, values

    def detached(self) -> KernelGraph:
        """Return the same graph as a constant."""
        if not (self.u.requires_grad or self.v.requires_grad):
            return self
        u = self.u.detach()
        return self._with(u, u if self.v is self.u else self.v.detach())

    def gathered(self, ranks: Ranks) -> KernelGraph:
        """Gather the candidates' side embeddings; learnt ones must be learnt on every rank."""
        return self._with(self.u, ranks.gather(self.v)) if self._is_per_key(ranks) else self

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        kind = str(self.v.dtype).removeprefix("torch.")
        learnt = ", learnt" if self.v.requires_grad else ""
        return f"KernelGraph of width {self.v.shape[1]} in {kind} at temperature {self.temperature:g}{learnt}"

    def _with(self, u: Tensor, v: Tensor) -> KernelGraph:
        """The same relation between vectors that are prepared already."""
        graph = KernelGraph.__new__(KernelGraph)
        graph.u, graph.v, graph.temperature = u, v, self.temperature
        return graph

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Attraction from the fused sweep; its partition is not used."""
        return self.partition_and_pull(x, y, scale, mask, mask)[1]

    def partition_and_pull(
        self,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        mask: PairMask | None,
        target_mask: PairMask | None,
        *,
        normalize: bool = False,
        impl: str = "auto",
    ) -> tuple[Tensor, Tensor]:
        """Partition and attraction from one sweep."""
        return logsumexp_and_kernel_attraction(
            x,
            y,
            self.u,
            self.v,
            scale=scale,
            relation_scale=1 / self.temperature,
            mask=mask,
            target_mask=target_mask,
            normalize=normalize,
            impl=impl,
        )

    def log_normaliser(self, mask: PairMask | None) -> Tensor:
        """Return the logsumexp of the kept relations; without a mask every row has some."""
        u, v = self.u.detach(), self.v.detach()
        v = u if self.v is self.u else v
        with torch.no_grad(), torch.autocast(u.device.type, enabled=False):
            return chunked.row_logsumexp(
                u, v, scale=u.new_tensor(1 / self.temperature), mask=None if mask is None else mask.without_bias()
            )

    def rows_with_target(self, mask: PairMask | None) -> Bool[Tensor, " n"]:
        """Every softmax weight is positive: a row has a target where any candidate is kept."""
        n, m = self.shape
        if mask is None or not mask.drops_pairs:
            return torch.full((n,), m > 0, device=self.u.device)
        if mask.self_offset is not None and m > 1:
            return torch.full((n,), True, device=self.u.device)
        return super().rows_with_target(mask)

    def __repr__(self) -> str:
        n, m = self.shape
        return f"KernelGraph({n} x {m}: side embeddings of width {self.u.shape[1]}, temperature {self.temperature:g})"
