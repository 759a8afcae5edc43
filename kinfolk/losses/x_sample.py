"""X-Sample contrastive loss: captions, class names or any side embedding say how much two samples relate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kinfolk.distributed import Gather
from kinfolk.graphs import KernelGraph, SimilarityGraph
from kinfolk.losses.base import Impl, Loss, Reduction, inverse, positive
from kinfolk.losses.graph_contrastive import matched
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def x_sample(
    embeddings: Float[Tensor, "m d"],
    relations: Float[Tensor, "m e"] | SimilarityGraph,
    *,
    temperature: float | Tensor = 0.1,
    graph_temperature: float = 0.1,
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """Cross-entropy between the relations' softmax and the model's, both over all other rows.

    ``G_ij = softmax_{j != i}(cos(u_i, u_j) / graph_temperature)``, ``loss_i = lse_{j != i} s_ij - sum_j G_ij s_ij``.

    Returns:
        Values [m] and which rows have a target.

    Example:
        >>> import torch
        >>> values, valid = x_sample(torch.eye(3), torch.eye(3), temperature=1.0)
        >>> values
        tensor([0.6931, 0.6931, 0.6931])
    """
    if isinstance(relations, Tensor):
        if relations.ndim != 2 or len(relations) != len(embeddings):
            raise ValueError(
                f"side embeddings must be [m, e], one row per embedding: embeddings {tuple(embeddings.shape)}, "
                f"relations {tuple(relations.shape)}; repeat them once per view. Explicit weights go into a DenseGraph."
            )
        relations = KernelGraph(relations.detach(), temperature=float(positive(graph_temperature, "graph_temperature")))
    return matched(
        "XSampleLoss",
        embeddings,
        embeddings,
        relations,
        scale=inverse(temperature),
        mask=PairMask.exclude_self(len(embeddings)),
        ids=ids,
        normalize=normalize,
        gather=gather,
        impl=impl,
    )


class XSampleLoss(Loss):
    """X-Sample contrastive loss (X-CLR), ``loss(embeddings, relations)`` over the rows of all views.

    Every other row is positive and negative at once, in proportion to its relation. The row itself leaves both
    distributions. The loss ends at the target's entropy, not at 0: a plateau there is no failure. Choose the graph
    temperature by the target's perplexity (5 to 30 neighbours), never by its value.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        graph_temperature: softness of the relations made from side embeddings; a graph is taken as it stands.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        relations: side embeddings [m, e] (always side embeddings, also when e = m), or a `SimilarityGraph` of m x m.
            Both are constants; the views of a sample carry the same side embedding.
        ids: sample id per row [m]; resolves a `SparseGraph` that names its columns by id, and masks nothing.

    Returns:
        A scalar, or [m] for ``reduction="none"``.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for relations that do not fit, temperatures that are not positive.

    Reference:
        Vlad Sobal, Mark Ibrahim, Randall Balestriero, Vivien Cabannes, Diane Bouchacourt, Pietro Astolfi, Kyunghyun
        Cho, Yann LeCun, 2024, X-Sample Contrastive Loss: Improving Contrastive Learning with Sample Similarity Graphs.

    Example:
        >>> import torch
        >>> XSampleLoss(temperature=1.0)(torch.eye(3), torch.eye(3))
        tensor(0.6931)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        graph_temperature: float = 0.1,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("XSampleLoss", gather)
        self.temperature = positive(temperature)
        self.graph_temperature = float(positive(graph_temperature, "graph_temperature"))

    def forward(  # type: ignore[override]
        self, embeddings: Tensor, relations: Tensor | SimilarityGraph, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of rows [m, d] with side embeddings [m, e] or a graph."""
        values, valid = x_sample(
            embeddings,
            relations,
            temperature=self.temperature,
            graph_temperature=self.graph_temperature,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
