"""MoCo's loss: tell the own key from a queue of earlier ones."""

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
    own_scores,
    positive,
    same_shape,
)
from kinfolk.losses.over_queue import checked_queue, kept_slots, own_against, same_on_all_ranks
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import ready, row_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from kinfolk.losses.over_queue import Dropped

    Exclude = Dropped | list[Dropped]


def info_nce(
    queries: Float[Tensor, "n d"],
    keys: Float[Tensor, "n d"],
    queue: Float[Tensor, "K d"],
    *,
    temperature: float | Tensor = 0.2,
    exclude: Exclude = None,
    decoupled: bool = False,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropy of finding the own key among it and the queue.

    ``loss_i = lse({s_i0} u {s_ij : j not excluded}) - s_i0`` with ``s_i0 = <q_i, k_i> / temperature`` and
    ``s_ij = <q_i, Q_j> / temperature``; decoupled, s_i0 is not in the partition. Keys and queue are constants; the
    queue is the same on all ranks, and ``gather`` asks only whether ranks count their anchors together. With several
    exclusions (a list) the loss is the mean over them.

    Returns:
        Values [n] and which of them count: all, or decoupled those with a candidate left.

    Example:
        >>> values, valid = info_nce(torch.eye(2), torch.eye(2), torch.eye(2), temperature=1.0)
        >>> values
        tensor([0.8620, 0.8620])
    """
    same_shape(queries=queries, keys=keys)
    queue = checked_queue(queue, queries)
    refuse_ring("InfoNCELoss", gather)
    scale = inverse(temperature)
    if isinstance(exclude, list) and not exclude:
        raise ValueError("exclude must list at least one exclusion to average over, found an empty list; pass None.")
    masks = [kept_slots(e, queries, queue) for e in (exclude if isinstance(exclude, list) else [exclude])]
    ranks, (queries,) = Ranks.of([queries], gather=gather, what="InfoNCELoss")
    same_on_all_ranks(queue, ranks)
    with torch.autocast(queries.device.type, enabled=False):
        own = scale * own_scores(queries, keys.detach(), normalize=normalize)
        x, raw = ready(queries, normalize=normalize, impl=impl)
        bank, _ = ready(queue, normalize=normalize, impl=impl)
        others = [row_logsumexp(x, bank, scale=scale, mask=mask, normalize=raw, impl=impl) for mask in masks]
        values, valid = zip(*(own_against(own, o, decoupled=decoupled) for o in others), strict=True)
        return torch.stack(values).mean(0), torch.stack(valid).any(0)


class InfoNCELoss(Loss):
    """MoCo's InfoNCE over a queue, ``loss(queries, keys, queue)``; with ``exclude`` also false-negative elimination.

    The own key is in the partition, unless ``decoupled``; keys of the other samples are not negatives until they are in
    the queue. Gradient reaches the queries only. An empty queue, or one that is excluded altogether, gives exactly 0.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        decoupled: leave the own key out of the partition (DCL); rows without a candidate then do not count.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        queries: [n, d], the encoder's.
        keys: [n, d], the EMA encoder's, row k of the same sample.
        queue: [K, d], keys of earlier batches, the same on all ranks.
        exclude: queue rows that are no negatives of a query: bool [n, K] (True = dropped), or labels
            ``(query_labels [n], queue_labels [K])``, equal ones being dropped; -1 equals nothing. Sample ids in
            place of labels drop stale copies of the same sample. Or a `PairMask`, which joins several such rules. A
            list of these (clusterings into different numbers of clusters) averages the loss over them.
        ids: sample ids [n], checked only: samples of the batch are not contrasted with one another.

    Returns:
        A scalar, or [n] for ``reduction="none"``.

    Raises:
        TypeError: for float or bool ids, or labels in ``exclude``.
        ValueError: for shapes that do not fit, a temperature that is not positive, an empty batch.

    Reference:
        Kaiming He, Haoqi Fan, Yuxin Wu, Saining Xie, Ross Girshick, 2020, Momentum Contrast for Unsupervised Visual
        Representation Learning; Tsai-Shien Chen, Wei-Chih Hung, Hung-Yu Tseng, Shao-Yi Chien, Ming-Hsuan Yang, 2022,
        Incremental False Negative Detection for Contrastive Learning (elimination); Chun-Hsiao Yeh, Cheng-Yao Hong,
        Yen-Chi Hsu, Tyng-Luh Liu, Yubei Chen, Yann LeCun, 2022, Decoupled Contrastive Learning (decoupled).

    Example:
        >>> InfoNCELoss(temperature=1.0)(torch.eye(2), torch.eye(2), torch.eye(2))
        tensor(0.8620)
        >>> own = torch.tensor([0, 1])
        >>> InfoNCELoss(temperature=1.0)(torch.eye(2), torch.eye(2), torch.eye(2), exclude=(own, own))
        tensor(0.3133)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.2,
        decoupled: bool = False,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("InfoNCELoss", gather)
        self.temperature, self.decoupled = positive(temperature), decoupled

    def forward(  # type: ignore[override]
        self, queries: Tensor, keys: Tensor, queue: Tensor, exclude: Exclude = None, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of queries and keys [n, d] against a queue [K, d]."""
        checked_ids(ids, queries)
        values, valid = info_nce(
            queries,
            keys,
            queue,
            temperature=self.temperature,
            exclude=exclude,
            decoupled=self.decoupled,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
