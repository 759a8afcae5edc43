"""What a scheme gets: one rank's rows and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """One rank's rows: its embeddings (two views) and what belongs to them; the queue is the same on all ranks."""

    z0: Tensor
    z1: Tensor
    scale: Tensor
    ids: Tensor
    labels: Tensor
    side: Tensor
    queue: Tensor
    rank: int
    world: int

    @property
    def joined(self) -> Tensor:
        return torch.cat([self.z0, self.z1])


Step = Callable[[Share], Tensor]
