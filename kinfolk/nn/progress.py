"""How far training has come, for what changes on the way."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn


@final
class Progress(nn.Module):
    """Counts optimiser steps; a buffer, so that a resumed run goes on where it was.

    Args:
        total_steps: steps of the whole training; None until it is known, see `begin`.

    Attributes:
        step: int64 scalar, steps made so far.

    Example:
        >>> progress = Progress(total_steps=4)
        >>> progress.advance()
        >>> progress.share(), progress.has_reached(0.5)
        (0.25, False)
    """

    step: Tensor

    def __init__(self, total_steps: int | None = None) -> None:
        super().__init__()
        self.total_steps: int | None = None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        if total_steps is not None:
            self.begin(total_steps)

    def begin(self, total_steps: int) -> None:
        """Set how many steps training has.

        Raises:
            ValueError: for fewer than one.
        """
        if total_steps < 1:
            raise ValueError(f"training has at least one step, found {total_steps}.")
        self.total_steps = total_steps

    def advance(self) -> None:
        """Count a step."""
        self.step += 1

    def share(self) -> float:
        """Return the share of the steps that has been made, from 0 to 1.

        Raises:
            ValueError: where nobody has said how many there are.
        """
        if self.total_steps is None:
            raise ValueError(
                "a schedule over training needs its length: call method.begin(TrainingPlan(...)) before the first step"
            )
        return min(int(self.step) / self.total_steps, 1.0)

    def has_reached(self, share: float) -> bool:
        """Return whether at least this share of the steps has been made; a share of 0 always has, whatever the length.

        Example:
            >>> Progress().has_reached(0.0)
            True
        """
        return share <= 0 or self.share() >= share

    def rounds(self, *, start: float, every: float) -> int:
        """Return how many rounds are due by now of what is done at the share `start`, and again every `every`.

        Example:
            >>> progress, counts = Progress(total_steps=10), []
            >>> for _ in range(10):
            ...     progress.advance()
            ...     counts.append(progress.rounds(start=0.3, every=0.4))
            >>> counts
            [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
        """
        share = self.share()
        return 0 if share < start else math.floor((share - start) / every + 1e-9) + 1

    def extra_repr(self) -> str:
        """Show the length."""
        return f"total_steps={self.total_steps}"
