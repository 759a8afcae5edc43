"""Retrieval by class: does a test sample find others of its class first?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from kinfolk.evals.neighbours import cosine_tiles, nearest, normalised
from kinfolk.evals.protocol import FeatureEvaluator, Measurement

if TYPE_CHECKING:
    from jaxtyping import Float64

    from kinfolk.evals.features import Features, FeatureSplits


@dataclass(frozen=True)
class Retrieval(FeatureEvaluator):
    """R@k and mean average precision of the test set against itself, by cosine, the query left out.

    R@k is the share of queries with one of their class among the k nearest, ties to the lower id. Average precision
    treats equal cosines as one rank with one precision, so that a collapsed encoder scores the class's share and the
    order of the rows decides nothing. A query whose class has no other test row can find nothing: it is left out, and
    the record counts such queries.

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
        object.__setattr__(self, "recall_at", tuple(self.recall_at))  # as YAML reads it
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
        n = len(rows)
        found = nearest(rows, rows, k=max(self.recall_at), exclude=torch.arange(n, device=rows.device), tile=tile)[1]
        hits = (test.labels[found.clamp(min=0)] == test.labels[:, None]) & (found >= 0)
        recalls = torch.stack([hits[:, :k].any(dim=1).double() for k in self.recall_at], dim=1)
        precisions = torch.full((n,), torch.nan, dtype=torch.float64, device=rows.device)
        for c in test.labels.unique():
            members = torch.nonzero(test.labels == c).squeeze(1)
            if len(members) < 2:
                continue
            for part, cosines in cosine_tiles(rows[members], rows, tile=tile):
                own = members[part]
                cosines[torch.arange(len(own)), own] = -torch.inf  # sorted first, then cut off
                others, everyone = _ascending(cosines[:, members])[:, 1:], _ascending(cosines)[:, 1:]
                precisions[own] = average_precision(others, everyone)
        return recalls, precisions


def average_precision(positives: Float64[Tensor, "q p"], everyone: Float64[Tensor, "q m"]) -> Float64[Tensor, " q"]:
    """Mean over the positives of the precision among all entries that score at least as much.

    Args:
        positives: scores of the relevant entries of each query, ascending.
        everyone: scores of all entries, the relevant ones among them, ascending.

    Returns:
        One value per query; equal scores share one precision.

    Example:
        >>> positives, everyone = torch.tensor([[0.1, 0.9]]), torch.tensor([[0.1, 0.5, 0.9]])
        >>> round(average_precision(positives, everyone).item(), 4)
        0.8333
    """
    positives = positives.contiguous()
    found = positives.shape[1] - torch.searchsorted(positives, positives)
    seen = everyone.shape[1] - torch.searchsorted(everyone.contiguous(), positives)
    return (found.double() / seen).mean(dim=1)


def _ascending(scores: Tensor) -> Tensor:
    """Rows in ascending order; numpy sorts without indices, several times faster than torch."""
    return torch.from_numpy(np.sort(scores.cpu().numpy(), axis=1)).to(scores.device)
