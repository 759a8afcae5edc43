"""RenyiCL: a contrastive bound on the skew Renyi divergence, one number for the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, PooledLoss, Reduction, checked_ids, inverse, other_samples, own_scores, positive
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.losses.views import online_and_target
from kinfolk.ops import ready, row_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def renyi_cl(
    queries: Sequence[Float[Tensor, "n d"]],
    keys: Sequence[Float[Tensor, "n d"]],
    *,
    temperature: float | Tensor = 0.5,
    gamma: float = 2.0,
    alpha: float = 1 / 65536,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " t"], Bool[Tensor, " t"]]:
    """The negative skew Renyi bound of every target view; not a value per anchor.

    With ``f = <q, k> / temperature``, the positives of target t are ``f(q_vi, k_ti)``, its negatives ``f(q_vi, k_tj)``
    for j != i, both over all query views v != t and all samples of all ranks; E is the mean over them:
    ``L_t = -log E_pos[e^((gamma - 1) f)] / (gamma - 1)
    + log(alpha E_pos[e^(gamma f)] + (1 - alpha) E_neg[e^(gamma f)]) / gamma``, whose first term is ``-E_pos[f]`` at
    gamma 1. Equal ids are no negatives of each other.

    Returns:
        Values [targets], the same on every rank, and whether there is any negative (the same for all of them).

    Example:
        >>> values, valid = renyi_cl([torch.eye(2), torch.eye(2)], [torch.eye(2), torch.eye(2)], temperature=1.0)
        >>> values
        tensor([-1.0000, -1.0000])
    """
    refuse_ring("RenyiCLLoss", gather)
    _check(gamma, alpha)
    online, target = online_and_target(queries, keys, "RenyiCLLoss", least=1, names=("queries", "keys"))
    scale, ids = inverse(temperature), checked_ids(ids, online[0])
    what = f"RenyiCLLoss: {len(online)} queries, {len(target)} keys{', ids' * (ids is not None)}"
    ranks, rows = Ranks.of([*online, *target], gather=gather, what=what)
    if ranks.total < 2:
        raise ValueError("RenyiCLLoss needs at least 2 samples, found n = 1: without another there is no negative.")
    with torch.autocast(rows[0].device.type, enabled=False):
        prepared = [ready(view, normalize=normalize, impl=impl) for view in rows]
        views, raw = [view for view, _ in prepared], prepared[0][1]
        mask, _ = other_samples(ids, ranks)
        negatives = _negatives(ids, ranks).to(views[0].device)
        values = []
        for t, key in enumerate(views[len(online) :]):
            others, every = views[:t] + views[t + 1 : len(online)], ranks.gather(key)
            near = [scale * own_scores(query, key, normalize=raw) for query in others]
            far = [
                row_logsumexp(query, every, scale=gamma * scale, mask=mask, normalize=raw, impl=impl)
                for query in others
            ]
            scores, sums = (ranks.gather(torch.stack(part, 1)).flatten() for part in (near, far))
            values.append(_value(scores, sums, len(others) * negatives, gamma, alpha))
        return torch.stack(values), (negatives > 0).expand(len(target))


def _check(gamma: float, alpha: float) -> None:
    if not 1 <= gamma < math.inf:
        raise ValueError(f"gamma must be at least 1, found {gamma}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], found {alpha}.")


def _negatives(ids: Int[Tensor, " n"] | None, ranks: Ranks) -> Int[Tensor, ""]:
    """Pairs of two samples on all ranks."""
    pairs = torch.tensor(ranks.total * (ranks.total - 1))
    if ids is None:
        return pairs
    every = ranks.gather(ids)
    alike = torch.unique(every[every != -1], return_counts=True)[1]
    return pairs.to(alike.device) - (alike * (alike - 1)).sum()


def _value(
    near: Float[Tensor, " p"], far: Float[Tensor, " p"], negatives: Int[Tensor, ""], gamma: float, alpha: float
) -> Float[Tensor, ""]:
    """One target's bound, from its positives and from its rows' logsumexps over negatives, times gamma both."""
    pull = near.mean() if gamma == 1 else _log_mean_exp((gamma - 1) * near) / (gamma - 1)
    far = torch.logsumexp(far.where(negatives > 0, torch.zeros_like(far)), 0) - negatives.clamp(min=1).to(far).log()
    near = _log_mean_exp(gamma * near)
    if alpha in (0, 1):
        mixed = near if alpha else far
    else:
        mixed = torch.logaddexp(math.log(alpha) + near, math.log1p(-alpha) + far)
    return torch.where(negatives > 0, mixed / gamma - pull, torch.zeros_like(pull))


def _log_mean_exp(x: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    """``log(mean(e^x))`` to the relative precision of its distance from max(x), as a division by gamma - 1 needs."""
    top = x.detach().max()
    near = torch.expm1(x - top).mean().clamp(min=-0.5)
    far = torch.exp(x - top).mean()
    return top + torch.where(far > 0.5, near.log1p(), far.log())


class RenyiCLLoss(PooledLoss):
    """Renyi contrastive learning (RenyiCL), ``loss(queries, keys)``: a skew Renyi divergence in place of KL.

    One logarithm of means over the whole batch, where InfoNCE has one per anchor. With growing gamma hard negatives and
    easy positives weigh more, so that harder augmentations hurt less. The value is the true objective: the negative of
    a lower bound on ``R_gamma(P || alpha P + (1 - alpha) Q)``, not the surrogate that the authors print, and the mean
    over targets where they add: double the learning rate to copy their recipe.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        gamma: order of the divergence, 1 (Kullback-Leibler) or more.
        alpha: skew, in [0, 1], of the order of one over the number of negatives; at 0 the variance explodes.
        reduction: ``"mean"`` over the target views, or their ``"sum"``; ``"none"`` is refused.
        normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``"ring"`` is refused.

    Call:
        queries: A >= 2 predictions [n, d], row k of each belonging to sample k; small crops come last.
        keys: at most A projections [n, d] of the EMA encoder, constants; ``keys[t]`` is of the same crop as
            ``queries[t]``, and not compared with it. n >= 2.
        ids: sample ids [n]; a sample that the batch holds twice is then no negative of itself. None = all differ.

    Returns:
        A scalar; 0 with a graph where ids leave no negative.

    Raises:
        ValueError: for one sample only, fewer than 2 queries, more keys than queries, views of different shapes, gamma
            or alpha out of range, ``reduction="none"``, a temperature that is not positive.

    Reference:
        Kyungmin Lee, Jinwoo Shin, 2022, RenyiCL: Contrastive Representation Learning with Skew Renyi Divergence.

    Example:
        >>> views = [torch.eye(2), torch.eye(2)]
        >>> RenyiCLLoss(temperature=1.0)(views, views)
        tensor(-1.0000)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.5,
        gamma: float = 2.0,
        alpha: float = 1 / 65536,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("RenyiCLLoss", gather)
        _check(gamma, alpha)
        self.temperature, self.gamma, self.alpha = positive(temperature), gamma, alpha

    def forward(  # type: ignore[override]
        self, queries: Sequence[Tensor], keys: Sequence[Tensor], ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of queries and keys [n, d]."""
        values, valid = renyi_cl(
            queries,
            keys,
            temperature=self.temperature,
            gamma=self.gamma,
            alpha=self.alpha,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid) if self.reduction == "mean" else values.sum()
