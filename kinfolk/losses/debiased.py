"""InfoNCE corrected for negatives that are of the anchor's class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kinfolk.distributed import Gather
from kinfolk.losses.base import Impl, Loss, Reduction, positive
from kinfolk.losses.weighted_negatives import checked_share, weighted_negatives

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def debiased_info_nce(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.5,
    tau_plus: float = 0.1,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n2"], Bool[Tensor, " n2"]]:
    """NT-Xent whose sum over N negatives has the false ones' expected part taken out.

    ``loss_i = log(e^{s_ip} + G_i) - s_ip`` with
    ``G_i = max((sum_j e^{s_ij} - N tau_plus e^{s_ip}) / (1 - tau_plus), N e^{-1 / temperature})``.

    Returns:
        Values [2n] and which of them count (all).

    Example:
        >>> import torch
        >>> values, valid = debiased_info_nce(torch.eye(2), torch.eye(2), temperature=1.0)
        >>> values
        tensor([0.4671, 0.4671, 0.4671, 0.4671])
    """
    return weighted_negatives(
        z0,
        z1,
        name="DebiasedInfoNCELoss",
        temperature=temperature,
        beta=0.0,
        tau_plus=tau_plus,
        ids=ids,
        normalize=normalize,
        gather=gather,
        impl=impl,
    )


class DebiasedInfoNCELoss(Loss):
    """Debiased InfoNCE, ``loss(z0, z1)``: a share of the negatives is taken for positives and subtracted.

    The own positive stands for all of them. Where it takes more than the sum holds, the sum is floored at its smallest
    possible value and the negatives give no gradient. ``tau_plus = 0`` is NT-Xent.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        tau_plus: share of the negatives that are of the anchor's class, in [0, 1): 1 / classes where these are equally
            frequent.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`. The floor is that of unit vectors.

    Call:
        z0, z1: the two views' projections [n, d], row k of each belonging to sample k.
        ids: sample ids [n]; equal ids are no negatives of each other. None = all differ.

    Returns:
        A scalar, or [2n] (view-major) for ``reduction="none"``. One sample alone gives 0.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for views of different shapes, a temperature that is not positive, a tau_plus outside [0, 1), an
            empty batch.

    Reference:
        Ching-Yao Chuang, Joshua Robinson, Yen-Chen Lin, Antonio Torralba, Stefanie Jegelka, 2020, Debiased Contrastive
        Learning.

    Example:
        >>> import torch
        >>> DebiasedInfoNCELoss(temperature=1.0)(torch.eye(2), torch.eye(2))
        tensor(0.4671)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.5,
        tau_plus: float = 0.1,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        self.temperature, self.tau_plus = positive(temperature), checked_share(tau_plus)

    def forward(self, z0: Tensor, z1: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of two views [n, d]."""
        values, valid = debiased_info_nce(
            z0,
            z1,
            temperature=self.temperature,
            tau_plus=self.tau_plus,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
