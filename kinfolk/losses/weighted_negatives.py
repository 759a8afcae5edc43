"""Two views against negatives whose sum is reweighted and corrected: what hard-negative and debiased InfoNCE share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, checked_ids, inverse, other_samples, own_scores, same_shape, softplus
from kinfolk.losses.over_ranks import logsumexp_over_ranks
from kinfolk.ops import PairMask, ready

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def weighted_negatives(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    *,
    name: str,
    temperature: float | Tensor,
    beta: float,
    tau_plus: float,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n2"], Bool[Tensor, " n2"]]:
    """NT-Xent whose sum over negatives is replaced by an estimate.

    With rows ``[z0; z1]``, p the other view and N_i the negatives of i (the rows of other samples):
    ``loss_i = log(e^{s_ip} + G_i) - s_ip``, ``G_i = max((W_i - N tau_plus e^{s_ip}) / (1 - tau_plus), N e^{-1/t})`` and
    ``W_i = sum_j w_ij e^{s_ij}``, ``w_ij = e^{beta s_ij} / mean_j e^{beta s_ij}``. The floor, the smallest sum that
    unit vectors can have, plays a role where something is subtracted: for ``tau_plus > 0``.

    Args:
        z0, z1: the two views [n, d].
        name: of the loss, for its errors.
        temperature: t, positive.
        beta: how much more near negatives weigh, at least 0.
        tau_plus: share of the negatives that are taken for positives, in [0, 1).
        ids: sample ids [n]; equal ids are no negatives of each other.
        normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Returns:
        Values [2n] and which of them count (all); 0 where a row has no negative.

    Example:
        >>> x = torch.eye(2)
        >>> values, valid = weighted_negatives(x, x, name="ExampleLoss", temperature=1.0, beta=0.0, tau_plus=0.0)
        >>> values
        tensor([0.5514, 0.5514, 0.5514, 0.5514])
    """
    same_shape(z0=z0, z1=z1)
    scale, n, ids = inverse(temperature), len(z0), checked_ids(ids, z0)
    ranks, (rows,) = Ranks.of([torch.cat([z0, z1])], gather=gather, what=f"{name}{': ids' * (ids is not None)}")
    with torch.autocast(rows.device.type, enabled=False):
        rows, normalize = ready(rows, normalize=normalize, impl=impl)
        own = (scale * own_scores(rows[:n], rows[n:], normalize=normalize)).repeat(2)
        mask, _ = other_samples(ids, ranks, device=rows.device, views=2, partners=False)
        log_count = _log_count(ids, ranks, own)

        def partition(power: float, mask: PairMask = mask) -> Tensor:
            return logsumexp_over_ranks(
                rows, rows, ranks, scale=power * scale, mask=mask, normalize=normalize, impl=impl
            )

        log_sum = partition(1 + beta)
        if beta:
            some = log_count > -torch.inf
            log_mean = partition(beta).where(some, torch.zeros_like(own)) - log_count.where(some, torch.zeros_like(own))
            log_sum = log_sum - log_mean
        if tau_plus:
            log_sum = _corrected(log_sum, own, log_count, tau_plus, floor=log_count - scale)
        return softplus(log_sum - own), torch.ones_like(own, dtype=torch.bool)


def _log_count(ids: Int[Tensor, " n"] | None, ranks: Ranks, like: Float[Tensor, " n2"]) -> Float[Tensor, " n2"]:
    """Logarithm of every row's number of negatives; -inf for none."""
    counts = torch.full_like(like, ranks.total - 2).detach()
    if ids is not None:
        names, times = torch.unique(ranks.gather(ids.repeat(2)), return_counts=True)
        same = times[torch.searchsorted(names, ids.repeat(2))]
        counts = counts.where(ids.repeat(2) == -1, ranks.total - same)
    return counts.log()


def _corrected(
    log_sum: Float[Tensor, " n"],
    own: Float[Tensor, " n"],
    log_count: Float[Tensor, " n"],
    tau_plus: float,
    *,
    floor: Tensor,
) -> Float[Tensor, " n"]:
    """``log max((e^log_sum - N tau_plus e^own) / (1 - tau_plus), e^floor)``, -inf where N is 0."""
    part = log_count + math.log(tau_plus) + own
    above = (part < log_sum) & (log_count > -torch.inf)
    gap = part.where(above, torch.zeros_like(own)) - log_sum.where(above, torch.ones_like(own))
    rest = log_sum + torch.log(-torch.expm1(gap)) - math.log1p(-tau_plus)
    return rest.where(above & (rest > floor), floor)


def checked_share(tau_plus: float) -> float:
    """Check the share of negatives that are taken for positives.

    Example:
        >>> checked_share(1.0)
        Traceback (most recent call last):
            ...
        ValueError: tau_plus must lie in [0, 1), a share of the negatives, found 1.0.
    """
    if not 0 <= tau_plus < 1:
        raise ValueError(f"tau_plus must lie in [0, 1), a share of the negatives, found {tau_plus}.")
    return tau_plus
