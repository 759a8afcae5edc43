"""What a relation is: how strongly samples of a data set relate, asked one batch at a time."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.relations.sharpness import mean_of_targets, row_sharpness
from kinfolk.data.sources.columns import check_ids
from kinfolk.graphs import SimilarityGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_ROWS = 512  # of a batch that the search for a temperature looks at
_BATCHES = 4


class Relation(ABC):
    """How strongly the samples of one data set relate; abstract.

    Built once over a data set; `for_batch` gives the target graph over a batch's rows. What the relation knows moves
    to the device of the ids it is asked for, and stays there.

    Args:
        ids: int64 ``[N]``, unique.
        temperature: above 0; smaller means sharper targets. None for a relation that has none, such as equal labels.
        labels: classes of the samples, -1 = unlabelled, for the own-class mass of the summary; None if there are none.

    Attributes:
        about: what the relation was made from, in words, for logs and pages.

    Raises:
        ValueError: for ids that repeat or a temperature that is not positive.
    """

    about: str = ""

    def __init__(self, ids: Int[Tensor, " N"], *, temperature: float | None, labels: Int[Tensor, " N"] | None) -> None:
        if temperature is not None:
            check_temperature(temperature)
        self._temperature = None if temperature is None else float(temperature)
        self._perplexity: float | None = None
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
            ValueError: when the relation does not know an id, or waits for `settled`.
        """

    @property
    def ids(self) -> Int[Tensor, " N"]:
        """The samples that the relation knows, ascending."""
        return self._ids

    @property
    def has_temperature(self) -> bool:
        """Whether the targets can be made sharper or softer."""
        return self._temperature is not None

    @property
    def temperature(self) -> float:
        """The targets' temperature.

        Raises:
            ValueError: where there is none, or where it waits for `settled`.
        """
        if self._temperature is None:
            raise ValueError(f"{self._named()} has no temperature: its samples relate or do not")
        if self._perplexity is not None:
            raise ValueError(
                f"the temperature of {self._named()} follows from perplexity {self._perplexity:g} and from the batches"
                " of training: call settled(batch_size=..., views=...) once, as training does"
            )
        return self._temperature

    def with_temperature(self, temperature: float) -> Self:
        """Return the same relation at another temperature.

        Raises:
            ValueError: when it is not above 0, or the relation has none.
        """
        check_temperature(temperature)
        if not self.has_temperature:
            raise ValueError(f"{self._named()} has no temperature: its samples relate or do not")
        other = copy.copy(self)
        other._temperature, other._perplexity = float(temperature), None
        return other

    def with_perplexity(self, perplexity: float | None) -> Self:
        """Return the same relation, its temperature waiting for `settled`; None leaves it as it is.

        Raises:
            ValueError: when the perplexity is not above 1, or the relation has no temperature.
        """
        if perplexity is None:
            return self
        check_perplexity(perplexity)
        if not self.has_temperature:
            raise ValueError(f"{self._named()} has no temperature that a perplexity could choose")
        other = copy.copy(self)
        other._perplexity = float(perplexity)
        return other

    def settled(self, *, batch_size: int, views: int, seed: int = 0) -> Self:
        """Return the relation at the temperature that its perplexity asks for; itself when none was asked for.

        The perplexity is the mean over rows of batches drawn by seed from all samples, so that the answer depends on
        nothing but the data and these arguments, and is the same on every rank.

        Args:
            batch_size: samples in a batch of training, over all ranks.
            views: of each sample.
            seed: of the batches.

        Raises:
            ValueError: when no temperature gives that perplexity; the message says what is possible.

        Example:
            >>> from kinfolk.data.relations import SideEmbeddings
            >>> angles = torch.linspace(0, 3, 40)
            >>> side = torch.stack([angles.cos(), angles.sin()], 1)
            >>> waiting = SideEmbeddings(torch.arange(40), side, temperature=0.1).with_perplexity(10)
            >>> relation = waiting.settled(batch_size=40, views=2)
            >>> round(relation.summary(torch.arange(40), 2)["perplexity"], 2)
            10.0
        """
        if self._perplexity is None:
            return self
        found = temperature_at(
            self, typical_batches(self.ids, batch_size, seed=seed), views, perplexity=self._perplexity, steps=30
        )
        return self.with_temperature(found)

    def summary(self, ids: Int[Tensor, " b"], views: int) -> dict[str, float]:
        """Say how sharp the target is over a batch, each row without itself, as a loss over the batch sees it.

        Returns:
            ``temperature``, where there is one; ``perplexity``, the mean over rows of e^H, "how many rows a row is
            pulled to"; ``own_sample_mass``, the share of the target on other views of the same sample; and, where
            labels are known, ``own_class_mass``, the share on rows of the same class. Rows without a target are left
            out; all are 0 when no row has one.
        """
        means = {name: mean_of_targets(values) for name, values in self.row_summary(ids, views).items()}
        return ({"temperature": self.temperature} if self.has_temperature else {}) | means

    def row_summary(
        self, ids: Int[Tensor, " b"], views: int, *, rows: int | None = None
    ) -> dict[str, Float[Tensor, " r"]]:
        """Return what `summary` averages, row by row; see `row_sharpness`.

        Args:
            ids: of a batch.
            views: as in training.
            rows: how many rows to look at, from the first; None takes all.
        """
        samples = ids.repeat(views)
        classes = None if self._labels is None else self._labels_of(ids).repeat(views)
        graph = self.for_batch(ids, views).resolve(samples)
        return row_sharpness(graph, samples, classes=classes, rows=rows)

    @property
    def temperatures(self) -> tuple[float, float]:
        """Ends of the range in which a temperature for a perplexity is looked for."""
        return 1e-4, 1e4

    def _named(self) -> str:
        return f"the relation {type(self).__name__}"

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

    return temperature_at(relation, [ids], views, perplexity=perplexity, steps=steps, rows=None)


def temperature_at(
    relation: Relation,
    batches: Sequence[Int[Tensor, " b"]],
    views: int,
    *,
    perplexity: float,
    steps: int = 30,
    rows: int | None = _ROWS,
) -> float:
    """Find the temperature at which several batches' targets have a wanted perplexity in the mean.

    Args:
        relation: at any temperature.
        batches: ids of typical batches, all of one size.
        views: as in training.
        perplexity: the wanted one.
        steps: of the bisection, on the logarithm of the temperature.
        rows: of each batch to look at; None looks at all.

    Raises:
        ValueError: when no temperature gives that perplexity; the message says what is possible.

    Example:
        >>> from kinfolk.data.relations import SideEmbeddings
        >>> relation = SideEmbeddings(torch.arange(6), torch.eye(6), temperature=1.0)
        >>> temperature_at(relation, [torch.arange(6)], 2, perplexity=3) < temperature_at(
        ...     relation, [torch.arange(6)], 2, perplexity=5
        ... )
        True
    """

    def at(log_temperature: float) -> float:
        there = relation.with_temperature(10.0**log_temperature)
        found = [mean_of_targets(there.row_summary(ids, views, rows=rows)["perplexity"]) for ids in batches]
        return sum(found) / len(found)

    low, high = (math.log10(end) for end in relation.temperatures)
    least, most = at(low), at(high)
    if not least <= perplexity <= most:
        raise ValueError(
            f"perplexity {perplexity:g} cannot be reached: {len(batches[0])} samples with {views} views give"
            f" {least:.3g} to {most:.3g}; take another batch size, or another value"
        )
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) < perplexity else (low, middle)
    return 10.0 ** ((low + high) / 2)


def typical_batches(
    ids: Int[Tensor, " N"], batch_size: int, *, seed: int, count: int = _BATCHES
) -> list[Int[Tensor, " b"]]:
    """Draw batches by seed, each without repeats; a data set smaller than a batch gives itself, once.

    Example:
        >>> [len(batch) for batch in typical_batches(torch.arange(9), 4, seed=0)], len(
        ...     typical_batches(torch.arange(3), 4, seed=0)
        ... )
        ([4, 4, 4, 4], 1)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; found {batch_size}")
    if batch_size >= len(ids):
        return [ids]
    orders = (torch.randperm(len(ids), generator=counter_generator(seed, i)) for i in range(count))
    return [ids[order[:batch_size].to(ids.device)] for order in orders]


def check_temperature(temperature: float) -> None:
    """Validate a temperature: a number above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; found {temperature}")


def check_perplexity(perplexity: float | None) -> None:
    """Validate a wanted perplexity: None, or a number above 1."""
    if perplexity is not None and not perplexity > 1:
        raise ValueError(f"perplexity counts the rows that a row is pulled to, above 1; found {perplexity}")
