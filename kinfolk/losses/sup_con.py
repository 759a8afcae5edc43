"""Supervised contrastive loss: every row of the same class is a positive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, Loss, Reduction, inverse, positive
from kinfolk.losses.labelled import label_graph
from kinfolk.losses.over_ranks import logsumexp_over_ranks, refuse_ring
from kinfolk.ops import PairMask, prepare
from kinfolk.ops.masks import IdPair

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Form = Literal["out", "in"]
"""Where the mean over positives stands: outside the logarithm or inside."""


def sup_con(
    embeddings: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    *,
    temperature: float | Tensor = 0.1,
    form: Form = "out",
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """Cross-entropy between a row's positives and its softmax over all other rows.

    Positives P(i): the other rows of i's label (-1 has none) or of i's id.
    ``out: lse_{a != i} s_ia - mean_{p in P(i)} s_ip``; ``in: lse_{a != i} s_ia - lse_{p in P(i)} s_ip + log |P(i)|``.

    Returns:
        Values [m] and which rows have a positive; the others are 0.

    Example:
        >>> values, valid = sup_con(torch.eye(3), torch.tensor([0, 0, 1]), temperature=1.0)
        >>> values, valid
        (tensor([0.6931, 0.6931, 0.0000]), tensor([ True,  True, False]))
    """
    _check_form(form)
    local = label_graph(embeddings, labels, ids)
    if ids is not None and form == "out":
        refuse_ring('SupConLoss(form="out") with ids', gather)
    scale = inverse(temperature)
    ranks, (rows,) = Ranks.of([embeddings], gather=gather, what=f"SupConLoss: {form}{', ids' * (ids is not None)}")
    options: dict[str, Any] = {"scale": scale, "normalize": normalize, "impl": impl}
    with torch.autocast(rows.device.type, enabled=False):
        others = PairMask.exclude_self(len(rows), ranks.total, offset=ranks.offset)
        graph = local.gathered(ranks)
        target = graph.row_normalised(others)
        valid = target.has_target.to(rows.device)
        if form == "in":
            partition = logsumexp_over_ranks(rows, rows, ranks, mask=others, **options)
            positives = PairMask.only(*graph.labels, or_ids=graph.ids) & others
            pull = logsumexp_over_ranks(rows, rows, ranks, mask=positives, **options)
            pull = pull - graph.log_normaliser(others).to(rows)
        elif ranks.ring and ranks.world > 1:
            partition = logsumexp_over_ranks(rows, rows, ranks, mask=others, **options)
            pull = scale * _mean_products(rows, graph.labels, ranks, normalize=normalize)
        else:
            partition, pull = target.logsumexp_and_attraction(rows, ranks.gather(rows), mask=others, **options)
        zero = torch.zeros_like(partition)
        return partition.where(valid, zero) - pull.where(valid, zero), valid


def _check_form(form: Form) -> None:
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(get_args(Form))}, found {form!r}.")


def _mean_products(rows: Float[Tensor, "m d"], labels: IdPair, ranks: Ranks, *, normalize: bool) -> Float[Tensor, " m"]:
    """Mean product of a row with the others of its class on all ranks, from class sums that are added up over ranks."""
    every = labels.columns
    classes, place, counts = torch.unique(every, return_inverse=True, return_counts=True)
    place = place[slice(*ranks.span(ranks.rank))]
    x, _ = prepare(rows, rows, normalize=normalize)
    sums = ranks.sum(x.new_zeros(len(classes), x.shape[1]).index_add(0, place, x))
    total = torch.linalg.vecdot(x, sums[place] - x)
    return total / (counts[place] - 1).clamp(min=1)


class SupConLoss(Loss):
    """Supervised contrastive loss, ``loss(embeddings, labels)`` over the rows of all views.

    All positives stay in the partition and only the anchor itself leaves it. Without labels in common a row is no
    anchor but still a candidate for the others: backgrounds of images (ExConB) go in as further rows of label -1 and an
    id of their own. ``in <= out`` for every anchor. Nothing is multiplied by the temperature, as some codes do.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        form: ``"out"`` (mean of the positives' log-probabilities, the better one in the paper) or ``"in"``.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        labels: integer class per row [m]; -1 = unlabelled, equal to nothing.
        ids: sample id per row [m]; rows of one sample are positives whatever their labels. None = every row is its own.

    Returns:
        A scalar, or [m] for ``reduction="none"``; 0 with a graph when no row has a positive.

    Raises:
        TypeError: for float or bool labels or ids.
        ValueError: for labels below -1 or not one per row, an unknown form, a temperature that is not positive.

    Reference:
        Prannay Khosla, Piotr Teterwak, Chen Wang, Aaron Sarna, Yonglong Tian, Phillip Isola, Aaron Maschinot, Ce Liu,
        Dilip Krishnan, 2020, Supervised Contrastive Learning; Zhibo Zhang, Jongseong Jang, Chiheb Trabelsi, Ruiwen Li,
        Scott Sanner, Yeonjeong Jeong, Dongsub Shim, 2021, ExCon: Explanation-driven Supervised Contrastive Learning for
        Image Classification (backgrounds).

    Example:
        >>> SupConLoss(temperature=1.0)(torch.eye(3), torch.tensor([0, 0, 1]))
        tensor(0.6931)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        form: Form = "out",
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        _check_form(form)
        self.temperature, self.form = positive(temperature), form

    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of rows [m, d] with labels [m]."""
        values, valid = sup_con(
            embeddings,
            labels,
            temperature=self.temperature,
            form=self.form,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
