"""Several relations at once, each with its share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from kinfolk.data.relations.attributes import AttributesConfig
from kinfolk.data.relations.base import Relation
from kinfolk.data.relations.captions import CaptionsConfig
from kinfolk.data.relations.class_names import ClassNamesConfig
from kinfolk.data.relations.class_table import ClassTableConfig
from kinfolk.data.relations.distance import DistanceConfig
from kinfolk.data.relations.hierarchy import HierarchyConfig
from kinfolk.data.relations.labels import LabelsConfig
from kinfolk.data.relations.neighbours import KNNConfig
from kinfolk.data.relations.pseudo_labels import PseudoLabelsConfig
from kinfolk.data.relations.side_embeddings import SideEmbeddingsConfig
from kinfolk.data.sources.base import Source
from kinfolk.graphs import MixtureGraph

if TYPE_CHECKING:
    from jaxtyping import Int

PartConfig = (
    CaptionsConfig
    | ClassNamesConfig
    | ClassTableConfig
    | SideEmbeddingsConfig
    | LabelsConfig
    | AttributesConfig
    | HierarchyConfig
    | DistanceConfig
    | KNNConfig
    | PseudoLabelsConfig
)


class Mixed(Relation):
    """The convex sum of several relations' targets, each normalised over the other rows first.

    A relation that has nothing to say about a row gives its share of that row to the others. Parts keep temperatures
    of their own; the mixture has none.

    Args:
        parts: relations over the same samples.
        weights: share of every part, non-negative, not all 0; normalised to sum to 1.
        labels: classes, in the order of the first part's ids, for the summary's own-class mass only.

    Raises:
        ValueError: for weights that do not fit, or parts over different samples.

    Example:
        >>> import torch
        >>> from kinfolk.data.relations import ClassTable
        >>> ids, labels = torch.arange(3), torch.tensor([0, 0, 1])
        >>> parts = [ClassTable(ids, labels, torch.eye(2), temperature=t) for t in (0.1, 1.0)]
        >>> Mixed(parts, [3, 1]).for_batch(ids, 2).shape
        (6, 6)
    """

    def __init__(
        self, parts: Sequence[Relation], weights: Sequence[float], *, labels: Int[Tensor, " N"] | None = None
    ) -> None:
        check_weights(len(parts), weights)
        if any(not part.ids.equal(parts[0].ids) for part in parts):
            raise ValueError(
                f"the parts of a mixture must know the same samples; they know {[len(p.ids) for p in parts]} of them,"
                " or others"
            )
        super().__init__(parts[0].ids, temperature=None, labels=labels)
        self.parts, self.weights = tuple(parts), tuple(float(weight) for weight in weights)

    def for_batch(self, ids: Int[Tensor, " b"], views: int) -> MixtureGraph:
        """Return the batch's `MixtureGraph`; see `Relation.for_batch`."""
        return MixtureGraph([part.for_batch(ids, views) for part in self.parts], self.weights)

    def between(self, ids: Int[Tensor, " n"], key_ids: Int[Tensor, " m"]) -> MixtureGraph:
        """Return the `MixtureGraph` of some samples over others; see `Relation.between`."""
        return MixtureGraph([part.between(ids, key_ids) for part in self.parts], self.weights)

    def settled(self, *, batch_size: int, views: int, seed: int = 0) -> Self:
        """Return the mixture of the parts, each at the temperature that its own perplexity asks for."""
        parts = [part.settled(batch_size=batch_size, views=views, seed=seed) for part in self.parts]
        if all(a is b for a, b in zip(parts, self.parts, strict=True)):
            return self
        other = copy.copy(self)
        other.parts = tuple(parts)
        return other


@dataclass(frozen=True)
class MixedConfig:
    """A mixture of relations.

    Args:
        parts: their configs, two or more; each has a temperature or perplexity of its own.
        weights: share of every part; by default all alike.

    Raises:
        ValueError: for no parts, or weights that do not fit.

    Example:
        >>> MixedConfig((LabelsConfig("groups"), KNNConfig(k=5)), weights=(0.7, 0.3)).kind
        'mixed'
    """

    kind: ClassVar[str] = "mixed"
    parts: tuple[PartConfig, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "weights", tuple(self.weights) or (1.0,) * len(self.parts))
        check_weights(len(self.parts), self.weights)

    @property
    def labels_used(self) -> str:
        """Which labels training sees through the relation."""
        return "all" if any(part.labels_used == "all" for part in self.parts) else "none"

    def build(self, source: Source) -> Mixed:
        """Build every part over a source's samples.

        Raises:
            ValueError: when a part cannot be built; the message is the part's.
        """
        labels = None if source.labels is None else source.labels[source.ids.argsort()]
        return self.of([part.build(source) for part in self.parts], labels=labels)

    def of(self, parts: Sequence[Relation], *, labels: Int[Tensor, " N"] | None = None) -> Mixed:
        """Mix parts that are built already, one per config and over the same samples.

        Raises:
            ValueError: for parts over different samples.
        """
        relation = Mixed(parts, self.weights, labels=labels)
        shares = zip(self.weights, parts, strict=True)
        relation.about = " + ".join(
            f"{w / sum(self.weights):.0%} {part.about or type(part).__name__}" for w, part in shares
        )
        return relation


def check_weights(count: int, weights: Sequence[float]) -> None:
    """Validate the shares of a mixture's parts.

    Raises:
        ValueError: for none, another number than parts, or shares that are negative, all 0 or not finite.
    """
    if count == 0 or len(weights) != count:
        raise ValueError(f"a mixture needs parts and one weight for each; found {count} parts, {len(weights)} weights")
    if not min(weights) >= 0 or not 0 < sum(weights) < float("inf"):
        raise ValueError(f"weights must be shares, not negative and not all 0; found {list(weights)}")
