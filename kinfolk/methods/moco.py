"""MoCo v2: keys from a slowly moving copy of the encoder, negatives from a queue of earlier keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk import distributed
from kinfolk.losses import InfoNCELoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_views
from kinfolk.methods.health import projection_health
from kinfolk.nn import EMATwin, FeatureQueue, HeadConfig, encoder_dim, split_batch_norm

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class MoCoConfig:
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
    labels_used: ClassVar[str] = "none"
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    queue_size: int = 4096
    """Number of earlier keys that serve as negatives; at most the number of training images is sensible."""
    momentum: float = 0.99
    """How slowly the key encoder follows, 0 to 1; well below 0.99 the encoder outruns its queue and collapses."""
    momentum_steps: int | None = None
    """Steps over which the momentum rises to 1 along a cosine; None keeps it constant."""
    symmetric: bool = False
    """Let both views be queries and average the two losses, at twice the work."""
    exclude_own: bool = True
    """Leave a sample's own earlier keys out of its negatives."""
    batch_norm_splits: int = 8
    """Groups of the batch that batch norm normalises apart, as several devices would; 1 leaves batch norm alone."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and loss."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> MoCo:
        """Build the method around an encoder, whose batch norm becomes split batch norm; `relation` stays unused."""
        return MoCo(encoder, self)


@final
class MoCo(Method):
    """InfoNCE of each query against its own key and a queue of earlier keys.

    The other samples of the batch are no negatives until their keys are in the queue. The key encoder is an exponential
    moving average of the encoder, parameters only, and receives no gradient.

    Batch statistics would tell a query which key shares its batch. So batch norm works on groups of the batch, and the
    keys pass in another order than the queries. The exported encoder is unaffected: in eval mode, and in its weights,
    split batch norm is batch norm. An encoder with group norm has no such leak and needs neither.

    In forward: queries; keys; loss against a copy of the queue as it was. In `after_step`: the moving average takes in
    the new weights, and the keys enter the queue. The average is thus up to date when the next keys are made, exactly
    as if it were updated between queries and keys of that step. A forward pass in eval mode or without gradient leaves
    nothing for `after_step` to do.

    Terms beside the loss: `queue_fill`, the share of the queue that holds keys of data; `positive_cosine` between
    queries and keys; `participation_ratio` of queries and keys.

    Reference: He, Fan, Wu, Xie, Girshick (2020), Momentum Contrast for Unsupervised Visual Representation Learning.
    Chen, Fan, Girshick, He (2020), Improved Baselines with Momentum Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: MoCoConfig) -> None:
        super().__init__()
        head = config.head.build(encoder_dim(encoder))
        if config.batch_norm_splits != 1:
            for part in (encoder, head):
                split_batch_norm(part, splits=config.batch_norm_splits)
        self.encoder = encoder
        self.head = head
        self.key_encoder = EMATwin(encoder, momentum=config.momentum, cosine_steps=config.momentum_steps)
        self.key_head = EMATwin(head, momentum=config.momentum, cosine_steps=config.momentum_steps)
        self.queue = FeatureQueue(config.queue_size, head.out_dim)
        self.loss = InfoNCELoss(temperature=config.temperature)
        self.config = config
        self._waiting: list[tuple[Tensor, Tensor | None, Tensor | None]] = []

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the queries: of the first view, or of both if the method is symmetric."""
        views = read_views(batch, method="MoCo", count=2)
        return tuple(self.head(self.encoder(view)) for view in (views if self.config.symmetric else views[:1]))

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the keys of the queries, each from the other view."""
        first, second = read_views(batch, method="MoCo", count=2)
        return tuple(self._keys(view) for view in ((second, first) if self.config.symmetric else (second,)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the keys for `after_step`."""
        ids, labels = batch.get("ids"), batch.get("labels")  # a queue outlives the batch: without ids, no names
        queue = self.queue.snapshot()
        exclude = (ids, queue.ids) if self.config.exclude_own and ids is not None else None

        pairs = list(zip(embeddings, keys, strict=True))
        loss = torch.stack([self.loss(q, k, queue.features, exclude=exclude) for q, k in pairs]).mean()
        if self.training and torch.is_grad_enabled():
            self._waiting += [(k, ids, labels) for k in keys]
        return {"loss": loss, "queue_fill": self.queue.filled / self.queue.size, **projection_health(pairs[0])}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the queue's rows; the batch adds none."""
        return self.queue.size

    def after_step(self) -> None:
        """Update the key encoder and enqueue the keys of the training passes since the last call."""
        if not self._waiting:
            return
        self.key_encoder.update(self.encoder)
        self.key_head.update(self.head)
        for waiting in self._waiting:
            # In rank order, so that the queue stays the same on all ranks.
            keys, ids, labels = (None if x is None else distributed.all_gather(x) for x in waiting)
            assert keys is not None
            self.queue.enqueue(keys, ids, labels)
        self._waiting.clear()

    @torch.no_grad()
    def _keys(self, view: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Encode the keys in an order that spreads each group of the queries over all groups of the keys."""
        # Batches come in random order, so a fixed interleaving mixes as well as a random one and needs no state.
        groups = torch.arange(len(view), device=view.device) % self.config.batch_norm_splits
        order = groups.argsort(stable=True)
        return self.key_head(self.key_encoder(view[order]))[order.argsort()]
