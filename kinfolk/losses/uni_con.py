"""UniCon: contrast every row with the universum, mixtures of images that belong to no class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, Loss, Reduction, inverse, positive, same_shape
from kinfolk.losses.labelled import label_graph
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def uni_con(
    embeddings: Float[Tensor, "m d"],
    universum: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    *,
    temperature: float | Tensor = 0.1,
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """Cross-entropy between the universum of a row's class and its softmax over all universum rows but its own.

    ``loss_i = lse_{a != i} t_ia - mean_{p in P(i)} t_ip`` with ``t_ij = <z_i, u_j> / temperature``. P(i): the other
    places whose base image has i's label (-1 has none) or i's id.

    Returns:
        Values [m] and which rows have a positive; the others are 0.

    Example:
        >>> values, valid = uni_con(torch.eye(3), torch.eye(3), torch.tensor([0, 0, 1]), temperature=1.0)
        >>> values, valid
        (tensor([0.6931, 0.6931, 0.0000]), tensor([ True,  True, False]))
    """
    refuse_ring("UniConLoss", gather)
    same_shape(embeddings=embeddings, universum=universum)
    graph, scale = label_graph(embeddings, labels, ids), inverse(temperature)
    what = f"UniConLoss{': ids' * (ids is not None)}"
    ranks, (rows, mixed) = Ranks.of([embeddings, universum], gather=gather, what=what)
    with torch.autocast(rows.device.type, enabled=False):
        others = PairMask.exclude_self(len(rows), ranks.total, offset=ranks.offset)
        target = graph.gathered(ranks).row_normalised(others)
        partition, pull = target.logsumexp_and_attraction(
            rows, ranks.gather(mixed), scale=scale, mask=others, normalize=normalize, impl=impl
        )
        valid, zero = target.has_target.to(rows.device), torch.zeros_like(partition)
        return partition.where(valid, zero) - pull.where(valid, zero), valid


class UniConLoss(Loss):
    """Universum contrastive loss (UniCon), ``loss(embeddings, universum, labels)`` over the rows of all views.

    The universum replaces the candidates of `kinfolk.losses.SupConLoss`: there is no term between plain rows. Row j of
    it is the embedding of ``0.5 x_r + 0.5 x_j`` with ``x_r`` an image of another class, and its base image is ``x_j``:
    universum of the own class attracts, all other universum repels, and a row's own one is left out of both. With
    ``universum = embeddings`` this is SupCon. Gradient reaches both.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``gather="ring"`` is not offered.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        universum: projections [m, d] of the mixed images, row j mixed from the image of row j.
        labels: integer class per row [m], that of the base image; -1 = unlabelled, equal to nothing.
        ids: sample id per row [m]; rows of one sample are positives whatever their labels. None = every row is its own.

    Returns:
        A scalar, or [m] for ``reduction="none"``; 0 with a graph when no row has a positive.

    Raises:
        TypeError: for float or bool labels.
        ValueError: for embeddings and universum of different shapes, labels below -1 or not one per row, a temperature
            that is not positive.

    Reference:
        Aiyang Han, Chuanxing Geng, Songcan Chen, 2022, Universum-Inspired Supervised Contrastive Learning.

    Example:
        >>> UniConLoss(temperature=1.0)(torch.eye(3), torch.eye(3), torch.tensor([0, 0, 1]))
        tensor(0.6931)
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
        refuse_ring("UniConLoss", gather)
        self.temperature = positive(temperature)

    def forward(  # type: ignore[override]
        self, embeddings: Tensor, universum: Tensor, labels: Tensor, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of rows [m, d] against universum [m, d] with labels [m]."""
        values, valid = uni_con(
            embeddings,
            universum,
            labels,
            temperature=self.temperature,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
