"""What the settings of all methods with a momentum encoder and a queue of keys have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import nn

from kinfolk.methods.false_negatives import Dropped, FalseNegativesConfig
from kinfolk.nn import HeadConfig, MomentumTwin, QueueSnapshot
from kinfolk.nn.momentum import MomentumSchedule


@dataclass(frozen=True)
class MomentumConfig:
    """Settings of a key encoder and its queue; the defaults are those for small images.

    Example:
        >>> MomentumConfig(momentum=0.9).build_twin(nn.Flatten(), nn.Linear(4, 2)).encoder.momentum
        0.9
    """

    queue_size: int = 4096
    """Number of earlier keys that serve as negatives; at most the number of training images is sensible."""
    momentum: float = 0.99
    """How slowly the key encoder follows, 0 to 1; well below 0.99 the encoder outruns its queue and collapses."""
    momentum_schedule: MomentumSchedule = "constant"
    """Constant, or cosine: from `momentum` at the start to 1 at the end of training."""
    exclude_own: bool = True
    """Leave a sample's own earlier keys out of its negatives."""
    decoupled: bool = False
    """Leave the own key out of the denominator (DCL)."""
    false_negatives: FalseNegativesConfig = field(default_factory=FalseNegativesConfig)
    """Which rows of the queue are no negatives of a sample, found by its own keys."""
    batch_norm_splits: int = 8
    """Groups of the batch that batch norm normalises apart, as several devices would; 1 leaves batch norm alone."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and loss."""

    @property
    def labels_used(self) -> str:
        """Which labels training sees: none, but for an oracle of false negatives."""
        return self.false_negatives.labels_used

    def build_twin(self, encoder: nn.Module, head: nn.Module) -> MomentumTwin:
        """Build the moving average of an encoder and its head, whose batch norm becomes split batch norm."""
        return MomentumTwin(
            encoder, head, momentum=self.momentum, schedule=self.momentum_schedule, splits=self.batch_norm_splits
        )

    def smoke(self) -> Self:
        """Return the settings for a run of a few hundred samples, whose batches leave few to a group of batch norm."""
        return replace(self, queue_size=128, batch_norm_splits=min(self.batch_norm_splits, 2))

    def own_earlier_keys(self, batch: Mapping[str, Any], queue: QueueSnapshot) -> Dropped:
        """Return what leaves the queue so that a sample is not pushed from its own earlier keys, if asked.

        A queue outlives the batch: without ids in the batch nobody knows whose keys it holds, and nothing is excluded.
        """
        ids = batch.get("ids")
        return Dropped(equal=((ids, queue.ids),)) if self.exclude_own and ids is not None else Dropped()
