"""What a relation is: how strongly samples of a data set relate, asked one batch at a time."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from kinfolk.data.relations.perplexity import (
    batch_similarities,
    check_perplexity,
    check_temperature,
    temperature_at,
    typical_batches,
)
from kinfolk.data.relations.perplexity import temperature_for_perplexity as temperature_for_perplexity
from kinfolk.data.relations.sharpness import mean_of_targets, row_sharpness
from kinfolk.data.sources.columns import check_ids
from kinfolk.graphs import SimilarityGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int


_ROWS = 512  # of a batch, that the search for a temperature looks at


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

    def between(self, ids: Int[Tensor, " n"], key_ids: Int[Tensor, " m"]) -> SimilarityGraph:
        """Return the target graph of one set of samples over another, such as a batch over a queue of earlier ones.

        All of kinfolk's relations have it; one of your own needs it only for methods with a queue.

        Args:
            ids: of the anchors' samples.
            key_ids: of the candidates' samples.

        Raises:
            ValueError: when the relation does not know an id, waits for `settled`, or knows batches only.

        Example:
            >>> from kinfolk.data.relations import EqualLabels
            >>> relation = EqualLabels(torch.tensor([4, 7, 9]), torch.tensor([0, 1, 0]))
            >>> relation.between(torch.tensor([4]), torch.tensor([9, 7, 9])).to_dense().int()
            tensor([[1, 0, 1]], dtype=torch.int32)
        """
        raise ValueError(f"{self._named()} relates the samples of a batch only: it has no `between`")

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
        anywhere = self.with_temperature(1.0)
        drawn = typical_batches(self.ids, batch_size, seed=seed)
        batches = [batch_similarities(anywhere, ids, views, rows=_ROWS) for ids in drawn]
        words = f"{len(drawn[0])} samples with {views} views"
        return self.with_temperature(temperature_at(anywhere, batches, perplexity=self._perplexity, batch=words))

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

    def row_summary(self, ids: Int[Tensor, " b"], views: int) -> dict[str, Float[Tensor, " r"]]:
        """Return what `summary` averages, row by row, NaN for a row without a target."""
        samples = ids.repeat(views)
        graph = self.for_batch(ids, views).resolve(samples)
        return row_sharpness(graph, samples, classes=self.classes_of(samples))

    def classes_of(self, ids: Int[Tensor, " b"]) -> Int[Tensor, " b"] | None:
        """Return the classes of samples, -1 = unlabelled; None where none are known."""
        return None if self._labels is None else self._labels_of(ids)

    @property
    def temperatures(self) -> tuple[float, float]:
        """Ends of the range in which a temperature for a perplexity is looked for."""
        return 1e-4, 1e4

    @property
    def unit(self) -> float:
        """What similarities are divided by to give logarithms of weights: the temperature, or 1 without one.

        A relation of your own that has a temperature and divides by something else, its square for example, says so
        here: the search for a perplexity depends on it.
        """
        return self.temperature if self.has_temperature else 1.0

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
