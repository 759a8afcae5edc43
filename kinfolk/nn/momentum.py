"""The slowly moving twin of an encoder and its head, which makes the keys, or targets, of a momentum method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor, nn

from kinfolk.nn.ema import EMATwin
from kinfolk.nn.norms import split_batch_norm

if TYPE_CHECKING:
    from jaxtyping import Float

MomentumSchedule = Literal["constant", "cosine"]


@final
class MomentumTwin(nn.Module):
    """An exponential moving average of an encoder and of its projection head; nothing in it receives a gradient.

    Batch statistics would tell a query which key shares its batch. With ``splits`` above 1 batch norm works on groups
    of the batch, in the encoder, the head and their copies, and the copies see the batch in another order. The exported
    encoder is unaffected: in eval mode, and in its weights, split batch norm is batch norm. An encoder with group norm
    has no such leak and needs neither.

    Args:
        encoder, head: what to follow; copied once, and not kept. Their batch norm becomes split batch norm.
        momentum: share of itself that the copy keeps at an update, in [0, 1].
        schedule: ``"cosine"`` lets the momentum rise to 1 along half a cosine over the training that `begin` tells of.
        splits: groups of the batch that batch norm normalises apart, as several devices would; 1 leaves it alone.

    Attributes:
        encoder, head: the copies, each an `EMATwin`.

    Reference: He, Fan, Wu, Xie, Girshick (2020), Momentum Contrast for Unsupervised Visual Representation Learning.

    Example:
        >>> twin = MomentumTwin(nn.Flatten(), nn.Linear(4, 3), momentum=0.99)
        >>> twin(torch.rand(2, 1, 2, 2)).requires_grad
        False
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        *,
        momentum: float = 0.99,
        schedule: MomentumSchedule = "constant",
        splits: int = 1,
    ) -> None:
        super().__init__()
        if schedule not in ("constant", "cosine"):
            raise ValueError(f"momentum_schedule must be 'constant' or 'cosine', found {schedule!r}.")
        if splits != 1:
            for part in (encoder, head):
                split_batch_norm(part, splits=splits)
        self.encoder = EMATwin(encoder, momentum=momentum)
        self.head = EMATwin(head, momentum=momentum)
        self.schedule = schedule
        self.splits = splits

    def begin(self, total_steps: int) -> None:
        """Set the length of training, over which a momentum on a schedule rises."""
        if self.schedule == "cosine":
            self.encoder.cosine_steps = self.head.cosine_steps = total_steps

    @torch.no_grad()
    def forward(self, view: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Project a view with the copies, in an order that spreads each group of the batch over all groups."""
        # Batches come in random order, so a fixed interleaving mixes as well as a random one and needs no state.
        count = max(1, min(self.splits, len(view) // 2))  # as many as batch norm makes of a small batch
        groups = torch.arange(len(view), device=view.device) % count
        order = groups.argsort(stable=True)
        return self.head(self.encoder(view[order]))[order.argsort()]

    def update(self, encoder: nn.Module, head: nn.Module) -> None:
        """Move the copies towards the modules that they were copied from."""
        self.encoder.update(encoder)
        self.head.update(head)

    def extra_repr(self) -> str:
        """Show the schedule and the groups."""
        return f"schedule={self.schedule!r}, splits={self.splits}"
