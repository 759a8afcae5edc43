"""MoCo v2: keys from a slowly moving copy of the encoder, negatives from a queue of earlier keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_views
from kinfolk.methods.contrast import QueueContrast
from kinfolk.methods.health import projection_health
from kinfolk.methods.momentum import MomentumConfig
from kinfolk.nn import FeatureQueue, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class MoCoConfig(MomentumConfig):
    """Settings of `MoCo`; the defaults are those for small images.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = MoCoConfig(queue_size=8).build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> terms = method({"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)})
        >>> method.after_step()
        >>> sorted(terms), int(method.queue.filled)
        (['loss', 'participation_ratio', 'positive_cosine', 'queue_fill'], 4)
    """

    kind: ClassVar[str] = "moco"
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    symmetric: bool = False
    """Let both views be queries and average the two losses, at twice the work."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> MoCo:
        """Build the method around an encoder, whose batch norm becomes split batch norm.

        A relation takes the place of "own key or not" as the target over own key and queue.
        """
        return MoCo(encoder, self, relation=relation)


@final
class MoCo(Method):
    """InfoNCE of each query against its own key and a queue of earlier keys.

    The other samples of the batch are no negatives until their keys are in the queue. The key encoder is an exponential
    moving average of the encoder, parameters only, and receives no gradient; `kinfolk.nn.MomentumTwin` says how batch
    norm is kept from telling a query which key is its own.

    In forward: queries; keys; loss against a copy of the queue as it was. In `after_step`: the keys enter the queue,
    and the moving average takes in the new weights. It is thus up to date when the next keys are made, exactly as if it
    were updated between queries and keys of that step. A forward pass in eval mode or without gradient leaves nothing
    for `after_step` to do.

    `QueueContrast` says what a decoupled denominator, false negatives and a relation change.

    Terms beside the loss: `queue_fill`, the share of the queue that holds keys of data; `positive_cosine` between
    queries and keys; `participation_ratio` of queries and keys; where false negatives are looked for, `excluded_share`
    of the queue and, with labels in the batch, `false_negative_precision`.

    Reference: He, Fan, Wu, Xie, Girshick (2020), Momentum Contrast for Unsupervised Visual Representation Learning.
    Chen, Fan, Girshick, He (2020), Improved Baselines with Momentum Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: MoCoConfig, *, relation: Relation | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.relation = relation
        self.head = config.head.build(encoder_dim(encoder))
        self.twin = config.build_twin(encoder, self.head)
        self.queue = FeatureQueue(config.queue_size, self.head.out_dim)
        self.false_negatives = config.false_negatives.build()
        self.loss = QueueContrast(temperature=config.temperature, decoupled=config.decoupled, relation=relation)
        self.config = config

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for a momentum that rises and the search for false negatives."""
        self.twin.begin(plan.total_steps)
        self.false_negatives.begin(plan)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the queries: of the first view, or of both if the method is symmetric."""
        views = read_views(batch, method="MoCo", count=2)
        return tuple(self.head(self.encoder(view)) for view in (views if self.config.symmetric else views[:1]))

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the keys of the queries, each from the other view."""
        first, second = read_views(batch, method="MoCo", count=2)
        return tuple(self.twin(view) for view in ((second, first) if self.config.symmetric else (second,)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the keys for `after_step`."""
        queue = self.queue.snapshot()
        ids, labels = batch.get("ids"), batch.get("labels")
        found, health = self.false_negatives.in_queue(keys, queue, ids, labels)
        dropped = self.config.own_earlier_keys(batch, queue) | found

        pairs = list(zip(embeddings, keys, strict=True))
        loss = torch.stack([self.loss(q, k, queue, ids, dropped) for q, k in pairs]).mean()
        for _, k in pairs:
            self.queue.hold(k, ids, labels)
        return {"loss": loss, "queue_fill": self.queue.fill, **health, **projection_health(pairs[0])}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the queue's rows; the batch adds none."""
        return self.queue.size

    def after_step(self) -> None:
        """Enqueue the keys of the training passes since the last call and let the key encoder follow."""
        self.false_negatives.after_step()
        if self.queue.flush():
            self.twin.update(self.encoder, self.head)
