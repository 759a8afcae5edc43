"""CACR: pull far positives and push near negatives, each in proportion to how much it needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, final

import torch
from torch import Tensor, nn

from kinfolk.losses import CACRLoss
from kinfolk.losses.cacr_over_queue import cacr_over_queue
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.health import projection_health, relative_entropy
from kinfolk.nn import FeatureQueue, HeadConfig, MomentumTwin, encoder_dim
from kinfolk.nn.momentum import MomentumSchedule

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan

# The weights are an explicit matrix; its entropy is an estimate over this many samples, so that it stays cheap.
_ENTROPY_SAMPLES = 256


@dataclass(frozen=True)
class CACRConfig:
    """Settings of `CACR`; K positives per query need K + 1 views, which `ViewsConfig.count` sets.

    Raises:
        ValueError: for a negative queue size.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = CACRConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 3, "ids": torch.arange(4)}))
        ['loss', 'participation_ratio', 'positive_cosine', 'repulsion_entropy']
    """

    kind: ClassVar[str] = "cacr"
    labels_used: ClassVar[str] = "none"
    t_pos: float = 1.0
    """How strongly far positives are preferred; 0 weighs all the same."""
    t_neg: float = 2.0
    """How strongly near negatives are preferred; 0 weighs all the same."""
    alpha: float = 1.0
    """Factor of the attraction."""
    beta: float = 1.0
    """Factor of the repulsion."""
    attraction: Literal["contrastive", "uniform"] = "contrastive"
    """Weights of the positives: by distance, or all equal (to compare with)."""
    repulsion: Literal["contrastive", "uniform"] = "contrastive"
    """Weights of the negatives: by nearness, or all equal (to compare with)."""
    detach_weights: bool = False
    """Whether the weights are constants in the gradient."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=0))
    """A projection head between encoder and loss; none by default (0 layers)."""
    queue_size: int = 0
    """Earlier keys of a momentum encoder that repel too; 0 does without both, and uses none of the fields below."""
    momentum: float = 0.99
    """How slowly the key encoder follows, 0 to 1."""
    momentum_schedule: MomentumSchedule = "constant"
    """Constant, or cosine: from `momentum` at the start to 1 at the end of training."""
    batch_norm_splits: int = 8
    """Groups of the batch that batch norm normalises apart, as several devices would; 1 leaves batch norm alone."""

    def __post_init__(self) -> None:
        if self.queue_size < 0:
            raise ValueError(f"queue_size must be at least 0, where 0 is no queue; found {self.queue_size}.")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> CACR:
        """Build the method around an encoder; CACR weighs pairs by their distance and leaves `relation` unused."""
        return CACR(encoder, self)

    def smoke(self) -> Self:
        """Return the settings for a run of a few hundred samples."""
        splits = min(self.batch_norm_splits, 2) if self.queue_size else self.batch_norm_splits
        return replace(self, queue_size=min(self.queue_size, 128), batch_norm_splits=splits)


@final
class CACR(Method):
    """Contrastive attraction within a sample's views and contrastive repulsion between samples.

    With V views each query has K = V - 1 positives, weighted towards the far ones, and the other samples as negatives,
    weighted towards the near ones. There is no softmax over positives and negatives together, and the value may be
    negative.

    With a queue every view is a query, and the keys are those of an EMA encoder. A query is attracted by the keys of
    its sample's other views, and repelled by the other samples' keys of those views together with the queue's, as one
    set; see `kinfolk.losses.cacr_over_queue`. In forward: queries; keys; loss against a copy of the queue as it was. In
    `after_step`: the keys of the first view enter the queue, one per sample so that it holds as many samples as it
    can, and the moving average takes in the new weights. A sample's own earlier keys never repel it. A forward pass in
    eval mode or without gradient leaves nothing for `after_step` to do. Without a queue nothing happens after a step.

    Terms beside the loss: `repulsion_entropy`, the entropy of the repulsion weights relative to uniform ones, between
    the first two views of the first 256 samples (it falls as training goes on), the queue left out; `positive_cosine`,
    `participation_ratio` of the projections; with a queue `queue_fill`, the share of it that holds keys of data.

    Reference: Zheng, Chen, Yao, Yang, Li, Zhang, Zhang, Tsang, Zhou, Zhou (2021), Contrastive Attraction and
    Contrastive Repulsion for Representation Learning.
    """

    def __init__(self, encoder: nn.Module, config: CACRConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = CACRLoss(
            t_pos=config.t_pos,
            t_neg=config.t_neg,
            alpha=config.alpha,
            beta=config.beta,
            attraction=config.attraction,
            repulsion=config.repulsion,
            detach_weights=config.detach_weights,
        )
        self.config = config
        if config.queue_size:
            self.twin = MomentumTwin(
                encoder,
                self.head,
                momentum=config.momentum,
                schedule=config.momentum_schedule,
                splits=config.batch_norm_splits,
            )
            self.queue = FeatureQueue(config.queue_size, self.head.out_dim)

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for a momentum that rises."""
        if self.config.queue_size:
            self.twin.begin(plan.total_steps)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view; with a queue each is a batch of its own, as it is for the keys."""
        views = read_views(batch, method="CACR")
        if self.config.queue_size:
            return tuple(self.head(self.encoder(view)) for view in views)
        return self.head(self.encoder(torch.cat(views))).tensor_split(len(views))

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the keys of each view, if there is a queue."""
        return tuple(self.twin(view) for view in read_views(batch, method="CACR")) if self.config.queue_size else ()

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the keys for `after_step` where there is a queue."""
        ids = read_ids(batch)
        health = projection_health(embeddings)
        if not self.config.queue_size:
            loss = self.loss(embeddings, ids=ids)
            return {"loss": loss, "repulsion_entropy": self._repulsion_entropy(embeddings, ids), **health}
        loss = self._against_queue(embeddings, keys, ids)
        self.queue.hold(keys[0], batch.get("ids"), batch.get("labels"))
        health |= {"queue_fill": self.queue.fill, "repulsion_entropy": self._repulsion_entropy(embeddings, ids)}
        return {"loss": loss, **health}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the other samples, each once: the repulsion is a mean over pairs of views.

        With a queue they count once per other view, since these repel as one set, and the queue's rows are added.
        """
        return self.queue.size + (samples - 1) * (views - 1) if self.config.queue_size else samples - 1

    def after_step(self) -> None:
        """Enqueue the keys of the training passes since the last call and let the key encoder follow."""
        if self.config.queue_size and self.queue.flush():
            self.twin.update(self.encoder, self.head)

    def _against_queue(
        self, queries: Sequence[Float[Tensor, "n d"]], keys: Sequence[Float[Tensor, "n d"]], ids: Int64[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        config, queue = self.config, self.queue.snapshot()
        values, valid = cacr_over_queue(
            queries,
            keys,
            queue.features,
            ids=ids,
            queue_ids=queue.ids,
            t_pos=config.t_pos,
            t_neg=config.t_neg,
            alpha=config.alpha,
            beta=config.beta,
            detach_weights=config.detach_weights,
            attraction=config.attraction,
            repulsion=config.repulsion,
        )
        return self.loss.reduce(values, valid)

    @torch.no_grad()
    def _repulsion_entropy(self, z: Sequence[Float[Tensor, "n d"]], ids: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
        first = slice(_ENTROPY_SAMPLES)
        _, repulsion = self.loss.weights([view[first] for view in z[:2]], ids[first])
        return relative_entropy(repulsion.float())
