"""Leaving out of a queue what is probably no negative: the rows most similar to an anchor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from kinfolk.nn import Progress, QueueSnapshot
from kinfolk.ops import PairMask, row_topk

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64


@dataclass(frozen=True)
class FalseNegativesConfig:
    """Which rows of a queue are left out as likely false negatives, and from when on.

    Raises:
        ValueError: for shares outside [0, 1], naming the field; a `share` of 1 would leave no negative.

    Example:
        >>> search = FalseNegativesConfig(share=0.5, start=0.0).build()
        >>> queue = QueueSnapshot(torch.eye(2), torch.tensor([7, 8]), torch.tensor([-1, -1]))
        >>> search.find(torch.eye(2), queue, ids=torch.tensor([1, 2]))
        tensor([[ True, False],
                [False,  True]])
    """

    share: float = 0.05
    """Share of the rows that is left out for every anchor: the most similar ones; about one class of a balanced set."""
    start: float = 0.1
    """Share of training before the first search: early features find nonsense."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share of the negatives to leave out must be in [0, 1), found {self.share}.")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start is a share of training, 0 to 1, found {self.start}.")

    def build(self) -> FalseNegatives:
        """Build the search."""
        return FalseNegatives(self)


@final
class FalseNegatives(nn.Module):
    """Finds the rows of a queue that are most similar to an anchor, once training has come far enough.

    Call `begin` before training and `progress.advance()` after a step. No gradient passes. Rows of the anchor's own id
    are neither found nor counted among those most similar to it; -1 is no id.
    """

    def __init__(self, config: FalseNegativesConfig) -> None:
        super().__init__()
        self.progress = Progress()
        self.config = config

    def begin(self, total_steps: int) -> None:
        """Learn how long training is."""
        self.progress.begin(total_steps)

    @torch.no_grad()
    def find(
        self, rows: Float[Tensor, "n d"], queue: QueueSnapshot, *, ids: Int64[Tensor, " n"] | None
    ) -> Bool[Tensor, "n K"]:
        """Return which rows of the queue are left out for each anchor; none before `start`.

        Args:
            rows: the anchors, as features of the encoder whose features the queue holds.
            queue: the rows to search.
            ids: of the anchors
