"""Spectral contrastive loss: factorise the graph of what augmentation makes alike."""

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
    other_samples,
    own_scores,
    positive,
    same_shape,
)
from kinfolk.losses.sum_over_ranks import sum_over_ranks
from kinfolk.ops import ready
from kinfolk.ops.groups import group_sums
from kinfolk.ops.masks import IdPair

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def spectral_contrastive(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    *,
    mu: float = 1.0,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Pull a sample's views together, and push squared products with other samples' second views to 0.

    ``loss_i = -2 <z0_i, z1_i> + mu mean_{j != i} <z0_i, z1_j>^2``, one direction only: the mean over samples is the
    same in the other one, as long as no ids are equal. Places of equal ids leave the mean.

    Returns:
        Values [n] and which samples have another one; the others are 0.

    Example:
        >>> values, valid = spectral_contrastive(torch.eye(2), torch.eye(2))
        >>> values
        tensor([-2., -2.])
    """
    same_shape(z0=z0, z1=z1)
    ids = checked_ids(ids, z0)
    what = f"SpectralContrastiveLoss{': ids' * (ids is not None)}"
    ranks, (x, y) = Ranks.of([z0, z1], gather=gather, what=what)
    if ranks.total == 1:
        raise ValueError("SpectralContrastiveLoss needs at least 2 samples, found n = 1: there is no negative.")
    with torch.autocast(x.device.type, enabled=False):
        own = own_scores(x, y, normalize=normalize)
        (x, left), (y, _) = ready(x, normalize=normalize, impl=impl), ready(y, normalize=normalize, impl=impl)
        mask, _ = other_samples(ids, ranks)
        squares = sum_over_ranks(
            x,
            y,
            ranks,
            fn="square",
            scale=1.0,
            row_shift=torch.zeros_like(own),
            mask=mask,
            normalize=left,
            impl=impl,
        )
        others = _others(ids, ranks, own)
        values = mu * squares / others.clamp(min=1) - 2 * own
        return values.where(others > 0, torch.zeros_like(values)), others > 0


def _others(ids: Int[Tensor, " n"] | None, ranks: Ranks, like: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """How many rows of all ranks are other samples than a row's own."""
    if ids is None:
        return torch.full_like(like, ranks.total - 1)
    every = ranks.gather(ids)
    same = group_sums(IdPair(ids, every), torch.ones_like(every, dtype=like.dtype).unsqueeze(1))[:, 0]
    return ranks.total - same.clamp(min=1)  # an id of -1 is found nowhere, but is one row


class SpectralContrastiveLoss(Loss):
    """Spectral contrastive loss, ``loss(z0, z1)``.

    ``L = -2 mean_i <z0_i, z1_i> + mu mean_{i != j} <z0_i, z1_j>^2``. Over all draws of a batch this is, up to a
    constant, ``|A - F F^T|^2`` with A the normalised adjacency matrix of the augmentation graph (mu = 1,
    ``normalize=False``): its minimiser is the graph's spectral embedding. There is no temperature and no logarithm.

    Args:
        mu: positive. Rows of squared length mu, the loss being divided by mu, are unit rows with this weight on the
            second mean (1 for CIFAR, 10 for ImageNet in the authors' code).
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`. The authors' code only shortens rows that
            are longer than sqrt(mu): for that, do so, divide by sqrt(mu) and pass ``normalize=False``.

    Call:
        z0, z1: the two views' projections [n, d], n >= 2.
        ids: sample ids [n]; equal ids are no negatives of each other. None = all differ.

    Returns:
        A scalar, or [n] for ``reduction="none"``. Samples left without any negative do not count.

    Raises:
        ValueError: for n = 1, views of different shapes, a mu that is not positive.

    Reference:
        Jeff Z. HaoChen, Colin Wei, Adrien Gaidon, Tengyu Ma, 2021, Provable Guarantees for Self-Supervised Deep
        Learning with Spectral Contrastive Loss.

    Example:
        >>> SpectralContrastiveLoss()(torch.eye(2), torch.eye(2))
        tensor(-2.)
        >>> SpectralContrastiveLoss()(torch.ones(2, 4), torch.ones(2, 4))
        tensor(-1.)
    """

    def __init__(
        self,
        *,
        mu: float = 1.0,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        self.mu = float(positive(mu, "mu"))

    def forward(self, z0: Tensor, z1: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of two views [n, d]."""
        values, valid = spectral_contrastive(
            z0, z1, mu=self.mu, ids=ids, normalize=self.normalize, gather=self.gather, impl=self.impl
        )
        return self.reduce(values, valid)
