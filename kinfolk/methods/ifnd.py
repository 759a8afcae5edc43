"""IFND: MoCo that finds out, little by little, which of its negatives are none, and leaves them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from kinfolk.losses import InfoNCELoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_views
from kinfolk.methods.health import projection_health
from kinfolk.methods.momentum import MomentumConfig
from kinfolk.nn import FeatureQueue, Progress, QueueSnapshot, encoder_dim, spherical_k_means

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class IFNDConfig(MomentumConfig):
    """Settings of `IFND`; the defaults are those for small images with about ten classes.

    Raises:
        ValueError: for numbers out of range, naming the field.

    Example:
        >>> from kinfolk.methods import TrainingPlan
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = IFNDConfig(clusters=(2,), start=0.0, incremental=False, queue_size=8)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> images = torch.rand(4, 1, 8, 8)
        >>> method.begin(TrainingPlan(10, 5, torch.arange(4), lambda module: module(images)))
        >>> terms = method({"views": [images] * 2, "ids": torch.arange(4)})
        >>> method.after_step()
        >>> sorted(terms)[:3], int(method.accepted.sum())
        (['accepted_share', 'excluded_share', 'loss'], 4)
    """

    kind: ClassVar[str] = "ifnd"
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    clusters: tuple[int, ...] = (100, 250, 500)
    """How many clusters, for each of the clusterings that the loss is averaged over; ten to a hundred for a class."""
    cluster_temperature: float = 0.2
    """Divides the cosines of an image with all centroids, for how sure its cluster is."""
    cluster_every: float = 0.01
    """Share of training between two clusterings; each costs a pass over the data."""
    start: float = 0.05
    """Share of training before the first clustering; until then this is MoCo."""
    incremental: bool = True
    """Believe the surest clusters only: none at the start of training, all at its end. Otherwise all, always."""
    symmetric: bool = False
    """Let both views be queries and average the two losses, at twice the work."""
    seed: int = 0
    """Of the clusterings."""

    def __post_init__(self) -> None:
        if not self.clusters or min(self.clusters) < 1:
            raise ValueError(f"clusters must name one number above 0 at least, found {self.clusters}.")
        if self.cluster_temperature <= 0:
            raise ValueError(f"cluster_temperature must be positive, found {self.cluster_temperature}.")
        if not 0 < self.cluster_every <= 1:
            raise ValueError(
                f"cluster_every must be a share of training, above 0 and at most 1, found {self.cluster_every}."
            )
        if not 0 <= self.start <= 1:
            raise ValueError(f"start must be a share of training, 0 to 1, found {self.start}.")
        if self.false_negatives.is_on:
            raise ValueError(
                f"IFND finds false negatives by its clusters: leave false_negatives.detector at 'none', found "
                f"{self.false_negatives.detector!r}; MoCo takes it."
            )

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> IFND:
        """Build the method around an encoder, whose batch norm becomes split batch norm; `relation` stays unused."""
        return IFND(encoder, self)

    def smoke(self) -> Self:
        """Return the settings for a run of a few hundred samples."""
        clusters = tuple(min(count, 20) for count in self.clusters)
        return replace(super().smoke(), clusters=clusters, cluster_every=max(self.cluster_every, 0.25))


@final
class IFND(Method):
    """InfoNCE of each query against its own key and those keys of a queue that lie in other clusters.

    Keys of images of the same kind are false negatives. Now and then the EMA encoder's features of all training images
    are clustered, and a queue row whose image shares the query's cluster is left out of the loss. Early clusters are
    wrong more often than not, so only the surest images are believed, a share that rises from 0 to 1 in the
    course of training; the others have no cluster, and everything else is their negative. With several
    numbers of clusters the loss is the mean over them.

    In forward: queries; keys; loss against a copy of the queue as it was. In `after_step`: the keys enter the queue;
    the moving average takes in the new weights; when it is time, all images are clustered anew. The queue holds ids,
    and clusters are looked up by id: a row from before a clustering is judged by the newest one. The clusters are
    state, so a resumed run need not make them again. A pass in eval mode or without gradient leaves no trace.

    Terms beside the loss, means over the clusterings: `accepted_share` of the training images that have a cluster;
    `excluded_share` of the queue's rows that are left out, a query's own earlier keys apart; `same_label`, where the
    batch has labels, how many of those rows have the query's class; `queue_fill`; `positive_cosine`;
    `participation_ratio`.

    Degenerate: before the first clustering, and always with ``start=1``, this is MoCo, bit for bit. A query whose queue
    is left out altogether has loss 0: one giant cluster teaches nothing, which `excluded_share` shows.

    Attributes:
        ids: int64 [N], the training images, ascending.
        groups: int64 [clusterings, N]; images of one group are no negatives of one another. A cluster that is believed
            is a group, and every other image is one by itself.
        accepted: bool [clusterings, N], whose cluster is believed.
        reached: int64 scalar, how many clusterings had been due by the time of the last one; 0 before the first.

    Reference: Chen, Hung, Tseng, Chien, Yang (2022), Incremental False Negative Detection for Contrastive Learning.
    """

    ids: Tensor
    groups: Tensor
    accepted: Tensor
    reached: Tensor

    def __init__(self, encoder: nn.Module, config: IFNDConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.twin = config.build_twin(encoder, self.head)
        self.queue = FeatureQueue(config.queue_size, self.head.out_dim)
        self.loss = InfoNCELoss(temperature=config.temperature, decoupled=config.decoupled)
        self.progress = Progress()
        self.config = config

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is and how to see all images, and make room for their clusters."""
        ids, levels = plan.known_ids("IFND"), len(self.config.clusters)
        self.twin.begin(plan.total_steps)
        self.progress.begin(plan.total_steps)
        self.features_of_all = plan.features
        self.register_buffer("ids", ids.clone())  # restoring a checkpoint writes into buffers, and the plan is not ours
        self.register_buffer("groups", torch.full((levels, len(ids)), -1))
        self.register_buffer("accepted", torch.zeros(levels, len(ids), dtype=torch.bool))
        self.register_buffer("reached", torch.zeros((), dtype=torch.int64))

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the queries: of the first view, or of both if the method is symmetric."""
        views = read_views(batch, method="IFND", count=2)
        return tuple(self.head(self.encoder(view)) for view in (views if self.config.symmetric else views[:1]))

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the keys of the queries, each from the other view."""
        first, second = read_views(batch, method="IFND", count=2)
        return tuple(self.twin(view) for view in ((second, first) if self.config.symmetric else (second,)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the keys for `after_step`."""
        if not hasattr(self, "groups"):
            raise ValueError("IFND clusters all training images: call method.begin(TrainingPlan(...)) first.")
        if "ids" not in batch:
            raise ValueError(f"IFND finds an image's cluster by its id; found batch keys {sorted(batch)}.")
        queue = self.queue.snapshot()
        exclude: Any = self.config.own_earlier_keys(batch, queue).mask(self.queue.size)
        if self.reached > 0:
            mine, theirs = self._groups_of(batch["ids"]), self._groups_of(queue.ids)
            exclude = list(zip(mine, theirs, strict=True))

        pairs = list(zip(embeddings, keys, strict=True))
        loss = torch.stack([self.loss(q, k, queue.features, exclude=exclude) for q, k in pairs]).mean()
        for _, k in pairs:
            self.queue.hold(k, batch["ids"], batch.get("labels"))
        return {
            "loss": loss,
            "accepted_share": self.accepted.float().mean(),
            **self._excluded(batch, queue),
            "queue_fill": self.queue.fill,
            **projection_health(pairs[0]),
        }

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the queue's rows, before any is left out; the batch adds none."""
        return self.queue.size

    def after_step(self) -> None:
        """Enqueue the keys of the training passes since the last call, let the key encoder follow, perhaps cluster."""
        if not self.queue.flush():
            return
        self.twin.update(self.encoder, self.head)
        self.progress.advance()
        if self.progress.share() < 1 and self._due() > int(self.reached):  # at the very end nothing would use it
            self._cluster()

    def _due(self) -> int:
        """How many clusterings training so far should have had."""
        return self.progress.rounds(start=self.config.start, every=self.config.cluster_every)

    @torch.no_grad()
    def _cluster(self) -> None:
        """Cluster all images, and believe the surest of each clustering."""
        rows = self.features_of_all(self.twin.encoder.module).to(self.groups.device)
        believed = round(self.progress.share() * len(rows)) if self.config.incremental else len(rows)
        for level, count in enumerate(self.config.clusters):
            found = spherical_k_means(
                rows, count, temperature=self.config.cluster_temperature, seed=self.config.seed + level
            )
            surest = found.confidence.argsort(descending=True, stable=True)[:believed]
            self.accepted[level] = False
            self.accepted[level, surest] = True
            # Images that are not believed are alone in a group, so that equal groups also find a query's own keys.
            alone = count + torch.arange(len(rows), device=rows.device) if self.config.exclude_own else -1
            self.groups[level] = torch.where(self.accepted[level], found.labels, alone)
        self.reached.fill_(self._due())

    def _groups_of(self, ids: Int64[Tensor, " n"]) -> Int64[Tensor, "h n"]:
        """Groups of some images in each clustering; -1 for id -1, a random row of a new queue."""
        return self.groups[:, self._places(ids)].where(ids >= 0, -1)

    def _places(self, ids: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        places = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        strange = ids[(ids >= 0) & (self.ids[places] != ids)]
        if len(strange):
            raise ValueError(
                f"{len(strange)} of {len(ids)} samples are not among those that were clustered, the first has id "
                f"{int(strange[0])}; train on the samples that method.begin(plan) names."
            )
        return places

    @torch.no_grad()
    def _excluded(self, batch: Mapping[str, Any], queue: QueueSnapshot) -> dict[str, Tensor]:
        """How many queue rows of other images are left out, and how many of these rightly."""
        ids, labels = batch["ids"], batch.get("labels")
        zero = torch.zeros((), device=ids.device)
        excluded, known, right = zero, zero, zero
        if self.reached > 0:
            others = ids[:, None] != queue.ids
            for mine, theirs in zip(self._groups_of(ids), self._groups_of(queue.ids), strict=True):
                dropped: Bool[Tensor, "n K"] = others & (mine[:, None] == theirs) & (mine[:, None] >= 0)
                excluded = excluded + dropped.float().mean() / len(self.groups)
                if labels is not None:
                    told = dropped & (labels[:, None] >= 0) & (queue.labels >= 0)
                    known = known + told.sum()
                    right = right + (told & (labels[:, None] == queue.labels)).sum()
        found = {"excluded_share": excluded}
        return found if labels is None else {**found, "same_label": right / known.clamp_min(1)}
