"""ESupCon: supervised contrast in which the classifier's prototypes are rows like all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kinfolk.distributed import Gather, Ranks, all_reduce
from kinfolk.graphs import LabelGraph, checked_labels
from kinfolk.losses.base import Impl, PooledLoss, Reduction, inverse, positive
from kinfolk.losses.labelled import label_graph
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask, as_scale, prepare, two_way_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def e_sup_con(
    embeddings: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    weight: Float[Tensor, "C d"],
    *,
    temperature: float | Tensor = 0.1,
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " m+C"], Bool[Tensor, " m+C"]]:
    """SupCon on the m + C rows ``[z; theta]``, without the pairs of two prototypes.

    With unit prototypes ``theta_k`` (the rows of ``weight``), ``s_ij = <z_i, z_j> / temperature``, ``g_ik = <z_i,
    theta_k> / temperature`` and P(i) the other rows of i's label (-1 has none) or of i's id:
    sample ``lse({s_ia : a != i} u {g_ik}) - (sum_{p in P(i)} s_ip + g_iy) / (|P(i)| + 1)``;
    prototype of a class that the batch of all ranks has, ``lse_j g_jk - mean_{j : y_j = k} g_jk``.

    Returns:
        Values [m + C], this rank's rows and then the prototypes (the same on all ranks), and which have a positive;
        the others are 0.

    Example:
        >>> values, valid = e_sup_con(torch.eye(2), torch.tensor([0, -1]), torch.eye(2), temperature=1.0)
        >>> values, valid
        (tensor([0.5514, 0.0000, 0.3133, 0.0000]), tensor([ True, False,  True, False]))
    """
    refuse_ring("ESupConLoss", gather)
    graph = label_graph(embeddings, checked_classes(labels, len(weight)), ids)
    labels = graph.labels.rows
    what = f"ESupConLoss: {len(weight)} classes{', ids' * (ids is not None)}"
    ranks, (rows,) = Ranks.of([embeddings], gather=gather, what=what)
    with torch.autocast(rows.device.type, enabled=False):
        x, theta = prepare(rows, prepare(weight, weight, normalize=True)[0], normalize=normalize)
        scale = as_scale(inverse(temperature), x)
        own = scale * torch.linalg.vecdot(x, theta[labels.clamp(min=0)])
        options: dict[str, Any] = {"scale": scale, "normalize": normalize, "impl": impl}
        to_prototypes, to_rows = two_way_logsumexp(rows, theta, **options)
        samples, valid = _sample_anchors(rows, graph, to_prototypes, own, ranks, options)
        prototypes, present = _prototype_anchors(scale * theta, x, labels, to_rows, ranks)
        return torch.cat([samples, prototypes]), torch.cat([valid, present])


def checked_classes(labels: Int[Tensor, " n"], num_classes: int, *, name: str = "labels") -> Int[Tensor, " n"]:
    """Check labels of a known number of classes: integers, -1 (unlabelled) or below it.

    Example:
        >>> checked_classes(torch.tensor([0, 3]), 3)
        Traceback (most recent call last):
            ...
        ValueError: labels must be -1 (unlabelled) or one of 3 classes, 0 to 2, found 3.
    """
    labels = checked_labels(labels, name=name)
    if not torch.compiler.is_compiling() and labels.numel() and int(labels.max()) >= num_classes:
        raise ValueError(
            f"{name} must be -1 (unlabelled) or one of {num_classes} classes, 0 to {num_classes - 1}, "
            f"found {int(labels.max())}."
        )
    return labels


def _sample_anchors(
    rows: Float[Tensor, "m d"],
    graph: LabelGraph,
    to_prototypes: Float[Tensor, " m"],
    own: Float[Tensor, " m"],
    ranks: Ranks,
    options: dict[str, Any],
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """Values of this rank's rows, whose positives are other rows and the own class's prototype."""
    labelled = graph.labels.rows != -1
    others = PairMask.exclude_self(len(rows), ranks.total, offset=ranks.offset)
    graph = graph.gathered(ranks)
    target = graph.row_normalised(others)
    partition, pull = target.logsumexp_and_attraction(rows, ranks.gather(rows), mask=others, **options)
    count = graph.log_normaliser(others).exp().to(pull)
    total = count * pull + own.where(labelled, torch.zeros_like(own))
    positives = count + labelled
    values = torch.logaddexp(partition, to_prototypes) - total / positives.clamp(min=1)
    return values.where(positives > 0, torch.zeros_like(values)), positives > 0


def _prototype_anchors(
    theta: Float[Tensor, "C d"],
    x: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    to_rows: Float[Tensor, " C"],
    ranks: Ranks,
) -> tuple[Float[Tensor, " C"], Bool[Tensor, " C"]]:
    """Values of the prototypes, from every rank's partition over its own rows and its class sums."""
    partition = torch.logsumexp(Ranks((1,) * ranks.world, ranks.rank).gather(to_rows[None]), 0)
    classes, place = len(theta), labels.where(labels != -1, len(theta))
    sums = ranks.sum(x.new_zeros(classes + 1, x.shape[1]).index_add(0, place, x))[:-1]
    counts = ranks.sum(x.new_zeros(classes + 1).index_add(0, place, torch.ones_like(x[:, 0])))[:-1]
    values = partition - torch.linalg.vecdot(theta, sums) / counts.clamp(min=1)
    return values.where(counts > 0, torch.zeros_like(values)), counts > 0


class ESupConLoss(PooledLoss):
    """Extended supervised contrast with a classifier learnt beside it, ``loss(embeddings, labels)``.

    Class prototypes, the unit rows of ``weight``, are candidates of every row, positives of their class's rows, and
    anchors themselves; two prototypes are never compared. The value is one mean over all anchors of both kinds that
    have a positive. A reconstruction from the paper's abstract and a figure: never report it as a reproduction.

    Args:
        num_classes: number of classes C.
        dim: width d of the embeddings.
        temperature: positive number, or a tensor with one element to learn it.
        reduction: ``"mean"`` or ``"sum"``; there are two sets of anchors, so ``"none"`` is refused.
        normalize, gather, impl: as in `kinfolk.losses.base.Loss`; prototypes are normalised in any case.

    Attributes:
        weight: [num_classes, dim], learnt; its rows' lengths do not matter. Leave it out of weight decay.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        labels: integer class per row [m]; -1 = unlabelled: a candidate, and an anchor only through its id.
        ids: sample id per row [m]; rows of one sample are positives. None = every row is its own.

    Returns:
        A scalar; 0 with a graph when nothing is labelled.

    Raises:
        TypeError: for float or bool labels.
        ValueError: for labels below -1 or beyond the classes, not one per row, reduction="none", a temperature that is
            not positive.

    Reference:
        Rahaf Aljundi, Yash Patel, Milan Sulc, Daniel Olmeda, Nikolay Chumerin, 2022, Contrastive Classification and
        Representation Learning with Probabilistic Interpretation.

    Example:
        >>> loss = ESupConLoss(2, 3, temperature=1.0)
        >>> value = loss(torch.eye(3), torch.tensor([0, 0, 1]))
        >>> value.shape, loss.logits(torch.eye(3)).shape
        (torch.Size([]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        temperature: float | Tensor = 0.1,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("ESupConLoss", gather)
        at_least_one(num_classes=num_classes, dim=dim)
        self.num_classes, self.dim = num_classes, dim
        self.temperature = positive(temperature)
        self.weight = nn.Parameter(nn.functional.normalize(torch.randn(num_classes, dim), dim=1))

    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of rows [m, d] with labels [m]."""
        values, valid = e_sup_con(
            embeddings,
            labels,
            self.weight,
            temperature=self.temperature,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        m, prototypes = len(embeddings), values[len(embeddings) :].sum()
        samples = self.reduce(values[:m], valid[:m])
        if self.reduction == "sum":
            return samples + prototypes
        count = valid[:m].sum()
        count = all_reduce(count) if self.gather else count
        return (count * samples + prototypes) / (count + valid[m:].sum()).clamp(min=1)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        """Return ``<z, theta_k> / temperature``, the classifier's scores.

        Example:
            >>> ESupConLoss(4, 3).logits(torch.zeros(2, 3))
            tensor([[0., 0., 0., 0.],
                    [0., 0., 0., 0.]], grad_fn=<MulBackward0>)
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            prototypes, _ = prepare(self.weight, self.weight, normalize=True)
            x, prototypes = prepare(embeddings, prototypes, normalize=self.normalize)
            return inverse(self.temperature) * (x @ prototypes.T)


def at_least_one(**sizes: int) -> None:
    """Check sizes of a layer.

    Example:
        >>> at_least_one(num_classes=0)
        Traceback (most recent call last):
            ...
        ValueError: num_classes must be at least 1, found 0.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, found {size}.")
