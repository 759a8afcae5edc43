"""Contrasts that methods share, each with the same three settings.

A decoupled denominator leaves a sample's own views out; false negatives leave it; a relation replaces "own view or not"
as the target. A method chooses the candidates, and hands on what its config says about the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk import distributed
from kinfolk.distributed import all_gather
from kinfolk.graphs import PairGraph
from kinfolk.losses import DCLLoss, InfoNCELoss, NTXentLoss
from kinfolk.losses.fnc import fnc_given
from kinfolk.losses.graph_contrastive import graph_contrastive
from kinfolk.methods.false_negatives import Dropped
from kinfolk.nn import QueueSnapshot
from kinfolk.ops import PairMask

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.graphs import SimilarityGraph


@final
class ViewContrast(nn.Module):
    """Two views of a batch, each row choosing among all others: NT-Xent and what becomes of it.

    As it is: NT-Xent; decoupled: DCL. With a relation, the cross-entropy between the relation's rows and the softmax,
    which is X-CLR's; decoupled, the sample's own views stay in the target and leave the partition. False negatives
    leave the partition, and a relation's target.

    Args:
        temperature: divides the cosines.
        decoupled: leave the sample's own views out of the partition.
        sigma: weights of the positives (DCLW); of the decoupled loss without a relation only.
        relation: target over the batch; None is "own view or not".

    Example:
        >>> contrast, rows = ViewContrast(temperature=1.0), torch.eye(3)
        >>> ids, false = torch.arange(3), torch.tensor([[1], [0], [-1]])
        >>> contrast(rows, rows, ids), contrast(rows, rows, ids, false)
        (tensor(0.9048), tensor(0.6692))
    """

    def __init__(
        self,
        *,
        temperature: float,
        decoupled: bool = False,
        sigma: float | None = None,
        relation: Relation | None = None,
    ) -> None:
        super().__init__()
        self.plain: DCLLoss | NTXentLoss
        if decoupled:
            self.plain = DCLLoss(temperature=temperature, sigma=sigma)
        else:
            self.plain = NTXentLoss(temperature=temperature)
        if sigma is not None and relation is not None:
            raise ValueError(f"sigma = {sigma:g} weighs own views, and a relation's target has weights: leave one out.")
        self.temperature, self.decoupled, self.relation = temperature, decoupled, relation

    def forward(
        self,
        a: Float[Tensor, "n d"],
        b: Float[Tensor, "n d"],
        ids: Int64[Tensor, " n"],
        found: Int64[Tensor, "n k"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss.

        Args:
            a, b: rows of the two views.
            ids: of the samples.
            found: the samples' false negatives, as `FalseNegatives.among_samples` lists them; None for none.
        """
        if found is None and self.relation is None:
            return self.plain(a, b, ids=ids)
        listed = None if found is None else rows_of_samples(found, len(a))
        if self.relation is None and not self.decoupled:
            assert listed is not None
            values, valid = fnc_given([a, b], listed, temperature=self.temperature, mode="eliminate", ids=ids)
            return self.plain.reduce(values, valid)

        rows, samples = torch.cat([a, b]), ids.repeat(2)
        itself, own_views = self._masks(samples, listed)
        mask = own_views if self.decoupled else itself
        target: SimilarityGraph
        if self.relation is None:  # row i's other view is key i
            keys, target, target_mask = torch.cat([b, a]), PairGraph(len(rows)), PairMask(None, None)
        else:
            keys, target, target_mask = rows, self.relation.for_batch(ids, 2), itself
        values, valid = graph_contrastive(
            rows, keys, target, temperature=self.temperature, mask=mask, target_mask=target_mask, ids=samples
        )
        return self.plain.reduce(values, valid)

    def _masks(self, samples: Int64[Tensor, " m"], listed: Int64[Tensor, "n k"] | None) -> tuple[PairMask, PairMask]:
        """All rows but itself, and all but those of its sample; without the listed ones."""
        if listed is None:
            return PairMask.exclude_self(len(samples)), PairMask.exclude(samples, samples)
        # Listed columns count the rows of all processes, and so must the rest.
        places = (distributed.rank() << 32) + torch.arange(len(samples), device=samples.device)
        every, all_samples = all_gather(places), all_gather(samples)
        false = PairMask.exclude_columns(listed.repeat(2, 1), len(every))
        return PairMask.exclude(places, every) & false, PairMask.exclude(samples, all_samples) & false


@final
class QueueContrast(nn.Module):
    """Each query choosing its own key among it and a queue of earlier keys: InfoNCE and what becomes of it.

    With a relation the target is spread over the own key and the queue as the relation's weights between the samples
    say; rows of the queue without an id have none, and are negatives. Decoupled, the own key stays in the target and
    leaves the partition. Dropped rows leave both.

    Args:
        temperature: divides the cosines.
        decoupled: leave the own key out of the partition.
        relation: target over own key and queue; None is "own key or not".

    Example:
        >>> queue = QueueSnapshot(torch.eye(2), torch.tensor([7, -1]), torch.full((2,), -1))
        >>> QueueContrast(temperature=1.0)(torch.eye(2), torch.eye(2), queue, torch.arange(2))
        tensor(0.8620)
    """

    def __init__(self, *, temperature: float, decoupled: bool = False, relation: Relation | None = None) -> None:
        super().__init__()
        self.plain = InfoNCELoss(temperature=temperature, decoupled=decoupled)
        self.temperature, self.decoupled, self.relation = temperature, decoupled, relation

    def forward(
        self,
        queries: Float[Tensor, "n d"],
        keys: Float[Tensor, "n d"],
        queue: QueueSnapshot,
        ids: Int64[Tensor, " n"] | None,
        dropped: Dropped | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss.

        Args:
            queries, keys: of the samples; keys are constants.
            queue: as it was.
            ids: of the samples; a relation asks for them.
            dropped: rows of the queue that are no candidates.

        Raises:
            ValueError: for a relation and no ids.
        """
        n, size = len(queries), len(queue.ids)
        dropped = dropped or Dropped()
        if self.relation is None:
            return self.plain(queries, keys, queue.features, exclude=dropped.mask(size))
        if ids is None:
            raise ValueError("a relation is looked up by ids, and the batch has none.")
        place = torch.arange(n, device=queue.ids.device)
        anyone = torch.zeros_like(place)
        known = queue.ids != -1
        # Candidate j < n is the key of query j, for that query alone; the rest is the queue, for all.
        own = (place, F.pad(place, (0, size), value=-1))
        slots = PairMask.only(anyone, _after(n, torch.zeros_like(queue.ids)))
        both = PairMask.only(*own, or_ids=(anyone, _after(n, torch.zeros_like(queue.ids))))
        related = PairMask.only(*own, or_ids=(anyone, _after(n, torch.where(known, 0, -1))))
        false = dropped.mask(size, before=n)
        mask, target_mask = (m if false is None else m & false for m in (slots if self.decoupled else both, related))
        somebody = self.relation.ids[0].to(queue.ids)  # whose place in the target is masked
        target = self.relation.between(ids, torch.cat([ids, queue.ids.where(known, somebody)]))
        values, valid = graph_contrastive(
            queries,
            torch.cat([keys.detach(), queue.features.to(keys)]),
            target,
            temperature=self.temperature,
            mask=mask,
            target_mask=target_mask,
            gather=False,  # the queue is the same everywhere
        )
        return self.plain.reduce(values, valid)


def _after(n: int, ids: Int64[Tensor, " K"]) -> Int64[Tensor, " m"]:
    """Ids of the queue's columns, behind n columns that match nothing."""
    return F.pad(ids, (n, 0), value=-1)


def rows_of_samples(samples: Int64[Tensor, "n k"], n: int) -> Int64[Tensor, "n 2k"]:
    """Which rows of both views of all processes belong to the listed samples, -1 filling up.

    Every process has its first views first, then its second ones.

    Args:
        samples: positions in the batch of all processes.
        n: samples of this process.

    Example:
        >>> rows_of_samples(torch.tensor([[1], [-1]]), 2)
        tensor([[ 1,  3],
                [-1, -1]])
    """
    view = all_gather(torch.arange(2, device=samples.device).repeat_interleave(n))
    rows = view.argsort(stable=True).view(2, -1).T  # of each sample
    if not samples.shape[1]:
        return samples
    return torch.where(samples[:, :, None] < 0, -1, rows[samples.clamp(min=0)]).flatten(1)
