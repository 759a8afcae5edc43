"""CLIP's loss: match images and texts both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Loss, checked_ids, one_number, other_samples, own_scores, same_shape
from kinfolk.losses.over_ranks import two_way_over_ranks
from kinfolk.ops import as_scale, ready

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from kinfolk.ops import Impl


def clip(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    logit_scale: float | Tensor,
    *,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Mean of the two directions' cross-entropies of finding the own partner.

    With ``l_ij = logit_scale <x_i, y_j>``: ``loss_i = (lse_j l_ij + lse_j l_ji) / 2 - l_ii``, from one pass. Pairs of
    equal ids at other positions leave both partitions.

    Returns:
        Values [n] and which of them count (all).

    Example:
        >>> values, valid = clip(torch.eye(2), torch.eye(2), 1.0)
        >>> values
        tensor([0.3133, 0.3133])
    """
    same_shape(image=image, text=text)
    ids, logit_scale = checked_ids(ids, image), one_number(logit_scale, "logit_scale")
    ranks, (x, y) = Ranks.of([image, text], gather=gather, what=f"CLIPLoss{': ids' * (ids is not None)}")
    with torch.autocast(x.device.type, enabled=False):
        (x, normalize), (y, _) = ready(x, normalize=normalize, impl=impl), ready(y, normalize=normalize, impl=impl)
        own = own_scores(x, y, normalize=normalize)
        own = as_scale(logit_scale, own) * own
        others, own_left = other_samples(ids, ranks)
        rows, columns = two_way_over_ranks(
            x, y, ranks, scale=logit_scale, mask=others if own_left else None, normalize=normalize, impl=impl
        )
        if own_left:
            rows, columns = torch.logaddexp(rows, own), torch.logaddexp(columns, own)
        return (rows + columns) / 2 - own, torch.ones_like(own, dtype=torch.bool)


class CLIPLoss(Loss):
    """Symmetric image-text cross-entropy, ``loss(image, text, logit_scale)``.

    ``L = 1/2 mean_i [lse_j l_ij - l_ii] + 1/2 mean_j [lse_i l_ij - l_jj]``, ``l_ij = logit_scale <x_i, y_j>``.

    Args:
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        image, text: projections [n, d], row k of each a pair.
        logit_scale: **already exponentiated** inverse temperature, a number or a tensor with one element (learnable).
        ids: sample ids [n]; pairs known to be duplicates are no negatives of each other. None = all differ.

    Returns:
        A scalar, or [n] (mean of the two directions of pair i) for ``reduction="none"``.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for sides of different shapes, a logit_scale of several elements, an empty batch.

    Reference:
        Alec Radford, Jong Wook Kim, Chris Hallacy, Aditya Ramesh, Gabriel Goh, Sandhini Agarwal, Girish Sastry, Amanda
        Askell, Pamela Mishkin, Jack Clark, Gretchen Krueger, Ilya Sutskever, 2021, Learning Transferable Visual Models
        From Natural Language Supervision.

    Example:
        >>> CLIPLoss()(torch.eye(2), torch.eye(2), 1.0)
        tensor(0.3133)
    """

    def forward(  # type: ignore[override]
        self, image: Tensor, text: Tensor, logit_scale: float | Tensor, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of paired images and texts [n, d]."""
        values, valid = clip(
            image, text, logit_scale, ids=ids, normalize=self.normalize, gather=self.gather, impl=self.impl
        )
        return self.reduce(values, valid)
