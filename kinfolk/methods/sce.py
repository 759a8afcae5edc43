"""SCE: a strong view finds its weak one, and relates to a queue of earlier keys as the weak one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.graphs import KernelGraph
from kinfolk.losses import SCELoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_views
from kinfolk.methods.health import projection_health, same_label_share
from kinfolk.methods.momentum import MomentumConfig
from kinfolk.nn import FeatureQueue, HeadConfig, QueueSnapshot, encoder_dim
from kinfolk.ops import PairMask, row_topk

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class SCEConfig(MomentumConfig):
    """Settings of `SCE`; the defaults are those for small images.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = SCEConfig(queue_size=8).build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)}))
        ['loss', 'participation_ratio', 'positive_cosine', 'queue_fill', 'relation_perplexity']
    """

    kind: ClassVar[str] = "sce"
    exclude_own: bool = False
    """Leave a sample's own earlier keys out of queue and relations; the paper has them, as what relates most."""
    temperature: float = 0.1
    """Divides the online encoder's cosines."""
    target_temperature: float = 0.05
    """Divides the cosines between keys that make the relations; above `temperature` they say little."""
    coefficient: float = 0.5
    """Share of the own key in the target; the relations have the rest. 1 is MoCo."""
    symmetric: bool = False
    """Let both views be online and target and average the two losses, at twice the work."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and loss."""
    predictor: HeadConfig = field(default_factory=lambda: HeadConfig(layers=0))
    """What the online side has beyond its head; its `out_dim` is the head's. 0 layers leave it out."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> SCE:
        """Build the method around an encoder, whose batch norm becomes split batch norm.

        SCE finds its relations itself, between keys, and leaves `relation` unused.
        """
        return SCE(encoder, self)


@final
class SCE(Method):
    """Cross-entropy between a strong view's choice among keys and a target that is part own key, part relations.

    InfoNCE treats all other images as equally wrong. Here the weak view's key says how it relates to the queue, and the
    strong view, seen by the online encoder, has to answer alike: `coefficient` of the target is on the own key, the
    rest on the queue, in proportion to the softmax of the keys' own cosines. The key encoder is an exponential moving
    average of the encoder and head, without the predictor, and receives no gradient.

    The first view is the weak one, for the target; the second is the strong one, for the online encoder. Views of one
    strength work too. In forward: online rows; keys; loss against a copy of the queue as it was. In `after_step`: the
    keys enter the queue, and the moving average takes in the new weights. A forward pass in eval mode or without
    gradient leaves nothing for `after_step` to do.

    Terms beside the loss, of the first direction: `relation_perplexity`, how many keys a weak view relates to, as exp
    of the mean entropy; `same_label`, where the batch has labels, the share of weak views whose nearest key has their
    label; `queue_fill`; `positive_cosine` between online rows and keys; `participation_ratio` of both.

    A decoupled denominator leaves the own key out of the choice, not of the target; false negatives leave the queue,
    and with it the relations.

    Degenerate: `coefficient=1` is MoCo that excludes nothing, the second view being the query. At the start the queue
    holds random rows, and so do the relations.

    Reference: Denize, Rabarisoa, Orcesi, Hérault, Canu (2023), Similarity Contrastive Estimation for Self-Supervised
    Soft Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: SCEConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.predictor = config.predictor.build_predictor(self.head)
        self.twin = config.build_twin(encoder, self.head)
        self.queue = FeatureQueue(config.queue_size, self.head.out_dim)
        self.loss = SCELoss(
            temperature=config.temperature,
            target_temperature=config.target_temperature,
            coefficient=config.coefficient,
            decoupled=config.decoupled,
        )
        self.false_negatives = config.false_negatives.build()
        self.config = config

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for a momentum that rises."""
        self.twin.begin(plan.total_steps)
        self.false_negatives.begin(plan)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the online rows: of the strong view, and then of the weak one if the method is symmetric."""
        weak, strong = read_views(batch, method="SCE", count=2)
        views = (strong, weak) if self.config.symmetric else (strong,)
        return tuple(self.predictor(self.head(self.encoder(view))) for view in views)

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the targets of the online rows, each from the other view."""
        weak, strong = read_views(batch, method="SCE", count=2)
        return tuple(self.twin(view) for view in ((weak, strong) if self.config.symmetric else (weak,)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the keys for `after_step`."""
        queue = self.queue.snapshot()
        false, health = self.false_negatives.in_queue(keys, queue, batch.get("ids"), batch.get("labels"))
        kept = (self.config.own_earlier_keys(batch, queue) | false).mask(self.queue.size)
        pairs = list(zip(embeddings, keys, strict=True))
        loss = torch.stack([self.loss(o, t, queue.features, exclude=kept) for o, t in pairs]).mean()
        for _, target in pairs:
            self.queue.hold(target, batch.get("ids"), batch.get("labels"))
        return {
            "loss": loss,
            "queue_fill": self.queue.fill,
            **health,
            **self._relations(pairs[0][1], queue, batch.get("labels"), kept),
            **projection_health(pairs[0]),
        }

    @torch.no_grad()
    def _relations(
        self,
        targets: Float[Tensor, "n d"],
        queue: QueueSnapshot,
        labels: Int64[Tensor, " n"] | None,
        kept: PairMask | None,
    ) -> dict[str, Tensor]:
        """Return how many keys the targets relate to, and whether the nearest is of their class."""
        temperature = self.config.target_temperature
        # The entropy of a softmax is its log-partition minus its mean logit: the graph's attraction to itself.
        graph = KernelGraph(targets, queue.features, temperature=temperature)
        partition, logit = graph.logsumexp_and_attraction(
            targets, queue.features, scale=1 / temperature, mask=kept, normalize=True
        )
        entropy = torch.where(partition == -torch.inf, 0.0, partition - logit)
        found = {"relation_perplexity": entropy.mean().exp()}
        if labels is None:
            return found
        nearest = row_topk(targets, queue.features, k=1, mask=kept, normalize=True)[1]
        return found | same_label_share(labels, queue.labels[nearest].where(nearest >= 0, -1))

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the queue's rows; the batch adds none."""
        return self.queue.size

    def after_step(self) -> None:
        """Enqueue the keys of the training passes since the last call and let the key encoder follow."""
        self.false_negatives.after_step()
        if self.queue.flush():
            self.twin.update(self.encoder, self.head)
