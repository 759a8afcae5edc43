"""OpenCon: supervised contrast among known classes, samples and guessed new classes, each within its own set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from kinfolk.distributed import Gather, Ranks
from kinfolk.graphs import LabelGraph, checked_labels
from kinfolk.losses.base import Impl, PooledLoss, Reduction, inverse, one_per_row, positive
from kinfolk.losses.labelled import label_graph
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import PairMask, ready

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Anchors = tuple[Float[Tensor, " k"], Bool[Tensor, " k"]]

_TERMS = ("labelled", "unlabelled", "novel")


def open_con(
    embeddings: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    pseudo_labels: Int[Tensor, " m"],
    novel_mask: Bool[Tensor, " m"],
    *,
    temperatures: Sequence[float | Tensor] = (0.1, 0.4, 0.7),
    ids: Int[Tensor, " m"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> list[Anchors]:
    """SupCon's ``lse_{a != i} s_ia - mean_{p in P(i)} s_ip`` within three sets of rows, which never meet another set.

    Labelled rows (y >= 0) have the rows of their label as positives, unlabelled rows (y = -1) those of their id, novel
    rows those of their pseudo-label; each set has a temperature of its own.

    Returns:
        For the labelled, the unlabelled and the novel rows of this rank, in their order: values and which have a
        positive; the others are 0.

    Example:
        >>> labels, ids = torch.tensor([0, 0, -1, -1]), torch.tensor([5, 6, 7, 7])
        >>> novel = torch.tensor([False, False, True, False])
        >>> terms = open_con(torch.eye(4), labels, ids, novel, temperatures=(1.0, 1.0, 1.0), ids=ids)
        >>> [valid.tolist() for values, valid in terms]
        [[True, True], [True, True], [False]]
    """
    refuse_ring("OpenConLoss", gather)
    scales = [inverse(t) for t in temperatures]
    sets = _sets(embeddings, labels, pseudo_labels, novel_mask, ids)
    ranks, (rows,) = Ranks.of([embeddings], gather=gather, what=f"OpenConLoss{': ids' * (ids is not None)}")
    with torch.autocast(rows.device.type, enabled=False):
        rows, normalize = ready(rows, normalize=normalize, impl=impl)
        every, all_sets = ranks.gather(rows), [_Set(*map(ranks.gather, part)) for part in sets]
        terms = []
        for own, among, scale in zip(sets, all_sets, scales, strict=True):
            members = Ranks(tuple(among.sizes(ranks)), ranks.rank)
            x = rows[own.members]
            y = x if ranks.world == 1 else every[among.members]
            others = PairMask.exclude_self(len(x), len(y), offset=members.offset)
            graph = LabelGraph(own.labels[own.members], key_labels=among.labels[among.members])
            target = graph.row_normalised(others)
            partition, pull = target.logsumexp_and_attraction(
                x, y, scale=scale, mask=others, normalize=normalize, impl=impl
            )
            valid, zero = target.has_target, torch.zeros_like(partition)
            terms.append((partition.where(valid, zero) - pull.where(valid, zero), valid))
        return terms


class _Set(NamedTuple):
    """Which rows belong to a set, and what makes two of them positives; -1 equals nothing."""

    members: Bool[Tensor, " m"]
    labels: Int[Tensor, " m"]

    def sizes(self, ranks: Ranks) -> list[int]:
        """Members of every rank."""
        return torch.stack([self.members[slice(*ranks.span(r))].sum() for r in range(ranks.world)]).tolist()


def _sets(
    rows: Tensor, labels: Tensor, pseudo_labels: Tensor, novel_mask: Tensor, ids: Tensor | None
) -> tuple[_Set, _Set, _Set]:
    """The labelled, the unlabelled and the novel rows."""
    graph = label_graph(rows, labels, ids)
    labels = graph.labels.rows
    samples = torch.full_like(labels, -1) if graph.ids is None else graph.ids.rows
    guesses = checked_labels(pseudo_labels, name="pseudo_labels").to(rows.device)
    one_per_row(guesses, rows, "pseudo_labels")
    if novel_mask.dtype != torch.bool:
        raise TypeError(f"novel_mask must be bool, True = taken for a new class, found {novel_mask.dtype}.")
    one_per_row(novel_mask, rows, "novel_mask")
    novel = novel_mask.to(rows.device)
    both = int((novel & (labels != -1)).sum())
    if both:
        raise ValueError(f"novel_mask must be False where labels are given; found {both} labelled rows that are novel.")
    return _Set(labels != -1, labels), _Set(labels == -1, samples), _Set(novel, guesses)


def open_world_prior(
    logits: Float[Tensor, "n C"], known: Bool[Tensor, " C"], labelled_ratio: float, *, gather: Gather = True
) -> Float[Tensor, ""]:
    """KL divergence of the mean prediction on unlabelled rows from the classes' expected shares among them.

    ``KL(p || q)`` with p the mean of ``softmax(logits_i)`` over the rows of all ranks and q proportional to ``1 -
    labelled_ratio`` for known and 1 for new classes: the labelled share of the known classes is not among the
    unlabelled rows. It keeps a few prototypes from taking all rows.

    Args:
        logits: scores of unlabelled rows (one view) over all prototypes, already scaled: 10 <mu, z> in the paper.
        known: which classes have labels.
        labelled_ratio: share of a known class's samples that is labelled, in [0, 1).
        gather: whether ranks average their rows together.

    Returns:
        A scalar, the same on all ranks; 0 with a graph without any row.

    Raises:
        ValueError: for ``known`` of another shape, or a ratio outside [0, 1).

    Reference:
        Yiyou Sun, Yixuan Li, 2023, OpenCon: Open-world Contrastive Learning.

    Example:
        >>> known = torch.tensor([True, False])
        >>> open_world_prior(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), known, 0.5)
        tensor(0.0589)
    """
    if logits.ndim != 2 or known.shape != logits.shape[1:] or known.dtype != torch.bool:
        raise ValueError(
            f"known must be bool with one entry per class: logits {tuple(logits.shape)}, "
            f"known {known.dtype} {tuple(known.shape)}."
        )
    if not 0 <= labelled_ratio < 1:
        raise ValueError(f"labelled_ratio must be in [0, 1), found {labelled_ratio}.")
    refuse_ring("open_world_prior", gather)
    ranks, (logits,) = Ranks.of([logits], gather=gather, what="open_world_prior", allow_empty=True)
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits if logits.dtype == torch.float64 else logits.float()
        total = ranks.sum(torch.softmax(logits, 1).sum(0))
        if not ranks.total:
            return total.sum()
        mean = (total / ranks.total).clamp(min=torch.finfo(total.dtype).tiny)
        mass = 1 - labelled_ratio * known.to(mean)
        return (mean * (mean / (mass / mass.sum())).log()).sum()


class OpenConLoss(PooledLoss):
    """Open-world contrast, ``loss(embeddings, labels, pseudo_labels, novel_mask)``: three SupCon terms.

    ``w_l L_labelled + w_u L_unlabelled + w_n L_novel``, each a mean over the anchors of its own set that have a
    positive, whose partition is that set only: pushing all unlabelled rows away from the labelled ones would learn
    known against new. All labelled: SupCon. All unlabelled and none novel: NT-Xent. An empty set's term is 0.

    Prototypes, the novelty test and the pseudo-labels are the caller's; `open_world_prior` is the prior term.

    Args:
        temperatures: of the labelled, the unlabelled and the novel term, positive numbers, or tensors with one element
            to learn them.
        weights: of the three terms, at least 0; the attribute may be set anew during training (a ramp).
        reduction: ``"mean"``, or ``"sum"``: the weighted sum of the terms' sums. ``"none"`` is refused.
        normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        embeddings: projections [m, d] of all views, one after the other.
        labels: integer class per row [m]; -1 = unlabelled.
        pseudo_labels: guessed class per row [m]; read where the row is novel; -1 equals nothing.
        novel_mask: bool [m], unlabelled rows taken for a new class.
        ids: sample id per row [m], the positives of unlabelled rows. None = every row is its own, so that unlabelled
            rows have none.

    Returns:
        A scalar; 0 with a graph when no row has a positive.

    Raises:
        TypeError: for float or bool labels, a mask that is not bool.
        ValueError: for a labelled row in the mask, shapes that do not fit, reduction="none", a temperature that is not
            positive.

    Reference:
        Yiyou Sun, Yixuan Li, 2023, OpenCon: Open-world Contrastive Learning.

    Example:
        >>> labels, ids = torch.tensor([0, 0, -1, -1]), torch.tensor([5, 6, 7, 7])
        >>> novel = torch.tensor([False, False, True, True])
        >>> OpenConLoss(temperatures=(1.0, 1.0, 1.0))(torch.eye(4), labels, ids, novel, ids=ids)
        tensor(0.)
    """

    def __init__(
        self,
        *,
        temperatures: Sequence[float | Tensor] = (0.1, 0.4, 0.7),
        weights: Sequence[float] = (0.2, 1.0, 0.1),
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("OpenConLoss", gather)
        for name, values in (("temperatures", temperatures), ("weights", weights)):
            if len(values) != 3:
                raise ValueError(f"{name} must be three, for labelled, unlabelled and novel rows; found {len(values)}.")
        if not all(w >= 0 for w in weights):
            raise ValueError(f"weights must be at least 0, found {tuple(weights)}.")
        self._temperatures, self.weights = tuple(positive(t) for t in temperatures), tuple(weights)
        for term, temperature in zip(_TERMS, self._temperatures, strict=True):
            if isinstance(temperature, nn.Parameter):
                self.register_parameter(f"{term}_temperature", temperature)

    @property
    def temperatures(self) -> tuple[float | Tensor, ...]:
        """Of the labelled, the unlabelled and the novel term; parameters are the module's own."""
        named = zip(_TERMS, self._temperatures, strict=True)
        return tuple(getattr(self, f"{term}_temperature", constant) for term, constant in named)

    def forward(  # type: ignore[override]
        self,
        embeddings: Tensor,
        labels: Tensor,
        pseudo_labels: Tensor,
        novel_mask: Tensor,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of rows [m, d], their labels, pseudo-labels and which of them are novel [m]."""
        terms = open_con(
            embeddings,
            labels,
            pseudo_labels,
            novel_mask,
            temperatures=self.temperatures,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        self.reduce(*(torch.cat(part) for part in zip(*terms, strict=True)))  # warns where no set has an anchor
        means = [self.reduce(values, valid, warn=False) for values, valid in terms]
        return torch.stack([w * mean for w, mean in zip(self.weights, means, strict=True)]).sum()

    def extra_repr(self) -> str:
        """Return the options."""
        temperatures = tuple(round(t.item() if isinstance(t, Tensor) else t, 6) for t in self.temperatures)
        return f"{super().extra_repr()}, temperatures={temperatures}, weights={self.weights}"
