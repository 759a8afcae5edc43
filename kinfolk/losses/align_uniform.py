"""Alignment and uniformity: how far views lie apart, and how evenly samples cover the sphere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, PooledLoss, Reduction, checked_ids, other_samples, positive, same_shape
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask, prepare, row_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def align_uniform(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    *,
    alpha: float = 2.0,
    t: float = 2.0,
    weight: float = 1.0,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> Float[Tensor, ""]:
    """Mean power of the distance between views, plus the logarithm of the mean Gaussian kernel within each view.

    ``mean_i |z0_i - z1_i|^alpha + weight / 2 sum_v log mean_{i < j} exp(-t |z_vi - z_vj|^2)``. Pairs of equal ids are
    not in the second mean; where no pair is left, its logarithm counts as 0.

    Returns:
        The value over the rows of all ranks, the same on each.

    Example:
        >>> align_uniform(torch.eye(2), torch.eye(2))
        tensor(-4.)
    """
    refuse_ring("AlignUniformLoss", gather)
    same_shape(z0=z0, z1=z1)
    ids = checked_ids(ids, z0)
    what = f"AlignUniformLoss{': ids' * (ids is not None)}"
    ranks, (x, y) = Ranks.of([z0, z1], gather=gather, what=what)
    if ranks.total == 1:
        raise ValueError("AlignUniformLoss needs at least 2 samples, found n = 1: without a pair nothing is uniform.")
    with torch.autocast(x.device.type, enabled=False):
        x, y = prepare(x, y, normalize=normalize)
        alignment = ranks.sum(_power((x - y).square().sum(1), alpha / 2).sum()) / ranks.total
        mask, _ = other_samples(ids, ranks)
        pairs = _ordered_pairs(ids, ranks)
        uniformity = sum(_log_mean_kernel(view, t, mask, pairs, ranks, impl) for view in (x, y)) / 2
        return alignment + weight * uniformity


def _power(squares: Float[Tensor, " n"], exponent: float) -> Float[Tensor, " n"]:
    """Powers of squared distances; at 0, where a root has no slope, the gradient is 0."""
    if exponent == 1:
        return squares
    some = squares > 0
    return squares.where(some, torch.ones_like(squares)).pow(exponent).where(some, torch.zeros_like(squares))


def _ordered_pairs(ids: Int[Tensor, " n"] | None, ranks: Ranks) -> int:
    """Number of pairs (i, j) of different samples on all ranks."""
    if ids is None:
        return ranks.total * (ranks.total - 1)
    every = ranks.gather(ids)
    known = every[every != -1]
    same = torch.unique(known, return_counts=True)[1].square().sum()
    return ranks.total**2 - int(same) - (ranks.total - len(known))


def _log_mean_kernel(
    x: Float[Tensor, "n d"], t: float, mask: PairMask, pairs: int, ranks: Ranks, impl: Impl
) -> Float[Tensor, ""]:
    """``log mean exp(-t |x_i - x_j|^2)`` over the kept pairs of all ranks, met from both sides."""
    if not pairs:
        return x.sum() * 0
    every = ranks.gather(x)
    centre = every.detach().mean(0)  # distances do not depend on the origin, but their rounding does
    every = every - centre
    x = every if ranks.world == 1 else x - centre
    mask = mask & PairMask.bias(-t * every.square().sum(1))
    near = row_logsumexp(x, every, scale=2 * t, mask=mask, impl=impl) - t * x.square().sum(1)
    return torch.logsumexp(ranks.gather(near), 0) - math.log(pairs)


class AlignUniformLoss(PooledLoss):
    """Alignment plus uniformity, ``loss(z0, z1)``: a diagnostic of representations, or a loss.

    ``mean_i |z0_i - z1_i|^alpha + weight / 2 sum_v log mean_{i < j} exp(-t |z_vi - z_vj|^2)``, over the batch of all
    ranks. Alignment is 0 for equal views; uniformity is at most 0, at least -4t on the unit sphere (two antipodal
    rows), and about -2t for rows in many random directions.

    Args:
        alpha: power of the distance between the views of a sample, positive.
        t: sharpness of the Gaussian kernel, positive.
        weight: of uniformity, at least 0.
        reduction: ``"mean"`` or ``"sum"``, which are the same here: the loss is one value for the batch.
        normalize, gather, impl: as in `kinfolk.losses.base.Loss`; False takes the distances of the rows as they are.

    Call:
        z0, z1: the two views' projections [n, d], n >= 2.
        ids: sample ids [n]; pairs of equal ids are not counted in uniformity. None = all differ.

    Returns:
        A scalar. Where all samples are one by id there is no pair, and uniformity counts as 0.

    Raises:
        ValueError: for n = 1, views of different shapes, options out of range, reduction="none".

    Reference:
        Tongzhou Wang, Phillip Isola, 2020, Understanding Contrastive Representation Learning through Alignment and
        Uniformity on the Hypersphere.

    Example:
        >>> AlignUniformLoss()(torch.eye(2), -torch.eye(2))
        tensor(0.)
        >>> AlignUniformLoss(t=1.0)(torch.eye(2), torch.eye(2))
        tensor(-2.)
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        t: float = 2.0,
        weight: float = 1.0,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("AlignUniformLoss", gather)
        if not weight >= 0:
            raise ValueError(f"weight must be at least 0, found {weight}.")
        self.alpha, self.t, self.weight = float(positive(alpha, "alpha")), float(positive(t, "t")), weight

    def forward(self, z0: Tensor, z1: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of two views [n, d]."""
        return align_uniform(
            z0,
            z1,
            alpha=self.alpha,
            t=self.t,
            weight=self.weight,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
