"""Near in time, or in any other number, relates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from kinfolk.data.relations.base import check_perplexity
from kinfolk.data.relations.known import number_column
from kinfolk.data.relations.pairwise import GAUSSIAN, LAPLACE, Pairwise
from kinfolk.data.sources.base import Source

_KERNELS = {"laplace": LAPLACE, "gaussian": GAUSSIAN}


@dataclass(frozen=True)
class DistanceConfig:
    """Two samples relate as their times, places or other numbers are near.

    Args:
        column: of one number per sample, such as ``"times"``, or several, whose Euclidean distance counts.
        kernel: ``"laplace"``, ``exp(-d / scale)``, or ``"gaussian"``, ``exp(-d^2 / (2 scale^2))``.
        scale: how near is near, in the column's unit, above 0; it takes the place of a temperature.
        perplexity: the wanted perplexity at the batch size of training, instead of a scale; 5 to 30 work.

    Raises:
        ValueError: for an unknown kernel, or a scale or perplexity out of range.

    Example:
        >>> import torch
        >>> from kinfolk.data.sources import ArraySource
        >>> images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
        >>> source = ArraySource(images, columns={"times": torch.tensor([0.0, 1.0, 60.0])})
        >>> graph = DistanceConfig(scale=10.0).build(source).for_batch(source.ids, 1)
        >>> [round(w, 3) for w in graph.to_dense()[0].tolist()]
        [1.0, 0.905, 0.002]
    """

    kind: ClassVar[str] = "distance"
    labels_used: ClassVar[str] = "none"
    column: str = "times"
    kernel: Literal["laplace", "gaussian"] = "laplace"
    scale: float = 1.0
    perplexity: float | None = None

    def __post_init__(self) -> None:
        if self.kernel not in _KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}; found {self.kernel!r}")
        if not self.scale > 0:
            raise ValueError(f"scale must be above 0, in the unit of {self.column!r}; found {self.scale}")
        check_perplexity(self.perplexity)

    def build(self, source: Source) -> Pairwise:
        """Build the relation over a source's samples; no image is read.

        Raises:
            TypeError: for a stream, or a column that holds no numbers.
            ValueError: when the source does not have the column, or some of its numbers are not finite.
        """
        values = number_column(source, self.column, needed_for="a distance graph")
        relation = Pairwise(source.ids, values, _KERNELS[self.kernel], self.scale, labels=source.labels)
        relation.about = f"{self.kernel} kernel on {self.column}"
        return relation.with_perplexity(self.perplexity)
