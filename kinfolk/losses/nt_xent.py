"""SimCLR's loss: tell the other view of a sample from every other row of the batch."""

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
    other_samples,
    own_scores,
    positive,
    same_shape,
)
from kinfolk.losses.over_ranks import logsumexp_over_ranks
from kinfolk.ops import ready

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def nt_xent(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.1,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n2"], Bool[Tensor, " n2"]]:
    """Cross-entropy of finding the other view among all rows but the anchor itself.

    With rows ``[z0; z1]``, scores ``s_ij = <z_i, z_j> / temperature`` and p(i) the other view of i:
    ``loss_i = lse_{a != i} s_ia - s_ip(i)``. Equal ids at other positions leave the partition.

    Returns:
        Values [2n] and which of them count (all).

    Example:
        >>> values, valid = nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)
        >>> values
        tensor([0.5514, 0.5514, 0.5514, 0.5514])
    """
    same_shape(z0=z0, z1=z1)
    scale, n, ids = inverse(temperature), len(z0), checked_ids(ids, z0)
    ranks, (rows,) = Ranks.of([torch.cat([z0, z1])], gather=gather, what=f"NTXentLoss{': ids' * (ids is not None)}")
    with torch.autocast(rows.device.type, enabled=False):
        rows, normalize = ready(rows, normalize=normalize, impl=impl)
        own = (scale * own_scores(rows[:n], rows[n:], normalize=normalize)).repeat(2)
        mask, own_left = other_samples(ids, ranks, device=rows.device, views=2)
        partition = logsumexp_over_ranks(rows, rows, ranks, scale=scale, mask=mask, normalize=normalize, impl=impl)
        if own_left:
            partition = torch.logaddexp(partition, own)
        return partition - own, torch.ones_like(own, dtype=torch.bool)


class NTXentLoss(Loss):
    """SimCLR's normalised temperature-scaled cross-entropy, ``loss(z0, z1)``.

    ``L = (1/2n) sum_i [lse_{a != i} s_ia - s_ip(i)]`` over the 2n rows of two views; the mean over all rows, where some
    codes add two means.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        z0, z1: the two views' projections [n, d], row k of each belonging to sample k.
        ids: sample ids [n]; a sample that the batch holds twice is then no negative of itself. None = all differ.

    Returns:
        A scalar, or [2n] (view-major) for ``reduction="none"``. One sample alone gives 0.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for views of different shapes, a temperature that is not positive, an empty batch.

    Reference:
        Ting Chen, Simon Kornblith, Mohammad Norouzi, Geoffrey Hinton, 2020, A Simple Framework for Contrastive
        Learning of Visual Representations.

    Example:
        >>> NTXentLoss(temperature=1.0)(torch.eye(2), torch.eye(2))
        tensor(0.5514)
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
        self.temperature = positive(temperature)

    def forward(self, z0: Tensor, z1: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of two views [n, d]."""
        values, valid = nt_xent(
            z0,
            z1,
            temperature=self.temperature,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
