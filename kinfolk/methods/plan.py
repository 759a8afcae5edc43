"""What a method may know of the training that lies ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


class TrainingPlan(NamedTuple):
    """How long training is, which samples it sees, and a way to look at all of them.

    Args:
        total_steps: optimiser steps in all.
        steps_per_epoch: of a whole pass over the samples.
        ids: int64 ``[N]``, the training samples in ascending order; None for a stream, whose samples nobody knows.
        features: from a module to the rows ``[N, d]`` that it gives for all training samples, unaugmented, in eval mode
            and without gradient, in the order of ``ids``. It costs a pass over the data. Every rank must call it at the
            same step, and all receive all rows.
        captions: of the training samples in the order of ``ids``, ``""`` for one without; None where there are none.
        loose_captions: captions that belong to no sample, or nobody knows to which.

    Example:
        >>> import torch
        >>> plan = TrainingPlan(10, 5, torch.arange(4), lambda module: module(torch.eye(4)))
        >>> plan.features(nn.Identity()).shape
        torch.Size([4, 4])
    """

    total_steps: int
    steps_per_epoch: int
    ids: Int64[Tensor, " N"] | None
    features: Callable[[nn.Module], Float[Tensor, "N d"]]
    captions: Sequence[str] | None = None
    loose_captions: Sequence[str] = ()

    def known_ids(self, method: str) -> Int64[Tensor, " N"]:
        """Return the ids, for a method that keeps something about every sample.

        Raises:
            ValueError: for a stream.

        Example:
            >>> import torch
            >>> TrainingPlan(10, 5, torch.tensor([3, 8]), lambda module: torch.eye(2)).known_ids("IFND").tolist()
            [3, 8]
        """
        if self.ids is None:
            raise ValueError(
                f"{method} keeps something about every training sample, and a stream does not say which there are; "
                "read it with streaming=False, or write it to a folder with `kinfolk data shard`."
            )
        return self.ids
