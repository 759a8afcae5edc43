"""ResCom: supervised contrast with class weights and with hard pairs mined from a class-balanced queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks, debugging, require_equal
from kinfolk.graphs import checked_labels
from kinfolk.losses.balanced_softmax import checked_counts, counted_labels, said_counts
from kinfolk.losses.base import Impl, Loss, Reduction, inverse, positive
from kinfolk.losses.labelled import label_graph
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask, listed_products, prepare, row_topk

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def res_com(
    embeddings: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    queue: Float[Tensor, "K d"],
    queue_labels: Int[Tensor, " K"],
    *,
    class_counts: Int[Tensor, " C"],
    temperature: float | Tensor = 0.1,
    beta: float = 0.0,
    positives: int = 1,
    negatives: int = 1,
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """SupCon with hard pairs from a queue, weighted by class.

    H+_i: the ``positives`` least similar queue rows of i's label; H-_i: the ``negatives`` most similar ones of other
    labels; a label of -1 on either side has neither. With P(i) as in SupCon,
    ``loss_i = w_{y_i} [lse_{A(i) u H+_i u H-_i} s - mean_{P(i) u H+_i} s]``; w as in `class_balanced_weights`, and 1
    for a row without a label, which may be an anchor by its id. Queue rows are constants.

    Returns:
        Values [m] and which rows have a positive, in the batch or in the queue; the others are 0.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([0, 0, 1])
        >>> values, valid = res_com(x, y, x[2:], y[2:], class_counts=torch.tensor([2, 1]), temperature=1.0)
        >>> values, valid
        (tensor([1.0986, 1.0986, 0.5514]), tensor([True, True, True]))
    """
    refuse_ring("ResComLoss", gather)
    graph, scale = label_graph(embeddings, labels, ids), inverse(temperature)
    counts = checked_counts(class_counts).to(embeddings.device)
    counted_labels(graph.labels.rows, counts)
    queue_labels = _checked_queue(embeddings, queue, queue_labels)
    queue = queue.detach().masked_fill((queue_labels < 0).unsqueeze(1), 0.0)  # what was never written may be NaN
    ranks, (rows,) = Ranks.of([embeddings], gather=gather, what=f"ResComLoss{': ids' * (ids is not None)}")
    if ranks.world > 1 and debugging():
        for constant, name in ((queue, "queue"), (queue_labels, "queue_labels"), (counts, "class_counts")):
            require_equal(constant, name)
    options: dict[str, Any] = {"normalize": normalize, "impl": impl}
    with torch.autocast(rows.device.type, enabled=False):
        others = PairMask.exclude_self(len(rows), ranks.total, offset=ranks.offset)
        target = graph.gathered(ranks).row_normalised(others)
        batch, pull = target.logsumexp_and_attraction(rows, ranks.gather(rows), scale=scale, mask=others, **options)
        near = target.log_normaliser(None).exp().to(batch)
        index = _mined(rows, graph.labels.rows, queue, queue_labels, (positives, negatives), options)
        mined = scale * listed_products(*prepare(rows, queue, normalize=normalize), index)
        far = (index[:, :positives] >= 0).sum(1).to(batch)
        valid = (near > 0) | (far > 0)
        blocks = torch.cat([batch.unsqueeze(1), mined.masked_fill(index < 0, -torch.inf)], 1)
        partition = torch.logsumexp(blocks.where(valid.unsqueeze(1), torch.zeros_like(blocks)), 1)
        pull = (near * pull + mined[:, :positives].sum(1)) / (near + far).clamp(min=1)
        values = _weights(graph.labels.rows, counts, beta).to(batch) * (partition - pull)
        return values.where(valid, torch.zeros_like(values)), valid


def class_balanced_weights(class_counts: Int[Tensor, " C"], beta: float) -> Float[Tensor, " C"]:
    """Return the weight of every class by its effective number of samples.

    ``w_c = mean(E) / E_c`` with ``E_c = (1 - beta^n_c) / (1 - beta)``, the mean over the classes that occur. With
    ``beta = 0`` all weigh alike; towards 1, weights become inverse frequencies. A class that never occurs weighs 0.

    Args:
        class_counts: training samples per class.
        beta: in [0, 1).

    Reference:
        Yin Cui, Menglin Jia, Tsung-Yi Lin, Yang Song, Serge Belongie, 2019, Class-Balanced Loss Based on Effective
        Number of Samples.

    Example:
        >>> class_balanced_weights(torch.tensor([2, 1]), beta=0.5)
        tensor([0.8333, 1.2500], dtype=torch.float64)
    """
    _check_beta(beta)
    counts = class_counts.double()
    occurs = counts > 0
    log_beta = torch.tensor(beta, dtype=torch.float64, device=counts.device).log()
    effective = torch.expm1(counts.clamp(min=1) * log_beta) / (beta - 1)
    mean = effective.where(occurs, torch.zeros_like(effective)).sum() / occurs.sum()
    return (mean / effective).where(occurs, torch.zeros_like(effective))


def _check_beta(beta: float) -> None:
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), found {beta}.")


def _weights(labels: Int[Tensor, " m"], counts: Int[Tensor, " C"], beta: float) -> Float[Tensor, " m"]:
    """Weight per row; 1 without a label."""
    weights = class_balanced_weights(counts, beta)[labels.clamp(min=0)]
    return weights.where(labels >= 0, torch.ones_like(weights))


def _checked_queue(rows: Tensor, queue: Tensor, queue_labels: Tensor) -> Int[Tensor, " K"]:
    if queue.ndim != 2 or queue.shape[1] != rows.shape[1]:
        raise ValueError(f"queue must be [K, d] of the rows' width: {tuple(rows.shape)}, {tuple(queue.shape)}.")
    queue_labels = checked_labels(queue_labels, name="queue_labels").to(rows.device)
    if len(queue_labels) != len(queue):
        raise ValueError(
            f"queue_labels must have one entry per queue row: queue {tuple(queue.shape)}, "
            f"queue_labels {tuple(queue_labels.shape)}; -1 marks an empty slot."
        )
    return queue_labels


def _mined(
    rows: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    queue: Float[Tensor, "K d"],
    queue_labels: Int[Tensor, " K"],
    numbers: tuple[int, int],
    options: dict[str, Any],
) -> Int[Tensor, "m k"]:
    """Queue rows of every anchor: the farthest of its label, then the nearest of others; -1 where there are fewer."""
    known, filled = (-(values < 0).long() for values in (labels, queue_labels))
    same = PairMask.only(labels, queue_labels)
    other = PairMask.exclude(labels, queue_labels) & PairMask.only(known, filled)
    found = [
        row_topk(rows.detach(), queue, k=k, largest=largest, mask=mask, **options)[1]
        for k, largest, mask in zip(numbers, (False, True), (same, other), strict=True)
        if k
    ]
    return torch.cat([labels.new_empty(len(rows), 0), *found], 1)


class ResComLoss(Loss):
    """Rebalanced contrastive mining (ResCom), ``loss(embeddings, labels, queue, queue_labels)``.

    SupCon over the batch, to which every row adds its hardest pairs from a queue that holds equally many keys per
    class: the least similar keys of its class as further positives, the most similar ones of other classes as further
    negatives. Anchors are weighted by the effective number of samples of their class; weights are not rescaled to the
    batch. Train the classifier beside it with `kinfolk.losses.BalancedSoftmaxLoss`. Without mined pairs and with beta 0
    this is SupCon out.

    Args:
        class_counts: training samples per class [C], whole numbers; saved with the module.
        temperature: positive number, or a tensor with one element to learn it.
        beta: of the class weights, in [0, 1): 0 weighs all classes alike, towards 1 by inverse frequency.
        positives: queue rows of the own class per anchor; fewer where the queue has fewer.
        negatives: queue rows of other classes per anchor.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``gather="ring"`` is not offered.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        labels: integer class per row [m]; -1 = unlabelled: takes nothing from the queue, and weighs 1 where its id
            makes it an anchor.
        queue: keys of earlier batches [K, d], the same on all ranks; constants.
        queue_labels: class per queue row [K]; -1 = empty slot, never used.
        ids: sample id per row [m]; rows of one sample are positives whatever their labels. None = every row is its own.

    Returns:
        A scalar, or [m] for ``reduction="none"``; 0 with a graph when no row has a positive.

    Raises:
        TypeError: for float or bool labels or counts.
        ValueError: for shapes that do not fit, labels outside [-1, C) or of a class with count 0, a beta outside
            [0, 1), negative numbers of pairs, a temperature that is not positive.

    Reference:
        Zhisheng Zhong, Jiequan Cui, Zeming Li, Eric Lo, Jian Sun, Jiaya Jia, 2022, Rebalanced Siamese Contrastive
        Mining for Long-Tailed Recognition.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([0, 0, 1])
        >>> ResComLoss([2, 1], temperature=1.0)(x, y, queue=x[2:], queue_labels=y[2:])
        tensor(0.9162)
    """

    class_counts: Tensor

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor,
        *,
        temperature: float | Tensor = 0.1,
        beta: float = 0.0,
        positives: int = 1,
        negatives: int = 1,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("ResComLoss", gather)
        _check_beta(beta)
        for name, count in (("positives", positives), ("negatives", negatives)):
            if count < 0:
                raise ValueError(f"{name} must be at least 0, found {count}.")
        self.register_buffer("class_counts", checked_counts(class_counts).clone())
        self.temperature, self.beta = positive(temperature), beta
        self.positives, self.negatives = positives, negatives

    def extra_repr(self) -> str:
        """Return the options."""
        return f"{super().extra_repr()}, {said_counts(self.class_counts)}"

    def forward(  # type: ignore[override]
        self, embeddings: Tensor, labels: Tensor, queue: Tensor, queue_labels: Tensor, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of rows [m, d] with labels [m] and of a labelled queue [K, d]."""
        values, valid = res_com(
            embeddings,
            labels,
            queue,
            queue_labels,
            class_counts=self.class_counts,
            temperature=self.temperature,
            beta=self.beta,
            positives=self.positives,
            negatives=self.negatives,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
