"""Attributes relate: measured numbers by cosine or distance, 0/1 tags by what two samples share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from kinfolk.data.relations.base import Relation, check_perplexity, check_temperature
from kinfolk.data.relations.known import number_column
from kinfolk.data.relations.pairwise import GAUSSIAN, JACCARD, Pairwise
from kinfolk.data.relations.side_embeddings import SideEmbeddings
from kinfolk.data.sources.base import Source

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class AttributesConfig:
    """Two samples relate as their attributes are alike.

    Several labels per image are attributes too: a column of 0 and 1, one per label.

    Args:
        column: float ``[N, a]``.
        similarity: ``"cosine"``; ``"gaussian"``, ``exp(-d^2 / (2 temperature^2))`` of the Euclidean distance; or
            ``"jaccard"`` for tags of 0 and 1: how many of the tags that either of two samples has both have.
        standardise: take every attribute's mean away and divide by its deviation first; attributes that never vary
            are left out. Not for ``"jaccard"``.
        temperature: of the target; choose it by `perplexity`.
        perplexity: the wanted perplexity at the batch size of training, instead of a temperature; 5 to 30 work.

    Raises:
        ValueError: for an unknown similarity, or a temperature or perplexity out of range.

    Reference: Jaccard (1912), The distribution of the flora in the alpine zone.

    Example:
        >>> import torch
        >>> from kinfolk.data.sources import ArraySource
        >>> tags = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> source = ArraySource(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), columns={"attributes": tags})
        >>> relation = AttributesConfig(similarity="jaccard", temperature=1.0).build(source)
        >>> relation.for_batch(source.ids, 1).log_weights((0, 1), (0, 3)).tolist()
        [[1.0, 0.5, 0.0]]
    """

    kind: ClassVar[str] = "attributes"
    labels_used: ClassVar[str] = "none"
    column: str = "attributes"
    similarity: Literal["cosine", "gaussian", "jaccard"] = "cosine"
    standardise: bool = True
    temperature: float = 0.1
    perplexity: float | None = None

    def __post_init__(self) -> None:
        if self.similarity not in ("cosine", "gaussian", "jaccard"):
            raise ValueError(f"similarity must be cosine, gaussian or jaccard; found {self.similarity!r}")
        check_temperature(self.temperature)
        check_perplexity(self.perplexity)

    def build(self, source: Source) -> Relation:
        """Build the relation over a source's samples; no image is read.

        Raises:
            TypeError: for a stream, or a column that holds no numbers.
            ValueError: when the source does not have the column; values that are not finite, that never vary, or, for
                tags, are not 0 or 1; samples with nothing but zeros, which are like nothing. Messages name the ids.
        """
        values = number_column(source, self.column, needed_for="an attribute graph")
        relation = self._relation(values, source)
        relation.about = f"{self.similarity} of {self.column}"
        return relation.with_perplexity(self.perplexity)

    def _relation(self, values: Tensor, source: Source) -> Relation:
        if self.similarity == "jaccard":
            if not bool(((values == 0) | (values == 1)).all()):
                odd = source.ids[((values != 0) & (values != 1)).any(dim=1)]
                raise ValueError(
                    f"jaccard takes tags of 0 and 1; {self.column} of ids {odd[:5].tolist()} have other values."
                    " Use cosine or gaussian for measured numbers."
                )
            _require_something(values, source.ids, self.column)
            return Pairwise(source.ids, values, JACCARD, self.temperature, labels=source.labels)
        if self.standardise:
            values = standardised(values, what=self.column)
        if self.similarity == "gaussian":
            return Pairwise(source.ids, values, GAUSSIAN, self.temperature, labels=source.labels)
        _require_something(values, source.ids, self.column)
        return SideEmbeddings(source.ids, values.float(), self.temperature, labels=source.labels)


def standardised(values: Float[Tensor, "N a"], *, what: str = "attributes") -> Float[Tensor, "N k"]:
    """Return columns with mean 0 and deviation 1, those that never vary left out.

    Raises:
        ValueError: when none varies.

    Example:
        >>> import torch
        >>> standardised(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).tolist()
        [[-1.0], [1.0]]
    """
    centred = values - values.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    varies = deviation > 1e-12 * values.abs().amax(dim=0).clamp(min=1e-300) if len(values) else deviation > 0
    if not bool(varies.any()):
        raise ValueError(f"{what} relate nothing: all {values.shape[1]} of them have one value for all samples")
    return centred[:, varies] / deviation[varies]


def _require_something(values: Float[Tensor, "N a"], ids: Int[Tensor, " N"], what: str) -> None:
    nothing = ids[(values == 0).all(dim=1)]
    if len(nothing):
        raise ValueError(
            f"{what} of {len(nothing)} samples are all 0, such as ids {nothing[:5].tolist()}: they are like nothing."
            " Leave these samples out with subset, or use gaussian, where 0 is a value like any other."
        )
