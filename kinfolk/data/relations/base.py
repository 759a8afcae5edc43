"""What a relation is: how strongly samples of a data set relate, asked one batch at a time."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from kinfolk.data.sources.base import check_ids
from kinfolk.graphs import SimilarityGraph

if TYPE_CHECKING:
    from jaxtyping import Int

_BLOCK = 1024


class Relation(ABC):
    """How strongly the samples of one data set relate; abstract.

    Built once over a data set; `for_batch` gives the target graph over a batch's rows. What the relation knows moves
    to the device of the ids it is asked for, and stays there.

    Args:
        ids: int64 ``[N]``, unique.
        temperature: above 0; smaller means sharper targets.
        labels: classes of the samples, -1 = unlabelled, for the own-class mass of the summary; None if there are none.

    Raises:
        ValueError: for ids that repeat or a temperature that is not positive.
    """

    def __init__(self, ids: Int[Tensor, " N"], *, temperature: float, labels: Int[Tensor, " N"] | None) -> None:
        _positive(temperature)
        self.temperature = float(temperature)
        self._ids, self._order = check_ids(ids, count=len(ids)).sort()
        self._labels = labels

    @abstractmethod
    def for_batch(self, ids: Int[Tensor, " b"], views: int) -> SimilarityGraph:
        """Return the target graph over the batch's rows in view-major order: all samples' first views, then all
        second ones.

        Args:
            ids: of the batch's samples.
            views: how many views each sample has, at least 1.

        Raises:
            ValueError: when the relation does not know an id.
        """

    def with_temperature(self, temperature: float) -> Self:
        """Return the same relation at another temperature."""
        _positive(temperature)
        other = copy.copy(self)
        other.temperature = float(temperature)
        return other

    def summary(self, ids: Int[Tensor, " b"], views: int) -> dict[str, float]:
        """Say how sharp the target is over a batch, each row without itself, as a loss over the batch sees it.

        Returns:
            ``temperature``; ``perplexity``, the mean over rows of e^H, "how many rows a row is pulled to";
            ``own_sample_mass``, the share of the target on other views of the same sample; and, where labels are known,
            ``own_class_mass``, the share on rows of the same class. Rows without a target are left out; all are 0
            when no row has one.
        """
        graph = self.for_batch(ids, views)
        rows = len(ids) * views
        keep_others = ~torch.eye(rows, dtype=torch.bool, device=ids.device)
        target = graph.row_normalised(keep_others)
        samples = ids.repeat(views)
        same = {"own_sample_mass": samples[:, None] == samples}
        if self._labels is not None:
            classes = self._labels_of(ids).repeat(views)
            same["own_class_mass"] = (classes[:, None] == classes) & (classes >= 0)
        totals = dict.fromkeys(("perplexity", *same), 0.0)
        for start in range(0, rows, _BLOCK):
            stop = min(start + _BLOCK, rows)
            log_target = target.log_weights((start, stop), (0, rows)).double()
            log_target = torch.where(target.has_target[start:stop, None], log_target, -torch.inf)
            weights = log_target.exp()
            entropy = -torch.where(weights > 0, weights * log_target, 0.0).sum(1)
            totals["perplexity"] += float(entropy.exp()[target.has_target[start:stop]].sum())
            for name, mask in same.items():
                totals[name] += float((weights * mask[start:stop]).sum())
        anchors = max(int(target.has_target.sum()), 1)
        return {"temperature": self.temperature} | {name: total / anchors for name, total in totals.items()}

    def _labels_of(self, ids: Tensor) -> Tensor:
        assert self._labels is not None
        self._labels = self._labels.to(ids.device)
        return self._labels[self._positions(ids)]

    def _positions(self, ids: Tensor) -> Tensor:
        """Where the ids stand in what the relation was built from."""
        self._ids, self._order = self._ids.to(ids.device), self._order.to(ids.device)
        places = torch.searchsorted(self._ids, ids).clamp_(max=max(len(self._ids) - 1, 0))
        unknown = self._ids[places] != ids if len(self._ids) else torch.ones_like(ids, dtype=torch.bool)
        if bool(unknown.any()):
            raise ValueError(
                f"the relation was built over {len(self._ids)} samples and does not know the ids"
                f" {ids[unknown][:5].tolist()}; build it from the source that the batches come from"
            )
        return self._order[places]


def temperature_for_perplexity(
    relation: Relation, ids: Int[Tensor, " b"], views: int, *, perplexity: float, steps: int = 60
) -> float:
    """Find the temperature at which a batch's targets have a wanted perplexity.

    The perplexity grows with the temperature, from the number of a row's nearest rows to the number of all others, so
    bisection finds it. It also grows with the batch: ask with a batch of the size that training uses. Good targets
    have 5 to 30.

    Args:
        relation: at any temperature.
        ids: a typical batch.
        views: as in training.
        perplexity: the wanted one.
        steps: of the bisection.

    Returns:
        A temperature between 1e-4 and 1e4.

    Raises:
        ValueError: when no temperature gives that perplexity; the message says what is possible.

    Example:
        >>> from kinfolk.data.relations import SideEmbeddings
        >>> angles = torch.linspace(0, 3, 40)
        >>> relation = SideEmbeddings(torch.arange(40), torch.stack([angles.cos(), angles.sin()], 1), temperature=1.0)
        >>> temperature = temperature_for_perplexity(relation, torch.arange(40), 2, perplexity=10)
        >>> round(relation.with_temperature(temperature).summary(torch.arange(40), 2)["perplexity"], 3)
        10.0
    """

    def at(log_temperature: float) -> float:
        temperature = 10.0**log_temperature
        return relation.with_temperature(temperature).summary(ids, views)["perplexity"]

    low, high = -4.0, 4.0
    least, most = at(low), at(high)
    if not least <= perplexity <= most:
        raise ValueError(
            f"perplexity {perplexity:g} cannot be reached: {len(ids)} samples with {views} views give {least:.3g} to"
            f" {most:.3g}; take another batch size, or another value"
        )
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) < perplexity else (low, middle)
    return 10.0 ** ((low + high) / 2)


def _positive(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; found {temperature}")
