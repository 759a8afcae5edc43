"""Decoupled contrastive loss: the positive leaves the partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.losses.base import Impl, Loss, Reduction, duplicated, inverse, positive, same_shape
from kinfolk.ops import PairMask, prepare, row_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def dcl(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.1,
    sigma: float | None = None,
    detach_weights: bool = True,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n2"], Bool[Tensor, " n2"]]:
    """Logsumexp over the other samples' rows, minus the (weighted) score of the own pair.

    With p(i) the other view of i: ``loss_i = lse_{a not in {i, p(i)}} s_ia - w s_ip(i)``, where ``w = 1``, or with
    ``sigma`` (DCLW) ``w_k = 2 - n softmax_k(c_k / sigma)`` over the cosines c of all pairs. Equal ids at other
    positions leave the partition.

    Returns:
        Values [2n] and which of them have a negative at all.

    Example:
        >>> values, valid = dcl(torch.eye(2), torch.eye(2), temperature=1.0)
        >>> values
        tensor([-0.3069, -0.3069, -0.3069, -0.3069])
    """
    same_shape(z0=z0, z1=z1)
    n, scale = len(z0), inverse(temperature)
    if n == 1:
        raise ValueError("DCLLoss needs at least 2 samples, found n = 1: without its positive nothing is left.")
    repeated = duplicated(ids, z0)
    rows = torch.cat([z0, z1])
    with torch.autocast(rows.device.type, enabled=False):
        rows, _ = prepare(rows, rows, normalize=normalize)
        position = torch.arange(n, device=rows.device).repeat(2)
        mask = PairMask.exclude(position, position)
        if repeated is not None:
            sample = repeated.repeat(2)
            mask = mask & PairMask.exclude(sample, sample)
        partition = row_logsumexp(rows, rows, scale=scale, mask=mask, impl=impl)
        cosine = torch.linalg.vecdot(rows[:n], rows[n:])
        pull = scale * cosine
        if sigma is not None:
            weights = 2 - n * torch.softmax(cosine / positive(sigma, "sigma"), 0)
            pull = pull * (weights.detach() if detach_weights else weights)
        return partition - pull.repeat(2), partition.detach() != -torch.inf


class DCLLoss(Loss):
    """Decoupled contrastive loss (DCL), and with ``sigma`` its weighted form (DCLW), ``loss(z0, z1)``.

    ``loss_i = lse_{a not in {i, p(i)}} s_ia - w s_ip(i)``: taking the positive out of the partition removes the factor
    that weakens the gradient at small batches. ``NT-Xent_i = softplus(DCL_i)``. Negative values are normal, and early
    stopping on the value is not sensible.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        sigma: None for DCL; for DCLW the temperature of the pairs' weights (0.5 in the paper). Weights average 1 over
            the batch and may be negative.
        detach_weights: let no gradient pass through the weights.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        z0, z1: the two views' projections [n, d].
        ids: sample ids [n]; equal ids are no negatives of each other. None = all differ.

    Returns:
        A scalar, or [2n] for ``reduction="none"``. Rows left without any negative do not count.

    Raises:
        ValueError: for n = 1, views of different shapes, a temperature or sigma that is not positive.

    Reference:
        Chun-Hsiao Yeh, Cheng-Yao Hong, Yen-Chi Hsu, Tyng-Luh Liu, Yubei Chen, Yann LeCun, 2022, Decoupled Contrastive
        Learning.

    Example:
        >>> DCLLoss(temperature=1.0)(torch.eye(2), torch.eye(2))
        tensor(-0.3069)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        sigma: float | None = None,
        detach_weights: bool = True,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: bool = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        self.temperature = positive(temperature)
        self.sigma = None if sigma is None else float(positive(sigma, "sigma"))
        self.detach_weights = detach_weights

    def forward(self, z0: Tensor, z1: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of two views [n, d]."""
        values, valid = dcl(
            z0,
            z1,
            temperature=self.temperature,
            sigma=self.sigma,
            detach_weights=self.detach_weights,
            ids=ids,
            normalize=self.normalize,
            impl=self.impl,
        )
        return self.reduce(values, valid)
