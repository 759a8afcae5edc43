"""What every target graph can do, and the general way of doing it for graphs without a shorter one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.ops import PairMask, as_mask, as_scale, check, choose, chunked, prepare, reference, row_logsumexp
from kinfolk.ops.chunked.tiles import Walk
from kinfolk.ops.masks import Span

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from kinfolk.distributed import Ranks

    MaskLike = PairMask | Bool[Tensor, "n m"] | None


LogBlocks = Callable[[Span, Span], Tensor]
"""Gives a block of logarithms of weights."""


class SimilarityGraph(ABC):
    """How strongly each anchor should be related to each candidate: non-negative weights ``G [n, m]``.

    The target of a loss is ``T``, the rows of G normalised over the candidates that a mask keeps. A graph never needs
    G as a matrix; it knows how to pull with it: ``attraction`` is ``sum_j T_ij s_ij``. A row whose kept weights are
    all 0 has no target and pulls with 0.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of anchors n and of candidates m."""

    @abstractmethod
    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return the logarithm of a block of weights, up to a factor per row; -inf where nothing relates."""

    @abstractmethod
    def __repr__(self) -> str: ...

    def row_normalised(self, mask: MaskLike = None) -> NormalisedGraph:
        """Return the target: rows normalised over the kept candidates.

        Example:
            >>> from kinfolk.graphs import DenseGraph
            >>> target = DenseGraph(torch.tensor([[2.0, 1.0, 1.0], [0.0, 0.0, 5.0]])).row_normalised(
            ...     torch.tensor([[False, True, True], [True, True, False]])
            ... )
            >>> target.to_dense()
            tensor([[0.0000, 0.5000, 0.5000],
                    [0.0000, 0.0000, 0.0000]], dtype=torch.float64)
            >>> target.has_target
            tensor([ True, False])
        """
        return NormalisedGraph(self, as_mask(mask, *self.shape))

    def attraction(
        self,
        x: Float[Tensor, "n d"],
        y: Float[Tensor, "m d"],
        *,
        scale: float | Tensor,
        mask: MaskLike = None,
        normalize: bool = False,
        impl: str = "auto",
    ) -> Float[Tensor, " n"]:
        """Return the target's mean score per row, ``sum_j T_ij scale <x_i, y_j>``.

        Args:
            x: anchors [n, d].
            y: candidates [m, d].
            scale: inverse temperature; differentiable.
            mask: which candidates count in the target; its biases play no role.
            normalize: l2-normalise both sides first.
            impl: ``"auto"``, ``"chunked"`` or ``"reference"``.

        Returns:
            [n]; 0 with zero gradient where a row has no target.
        """
        scale, mask = self._checked(x, y, scale, mask)
        with torch.autocast(x.device.type, enabled=False):
            x, y = prepare(x, y, normalize=normalize)
            if choose(impl, x) == "reference":
                return reference.attraction(x, y, scale=scale, target=self.dense_target(mask).to(x))
            return self.pull(x, y, scale, mask)

    def logsumexp_and_attraction(
        self,
        x: Float[Tensor, "n d"],
        y: Float[Tensor, "m d"],
        *,
        scale: float | Tensor,
        mask: MaskLike = None,
        target_mask: MaskLike = None,
        normalize: bool = False,
        impl: str = "auto",
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return partition and attraction of every row, from one sweep where the graph allows.

        Args:
            x: anchors [n, d].
            y: candidates [m, d].
            scale: inverse temperature; differentiable.
            mask: which candidates enter the partition, and their biases.
            target_mask: which candidates count in the target; by default those of the partition.
            normalize: l2-normalise both sides first.
            impl: as in `attraction`.

        Returns:
            ``lse_j(s_ij + b_ij)`` [n] (-inf where nothing is kept) and ``sum_j T_ij s_ij`` [n].
        """
        scale, mask = self._checked(x, y, scale, mask)
        target_mask = self.default_target_mask(mask) if target_mask is None else as_mask(target_mask, *self.shape)
        with torch.autocast(x.device.type, enabled=False):
            impl = choose(impl, x)
            if impl != "triton":  # which takes half precision as it is
                x, y = prepare(x, y, normalize=normalize)
                normalize = False
            if impl == "reference":
                pull = reference.attraction(x, y, scale=scale, target=self.dense_target(target_mask).to(x))
                return reference.row_logsumexp(x, y, scale=scale, mask=mask), pull
            return self.partition_and_pull(x, y, scale, mask, target_mask, normalize=normalize, impl=impl)

    def to_dense(self) -> Float[Tensor, "n m"]:
        """Return the weights as an explicit matrix, up to a factor per row."""
        n, m = self.shape
        return self.log_weights((0, n), (0, m)).exp()

    def neighbours(self, i: int, k: int) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
        """Return the (at most k) candidates that row i relates to most strongly, and their weights."""
        weights = self.log_weights((i, i + 1), (0, self.shape[1]))[0].exp()
        values, columns = weights.topk(min(k, int((weights > 0).sum())))
        return columns, values

    def detached(self) -> SimilarityGraph:
        """Return the same graph as a constant."""
        return self

    def resolve(self, key_ids: Int[Tensor, " m"] | None) -> SimilarityGraph:
        """Return the same graph over the columns at hand, where it names columns by sample id."""
        return self

    def gathered(self, ranks: Ranks) -> SimilarityGraph:
        """Return this rank's anchors related to the keys of all ranks.

        Graphs made of one datum per key are gathered like the keys. A graph whose columns have numbers must have one
        for every key of all ranks, in rank order, already.

        Args:
            ranks: who holds how many keys.

        Raises:
            ValueError: for a graph that fits neither way.

        Example:
            >>> from kinfolk.distributed import Ranks
            >>> from kinfolk.graphs import PairGraph
            >>> PairGraph(2).gathered(Ranks(sizes=(3, 2), rank=1))
            PairGraph(2 x 5: row i relates to column i+3)
        """
        if ranks.world > 1 and self.shape[1] != ranks.total:
            raise ValueError(
                f"with {ranks.world} ranks this graph must have one column per key of all of them, in rank order: "
                f"{ranks.total} keys, found {self.shape[1]} columns; or use a graph made of one datum per key."
            )
        return self

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        return f"{type(self).__name__} of {self.shape[1]} columns"

    def default_target_mask(self, mask: PairMask | None) -> PairMask | None:
        """Return the target's mask where a call names none: the partition's."""
        return mask

    def _is_per_key(self, ranks: Ranks) -> bool:
        """Whether there are keys of other ranks to add; the own ones must fit."""
        if ranks.world > 1 and self.shape[1] != ranks.sizes[ranks.rank]:
            raise ValueError(
                f"the graph relates {self.shape[0]} anchors to {self.shape[1]} candidates, "
                f"found {ranks.sizes[ranks.rank]} keys on this rank."
            )
        return ranks.world > 1

    # What graphs override when they know a shorter way. Inputs are prepared: float32 or float64, checked, normalised.

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Attraction in linear memory; the general way walks over blocks of the target."""
        blocks = self.log_target_blocks(mask)
        return chunked.target_attraction(
            x, y, scale=scale, target=lambda rows, columns: blocks(rows, columns).to(x).exp_()
        )

    def log_target_blocks(self, mask: PairMask | None) -> LogBlocks:
        """Return a function that gives blocks of log T, the rows' sums being known; a constant."""
        normaliser = self.log_normaliser(mask)
        normaliser = normaliser.masked_fill(normaliser == -torch.inf, torch.inf)

        def block(rows: Span, columns: Span) -> Tensor:
            weights = self.log_weights(rows, columns).detach() - normaliser[slice(*rows), None]
            if mask is not None:
                mask.fill_(weights, rows, columns, -torch.inf)
            return weights

        return block

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
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Partition and attraction of vectors as they came; the general way is two calls."""
        partition = row_logsumexp(x, y, scale=scale, mask=mask, normalize=normalize, impl=impl)
        return partition, self.pull(*prepare(x, y, normalize=normalize), scale, target_mask)

    @torch.no_grad()
    def log_normaliser(self, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return the logarithm of every row's kept weights' sum; -inf where there are none."""
        n, m = self.shape
        total: Tensor | None = None
        for rows, columns in Walk(n, m):
            weights = self.log_weights(rows, columns).to(torch.float64, copy=True)
            if total is None:
                total = weights.new_full((n,), -torch.inf)
            if mask is not None:
                mask.fill_(weights, rows, columns, -torch.inf)
            total[slice(*rows)] = torch.logaddexp(total[slice(*rows)], weights.logsumexp(1))
        return torch.full((n,), -torch.inf) if total is None else total

    def rows_with_target(self, mask: PairMask | None) -> Bool[Tensor, " n"]:
        """Return which rows relate to at least one kept candidate."""
        return self.log_normaliser(mask) != -torch.inf  # a broken relation counts, so that it shows

    def dense_target(self, mask: PairMask | None) -> Float[Tensor, "n m"]:
        """Return T as an explicit matrix in float64: the specification."""
        n, m = self.shape
        logits = self.log_weights((0, n), (0, m)).double()
        keep, _ = reference.kept_and_bias(mask, logits)
        keep = keep & (logits != -torch.inf)
        normaliser = reference.masked_logsumexp(logits, keep, 1)
        safe = logits.where(keep, torch.zeros_like(logits))
        weights = torch.exp(safe - normaliser.where(keep.any(1), torch.zeros_like(normaliser)).unsqueeze(1))
        return weights.where(keep, torch.zeros_like(weights))

    def _checked(self, x: Tensor, y: Tensor, scale: float | Tensor, mask: MaskLike) -> tuple[Tensor, PairMask | None]:
        check(x, y)
        if (x.shape[0], y.shape[0]) != self.shape:
            raise ValueError(
                f"the graph relates {self.shape[0]} anchors to {self.shape[1]} candidates, "
                f"found x {tuple(x.shape)} and y {tuple(y.shape)}."
            )
        like = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
        return as_scale(scale, x.new_empty(0, dtype=like)), as_mask(mask, *self.shape)


class NormalisedGraph(SimilarityGraph):
    """A graph's rows normalised over the candidates that a mask keeps: the target T of a loss.

    Example:
        >>> from kinfolk.graphs import PairGraph
        >>> PairGraph(2).row_normalised()
        NormalisedGraph(PairGraph(2 x 2: row i relates to column i))
    """

    def __init__(self, graph: SimilarityGraph, mask: PairMask | None) -> None:
        inner = graph.graph if isinstance(graph, NormalisedGraph) else graph
        self.graph: SimilarityGraph = inner
        self.mask: PairMask | None = _both(graph.mask, mask) if isinstance(graph, NormalisedGraph) else mask
        self._has_target: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        return self.graph.shape

    @property
    def has_target(self) -> Bool[Tensor, " n"]:
        """Which rows relate to at least one kept candidate."""
        if self._has_target is None:
            self._has_target = self.graph.rows_with_target(self.mask)
        return self._has_target

    def to_dense(self) -> Float[Tensor, "n m"]:
        """Return T as an explicit matrix, exact to float64."""
        return self.graph.dense_target(self.mask)

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return a block of log T."""
        return self._blocks(rows, columns)

    def log_target_blocks(self, mask: PairMask | None) -> LogBlocks:
        """Return blocks of log T, normalised again over what a further mask keeps."""
        return self.graph.log_target_blocks(_both(self.mask, mask))

    @cached_property
    def _blocks(self) -> LogBlocks:
        return self.graph.log_target_blocks(self.mask)

    def log_normaliser(self, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return the logarithm of what a further mask leaves of every row's 1, up to a factor per row."""
        return self.graph.log_normaliser(_both(self.mask, mask))

    def dense_target(self, mask: PairMask | None) -> Float[Tensor, "n m"]:
        """Return T, normalised again over what a further mask keeps."""
        return self.graph.dense_target(_both(self.mask, mask))

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Attraction by the graph's own way."""
        return self.graph.pull(x, y, scale, _both(self.mask, mask))

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
        """Partition and attraction by the graph's own way."""
        both = _both(self.mask, target_mask)
        return self.graph.partition_and_pull(x, y, scale, mask, both, normalize=normalize, impl=impl)

    def default_target_mask(self, mask: PairMask | None) -> PairMask | None:
        """Return the mask that these rows were normalised over."""
        return self.mask

    def detached(self) -> SimilarityGraph:
        """Return the same target as a constant."""
        return NormalisedGraph(self.graph.detached(), self.mask)

    def gathered(self, ranks: Ranks) -> SimilarityGraph:
        """Gather graph and mask."""
        if ranks.world == 1:
            return self
        return NormalisedGraph(self.graph.gathered(ranks), gathered_mask(self.mask, ranks))

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        return f"{self.graph.form} over {mask_form(self.mask)}"

    def __repr__(self) -> str:
        return f"NormalisedGraph({self.graph!r}{'' if self.mask is None else f', {self.mask!r}'})"


def gathered_mask(mask: PairMask | None, ranks: Ranks) -> PairMask | None:
    """Return a mask over the keys of all ranks, where it is not one already.

    Raises:
        ValueError: when its columns are neither this rank's keys nor those of all.

    Example:
        >>> from kinfolk.distributed import Ranks
        >>> gathered_mask(PairMask.exclude_self(2), Ranks(sizes=(3, 2), rank=1))
        PairMask(2 x 5: keeps 8 of 10 pairs; drops column i+3 of row i)
    """
    if mask is None or ranks.world == 1:
        return mask
    explicit = bool(mask.kept or mask.excluded_columns)
    if not explicit and ranks.are_own(mask.m):
        return mask.gathered(ranks.gather, offset=ranks.offset, total=ranks.total)
    if mask.m != ranks.total:
        raise ValueError(
            f"with {ranks.world} ranks a mask must have one column per key of all of them, in rank order"
            f"{'' if explicit else ', or of this one'}: {ranks.total} keys, {ranks.sizes[ranks.rank]} of them here, "
            f"found {mask.m} columns."
        )
    return mask


def mask_form(mask: PairMask | None) -> str:
    """Return what ranks that join must agree on.

    Example:
        >>> mask_form(None)
        'no mask'
    """
    if mask is None:
        return "no mask"
    return f"mask ({mask.form}{f' of {mask.m} columns' if mask.kept or mask.excluded_columns else ''})"


def _both(a: PairMask | None, b: PairMask | None) -> PairMask | None:
    if a is None or b is None or a is b:
        return b if a is None else a
    return a & b


def as_graph(graph: SimilarityGraph | Float[Tensor, "n m"]) -> SimilarityGraph:
    """Take a graph, or explicit weights [n, m].

    Example:
        >>> as_graph(torch.eye(2))
        DenseGraph(2 x 2: 2 related pairs)
    """
    from kinfolk.graphs.dense import DenseGraph

    if isinstance(graph, Tensor):
        return DenseGraph(graph)
    if not isinstance(graph, SimilarityGraph):
        raise TypeError(f"graph must be a SimilarityGraph or a tensor of weights [n, m], found {type(graph).__name__}.")
    return graph
