"""Retrieval across hands: does a drawing find the same thing as another hand draws it?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.evals.neighbours import cosine_tiles, normalised
from kinfolk.evals.protocol import FeatureEvaluator, Measurement

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Int64

    from kinfolk.evals.features import Features, FeatureSplits

_LISTED = 6


@dataclass(frozen=True)
class CrossRetrieval(FeatureEvaluator):
    """R@k and median rank of one hand's test rows against another's, by cosine; both directions of every pair.

    A hit is a row of the same group, such as the same emoji. The rank of a query is that of its first hit, ties to the
    lower id. A query whose group the gallery does not have can find nothing: it is left out and counted. What is
    reported is the mean over directions and, where these are at most six, each of them. The groups must be unseen in
    training for this to measure anything: split by group, never by image.

    Args:
        recall_at: the k of R@k, each at least 1.
        hands: names by bias label, for the table; None names them by number.
        least_queries: a direction with fewer queries that can be answered is left out, at least 1.

    Raises:
        ValueError: for a k or a number of queries below 1.

    Example:
        >>> from kinfolk.evals import Features
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.8]])
        >>> found = CrossRetrieval(recall_at=(1,), least_queries=1).measure(
        ...     Features.from_rows(rows, torch.arange(4)),
        ...     groups=torch.tensor([7, 7, 8, 8]),
        ...     bias_labels=torch.tensor([0, 1, 0, 1]),
        ... )
        >>> [(m.name, m.value) for m in found][:2]
        [('R@1', 1.0), ('median rank', 1.0)]
    """

    recall_at: tuple[int, ...] = (1, 5, 10)
    hands: tuple[str, ...] | None = None
    least_queries: int = 20

    protocol: ClassVar[str] = "cross-hand retrieval"
    needs_labels: ClassVar[bool] = False
    needs_columns: ClassVar[tuple[str, ...]] = ("groups", "bias_labels")
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "recall_at", tuple(self.recall_at))  # as YAML reads it
        object.__setattr__(self, "hands", None if self.hands is None else tuple(self.hands))
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at must be at least one k, each at least 1, got {self.recall_at}.")
        if self.least_queries < 1:
            raise ValueError(f"least_queries must be at least 1, got {self.least_queries}.")

    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield the measurements of the test split; nothing when no pair of hands has enough queries.

        Raises:
            ValueError: when the features carry no groups or no bias labels.
        """
        groups, hands = features.test.groups, features.test.bias_labels
        if groups is None or hands is None:
            raise ValueError(
                "retrieval across hands needs groups (what a sample shows) and bias_labels (by which hand); give the"
                " source these columns, or leave the protocol out."
            )
        yield from self.measure(features.test, groups=groups, bias_labels=hands)

    def measure(
        self, test: Features, *, groups: Int[Tensor, " n"], bias_labels: Int[Tensor, " n"]
    ) -> Iterator[Measurement]:
        """Yield R@k for every k and the median rank: means over directions, then each direction.

        Args:
            test: feature rows.
            groups: what each row shows, -1 = unknown: such a row is never a query and never a hit.
            bias_labels: by which hand, -1 = unknown: such a row takes no part.

        Raises:
            ValueError: when groups or bias labels are not one per row.
        """
        if groups.shape != (len(test),) or bias_labels.shape != (len(test),):
            raise ValueError(
                f"groups and bias_labels must have one entry per row: {len(test)} rows, groups {tuple(groups.shape)},"
                f" bias_labels {tuple(bias_labels.shape)}."
            )
        rows = normalised(test.rows)
        drawn_by = {hand: (bias_labels == hand).nonzero().flatten() for hand in bias_labels.unique().tolist()}
        drawn_by.pop(-1, None)
        found: dict[str, list[float]] = {}
        left_out, few = 0, 0
        for one, other in permutations(drawn_by, 2):
            queries, gallery = drawn_by[one], drawn_by[other]
            ranks = first_hit_ranks(rows[queries], rows[gallery], groups[queries], groups[gallery])
            answered = ranks[ranks > 0]
            if len(answered) < self.least_queries:
                few += 1
                continue
            left_out += len(ranks) - len(answered)
            found[f"{self._name(one)} to {self._name(other)}"] = self._values(answered)
        if not found:
            return
        details = {"directions": len(found), "directions_left_out": few, "queries_left_out": left_out}
        mean = torch.tensor(list(found.values()), dtype=torch.float64).mean(dim=0).tolist()
        yield from self._measurements("", mean, details)
        if len(found) <= _LISTED:
            for direction, values in found.items():
                yield from self._measurements(f", {direction}", values, {})

    def _values(self, ranks: Tensor) -> list[float]:
        recalls = [(ranks <= k).double().mean().item() for k in self.recall_at]
        return [*recalls, ranks.double().quantile(0.5).item()]

    def _measurements(self, suffix: str, values: list[float], details: dict[str, int]) -> Iterator[Measurement]:
        for k, value in zip(self.recall_at, values, strict=False):
            yield Measurement(f"R@{k}{suffix}", value, better="higher", details=details)
        yield Measurement(f"median rank{suffix}", values[-1], better="lower", details=details)

    def _name(self, hand: int) -> str:
        return str(hand) if self.hands is None or hand >= len(self.hands) else self.hands[hand]


def first_hit_ranks(
    queries: Float[Tensor, "q d"],
    gallery: Float[Tensor, "m d"],
    query_groups: Int[Tensor, " q"],
    gallery_groups: Int[Tensor, " m"],
    *,
    tile: int | None = None,
) -> Int64[Tensor, " q"]:
    """Rank of the nearest gallery row of each query's group: 1 when nothing is nearer, ties to the lower index.

    Args:
        queries: normalised rows, float64.
        gallery: normalised rows, float64.
        query_groups: -1 = unknown.
        gallery_groups: -1 = unknown.
        tile: queries per tile; it never changes the result.

    Returns:
        One rank per query, 0 where the gallery has no row of its group.

    Example:
        >>> gallery = normalised(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> first_hit_ranks(gallery, gallery, torch.tensor([5, 5]), torch.tensor([5, 6])).tolist()
        [1, 2]
    """
    m = len(gallery)
    ranks = torch.zeros(len(queries), dtype=torch.int64)
    if m == 0:
        return ranks
    lower_first = torch.arange(m - 1, -1, -1, dtype=torch.float64)
    for part, cosines in cosine_tiles(queries, gallery, tile=tile):
        packed = cosines.mul_(m).add_(lower_first)  # distinct numbers, see `nearest`
        same = (query_groups[part, None] == gallery_groups) & (query_groups[part, None] >= 0)
        best = packed.masked_fill(~same, -torch.inf).amax(dim=1, keepdim=True)
        ranks[part] = torch.where(same.any(dim=1), 1 + (packed > best).sum(dim=1), 0)
    return ranks
