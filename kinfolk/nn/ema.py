"""A slowly moving copy of a module: its parameters are an exponential moving average."""

from __future__ import annotations

import copy
import math
from typing import Any, final

import torch
from torch import Tensor, nn


@final
class EMATwin(nn.Module):
    """A copy of `module` that follows it: `twin = m * twin + (1 - m) * module`, parameter by parameter.

    Only parameters are averaged. Buffers (batch norm's running statistics) belong to the twin and come from its own
    forward passes, so keep it in train mode where the module is. Nothing in the twin receives a gradient.

    Args:
        module: what to follow; copied once, and not kept: hand it to `update` again.
        momentum: m, in [0, 1].
        cosine_steps: updates over which m rises to 1 along a half cosine, from `momentum` at the first; None keeps it.

    Attributes:
        module: the copy.
        step: int64 scalar, updates made so far; a buffer, so that a resumed run goes on with the right momentum.

    Example:
        >>> online = nn.Linear(1, 1, bias=False)
        >>> twin = EMATwin(online, momentum=0.75)
        >>> with torch.no_grad():
        ...     _ = twin.module.weight.fill_(0.0), online.weight.fill_(4.0)
        >>> twin.update(online)
        >>> twin.module.weight.item()
        1.0
    """

    step: Tensor

    def __init__(self, module: nn.Module, *, momentum: float = 0.99, cosine_steps: int | None = None) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], found {momentum}.")
        if cosine_steps is not None and cosine_steps < 1:
            raise ValueError(f"cosine_steps must be at least 1, or None for a constant, found {cosine_steps}.")
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.momentum = momentum
        self.cosine_steps = cosine_steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """Run the copy without gradient."""
        return self.module(*args)

    def current_momentum(self) -> float:
        """Return the momentum that the next `update` will use."""
        if self.cosine_steps is None:
            return self.momentum
        progress = min(int(self.step) / self.cosine_steps, 1.0)
        return 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the copy's parameters towards those of `module`, which must be the module that was copied.

        Raises:
            ValueError: the parameters differ in name or shape from the copy's.
        """
        mine, theirs = dict(self.module.named_parameters()), dict(module.named_parameters())
        if {k: p.shape for k, p in mine.items()} != {k: p.shape for k, p in theirs.items()}:
            odd = sorted(mine.keys() ^ theirs.keys()) or [k for k in mine if mine[k].shape != theirs[k].shape]
            raise ValueError(
                f"update takes the module that this twin was copied from; {len(odd)} parameters differ, "
                f"the first is {odd[0]!r}. Make a new EMATwin after changing the module."
            )
        momentum = self.current_momentum()
        for name, parameter in mine.items():
            parameter.mul_(momentum).add_(theirs[name], alpha=1 - momentum)
        self.step += 1

    def extra_repr(self) -> str:
        """Show the momentum and its schedule."""
        return f"momentum={self.momentum}, cosine_steps={self.cosine_steps}"
