"""What every training method promises to the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from kinfolk.data.relations import Relation


class Method(nn.Module, ABC):
    """A training method: which modules, which loss, and what happens after a step.

    A step is `terms = method(batch)`, backward from `terms["loss"]`, the optimiser's step, `method.after_step()`.
    Everything that needs a gradient happens in `forward`, since data-parallel wrappers synchronise only there. All that
    a resumed run needs is in `state_dict`.

    Attributes:
        encoder: what is evaluated and exported; from float images `[b, C, H, W]` to `[b, feature_dim]`.
        relation: where the target graph comes from, for methods that match one; None otherwise.
    """

    encoder: nn.Module
    relation: Relation | None = None

    @abstractmethod
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the named terms of a batch.

        Args:
            batch: `views` (list of float images `[b, C, H, W]`), `ids` int64 `[b]`, and what the method asks for
                among `labels` and `text_embedding`.

        Returns:
            `"loss"` is the total to minimise. All other terms are detached scalars that show a run's health; they
            are not comparable between methods.
        """

    def after_step(self) -> None:
        """Do what follows the optimiser's step; most methods have nothing to do."""
