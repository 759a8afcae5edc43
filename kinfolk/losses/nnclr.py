"""NNCLR's loss: a prediction must find the nearest neighbour of the other view."""

from __future__ import annotations

from collections.abc import Sequence
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
from kinfolk.losses.over_queue import checked_queue, same_on_all_ranks
from kinfolk.losses.over_ranks import logsumexp_over_ranks
from kinfolk.ops import PairMask, ready, row_topk

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Sides = Float[Tensor, "n d"] | Sequence[Float[Tensor, "n d"]]


def nnclr(
    projections: Sides,
    predictions: Sides,
    queue: Float[Tensor, "K d"],
    *,
    temperature: float | Tensor = 0.1,
    decoupled: bool = False,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropy of finding a sample's prediction among all of them, given a neighbour of its other view.

    With ``nn(z)`` the row of the queue nearest to z, a constant: ``loss_i = lse_j s_ij - s_ii`` with
    ``s_ij = <nn(z_i), p_j> / temperature``; decoupled, the partition is over j != i. Pairs of views give the mean of
    the two directions, neighbours of one view against predictions of the other. Equal ids at other positions leave the
    partition.

    Returns:
        Values [n] and which of them have a negative at all (all of them, unless decoupled).

    Example:
        >>> values, valid = nnclr(torch.eye(2), torch.eye(2), torch.eye(2), temperature=1.0)
        >>> values
        tensor([0.3133, 0.3133])
    """
    views, targets = _sides(projections, predictions)
    queue, ids = checked_queue(queue, targets[0]), checked_ids(ids, targets[0])
    if not len(queue):
        raise ValueError(
            f"NNCLRLoss needs a queue with at least one row to find neighbours, found {tuple(queue.shape)}."
        )
    scale = inverse(temperature)
    what = f"NNCLRLoss: {len(targets)} sides{', decoupled' * decoupled}{', ids' * (ids is not None)}"
    ranks, targets = Ranks.of(targets, gather=gather, what=what)
    same_on_all_ranks(queue, ranks)
    if decoupled and ranks.total == 1:
        raise ValueError("NNCLRLoss(decoupled=True) needs at least 2 samples, found n = 1: nothing else is left.")
    with torch.autocast(queue.device.type, enabled=False):
        others, repeated = other_samples(ids, ranks)
        mask = others if decoupled or repeated else None
        values = []
        for view, target in zip(views, reversed(targets), strict=True):
            cosine, nearest = row_topk(view.detach(), queue, k=1, normalize=normalize, impl=impl)
            found = queue[nearest[:, 0]] + (0 * cosine).to(queue.dtype)  # a broken projection finds no sound neighbour
            values.append(_direction(found, target, ranks, scale, mask, not decoupled, normalize, impl))
        valid = values[0].detach() != -torch.inf
        return torch.stack(values).mean(0), valid


def _direction(
    neighbours: Float[Tensor, "n d"],
    targets: Float[Tensor, "n d"],
    ranks: Ranks,
    scale: float | Tensor,
    mask: PairMask | None,
    coupled: bool,
    normalize: bool,
    impl: Impl,
) -> Float[Tensor, " n"]:
    """Partition minus own score; -inf where nothing is in the partition."""
    x, raw = ready(neighbours, normalize=normalize, impl=impl)
    y, _ = ready(targets, normalize=normalize, impl=impl)
    own = scale * own_scores(x, y, normalize=raw)
    partition = logsumexp_over_ranks(x, y, ranks, scale=scale, mask=mask, normalize=raw, impl=impl)
    if coupled and mask is not None:
        partition = torch.logaddexp(partition, own)
    return partition - own


def _sides(projections: Sides, predictions: Sides) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """One direction or two, as lists of one shape."""
    pairs = [[side] if isinstance(side, Tensor) else list(side) for side in (projections, predictions)]
    if len(pairs[0]) != len(pairs[1]) or len(pairs[0]) not in (1, 2):
        raise ValueError(
            "projections and predictions must both be [n, d], or both pairs of it; found "
            f"{len(pairs[0])} and {len(pairs[1])} tensors."
        )
    names = ("projections", "predictions")
    same_shape(
        **{f"{name}[{v}]": side for name, sides in zip(names, pairs, strict=True) for v, side in enumerate(sides)}
    )
    return tuple(pairs[0]), tuple(pairs[1])


class NNCLRLoss(Loss):
    """Nearest-neighbour contrastive loss (NNCLR), ``loss(projections, predictions, queue)``; ``decoupled`` with DCL.

    The anchor is the neighbour in the queue of one view's projection, and gradient passes through the other view's
    prediction only. The other samples' predictions of that view are the negatives. ``NNCLR = softplus(decoupled)`` for
    every value of one direction.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        decoupled: leave the own prediction out of the partition.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        projections: [n, d] of one view, or a pair of views; receives no gradient.
        predictions: [n, d] of the other view, or the pair in the same order: neighbours of each view are then held
            against predictions of the other one.
        queue: [K, d], projections of earlier batches, the same on all ranks, K >= 1; receives no gradient. Enqueue
            after the loss, or every sample finds itself.
        ids: sample ids [n]; equal ids are no negatives of each other. None = all differ.

    Returns:
        A scalar, or [n] for ``reduction="none"``: the mean of sample i's directions. One sample alone gives 0.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for an empty queue, one sample with ``decoupled``, shapes that do not fit, a temperature that is not
            positive, an empty batch.

    Reference:
        Debidatta Dwibedi, Yusuf Aytar, Jonathan Tompson, Pierre Sermanet, Andrew Zisserman, 2021, With a Little Help
        from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations; Chun-Hsiao Yeh, Cheng-Yao
        Hong, Yen-Chi Hsu, Tyng-Luh Liu, Yubei Chen, Yann LeCun, 2022, Decoupled Contrastive Learning (decoupled).

    Example:
        >>> NNCLRLoss(temperature=1.0)(torch.eye(2), torch.eye(2), torch.eye(2))
        tensor(0.3133)
        >>> NNCLRLoss(temperature=1.0, decoupled=True)(torch.eye(2), torch.eye(2), torch.eye(2))
        tensor(-1.)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        decoupled: bool = False,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        self.temperature, self.decoupled = positive(temperature), decoupled

    def forward(  # type: ignore[override]
        self, projections: Sides, predictions: Sides, queue: Tensor, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of projections and predictions, [n, d] or pairs of it, against a queue [K, d]."""
        values, valid = nnclr(
            projections,
            predictions,
            queue,
            temperature=self.temperature,
            decoupled=self.decoupled,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
