"""InterCLR: besides telling images apart, come close to other images of the same cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, final

import torch
from torch import Tensor, nn

from kinfolk.data.counter import counter_uniform
from kinfolk.losses import InterCLRLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_views
from kinfolk.methods.contrast import QueueContrast
from kinfolk.methods.health import projection_health, same_label_share
from kinfolk.methods.momentum import MomentumConfig
from kinfolk.nn import FeatureQueue, MemoryBank, OnlineClusters, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan

_POSITIVES, _NEGATIVES = range(2)  # streams of random numbers
_ROWS = 64  # queries whose similarities to the whole bank are held at once


@dataclass(frozen=True)
class InterCLRConfig(MomentumConfig):
    """Settings of `InterCLR`; the defaults are those for small images.

    Raises:
        ValueError: for numbers out of range, naming the field.

    Example:
        >>> from kinfolk.methods import TrainingPlan
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = InterCLRConfig(clusters=2, negatives=3, queue_size=8)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> method.begin(TrainingPlan(10, 1, torch.arange(4), nn.Identity()))
        >>> batch = {"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)}
        >>> for _ in range(2):
        ...     terms = method(batch)
        ...     method.after_step()
        >>> sorted(terms)[:4]
        ['inter_loss', 'intra_loss', 'largest_cluster', 'loss']
    """

    kind: ClassVar[str] = "inter-clr"
    temperature: float = 0.2
    """Divides the cosines of both losses."""
    inter_weight: float = 0.25
    """Share of the loss between images of one cluster, 0 to 1; the rest is MoCo's."""
    margin: float = -0.5
    """Subtracted from the cosine of a positive of the same cluster; a negative one asks for less than closeness."""
    clusters: int = 100
    """Number of clusters."""
    negatives: int = 1024
    """Bank rows of other clusters that a query is contrasted with."""
    sampling: Literal["semi-hard", "random"] = "semi-hard"
    """Draw the negatives from the most similar rows, or from all."""
    pool: float = 0.1
    """Share of the bank that is most similar, for semi-hard sampling."""
    centroid_every: int = 10
    """Steps between two computations of the centroids."""
    min_cluster: int = 5
    """Smaller clusters are dissolved, and the largest is split in their place."""
    seed: int = 0
    """Of the draws and of the first centroids."""

    def __post_init__(self) -> None:
        if not 0 <= self.inter_weight <= 1:
            raise ValueError(f"inter_weight must lie in [0, 1], found {self.inter_weight}.")
        if not 0 < self.pool <= 1:
            raise ValueError(f"pool is a share of the bank, above 0 and at most 1, found {self.pool}.")
        if self.negatives < 1:
            raise ValueError(f"negatives must be at least 1, found {self.negatives}.")
        if self.sampling not in ("semi-hard", "random"):
            raise ValueError(f"sampling must be 'semi-hard' or 'random', found {self.sampling!r}.")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> InterCLR:
        """Build the method around an encoder, whose batch norm becomes split batch norm.

        A relation becomes the target of the first loss, over own key and queue.
        """
        return InterCLR(encoder, self, relation=relation)

    def smoke(self) -> Self:
        """Return the settings for a run of a few hundred samples."""
        return replace(super().smoke(), clusters=min(self.clusters, 20), negatives=min(self.negatives, 64))


@final
class InterCLR(Method):
    """MoCo's loss, and beside it a second one whose positive is another image of the same cluster.

    A bank holds the latest key of every training sample, and online clusters give each a pseudo-label. The second
    loss takes a random bank row of the query's own cluster as its positive, never the own row if the cluster has
    another, and as negatives rows of other clusters, drawn without replacement from the most similar tenth of the bank
    ("semi-hard": the nearest would often be false negatives). Its margin is negative, so a positive of the same cluster
    need not come as close as the own key.

    In forward: queries; keys; MoCo's loss; the second loss against the bank as it was. In `after_step`: queue, moving
    average, bank, labels, and now and then centroids. Clusters begin after the first pass over the data; before, the
    loss is MoCo's alone. Draws are a function of (seed, step, sample id): neither a resumed run nor another number of
    processes draws anything else. Where fewer rows of other clusters are left than asked for, there are fewer.

    Terms beside the loss: `intra_loss`, `inter_loss`; `largest_cluster`, the largest cluster's share of the bank;
    `same_label`, how often the positive has the anchor's class, where the batch has labels; `queue_fill`,
    `positive_cosine`, `participation_ratio`.

    Reference: Xie, Zhan, Liu, Ong, Loy (2022), Delving into Inter-Image Invariance for Unsupervised Visual
    Representations.
    """

    bank: MemoryBank
    clusters: OnlineClusters
    step: Tensor

    def __init__(self, encoder: nn.Module, config: InterCLRConfig, *, relation: Relation | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.relation = relation
        self.head = config.head.build(encoder_dim(encoder))
        self.twin = config.build_twin(encoder, self.head)
        self.queue = FeatureQueue(config.queue_size, self.head.out_dim)
        self.false_negatives = config.false_negatives.build()
        self.intra = QueueContrast(temperature=config.temperature, decoupled=config.decoupled, relation=relation)
        self.inter = InterCLRLoss(temperature=config.temperature, margin=config.margin)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.config = config

    def begin(self, plan: TrainingPlan) -> None:
        """Make a bank with a row for every training sample, and its clusters."""
        config, ids, dim = self.config, plan.known_ids("InterCLR"), self.head.out_dim
        self.twin.begin(plan.total_steps)
        self.false_negatives.begin(plan)
        self.first_pass = plan.steps_per_epoch
        self.bank = MemoryBank(ids, dim, seed=config.seed)
        self.clusters = OnlineClusters(
            len(ids), dim, clusters=config.clusters, centroid_every=config.centroid_every,
            min_cluster=config.min_cluster, seed=config.seed,
        )  # fmt: skip

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the queries, of the first view."""
        first, _ = read_views(batch, method="InterCLR", count=2)
        return (self.head(self.encoder(first)),)

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the keys, of the second view."""
        _, second = read_views(batch, method="InterCLR", count=2)
        return (self.twin(second),)

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the keys for `after_step`."""
        if not hasattr(self, "bank"):
            raise ValueError("InterCLR keeps a row for every sample: call method.begin(TrainingPlan(...)) first.")
        if "ids" not in batch:
            raise ValueError(f"InterCLR finds samples in its bank by ids; found batch keys {sorted(batch)}.")
        (q,), (k,), ids = embeddings, keys, batch["ids"]
        queue = self.queue.snapshot()
        false, health = self.false_negatives.in_queue([k], queue, ids, batch.get("labels"))
        intra = self.intra(q, k, queue, ids, self.config.own_earlier_keys(batch, queue) | false)
        found: dict[str, Tensor] = {}
        loss, inter = intra, torch.zeros_like(intra)
        if self.clusters.started:
            rows = self.bank.snapshot()
            positives = self._positives(ids)
            inter = self.inter(q, rows[positives], (rows, self._negatives(q, rows, ids)))
            loss = (1 - self.config.inter_weight) * intra + self.config.inter_weight * inter
            found = {"largest_cluster": self.clusters.sizes().max() / len(rows)}
            found |= same_label_share(batch.get("labels"), self.bank.labels[positives])

        self.queue.hold(k, ids, batch.get("labels"))
        self.bank.hold(k, ids, batch.get("labels"))
        return {
            "loss": loss,
            "intra_loss": intra.detach(),
            "inter_loss": inter.detach(),
            "queue_fill": self.queue.fill,
            **found,
            **health,
            **projection_health((q, k)),
        }

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the queue's rows and those drawn from the bank."""
        return self.queue.size + self.config.negatives

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the keys of the training passes since the last call: queue, key encoder, bank, clusters."""
        self.false_negatives.after_step()
        if not self.queue.flush():
            return
        self.twin.update(self.encoder, self.head)
        changed = self.bank.flush()
        if self.clusters.started:
            self.clusters.follow(self.bank.rows, changed)
        elif int(self.step) + 1 >= self.first_pass:
            self.clusters.start(self.bank.rows)
        self.step += 1

    @torch.no_grad()
    def _positives(self, ids: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Draw a bank row of each sample's cluster, another one than its own if there is one."""
        labels, own = self.clusters.labels, self.bank.places(ids)
        order = labels.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        sizes = self.clusters.sizes()
        first, size = (sizes.cumsum(0) - sizes)[labels[own]], sizes[labels[own]]
        draw = counter_uniform((self.config.seed, int(self.step), _POSITIVES), ids, count=1)[:, 0]
        place = first + (draw * (size - 1)).long()  # among the others, which the own row is taken out of
        return order[(place + (place >= rank[own]).long()).where(size > 1, rank[own])]

    @torch.no_grad()
    def _negatives(
        self, q: Float[Tensor, "n d"], rows: Float[Tensor, "N d"], ids: Int64[Tensor, " n"]
    ) -> Int64[Tensor, "n M"]:
        """Draw bank rows of other clusters without replacement; -1 where there are too few."""
        config, size = self.config, len(rows)
        pool = max(1, round(config.pool * size)) if config.sampling == "semi-hard" else size
        labels, own = self.clusters.labels, self.clusters.labels[self.bank.places(ids)]
        drawn = []
        for part in torch.arange(len(q), device=q.device).split(_ROWS):
            if pool < size:
                chosen = (q[part].to(rows) @ rows.T).topk(pool, sorted=False).indices.sort(dim=1).values
            else:
                chosen = torch.arange(size, device=q.device).expand(len(part), -1)
            # Every row of the pool draws a number and the smallest win: nobody is drawn twice, nobody is redrawn.
            lots = counter_uniform((config.seed, int(self.step), _NEGATIVES), ids[part], count=pool)
            lots = lots.masked_fill(labels[chosen] == own[part, None], 2.0)
            least = lots.topk(min(config.negatives, pool), dim=1, largest=False)
            drawn.append(chosen.gather(1, least.indices).masked_fill(least.values > 1, -1))
        return torch.cat(drawn) if drawn else torch.zeros(0, 1, dtype=torch.int64, device=q.device)
