"""Numbers relate by a function of two samples' values: distance in time, distance of attributes, overlap of tags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.relations.base import Relation
from kinfolk.graphs import SimilarityGraph
from kinfolk.ops.masks import Span

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from kinfolk.distributed import Ranks


@dataclass(frozen=True)
class Likeness:
    """How alike two samples' values are: weights are ``exp(likeness / temperature ** power)``.

    Args:
        name: in words.
        between: function of values ``[a, f]`` and ``[b, f]`` to ``[a, b]``.
        power: of the temperature; 2 where the likeness is a squared distance.
        distance: whether it is minus a distance, so that a temperature is one too.
    """

    name: str
    between: Callable[[Tensor, Tensor], Tensor]
    power: int = 1
    distance: bool = False


def _distance(a: Tensor, b: Tensor) -> Tensor:
    # The other mode expands the square, and loses the distances of times that are large and near.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _jaccard(a: Tensor, b: Tensor) -> Tensor:
    both = a @ b.T
    return both / (a.sum(1)[:, None] + b.sum(1) - both)


LAPLACE = Likeness("minus the distance", lambda a, b: -_distance(a, b), distance=True)
GAUSSIAN = Likeness("minus half the squared distance", lambda a, b: _distance(a, b).square() / -2, 2, distance=True)
JACCARD = Likeness("shared tags among all tags of two", _jaccard)


class PairwiseGraph(SimilarityGraph):
    """Anchor i relates to candidate j with weight ``exp(likeness(a_i, b_j) / temperature ** power)``.

    Weights are computed by blocks and never stored, and each candidate brings its own values, so that the graph is
    gathered over ranks as they are.

    Args:
        values: of the anchors ``[n, f]``.
        likeness: of two rows of values.
        temperature: above 0.
        keys: values of the candidates ``[m, f]``; by default the anchors'.

    Example:
        >>> graph = PairwiseGraph(torch.tensor([[0.0], [1.0], [3.0]]), LAPLACE, temperature=1.0)
        >>> graph.log_weights((0, 1), (0, 3))
        tensor([[-0., -1., -3.]])
    """

    def __init__(
        self,
        values: Float[Tensor, "n f"],
        likeness: Likeness,
        *,
        temperature: float,
        keys: Float[Tensor, "m f"] | None = None,
    ) -> None:
        self.values, self.keys = values, values if keys is None else keys
        self.likeness, self.temperature = likeness, temperature

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        return len(self.values), len(self.keys)

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return a block of likenesses divided by the temperature."""
        found = self.likeness.between(self.values[slice(*rows)], self.keys[slice(*columns)])
        return found / self.temperature**self.likeness.power

    def gathered(self, ranks: Ranks) -> PairwiseGraph:
        """Gather the candidates' values."""
        if not self._is_per_key(ranks):
            return self
        return PairwiseGraph(self.values, self.likeness, temperature=self.temperature, keys=ranks.gather(self.keys))

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        return (
            f"PairwiseGraph by {self.likeness.name} of {self.keys.shape[1]} numbers at temperature {self.temperature:g}"
        )

    def __repr__(self) -> str:
        n, m = self.shape
        return f"PairwiseGraph({n} x {m}: {self.likeness.name}, temperature {self.temperature:g})"


class Pairwise(Relation):
    """Two samples relate by a function of their values, ``exp(likeness / temperature ** power)``.

    Args:
        ids: int64 ``[N]``, unique.
        values: float ``[N, f]``, finite.
        likeness: of two rows of values.
        temperature: above 0; for distances in their unit.
        labels: classes, for the summary's own-class mass only.

    Raises:
        ValueError: for values that are not one finite row per id.

    Example:
        >>> relation = Pairwise(torch.tensor([4, 2]), torch.tensor([[0.0], [10.0]]), LAPLACE, temperature=5.0)
        >>> relation.for_batch(torch.tensor([2, 4]), 1)
        PairwiseGraph(2 x 2: minus the distance, temperature 5)
    """

    def __init__(
        self,
        ids: Int[Tensor, " N"],
        values: Float[Tensor, "N f"],
        likeness: Likeness,
        temperature: float,
        *,
        labels: Int[Tensor, " N"] | None = None,
    ) -> None:
        if values.ndim != 2 or len(values) != len(ids) or not bool(values.isfinite().all()):
            raise ValueError(f"values must be one finite row per id: {len(ids)} ids, values {tuple(values.shape)}")
        super().__init__(ids, temperature=temperature, labels=labels)
        self.values, self.likeness = values, likeness
        self._spread = float((values.amax(0) - values.amin(0)).norm()) if len(values) else 1.0

    def for_batch(self, ids: Int[Tensor, " b"], views: int) -> PairwiseGraph:
        """Return the batch's `PairwiseGraph`; see `Relation.for_batch`."""
        rows = self._values_of(ids).repeat(views, 1)
        return PairwiseGraph(rows, self.likeness, temperature=self.temperature)

    def between(self, ids: Int[Tensor, " n"], key_ids: Int[Tensor, " m"]) -> PairwiseGraph:
        """Return the `PairwiseGraph` of some samples over others; see `Relation.between`."""
        keys = self._values_of(key_ids)
        return PairwiseGraph(self._values_of(ids), self.likeness, temperature=self.temperature, keys=keys)

    def _values_of(self, ids: Tensor) -> Tensor:
        self.values = self.values.to(ids.device)
        return self.values[self._positions(ids)]

    @property
    def unit(self) -> float:
        """What likenesses are divided by."""
        return self.temperature**self.likeness.power

    @property
    def temperatures(self) -> tuple[float, float]:
        """Ends of the search for a temperature: for distances they follow the spread of the values."""
        if not self.likeness.distance or self._spread == 0:
            return super().temperatures
        return 1e-9 * self._spread, 1e4 * self._spread
