"""InterCLR's loss: a positive from the same cluster, with a margin, against sampled negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import (
    Impl,
    Loss,
    Reduction,
    checked_ids,
    inverse,
    own_scores,
    positive,
    same_shape,
    softplus,
)
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import integer_ids, listed_products, prepare, row_logsumexp
from kinfolk.ops.normalise import NORM_FLOOR
from kinfolk.ops.reference import masked_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Negatives = Float[Tensor, "M d"] | Float[Tensor, "n M d"] | tuple[Float[Tensor, "B d"], Int[Tensor, "n M"]]


def inter_clr(
    queries: Float[Tensor, "n d"],
    positives: Float[Tensor, "n d"],
    negatives: Negatives,
    *,
    temperature: float | Tensor = 0.2,
    margin: float = -0.5,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropy of finding the positive among it and the negatives, its cosine being handicapped by a margin.

    ``loss_i = lse({s_i0} u {<q_i, n_ij> / temperature}) - s_i0`` with
    ``s_i0 = (<q_i, p_i> - margin) / temperature``: a negative margin helps the positive. Only queries receive gradient.

    Returns:
        Values [n] and which of them count (all).

    Example:
        >>> values, valid = inter_clr(torch.eye(2), torch.eye(2), torch.eye(2), temperature=1.0, margin=0.0)
        >>> values
        tensor([0.8620, 0.8620])
    """
    same_shape(queries=queries, positives=positives)
    scale, form = inverse(temperature), _form(queries, negatives)
    refuse_ring("InterCLRLoss", gather)
    _, (queries,) = Ranks.of([queries], gather=gather, what="InterCLRLoss")
    with torch.autocast(queries.device.type, enabled=False):
        own = scale * (own_scores(queries, positives.detach(), normalize=normalize) - margin)
        if form == "shared":
            assert isinstance(negatives, Tensor)
            others = row_logsumexp(queries, negatives.detach(), scale=scale, normalize=normalize, impl=impl)
        else:
            bank, index = _listed(negatives)
            scores = scale * _listed_scores(queries, bank.detach(), index, normalize=normalize)
            others = masked_logsumexp(scores, index >= 0, 1)
        return softplus(others - own), torch.ones_like(own, dtype=torch.bool)


def _form(queries: Tensor, negatives: Negatives) -> str:
    """Which of the three forms negatives have, having checked their shapes."""
    n, d = queries.shape
    if isinstance(negatives, Tensor):
        shape = tuple(negatives.shape)
        if negatives.ndim == 2 and shape[1] == d:
            return "shared"
        if negatives.ndim == 3 and shape[::2] == (n, d):
            return "private"
        found = str(shape)
    elif not isinstance(negatives, tuple | list) or len(negatives) != 2:
        found = f"a {type(negatives).__name__}"
    else:
        bank, index = negatives
        if bank.ndim == 2 and bank.shape[1] == d and index.ndim == 2 and len(index) == n:
            return "listed"
        found = f"({tuple(bank.shape)}, {tuple(index.shape)})"
    raise ValueError(
        f"negatives must be [M, d], [n, M, d] or a pair (bank [B, d], index [n, M]) for queries {(n, d)}; "
        f"found {found}."
    )


def _listed(negatives: Negatives) -> tuple[Float[Tensor, "B d"], Int[Tensor, "n M"]]:
    """Private negatives as rows of one bank."""
    if not isinstance(negatives, Tensor):
        bank, index = negatives
        return bank, integer_ids(index.flatten(), "index").view(index.shape).to(bank.device)
    n, count = negatives.shape[:2]
    return negatives.flatten(0, 1), torch.arange(n * count, device=negatives.device).view(n, count)


def _listed_scores(
    queries: Float[Tensor, "n d"], bank: Float[Tensor, "B d"], index: Int[Tensor, "n M"], *, normalize: bool
) -> Float[Tensor, "n M"]:
    """Products with the listed rows of a bank; norms divide the products, so that no copy of a bank is normalised."""
    wide = torch.promote_types(torch.promote_types(queries.dtype, bank.dtype), torch.float32)
    queries = queries.to(wide)
    x, _ = prepare(queries, queries, normalize=normalize)
    products = listed_products(x, bank.to(wide), index)
    if not normalize:
        return products
    norms = torch.linalg.vector_norm(bank, dim=1, dtype=wide).clamp_min(NORM_FLOOR)
    return products / norms[index] if len(norms) else products


class InterCLRLoss(Loss):
    """The inter-image term of InterCLR, ``loss(queries, positives, negatives)``.

    A positive is another sample of the same cluster, negatives are drawn from a bank of all samples. The margin is on
    the cosine and negative by default, which *adds* to the positive: a sample of the same cluster need not come as
    close as the own key. The method's total is 0.75 InfoNCE + 0.25 InterCLR.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        margin: subtracted from the positive's cosine; m is the same as multiplying its exponential by
            ``e^{-m / temperature}``.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``gather`` asks only whether ranks count
            their anchors together.

    Call:
        queries: [n, d], the encoder's.
        positives: [n, d], row k in the cluster of query k; receives no gradient.
        negatives: [M, d] for all queries alike, [n, M, d], or ``(bank [B, d], index [n, M])``: rows of a bank that are
            looked up some at a time, -1 being no row. They receive no gradient, and are those of this rank.
        ids: sample ids [n], checked only: samples of the batch are not contrasted with one another.

    Returns:
        A scalar, or [n] for ``reduction="none"``; at least 0, and 0 for a query without negatives.

    Raises:
        TypeError: for an index or ids that are not integers.
        ValueError: for shapes that do not fit, columns outside the bank, a temperature that is not positive, an empty
            batch.

    Reference:
        Jiahao Xie, Xiaohang Zhan, Ziwei Liu, Yew Soon Ong, Chen Change Loy, 2022, Delving into Inter-Image Invariance
        for Unsupervised Visual Representations.

    Example:
        >>> InterCLRLoss(temperature=1.0)(torch.eye(2), torch.eye(2), torch.eye(2))
        tensor(0.6041)
        >>> InterCLRLoss(temperature=1.0)(torch.eye(2), torch.eye(2), (torch.eye(2), torch.tensor([[1], [0]])))
        tensor(0.2014)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.2,
        margin: float = -0.5,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("InterCLRLoss", gather)
        self.temperature, self.margin = positive(temperature), margin

    def forward(  # type: ignore[override]
        self, queries: Tensor, positives: Tensor, negatives: Negatives, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of queries and positives [n, d] against negatives."""
        checked_ids(ids, queries)
        values, valid = inter_clr(
            queries,
            positives,
            negatives,
            temperature=self.temperature,
            margin=self.margin,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
