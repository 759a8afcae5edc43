"""SigLIP's loss: every image-text pair is a yes-or-no question of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Loss, checked_ids, one_number, other_samples, own_scores, same_shape, softplus
from kinfolk.losses.sum_over_ranks import sum_over_ranks
from kinfolk.ops import PairMask, as_scale, ready

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from kinfolk.ops import Impl


def sig_lip(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Sum of the binary cross-entropies of an image with every text.

    With ``l_ij = logit_scale <x_i, y_j> + logit_bias``: ``loss_i = sum_j softplus(-t_ij l_ij)``, ``t = +1`` for the own
    text and those of an equal id, -1 for all others.

    Returns:
        Values [n] and which of them count (all).

    Example:
        >>> values, valid = sig_lip(torch.eye(2), torch.eye(2), 1.0, 0.0)
        >>> values
        tensor([1.0064, 1.0064])
    """
    same_shape(image=image, text=text)
    ids = checked_ids(ids, image)
    logit_scale, logit_bias = one_number(logit_scale, "logit_scale"), one_number(logit_bias, "logit_bias")
    ranks, (x, y) = Ranks.of([image, text], gather=gather, what=f"SigLIPLoss{': ids' * (ids is not None)}")
    with torch.autocast(x.device.type, enabled=False):
        (x, normalize), (y, _) = ready(x, normalize=normalize, impl=impl), ready(y, normalize=normalize, impl=impl)
        own = own_scores(x, y, normalize=normalize)
        scale, bias = as_scale(logit_scale, own), as_scale(logit_bias, own).expand(len(own))
        others, repeated = other_samples(ids, ranks)

        def questions(sign: int, mask: PairMask) -> Float[Tensor, " n"]:
            return sum_over_ranks(
                x,
                y,
                ranks,
                fn="softplus",
                scale=sign * scale,
                row_shift=-sign * bias,
                mask=mask,
                normalize=normalize,
                impl=impl,
            )

        values = softplus(-(scale * own + bias)) + questions(1, others)
        if repeated and ids is not None:
            values = values + questions(-1, _duplicates(ids, ranks))
        return values, torch.ones_like(own, dtype=torch.bool)


def _duplicates(ids: Int[Tensor, " n"], ranks: Ranks) -> PairMask:
    """Keep the pairs of one sample at different places."""
    elsewhere = PairMask.exclude_self(ranks.sizes[ranks.rank], ranks.total, offset=ranks.offset)
    return elsewhere & PairMask.only(ids, ranks.gather(ids))


class SigLIPLoss(Loss):
    """Pairwise sigmoid loss of images and texts, ``loss(image, text, logit_scale, logit_bias)``.

    ``L = -1/n sum_ij log sigmoid(t_ij l_ij)``, ``l_ij = logit_scale <x_i, y_j> + logit_bias``, t = +1 for pairs and -1
    otherwise: divided by n, not by n^2. No softmax couples the pairs, so that keys may visit rank by rank
    (``gather="ring"``) with the memory of one rank's. With one sample only its own pair is left.

    Args:
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        image, text: projections [n, d], row k of each a pair.
        logit_scale: **already exponentiated** inverse temperature, a number or a tensor with one element (learnable);
            10 to start with.
        logit_bias: a number or a tensor with one element (learnable); -10 to start with, as nearly all pairs are
            negatives.
        ids: sample ids [n]; pairs of equal ids are positives wherever they are. None = all differ.

    Returns:
        A scalar, or [n] (sum over the texts of image i) for ``reduction="none"``.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for sides of different shapes, a logit_scale or logit_bias of several elements, an empty batch.

    Reference:
        Xiaohua Zhai, Basil Mustafa, Alexander Kolesnikov, Lucas Beyer, 2023, Sigmoid Loss for Language Image
        Pre-Training.

    Example:
        >>> SigLIPLoss()(torch.eye(2), torch.eye(2), 10.0, -5.0)
        tensor(0.0134)
        >>> SigLIPLoss()(torch.ones(2, 1), torch.ones(2, 1), 10.0, -5.0, ids=torch.tensor([7, 7]))
        tensor(0.0134)
    """

    def forward(  # type: ignore[override]
        self,
        image: Tensor,
        text: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of paired images and texts [n, d]."""
        values, valid = sig_lip(
            image, text, logit_scale, logit_bias, ids=ids, normalize=self.normalize, gather=self.gather, impl=self.impl
        )
        return self.reduce(values, valid)
