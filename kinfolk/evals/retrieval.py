"""Retrieval by class: does a test sample find others of its class first?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.evals.neighbours import cosine_tiles, normalised
from kinfolk.evals.protocol import Evaluator, Measurement

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

    from kinfolk.evals.features import Features, FeatureSplits


@dataclass(frozen=True)
class Retrieval(Evaluator):
    """R@k and mean average precision of the test set against itself, by cosine, the query left out.

    R@k is the share of queries with one of their class among the k nearest. Average precision treats equal cosines as
    one rank with one precision, so that a collapsed encoder scores the class's share and the order of the rows decides
    nothing. A query whose class has no other test row can find nothing: it is left out, and the record counts such
    queries.

    Args:
        recall_at: the k of R@k, each at least 1.

    Example:
        >>> from kinfolk.evals import Features, FeatureSplits
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.8]])
        >>> split = Features.from_rows(rows, torch.arange(4), torch.tensor([0, 0, 1, 1]))
        >>> [(m.name, m.value) for m in Retrieval(recall_at=(1,)).run(FeatureSplits(split, split))]
        [('R@1', 1.0), ('mAP', 1.0)]
    """

    recall_at: tuple[int, ...] = (1, 5)

    protocol: ClassVar[str] = "retrieval"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at must be at least one k, each at least 1, got {self.recall_at}.")

    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield R@k for every k, then mAP; nothing when no test class has two rows."""
        recalls, precisions = self.per_query(features.test.labelled())
        answerable = precisions.isfinite()
        if not bool(answerable.any()):
            return
        details = {"queries_left_out": int((~answerable).sum())}
        for k, recall in zip(self.recall_at, recalls.T, strict=True):
            yield Measurement(f"R@{k}", recall[answerable].mean().item(), better="higher", details=details)
        yield Measurement("mAP", precisions[answerable].mean().item(), better="higher", details=details)

    def per_query(
        self, test: Features, *, tile: int | None = None
    ) -> tuple[Float64[Tensor, "n k"], Float64[Tensor, " n"]]:
        """Hit or miss at every k, and average precision, of every query.

        Args:
            test: labelled rows.
            tile: queries per tile; it never changes the result.

        Returns:
            Recalls of 0 and 1, one column per `recall_at`, and average precisions, NaN where no other row has the
            class.
        """
        rows = normalised(test.rows)
        assert test.labels is not None
        recalls, precisions = [], []
        for part, cosines in cosine_tiles(rows, rows, tile=tile):
            own = torch.arange(part.start, part.stop, device=rows.device)
            cosines[own - part.start, own] = -torch.inf
            ranked, order = cosines.sort(dim=1, descending=True, stable=True)
            hits = test.labels[order[:, :-1]] == test.labels[part, None]  # the query itself is last
            recalls.append(torch.stack([hits[:, :k].any(dim=1).double() for k in self.recall_at], dim=1))
            precisions.append(average_precision(hits, ranked[:, :-1]))
        return torch.cat(recalls), torch.cat(precisions)


def average_precision(hits: Bool[Tensor, "q m"], scores: Float64[Tensor, "q m"]) -> Float64[Tensor, " q"]:
    """Average precision of ranked lists, equal scores sharing the precision at the end of their group.

    Args:
        hits: which entries are relevant, best score first.
        scores: their scores, descending.

    Returns:
        One value per list; NaN for a list without a relevant entry.

    Example:
        >>> hits, scores = torch.tensor([[True, False, True]]), torch.tensor([[0.9, 0.5, 0.1]])
        >>> round(average_precision(hits, scores).item(), 4)
        0.8333
    """
    m = hits.shape[1]
    if m == 0:
        return torch.full((len(hits),), torch.nan, dtype=torch.float64, device=hits.device)
    position = torch.arange(m, device=hits.device).expand_as(hits)
    ends = torch.ones_like(hits)
    ends[:, :-1] = scores[:, 1:] != scores[:, :-1]
    end = torch.where(ends, position, m).flip(1).cummin(dim=1).values.flip(1)
    found = hits.cumsum(dim=1)
    precision = found.gather(1, end).double() / (end + 1)
    return (precision * hits).sum(dim=1) / found[:, -1]
