"""Decoupled contrastive loss: the positive leaves the partition."""

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


def dcl(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.1,
    sigma: float | None = None,
    detach_weights: bool = True,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
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
    scale, n, ids = inverse(temperature), len(z0), checked_ids(ids, z0)
    ranks, (rows,) = Ranks.of([torch.cat([z0, z1])], gather=gather, what=f"DCLLoss{': ids' * (ids is not None)}")
    if ranks.total == 2:
        raise ValueError("DCLLoss needs at least 2 samples, found n = 1: without its positive nothing is left.")
    with torch.autocast(rows.device.type, enabled=False):
        rows, normalize = ready(rows, normalize=normalize, impl=impl)
        mask, _ = other_samples(ids, ranks, device=rows.device, views=2, partners=False)
        partition = logsumexp_over_ranks(rows, rows, ranks, scale=scale, mask=mask, normalize=normalize, impl=impl)
        cosine = own_scores(rows[:n], rows[n:], normalize=normalize).repeat(2)
        pull = scale * cosine
        if sigma is not None:
            pull = pull * _pair_weights(cosine.detach() if detach_weights else cosine, sigma, ranks)
        return partition - pull, partition.detach() != -torch.inf


def _pair_weights(cosine: Float[Tensor, " n2"], sigma: float, ranks: Ranks) -> Float[Tensor, " n2"]:
    """DCLW's weights, which average 1 over all pairs; both rows of a pair count, so that shares are of 2n."""
    logits = ranks.gather(cosine) / positive(sigma, "sigma")
    shares = torch.softmax(logits, 0)[slice(*ranks.span(ranks.rank))]
    return 2 - ranks.total * shares


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
        TypeError: for float or bool ids.
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
        gather: Gather = True,
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
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
