"""InfoNCE that weighs negatives by their nearness."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from kinfolk.distributed import Gather
from kinfolk.losses.base import Impl, Loss, Reduction, positive
from kinfolk.losses.weighted_negatives import checked_share, weighted_negatives

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def hard_negative_info_nce(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.5,
    beta: float = 1.0,
    tau_plus: float = 0.0,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n2"], Bool[Tensor, " n2"]]:
    """NT-Xent with negatives weighed by ``w_ij = e^{beta s_ij} / mean_j e^{beta s_ij}``.

    ``loss_i = log(e^{s_ip} + G_i) - s_ip`` with ``G_i = sum_j w_ij e^{s_ij}``, corrected for false negatives as in
    `debiased_info_nce` where ``tau_plus > 0``. Two sweeps: the sum is a ratio of partitions at two temperatures.

    Returns:
        Values [2n] and which of them count (all).

    Example:
        >>> import torch
        >>> values, valid = hard_negative_info_nce(torch.eye(2), torch.eye(2), temperature=1.0)
        >>> values
        tensor([0.5514, 0.5514, 0.5514, 0.5514])
    """
    return weighted_negatives(
        z0,
        z1,
        name="HardNegativeInfoNCELoss",
        temperature=temperature,
        beta=beta,
        tau_plus=tau_plus,
        ids=ids,
        normalize=normalize,
        gather=gather,
        impl=impl,
    )


class HardNegativeInfoNCELoss(Loss):
    """InfoNCE with hard-negative weights, ``loss(z0, z1)``.

    The weights of a row's negatives average 1 and grow with nearness. ``beta = 0`` and ``tau_plus = 0`` is NT-Xent,
    ``beta = 0`` alone the debiased loss. The loss grows with ``beta``. Gradient passes through the weights.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        beta: concentration of the weights, at least 0.
        tau_plus: share of the negatives that are taken for positives of the same class, in [0, 1).
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        z0, z1: the two views' projections [n, d], row k of each belonging to sample k.
        ids: sample ids [n]; equal ids are no negatives of each other. None = all differ.

    Returns:
        A scalar, or [2n] (view-major) for ``reduction="none"``. One sample alone gives 0.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for views of different shapes, a temperature that is not positive, a negative or infinite beta, a
            tau_plus outside [0, 1), an empty batch.

    Reference:
        Joshua Robinson, Ching-Yao Chuang, Suvrit Sra, Stefanie Jegelka, 2021, Contrastive Learning with Hard Negative
        Samples.

    Example:
        >>> import torch
        >>> x = torch.eye(3)
        >>> HardNegativeInfoNCELoss(temperature=1.0, beta=0.0)(x, x)
        tensor(0.9048)
        >>> HardNegativeInfoNCELoss(temperature=1.0, beta=2.0)(x, x.flip(0))
        tensor(1.8292)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.5,
        beta: float = 1.0,
        tau_plus: float = 0.0,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be at least 0 and finite, found {beta}.")
        self.temperature, self.beta, self.tau_plus = positive(temperature), beta, checked_share(tau_plus)

    def forward(self, z0: Tensor, z1: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of two views [n, d]."""
        values, valid = hard_negative_info_nce(
            z0,
            z1,
            temperature=self.temperature,
            beta=self.beta,
            tau_plus=self.tau_plus,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
