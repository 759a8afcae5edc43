"""What the settings of all methods with a predictor and a momentum target have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from kinfolk.methods.batches import read_views
from kinfolk.nn import HeadConfig, MomentumTwin
from kinfolk.nn.momentum import MomentumSchedule

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class OnlineTargetConfig:
    """Settings of an online encoder with a predictor and of its target; the defaults are those for small images.

    Raises:
        ValueError: for fewer than two large crops.

    Example:
        >>> OnlineTargetConfig(momentum=0.9).build_twin(nn.Flatten(), nn.Linear(4, 2)).head.momentum
        0.9
    """

    labels_used: ClassVar[str] = "none"
    large: int = 2
    """How many views, the first ones of every sample, the target sees; any others, as small crops, are online only."""
    momentum: float = 0.99
    """How slowly the target follows, 0 to 1."""
    momentum_schedule: MomentumSchedule = "constant"
    """Constant, or cosine: from `momentum` at the start to 1 at the end of training."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head after the encoder; the target has a moving average of it."""
    predictor: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """What the online side has beyond its head; its `out_dim` is the head's. 0 layers leave it out."""

    def __post_init__(self) -> None:
        if self.large < 2:
            raise ValueError(f"large must be at least 2, one view to predict another from, found {self.large}.")

    def build_twin(self, encoder: nn.Module, head: nn.Module) -> MomentumTwin:
        """Build the target: the moving average of an encoder and its head, without the predictor."""
        return MomentumTwin(encoder, head, momentum=self.momentum, schedule=self.momentum_schedule)

    def read_crops(self, batch: Mapping[str, Any], *, method: str) -> list[Float[Tensor, "n c h w"]]:
        """Return the views of a batch, of any sizes, the large ones first.

        Raises:
            ValueError: for fewer views than the target is to see.
        """
        views = read_views(batch, method=method, same_size=False)
        if len(views) < self.large:
            raise ValueError(
                f"{method} takes at least its {self.large} large views of each image, found {len(views)}; "
                "set ViewsConfig.count, or large."
            )
        return views
