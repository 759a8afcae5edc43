"""MoCHi: MoCo with further negatives, mixed from the hardest ones of each query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Generator, Tensor, nn

from kinfolk import distributed
from kinfolk.data.counter import counter_generator
from kinfolk.losses import InfoNCELoss, MoCHiLoss
from kinfolk.losses.mochi import Mixing, mochi
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_views
from kinfolk.methods.health import projection_health, same_label_share
from kinfolk.methods.momentum import MomentumConfig
from kinfolk.nn import FeatureQueue, Progress, QueueSnapshot, encoder_dim
from kinfolk.ops import PairMask, row_topk

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class MoCHiConfig(MomentumConfig):
    """Settings of `MoCHi`; the defaults are those for small images.

    Raises:
        ValueError: for shares of training outside [0, 1] or that leave nothing between them, and more hardest keys
            than the queue holds.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8))
        >>> method = MoCHiConfig(queue_size=8, hardest=4, mixed=2, query_mixed=2, warmup=0.0).build(encoder)
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)}))
        ['loss', 'participation_ratio', 'positive_cosine', 'proxy_accuracy', 'queue_fill']
    """

    kind: ClassVar[str] = "mochi"
    exclude_own: bool = False
    """Leave a sample's own earlier keys out, and unmixed; the paper has them in the queue like others."""
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    hardest: int = 64
    """How many of a query's nearest keys in the queue are mixed."""
    mixed: int = 32
    """Mixtures of two of them, further negatives of the query."""
    query_mixed: int = 32
    """Mixtures of one of them with the query itself, which has less than half of it."""
    warmup: float = 0.05
    """Share of training, at its start, without mixtures."""
    cooldown: float = 0.0
    """Share of training, at its end, without mixtures."""
    symmetric: bool = False
    """Let both views be queries and average the two losses, at twice the work."""
    seed: int = 0
    """Seed of what is mixed; the draws of a step depend on it, the step and the process alone."""

    def __post_init__(self) -> None:
        for name, share in (("warmup", self.warmup), ("cooldown", self.cooldown)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be a share of training, 0 to 1, found {share}.")
        if self.warmup + self.cooldown > 1:
            raise ValueError(
                f"warmup and cooldown must leave time between them: {self.warmup} + {self.cooldown} is more than 1."
            )
        if self.mixed + self.query_mixed and self.hardest > self.queue_size:
            raise ValueError(
                f"hardest must be at most queue_size: hardest = {self.hardest}, queue_size = {self.queue_size}."
            )

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> MoCHi:
        """Build the method around an encoder, whose batch norm becomes split batch norm; `relation` stays unused."""
        return MoCHi(encoder, self)

    def smoke(self) -> Self:
        """Return the settings for a run of a few hundred samples."""
        few = replace(
            self,
            hardest=min(self.hardest, 32),
            mixed=min(self.mixed, 16),
            query_mixed=min(self.query_mixed, 16),
        )
        return super(MoCHiConfig, few).smoke()


@final
class MoCHi(Method):
    """InfoNCE of each query against its own key, a queue of earlier keys, and mixtures of the hardest of them.

    Late in training most of a queue is too easy to teach anything. So the rows of the queue nearest to a query are
    mixed, in pairs or with the query itself, into unit vectors that are harder than any real one. They are constants
    and are drawn anew in every step. For the first part of training, and the last if asked, this is MoCo: the nearest
    rows mean nothing before the features do. On few classes many of the hardest rows are false negatives, which mixing
    amplifies; `same_label` measures it.

    In forward: queries; keys; loss against a copy of the queue as it was, with the mixtures of this step. In
    `after_step`: the keys enter the queue, never the mixtures; the moving average takes in the new weights. A forward
    pass in eval mode or without gradient leaves nothing for `after_step` to do. With several processes each draws for
    its own queries, so what is mixed depends on how many there are.

    Terms beside the loss, of the first direction: `proxy_accuracy`, the share of queries whose key is nearer than every
    negative, mixtures included; `same_label`, where the batch has labels, the share of the hardest rows with the
    query's label, its own earlier keys among them; `queue_fill`; `positive_cosine`; `participation_ratio`.

    Degenerate: with nothing mixed, or `warmup=1`, this is MoCo that excludes nothing, bit for bit. A decoupled
    denominator leaves the own key out, and false negatives leave the queue and are not mixed.

    Reference: Kalantidis, Sariyildiz, Pion, Weinzaepfel, Larlus (2020), Hard Negative Mixing for Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: MoCHiConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.twin = config.build_twin(encoder, self.head)
        self.queue = FeatureQueue(config.queue_size, self.head.out_dim)
        self.progress = Progress()
        self.false_negatives = config.false_negatives.build()
        self.plain_loss = InfoNCELoss(temperature=config.temperature, decoupled=config.decoupled)
        self.mixing_loss = MoCHiLoss(
            temperature=config.temperature,
            hardest=config.hardest,
            mixed=config.mixed,
            query_mixed=config.query_mixed,
            decoupled=config.decoupled,
        )
        self.config = config

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for the parts without mixtures and for a momentum that rises."""
        self.progress.begin(plan.total_steps)
        self.twin.begin(plan.total_steps)
        self.false_negatives.begin(plan)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the queries: of the first view, or of both if the method is symmetric."""
        views = read_views(batch, method="MoCHi", count=2)
        return tuple(self.head(self.encoder(view)) for view in (views if self.config.symmetric else views[:1]))

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the keys of the queries, each from the other view."""
        first, second = read_views(batch, method="MoCHi", count=2)
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
        false, health = self.false_negatives.in_queue(keys, queue, batch.get("ids"), batch.get("labels"))
        kept = (self.config.own_earlier_keys(batch, queue) | false).mask(self.queue.size)
        pairs = list(zip(embeddings, keys, strict=True))
        if self.is_mixing():
            draws = self.draws()
            losses = [self.mixing_loss(q, k, queue.features, draws, exclude=kept) for q, k in pairs]
        else:
            losses = [self.plain_loss(q, k, queue.features, exclude=kept) for q, k in pairs]
        for _, k in pairs:
            self.queue.hold(k, batch.get("ids"), batch.get("labels"))
        return {
            "loss": torch.stack(losses).mean(),
            "queue_fill": self.queue.fill,
            **health,
            **self._hardness(*pairs[0], queue, batch.get("labels"), kept),
            **projection_health(pairs[0]),
        }

    def is_mixing(self) -> bool:
        """Whether the coming step has mixtures."""
        config = self.config
        if not config.mixed + config.query_mixed or not self.progress.has_reached(config.warmup):
            return False
        return not (config.cooldown and self.progress.has_reached(1 - config.cooldown))

    def draws(self) -> Generator:
        """Return the source of this step's draws in this process, at its beginning."""
        return counter_generator(self.config.seed, int(self.progress.step), distributed.rank())

    @torch.no_grad()
    def _hardness(
        self,
        queries: Float[Tensor, "n d"],
        keys: Float[Tensor, "n d"],
        queue: QueueSnapshot,
        labels: Int64[Tensor, " n"] | None,
        kept: PairMask | None,
    ) -> dict[str, Tensor]:
        """Return how many queries find their key, and how many of their hardest negatives are false."""
        config, mixing = self.config, None
        counts = {"hardest": config.hardest, "mixed": config.mixed, "query_mixed": config.query_mixed}
        if self.is_mixing():  # what the loss of the first direction drew
            mixing = Mixing.draw(len(queries), **counts, generator=self.draws(), device=queries.device)
        # At temperature 0 the loss is softplus(nearest negative - key): below log 2 where the key is nearer.
        options: dict[str, Any] = {"hardest": config.hardest, "exclude": kept, "gather": False}
        values, _ = mochi(queries, keys, queue.features, mixing, temperature=1e-6, **options)
        found = {"proxy_accuracy": (values < math.log(2)).float().mean()}
        if labels is None:
            return found
        k = min(config.hardest, self.queue.size)
        hard = row_topk(queries, queue.features, k=k, mask=kept, normalize=True)[1]
        return found | same_label_share(labels, queue.labels[hard].where(hard >= 0, -1))

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the queue's rows and the mixtures; the batch adds none."""
        return self.queue.size + self.config.mixed + self.config.query_mixed

    def after_step(self) -> None:
        """Enqueue the keys of the training passes since the last call, let the key encoder follow, count the step."""
        self.false_negatives.after_step()
        if self.queue.flush():
            self.twin.update(self.encoder, self.head)
            self.progress.advance()
