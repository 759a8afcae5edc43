"""Contrastive attraction and contrastive repulsion: far positives pull hardest, near negatives push hardest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, Loss, Reduction, checked_ids, other_samples
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.losses.views import checked_views
from kinfolk.ops import PairMask, prepare, row_softmax_mean

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Weighting = Literal["contrastive", "uniform"]
"""Weights by a softmax over distance, or all equal (the ablation)."""


def cacr(
    views: Sequence[Float[Tensor, "n d"]],
    *,
    t_pos: float = 1.0,
    t_neg: float = 2.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    detach_weights: bool = False,
    attraction: Weighting = "contrastive",
    repulsion: Weighting = "contrastive",
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Weighted cost to the own other views, minus weighted cost to the other samples.

    With cost ``d(a, b) = |a - b|^2`` over V views of n samples:
    ``CA_i = mean_v sum_{u != v} softmax_u(t_pos d(z_vi, z_ui)) alpha d(z_vi, z_ui)`` and
    ``CR_i = mean_{v < u} sum_{j != i} softmax_j(-t_neg d(z_vi, z_uj)) (-beta d(z_vi, z_uj))``;
    ``loss_i = CA_i + CR_i``.

    Returns:
        Values [n] and which samples have a negative (with duplicates by id a sample may have none).

    Example:
        >>> values, valid = cacr([torch.eye(2), torch.eye(2)])
        >>> values
        tensor([-2., -2.])
    """
    refuse_ring("CACRLoss", gather)
    check_options(t_pos, t_neg, attraction, repulsion)
    rows = _stacked(views)
    ids = checked_ids(ids, rows)
    what = f"CACRLoss: {len(views)} views{', ids' * (ids is not None)}"
    ranks, (rows,) = Ranks.of([rows], gather=gather, what=what)
    _at_least_two(ranks.total)
    with torch.autocast(rows.device.type, enabled=False):
        queries = by_view(rows, normalize)
        keys = queries if ranks.world == 1 else by_view(ranks.gather(rows), normalize)
        mask, _ = other_samples(ids, ranks)
        strength = t_neg if repulsion == "contrastive" else 0.0
        push = torch.stack(
            [
                mean_distance(queries[v], keys[u], strength, detach_weights, mask, impl)
                for v, u in combinations(range(len(views)), 2)
            ]
        )
        pull = _attraction(queries, t_pos if attraction == "contrastive" else 0.0, detach_weights)
        valid = _have_others(ids, ranks, pull)
        values = alpha * pull - beta * push.mean(0)
        return values.where(valid, torch.zeros_like(values)), valid


def check_options(t_pos: float, t_neg: float, attraction: Weighting, repulsion: Weighting) -> None:
    """Check strengths and kinds of weights.

    Raises:
        ValueError: for a strength that is negative or infinite, or another kind of weights.

    Example:
        >>> check_options(1.0, -2.0, "contrastive", "uniform")
        Traceback (most recent call last):
            ...
        ValueError: t_neg must be at least 0 and finite, found -2.0.
    """
    for name, strength in (("t_pos", t_pos), ("t_neg", t_neg)):
        if not 0 <= strength < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, found {strength}.")
    for name, weighting in (("attraction", attraction), ("repulsion", repulsion)):
        if weighting not in get_args(Weighting):
            raise ValueError(f"{name} must be one of {', '.join(get_args(Weighting))}, found {weighting!r}.")


def _stacked(views: Sequence[Tensor]) -> Float[Tensor, "n v d"]:
    return torch.stack(checked_views(views, "CACRLoss"), 1)


def _at_least_two(n: int) -> None:
    if n < 2:
        raise ValueError(f"CACRLoss needs at least 2 samples, found n = {n}: without another there is no negative.")


def by_view(rows: Float[Tensor, "n v d"], normalize: bool) -> Float[Tensor, "v n d"]:
    """Return prepared vectors, view by view.

    Example:
        >>> by_view(torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), True)
        tensor([[[0.6000, 0.8000]],
        <BLANKLINE>
                [[0.0000, 1.0000]]])
    """
    joined = rows.transpose(0, 1).flatten(0, 1)
    return prepare(joined, joined, normalize=normalize)[0].view(rows.shape[1], *rows.shape[::2])


def _have_others(ids: Int[Tensor, " n"] | None, ranks: Ranks, like: Tensor) -> Bool[Tensor, " n"]:
    """Which samples have another sample in the batch."""
    valid = torch.ones_like(like, dtype=torch.bool)
    if ids is None:
        return valid
    every = ranks.gather(ids)
    alone = (every == every[:1]).all() & (every[:1] != -1).all()
    return valid & ~alone.to(like.device)


def _own_costs(rows: Float[Tensor, "v n d"]) -> Float[Tensor, "v n v"]:
    """Squared distances between all views of a sample."""
    square = rows.square().sum(-1)
    return square[:, :, None] + square.T[None] - 2 * torch.einsum("vnd,und->vnu", rows, rows)


def own_weights(costs: Float[Tensor, "v n v"], strength: float) -> Float[Tensor, "v n v"]:
    """Return the softmax over the other views of a sample; 0 for the view itself.

    Example:
        >>> own_weights(torch.ones(3, 1, 3), 1.0)[1]
        tensor([[0.5000, 0.0000, 0.5000]])
    """
    itself = torch.eye(len(costs), dtype=torch.bool, device=costs.device)[:, None, :]
    return torch.softmax((strength * costs).masked_fill(itself, -torch.inf), -1)


def _attraction(rows: Float[Tensor, "v n d"], strength: float, detach: bool) -> Float[Tensor, " n"]:
    costs = _own_costs(rows)
    weights = own_weights(costs.detach() if detach else costs, strength)
    return (weights * costs).sum(-1).mean(0)


def _lifted(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> tuple[Tensor, Tensor]:
    """Add a dimension that makes products order candidates by distance: ``-2 <x', y'> = |x - y|^2 - |x|^2``."""
    one = torch.ones_like(x[:, :1])
    return torch.cat([x, one], 1), torch.cat([y, -y.square().sum(1, keepdim=True) / 2], 1)


def mean_distance(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], strength: float, detach: bool, mask: PairMask, impl: Impl
) -> Float[Tensor, " n"]:
    """Return the mean cost from every row of x to the kept rows of y, the near ones weighing most.

    Example:
        >>> mean_distance(torch.eye(2), torch.eye(2), 0.0, False, PairMask.exclude_self(2), "auto")
        tensor([2., 2.])
    """
    queries, keys = _lifted(x, y)
    nearness = row_softmax_mean(
        queries, keys, scale=1.0, weight_scale=2 * strength, mask=mask, detach_weights=detach, impl=impl
    )
    return x.square().sum(1) - 2 * nearness


class CACRLoss(Loss):
    """Contrastive attraction and contrastive repulsion (CACR, CCT with squared distances), ``loss(views)``.

    K = V - 1 positives attract with weights that grow with distance, the other samples repel with weights that fall
    with it. There is no temperature on the cost, no logarithm, and no positive in the repulsion's normaliser; values
    are not comparable with InfoNCE. Compare at an equal number of views.

    Args:
        t_pos: how much more far positives attract, >= 0.
        t_neg: how much more near negatives repel, >= 0.
        alpha, beta: scale of attraction and repulsion; they act on the cost, not on the weights.
        detach_weights: let no gradient pass through the weights.
        attraction, repulsion: ``"contrastive"``, or ``"uniform"`` weights (the ablations).
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        views: V >= 2 projections [n, d], row k of each belonging to sample k; n >= 2.
        ids: sample ids [n]; equal ids are no negatives of each other. None = all differ.

    Returns:
        A scalar, or [n] for ``reduction="none"``: the mean over views and pairs of views of sample i's terms.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for fewer than 2 views or samples, views of different shapes, negative or infinite strengths.

    Reference:
        Huangjie Zheng, Xu Chen, Jiangchao Yao, Hongxia Yang, Chunyuan Li, Ya Zhang, Hao Zhang, Ivor Tsang, Jingren
        Zhou, Mingyuan Zhou, 2023, Contrastive Attraction and Contrastive Repulsion for Representation Learning.

    Example:
        >>> CACRLoss()([torch.eye(2), torch.eye(2)])
        tensor(-2.)
    """

    def __init__(
        self,
        *,
        t_pos: float = 1.0,
        t_neg: float = 2.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        detach_weights: bool = False,
        attraction: Weighting = "contrastive",
        repulsion: Weighting = "contrastive",
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("CACRLoss", gather)
        check_options(t_pos, t_neg, attraction, repulsion)
        self.t_pos, self.t_neg, self.alpha, self.beta = t_pos, t_neg, alpha, beta
        self.detach_weights, self.attraction, self.repulsion = detach_weights, attraction, repulsion

    def forward(self, views: Sequence[Tensor], ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of V views [n, d]."""
        values, valid = cacr(
            views,
            t_pos=self.t_pos,
            t_neg=self.t_neg,
            alpha=self.alpha,
            beta=self.beta,
            detach_weights=self.detach_weights,
            attraction=self.attraction,
            repulsion=self.repulsion,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)

    @torch.no_grad()
    def weights(
        self, views: Sequence[Float[Tensor, "n d"]], ids: Int[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, "v n k"], Float[Tensor, "p n n"]]:
        """Return who attracts and who repels whom on this rank, to look at; dense in n.

        Returns:
            Attraction [V, n, V - 1]: for query view v, its weights on the other views in order. Repulsion
            [V (V - 1) / 2, n, n]: for the pairs of views v < u in order, row i's weights on the samples of view u; the
            diagonal is 0.

        Example:
            >>> pull, push = CACRLoss().weights([torch.eye(2), torch.eye(2), torch.eye(2)])
            >>> pull.shape, push[0]
            (torch.Size([3, 2, 2]), tensor([[0., 1.],
                    [1., 0.]]))
        """
        stacked = _stacked(views)
        _at_least_two(len(stacked))
        kept = other_samples(checked_ids(ids, stacked), Ranks((len(stacked),)))[0].to_dense().to(stacked.device)
        with torch.autocast(stacked.device.type, enabled=False):
            rows = by_view(stacked, self.normalize)
            count, n, _ = rows.shape
            strength = self.t_pos if self.attraction == "contrastive" else 0.0
            pull = own_weights(_own_costs(rows), strength)
            other = ~torch.eye(count, dtype=torch.bool, device=rows.device)
            pull = pull.transpose(0, 1)[:, other].view(n, count, count - 1).transpose(0, 1)
            strength = self.t_neg if self.repulsion == "contrastive" else 0.0
            push = [
                _masked_softmax(-strength * torch.cdist(rows[v], rows[u]).square(), kept)
                for v, u in combinations(range(count), 2)
            ]
            return pull, torch.stack(push)


def _masked_softmax(logits: Tensor, kept: Tensor) -> Tensor:
    """Softmax over the kept entries; a row with none is 0."""
    return torch.softmax(logits.masked_fill(~kept, -torch.inf), 1).where(kept, torch.zeros_like(logits))
