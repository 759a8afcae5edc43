"""The general loss: match any similarity graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.graphs import SimilarityGraph
from kinfolk.graphs.base import as_graph, gathered_mask, mask_form
from kinfolk.losses.base import Impl, Loss, Reduction, inverse, one_per_row, positive
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask, as_mask, integer_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def graph_contrastive(
    queries: Float[Tensor, "n d"],
    keys: Float[Tensor, "m d"],
    graph: SimilarityGraph | Float[Tensor, "n m"],
    *,
    temperature: float | Tensor = 0.1,
    mask: PairMask | Bool[Tensor, "n m"] | None = None,
    target_mask: PairMask | Bool[Tensor, "n m"] | None = None,
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropy between the graph's rows, normalised over the kept keys, and the model's softmax over them.

    ``loss_i = lse_{j kept} (s_ij + b_ij) - sum_j T_ij s_ij``. With `target_mask`, T is normalised over the keys that it
    keeps instead, which the partition may leave out.

    Returns:
        Values [n] and which rows have a target; the others are 0.

    Example:
        >>> values, valid = graph_contrastive(torch.eye(2), torch.eye(2), torch.eye(2), temperature=1.0)
        >>> values
        tensor([0.3133, 0.3133])
    """
    return matched(
        "GraphContrastiveLoss",
        queries,
        keys,
        as_graph(graph),
        scale=inverse(temperature),
        mask=PairMask.from_dense(mask) if isinstance(mask, Tensor) else mask,
        target_mask=PairMask.from_dense(target_mask) if isinstance(target_mask, Tensor) else target_mask,
        ids=ids,
        normalize=normalize,
        gather=gather,
        impl=impl,
    )


def matched(
    loss: str,
    queries: Float[Tensor, "n d"],
    keys: Float[Tensor, "m d"],
    graph: SimilarityGraph,
    *,
    scale: float | Tensor,
    mask: PairMask | None,
    ids: Int[Tensor, " m"] | None,
    normalize: bool,
    gather: Gather,
    impl: Impl,
    target_mask: PairMask | None = None,
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return `graph_contrastive` in the name of the loss that asks for it.

    Example:
        >>> x, graph = torch.eye(2), as_graph(torch.eye(2))
        >>> options = {"mask": None, "ids": None, "normalize": True, "gather": True, "impl": "auto"}
        >>> matched("MyLoss", x, x, graph, scale=1.0, **options)[0]
        tensor([0.3133, 0.3133])
    """
    refuse_ring(loss, gather)
    if ids is not None:
        one_per_row(ids, keys, "ids")
        ids = integer_ids(ids).to(keys.device)
    graph = graph.detached()
    what = f"{loss}: {graph.form}, {mask_form(mask)}, target {mask_form(target_mask)}{', ids' * (ids is not None)}"
    columns = -1 if mask is None or mask.m is None else mask.m
    ranks, (joined,) = Ranks.of([keys], gather=gather, what=what, columns=columns)
    x, y = (joined if queries is keys else queries), ranks.gather(joined)
    with torch.autocast(x.device.type, enabled=False):
        graph = graph.gathered(ranks).resolve(None if ids is None else ranks.gather(ids))
        if graph.shape != (len(x), len(y)):
            raise ValueError(
                f"the graph must relate every query to every key: graph {graph.shape}, "
                f"queries {tuple(queries.shape)}, keys {tuple(y.shape)}."
            )
        kept = as_mask(gathered_mask(mask, ranks), len(x), len(y))
        counted = kept if target_mask is None else as_mask(gathered_mask(target_mask, ranks), len(x), len(y))
        target = graph.row_normalised(counted)
        partition, pull = target.logsumexp_and_attraction(
            x,
            y,
            scale=scale,
            mask=kept,
            target_mask=None if target_mask is None else counted,
            normalize=normalize,
            impl=impl,
        )
        valid = target.has_target.to(x.device)
        if target_mask is not None:  # a row may have a target and nothing to tell it from
            valid = valid & (partition != -torch.inf)
            pull = pull.where(valid, torch.zeros_like(pull))
        return partition.where(valid, torch.zeros_like(pull)) - pull, valid


class GraphContrastiveLoss(Loss):
    """Match any similarity graph between queries and keys, ``loss(queries, keys, graph)``.

    ``loss_i = lse_{j kept} (s_ij + b_ij) - sum_j T_ij s_ij`` with T the graph's rows normalised over the kept keys: the
    cross-entropy between T and the model's softmax. SimCLR, SupCon, X-CLR and CLIP are this loss with their graphs.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        queries: anchors [n, d].
        keys: candidates [m, d]; pass the queries themselves, and a mask, for self-contrast.
        graph: a `SimilarityGraph`, or explicit weights [n, m]; a constant.
        mask: bool [n, m] or `PairMask`, True = the pair is in partition and target; self-contrast passes ``~eye``.
        target_mask: the same for the target alone, where it is not that of the partition: a decoupled denominator keeps
            the own views here and drops them there.
        ids: sample id per key [m]; resolves a `SparseGraph` that names its columns by id, and masks nothing.

    Returns:
        A scalar, or [n] for ``reduction="none"``; rows whose kept weights are all 0, or that have nothing in the
        partition, do not count.

    Raises:
        ValueError: for a graph or mask of another shape, a temperature that is not positive.

    Reference:
        Vlad Sobal, Mark Ibrahim, Randall Balestriero, Vivien Cabannes, Diane Bouchacourt, Pietro Astolfi, Kyunghyun
        Cho, Yann LeCun, 2024, X-Sample Contrastive Loss: Improving Contrastive Learning with Sample Similarity Graphs.

    Example:
        >>> from kinfolk.graphs import LabelGraph
        >>> x, graph = torch.eye(3), LabelGraph(torch.tensor([0, 0, 1]))
        >>> GraphContrastiveLoss(temperature=1.0)(x, x, graph, mask=PairMask.exclude_self(3))
        tensor(0.6931)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("GraphContrastiveLoss", gather)
        self.temperature = positive(temperature)

    def forward(  # type: ignore[override]
        self,
        queries: Tensor,
        keys: Tensor,
        graph: SimilarityGraph | Tensor,
        mask: PairMask | Tensor | None = None,
        ids: Tensor | None = None,
        *,
        target_mask: PairMask | Tensor | None = None,
    ) -> Tensor:
        """Return the loss of queries [n, d] against keys [m, d]."""
        values, valid = graph_contrastive(
            queries,
            keys,
            graph,
            temperature=self.temperature,
            mask=mask,
            target_mask=target_mask,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
