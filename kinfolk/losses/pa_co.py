"""PaCo and GPaCo: a classifier's logits and contrastive scores in one softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kinfolk.distributed import Gather, Ranks
from kinfolk.graphs import LabelGraph
from kinfolk.losses.balanced_softmax import checked_counts, counted_labels
from kinfolk.losses.base import Impl, Loss, Reduction, inverse, one_per_row, positive
from kinfolk.losses.e_sup_con import at_least_one, checked_classes
from kinfolk.losses.labelled import label_graph
from kinfolk.losses.over_queue import checked_queue, same_on_all_ranks
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask, as_scale, integer_ids, prepare, row_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def pa_co(
    embeddings: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    features: Float[Tensor, "m h"],
    weight: Float[Tensor, "C h"],
    bias: Float[Tensor, " C"],
    queue: Float[Tensor, "K d"] | None = None,
    queue_labels: Int[Tensor, " K"] | None = None,
    *,
    alpha: float = 0.05,
    temperature: float | Tensor = 0.2,
    class_counts: Int[Tensor, " C"] | None = None,
    ids: Int[Tensor, " m"] | None = None,
    queue_ids: Int[Tensor, " K"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """Cross-entropy of a softmax over all classes, all other rows and the queue.

    With ``g_ik = <w_k, h_i> + b_k + log pi_k`` (pi only with counts), ``s_ia = <z_i, z_a> / temperature`` and P(i) the
    rows and queue slots of i's label, and the rows of i's id: ``loss_i = lse({g_ik} u {s_ia : a != i}) - (g_iy + alpha
    sum_{p in P(i)} s_ip) / (1 + alpha |P(i)|)``. The queue is a constant, the same on all ranks; slots of label -1 are
    not there.

    Returns:
        Values [m] and which rows are labelled; the others are 0.

    Example:
        >>> x, labels = torch.eye(2), torch.tensor([0, 1])
        >>> pa_co(x, labels, x, torch.eye(2), torch.zeros(2), temperature=1.0)[0]
        tensor([0.5514, 0.5514])
    """
    refuse_ring("PaCoLoss", gather)
    graph = label_graph(embeddings, checked_classes(labels, len(weight)), ids)
    labels = graph.labels.rows
    _same_rows(embeddings, features, weight)
    if queue is None and not (queue_labels is None and queue_ids is None):
        raise ValueError("queue_labels and queue_ids belong to a queue, found queue=None.")
    slots = None if queue is None else _slots(checked_queue(queue, embeddings), queue_labels, queue_ids, graph, weight)
    offset = bias if class_counts is None else bias + _log_shares(class_counts, labels).to(bias.device)
    what = f"PaCoLoss: {len(weight)} classes{', ids' * (ids is not None)}{', queue' * (queue is not None)}"
    ranks, (rows,) = Ranks.of([embeddings], gather=gather, what=what)
    if queue is not None:
        same_on_all_ranks(queue, ranks)
    with torch.autocast(rows.device.type, enabled=False):
        h, w = prepare(features, weight, normalize=False)
        own, offset = labels.clamp(min=0), offset.to(h)
        pull, count = torch.linalg.vecdot(h, w[own]) + offset[own], torch.ones_like(h[:, 0])
        partition = row_logsumexp(h, w, scale=1.0, mask=PairMask.bias(offset), impl=impl)
        options: dict[str, Any] = {"scale": as_scale(inverse(temperature), h), "normalize": normalize, "impl": impl}
        others = PairMask.exclude_self(len(rows), ranks.total, offset=ranks.offset)
        batch = ranks.gather(rows), graph.gathered(ranks), others
        for block in (batch,) if slots is None else (batch, slots):
            more, mean, number = _positives(rows, *block, options)
            partition = torch.logaddexp(partition, more)
            pull, count = pull + alpha * number * mean, count + alpha * number
        valid, zero = labels != -1, torch.zeros_like(partition)
        return partition.where(valid, zero) - pull.where(valid, zero) / count, valid


def _positives(
    rows: Float[Tensor, "m d"],
    keys: Float[Tensor, "k d"],
    graph: LabelGraph,
    mask: PairMask,
    options: dict[str, Any],
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Partition over a block of keys, and the mean score and the number of the positives among them."""
    partition, mean = graph.row_normalised(mask).logsumexp_and_attraction(rows, keys, mask=mask, **options)
    return partition, mean, graph.log_normaliser(mask).exp().to(mean)


def _slots(
    queue: Float[Tensor, "K d"],
    queue_labels: Int[Tensor, " K"] | None,
    queue_ids: Int[Tensor, " K"] | None,
    batch: LabelGraph,
    weight: Float[Tensor, "C h"],
) -> tuple[Float[Tensor, "K d"], LabelGraph, PairMask]:
    """The queue, which slots have a row's label, and which are there: not the empty ones, nor copies of its sample."""
    if queue_labels is None:
        raise ValueError("a queue needs queue_labels, one per slot, found None; -1 marks an empty slot.")
    labels = batch.labels.rows
    queue_labels = checked_classes(queue_labels, len(weight), name="queue_labels").to(labels.device)
    one_per_row(queue_labels, queue, "queue_labels")
    empty = queue_labels == -1
    queue = queue.masked_fill(empty.unsqueeze(1), 0.0)  # what was never written may be NaN
    mask = PairMask.bias(torch.zeros(len(queue), device=labels.device).masked_fill(empty, -torch.inf), len(labels))
    if queue_ids is not None:
        if batch.ids is None:
            raise ValueError("queue_ids drop slots of the anchor's own sample, and need ids; found ids=None.")
        one_per_row(queue_ids, queue, "queue_ids")
        mask = mask & PairMask.exclude(batch.ids.rows, integer_ids(queue_ids, "queue_ids").to(labels.device))
    return queue, LabelGraph(labels, key_labels=queue_labels), mask


def _log_shares(class_counts: Int[Tensor, " C"], labels: Int[Tensor, " m"]) -> Float[Tensor, " C"]:
    """Logarithm of the classes' shares; -inf for a class without samples, which is then no candidate."""
    counts = checked_counts(class_counts)
    counted_labels(labels, counts.to(labels.device))
    return (counts / counts.sum(dtype=torch.float64)).log()


class PaCoLoss(Loss):
    """Parametric contrastive learning (PaCo, GPaCo), ``loss(embeddings, labels, features)``.

    Learnt class centres join the softmax of SupCon: the own centre is a positive of weight 1, every other positive one
    of weight alpha. At the optimum of free scores each positive has probability ``alpha / (1 + alpha |P|)`` and the
    centre ``1 / (1 + alpha |P|)``, so that frequent classes do not drown the rest. Unlike `ESupConLoss` the classifier
    is an ordinary linear layer on features, and its centres are no anchors.

    PaCo: embeddings of the query view, queue = [key view; old queue]. GPaCo: embeddings of both views, queue = earlier
    embeddings of the same encoder. Label smoothing is outside.

    Args:
        num_classes: number of classes C.
        dim: width h of the features.
        alpha: weight of a positive against the centre, >= 0.
        temperature: of the contrastive scores, a positive number, or a tensor with one element to learn it; logits are
            not divided by it.
        class_counts: training samples per class, C whole numbers; adds their log-shares to the logits in the loss.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; features are not normalised in any case.

    Attributes:
        weight, bias: the classifier's, [num_classes, dim] and [num_classes], learnt.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        labels: integer class per row [m]; -1 = unlabelled: a candidate, but no anchor.
        features: what the classifier sees of every row [m, h].
        queue: constant keys [K, d], the same on all ranks.
        queue_labels: class per slot [K]; -1 = empty, neither positive nor candidate.
        ids: sample id per row [m]; rows of one sample are positives. None = every row is its own.
        queue_ids: sample id per slot [K], to drop stale copies of the anchor's own sample; give -1 to slots that are to
            stay, such as the key view.

    Returns:
        A scalar, or [m] for ``reduction="none"``. One labelled row alone gives its cross-entropy.

    Raises:
        TypeError: for float or bool labels.
        ValueError: for labels below -1 or beyond the classes, not one per row, a class that has labels but no count,
            a queue without labels or labels without a queue, a temperature that is not positive.

    Reference:
        Jiequan Cui, Zhisheng Zhong, Shu Liu, Bei Yu, Jiaya Jia, 2021, Parametric Contrastive Learning; Jiequan Cui,
        Zhisheng Zhong, Zhuotao Tian, Shu Liu, Bei Yu, Jiaya Jia, 2023, Generalized Parametric Contrastive Learning.

    Example:
        >>> loss = PaCoLoss(2, 8, class_counts=torch.tensor([90, 10]))
        >>> features = torch.randn(4, 8)
        >>> value = loss(torch.randn(4, 3), torch.tensor([0, 0, 1, -1]), features)
        >>> value.shape, loss.logits(features).shape
        (torch.Size([]), torch.Size([4, 2]))
    """

    class_counts: Tensor | None

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        alpha: float = 0.05,
        temperature: float | Tensor = 0.2,
        class_counts: Sequence[int] | Int[Tensor, " C"] | None = None,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("PaCoLoss", gather)
        at_least_one(num_classes=num_classes, dim=dim)
        if not alpha >= 0:
            raise ValueError(f"alpha must be at least 0, found {alpha}.")
        self.num_classes, self.dim = num_classes, dim
        self.alpha, self.temperature = alpha, positive(temperature)
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(num_classes, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_classes).uniform_(-bound, bound))
        counts = None if class_counts is None else checked_counts(class_counts)
        if counts is not None and len(counts) != num_classes:
            raise ValueError(f"class_counts must be one per class: {num_classes} classes, {len(counts)} counts.")
        self.register_buffer("class_counts", counts)

    def forward(  # type: ignore[override]
        self,
        embeddings: Tensor,
        labels: Tensor,
        features: Tensor,
        queue: Tensor | None = None,
        queue_labels: Tensor | None = None,
        ids: Tensor | None = None,
        queue_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of rows [m, d] with labels [m] and features [m, dim]."""
        values, valid = pa_co(
            embeddings,
            labels,
            features,
            self.weight,
            self.bias,
            queue,
            queue_labels,
            alpha=self.alpha,
            temperature=self.temperature,
            class_counts=self.class_counts,
            ids=ids,
            queue_ids=queue_ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)

    def logits(self, features: Float[Tensor, "n h"]) -> Float[Tensor, "n C"]:
        """Return ``<w_k, h> + b_k``, the classifier's scores, without any prior.

        Example:
            >>> loss = PaCoLoss(4, 3, class_counts=torch.tensor([5, 1, 1, 1]))
            >>> torch.equal(loss.logits(torch.zeros(2, 3))[0], loss.bias)
            True
        """
        with torch.autocast(features.device.type, enabled=False):
            h, w = prepare(features, self.weight, normalize=False)
            return h @ w.T + self.bias.to(h)

    def extra_repr(self) -> str:
        """Return the options, and the range of the counts."""
        counts = self.class_counts
        span = None if counts is None else f"{int(counts.min())} to {int(counts.max())}"
        return f"{super().extra_repr()}, class_counts={span}"


def _same_rows(embeddings: Tensor, features: Tensor, weight: Tensor) -> None:
    if features.ndim != 2 or len(features) != len(embeddings) or features.shape[1] != weight.shape[1]:
        raise ValueError(
            f"features must be [m, {weight.shape[1]}], one row per embedding: embeddings {tuple(embeddings.shape)}, "
            f"features {tuple(features.shape)}."
        )
