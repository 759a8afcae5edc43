"""Supervised contrastive losses with a margin: a positive must beat the negatives by epsilon."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.graphs import LabelGraph, NormalisedGraph
from kinfolk.losses.base import Impl, Loss, Reduction, inverse, positive, softplus
from kinfolk.losses.labelled import label_graph
from kinfolk.losses.over_ranks import logsumexp_over_ranks, refuse_ring
from kinfolk.losses.sup_con import Form
from kinfolk.ops import PairMask, ready, row_sum

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def eps_sup_info_nce(
    embeddings: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    *,
    temperature: float | Tensor = 0.1,
    epsilon: float = 0.25,
    form: Form = "out",
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """Tell each positive, short of a margin, from the negatives; other positives stay out of the partition.

    P(i): the other rows of i's label (-1 has none) or of i's id; Q(i): all rows but i and P(i).
    ``out: mean_{p in P(i)} [lse({s_ip - epsilon} u {s_iq}) - s_ip]``;
    ``in: lse({lse_p(s_ip - epsilon) - log |P(i)|} u {s_iq}) - lse_p s_ip``, with q over Q(i).

    Returns:
        Values [m] and which rows have a positive; the others are 0.

    Example:
        >>> values, valid = eps_sup_info_nce(torch.eye(3), torch.tensor([0, 0, 1]), temperature=1.0, epsilon=0.0)
        >>> values, valid
        (tensor([0.6931, 0.6931, 0.0000]), tensor([ True,  True, False]))
    """
    graph, scale, what = label_graph(embeddings, labels, ids), inverse(temperature), "EpsSupInfoNCELoss"
    ranks, rows = _exchanged(embeddings, graph, what, form, gather)
    with torch.autocast(rows.device.type, enabled=False):
        parts = _parts(rows, graph, ranks, scale=scale, normalize=normalize, impl=impl)
        if form == "in":
            shift = epsilon + parts.log_positives
            values = softplus(parts.negatives - parts.positives_lse() + shift) - shift
        else:
            values = _mean_softplus(parts, epsilon) - epsilon
        return values.where(parts.valid, torch.zeros_like(values)), parts.valid


def eps_sup_con(
    embeddings: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    *,
    temperature: float | Tensor = 0.1,
    epsilon: float = 0.25,
    form: Form = "out",
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """SupCon whose positives enter the partition short of a margin.

    With P(i) and Q(i) as in `eps_sup_info_nce` and ``D_i = lse({s_ip - epsilon : all p} u {s_iq : all q})``,
    ``out: D_i - mean_{p in P(i)} s_ip``; ``in: D_i - lse_{p in P(i)} s_ip + log |P(i)|``.

    Returns:
        Values [m] and which rows have a positive; the others are 0.

    Example:
        >>> values, valid = eps_sup_con(torch.eye(3), torch.tensor([0, 0, 1]), temperature=1.0, epsilon=0.0)
        >>> values, valid
        (tensor([0.6931, 0.6931, 0.0000]), tensor([ True,  True, False]))
    """
    graph, scale, what = label_graph(embeddings, labels, ids), inverse(temperature), "EpsSupConLoss"
    ranks, rows = _exchanged(embeddings, graph, what, form, gather)
    with torch.autocast(rows.device.type, enabled=False):
        parts = _parts(rows, graph, ranks, scale=scale, normalize=normalize, impl=impl)
        pull = parts.positives_lse()
        values = softplus(parts.negatives - pull + epsilon) - epsilon
        if form == "in":
            values = values + parts.log_positives
        else:
            values = values + (pull - parts.positives_mean())
        return values.where(parts.valid, torch.zeros_like(values)), parts.valid


class _Parts(NamedTuple):
    """What both losses are made of; rows without a positive hold harmless numbers."""

    rows: Tensor
    ranks: Ranks
    target: NormalisedGraph
    positives: PairMask
    negatives: Float[Tensor, " m"]  # lse over Q(i)
    log_positives: Float[Tensor, " m"]
    valid: Bool[Tensor, " m"]
    options: dict[str, Any]

    def positives_lse(self) -> Float[Tensor, " m"]:
        """Logsumexp over P(i)."""
        pull = logsumexp_over_ranks(self.rows, self.rows, self.ranks, mask=self.positives, **self.options)
        return pull.where(self.valid, torch.zeros_like(pull))

    def positives_mean(self) -> Float[Tensor, " m"]:
        """Mean score of P(i)."""
        return self.target.attraction(self.rows, self.ranks.gather(self.rows), **self.options)


def _exchanged(
    embeddings: Tensor, graph: LabelGraph, what: str, form: Form, gather: Gather
) -> tuple[Ranks, Float[Tensor, "m d"]]:
    """Let ranks agree on what they compute."""
    if form == "out":
        refuse_ring(f'{what}(form="out")', gather)
    ids = ", ids" * (graph.ids is not None)
    ranks, (rows,) = Ranks.of([embeddings], gather=gather, what=f"{what}: {form}{ids}")
    return ranks, rows


def _parts(
    rows: Float[Tensor, "m d"], graph: LabelGraph, ranks: Ranks, *, scale: float | Tensor, normalize: bool, impl: Impl
) -> _Parts:
    rows, normalize = ready(rows, normalize=normalize, impl=impl)
    options: dict[str, Any] = {"scale": scale, "normalize": normalize, "impl": impl}
    others = PairMask.exclude_self(len(rows), ranks.total, offset=ranks.offset)
    graph = graph.gathered(ranks)
    target = graph.row_normalised(others)
    positives = PairMask.only(*graph.labels, or_ids=graph.ids) & others
    negatives = PairMask.exclude(*graph.labels) & others
    if graph.ids is not None:
        negatives = negatives & PairMask.exclude(*graph.ids)
    partition = logsumexp_over_ranks(rows, rows, ranks, mask=negatives, **options)
    valid = target.has_target.to(rows.device)
    count = target.log_normaliser(None).to(partition)
    count = count.where(valid, torch.zeros_like(count))
    return _Parts(rows, ranks, target, positives, partition, count, valid, options)


def _mean_softplus(parts: _Parts, epsilon: float) -> Float[Tensor, " m"]:
    """Mean over positives of ``softplus(epsilon - (s_ip - L_i))``, L_i over the negatives; 0 where there are none."""
    some = parts.negatives != -torch.inf
    level = parts.negatives.where(some, torch.zeros_like(parts.negatives))
    options = parts.options | {"scale": -parts.options["scale"]}
    total = row_sum(
        parts.rows,
        parts.ranks.gather(parts.rows),
        fn="softplus",
        row_shift=-(level + epsilon),
        mask=parts.positives,
        **options,
    )
    return (total / parts.log_positives.exp()).where(some, torch.zeros_like(total))


class _EpsLoss(Loss, ABC):
    """Options of the losses with a margin."""

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        epsilon: float = 0.25,
        form: Form = "out",
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, found {form!r}.")
        if form == "out":
            refuse_ring(f'{type(self).__name__}(form="out")', gather)
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be at least 0 and finite, found {epsilon}.")
        self.temperature, self.epsilon, self.form = positive(temperature), epsilon, form

    @abstractmethod
    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of rows [m, d] with labels [m]."""

    def _options(self) -> dict[str, Any]:
        names = ("temperature", "epsilon", "form", "normalize", "gather", "impl")
        return {name: getattr(self, name) for name in names}


class EpsSupInfoNCELoss(_EpsLoss):
    """Supervised InfoNCE with a margin, ``loss(embeddings, labels)`` over the rows of all views.

    Only the current positive stands in the partition, so that positives do not push one another. Epsilon acts on
    ``cosine / temperature``: the cosine margin is ``epsilon * temperature``. With labels = ids and two views, epsilon 0
    is NT-Xent and a large epsilon is DCL. Values are at least -epsilon (``"out"``), reached when there is no negative.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        epsilon: the margin on scores, >= 0; 0 to 0.5 in use.
        form: ``"out"`` (mean of a term per positive) or ``"in"`` (mean inside the logarithm).
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``gather="ring"`` with ``"in"`` only.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        labels: integer class per row [m]; -1 = unlabelled: no anchor, but a negative of all others.
        ids: sample id per row [m]; rows of one sample are positives whatever their labels. None = every row is its own.

    Returns:
        A scalar, or [m] for ``reduction="none"``; 0 with a graph when no row has a positive.

    Raises:
        TypeError: for float or bool labels.
        ValueError: for labels below -1 or not one per row, an unknown form, a negative epsilon, a temperature that is
            not positive.

    Reference:
        Carlo Alberto Barbano, Benoit Dufumier, Enzo Tartaglione, Marco Grangetto, Pietro Gori, 2023, Unbiased
        Supervised Contrastive Learning.

    Example:
        >>> EpsSupInfoNCELoss(temperature=1.0, epsilon=0.0)(torch.eye(3), torch.tensor([0, 0, 1]))
        tensor(0.6931)
    """

    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of rows [m, d] with labels [m]."""
        return self.reduce(*eps_sup_info_nce(embeddings, labels, ids=ids, **self._options()))


class EpsSupConLoss(_EpsLoss):
    """SupCon with a margin, ``loss(embeddings, labels)`` over the rows of all views.

    All positives stand in the partition, each short of epsilon; epsilon 0 is `kinfolk.losses.SupConLoss` in both
    forms. Epsilon acts on ``cosine / temperature``: the cosine margin is ``epsilon * temperature``.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        epsilon: the margin on scores, >= 0; 0 to 0.5 in use.
        form: ``"out"`` (mean of the positives outside the logarithm) or ``"in"``.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``gather="ring"`` with ``"in"`` only.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        labels: integer class per row [m]; -1 = unlabelled: no anchor, but a negative of all others.
        ids: sample id per row [m]; rows of one sample are positives whatever their labels. None = every row is its own.

    Returns:
        A scalar, or [m] for ``reduction="none"``; 0 with a graph when no row has a positive.

    Raises:
        TypeError: for float or bool labels.
        ValueError: for labels below -1 or not one per row, an unknown form, a negative epsilon, a temperature that is
            not positive.

    Reference:
        Carlo Alberto Barbano, Benoit Dufumier, Enzo Tartaglione, Marco Grangetto, Pietro Gori, 2023, Unbiased
        Supervised Contrastive Learning.

    Example:
        >>> EpsSupConLoss(temperature=1.0, epsilon=0.0)(torch.eye(3), torch.tensor([0, 0, 1]))
        tensor(0.6931)
    """

    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of rows [m, d] with labels [m]."""
        return self.reduce(*eps_sup_con(embeddings, labels, ids=ids, **self._options()))
