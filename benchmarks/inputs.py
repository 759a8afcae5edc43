"""The losses that are measured and the tensors they are given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TEMPERATURE = 0.1
CLASSES = 100

SELF_CONTRAST = ("NT-Xent", "SupCon", "X-CLR")
LOSSES = (*SELF_CONTRAST, "InfoNCE", "CLIP", "CACR")


@dataclass(frozen=True)
class Inputs:
    """One batch: leaves with gradient, and what the losses take beside them.

    A loss that contrasts a set with itself gets ``rows`` rows in two views, the others ``rows`` rows on either side,
    so that the score matrix nobody should need is always ``rows x rows``.
    """

    z0: Tensor
    z1: Tensor
    labels: Tensor
    side: Tensor
    queue: Tensor

    @property
    def joined(self) -> Tensor:
        return torch.cat([self.z0, self.z1])

    @property
    def leaves(self) -> tuple[Tensor, Tensor]:
        return self.z0, self.z1

    def gradient(self) -> Tensor:
        """Return the gradient of both views in one vector and forget it."""
        parts = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self.leaves]
        self.clear()
        return torch.cat(parts).flatten().double()

    def clear(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None


def make(loss: str, rows: int, d: int, e: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Inputs:
    """Draw the batch of a loss; the same one in every process."""
    n = rows // 2 if loss in SELF_CONTRAST else rows
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(n, d, generator=draw)
    z0, z1 = (shared + torch.randn(n, d, generator=draw) for _ in range(2))
    labels = torch.randint(0, CLASSES, (n,), generator=draw)
    side = torch.randn(n, e, generator=draw).repeat(2, 1) if loss == "X-CLR" else torch.empty(0, e)
    queue = torch.randn(rows, d, generator=draw) if loss == "InfoNCE" else torch.empty(0, d)
    z0, z1, side, queue = (tensor.to(device, dtype) for tensor in (z0, z1, side, queue))
    return Inputs(z0.requires_grad_(), z1.requires_grad_(), labels.to(device), side, queue)
