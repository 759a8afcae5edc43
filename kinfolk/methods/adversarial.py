"""Adversarial contrastive learning: each image's worst view in a small ball is a third view of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.data.counter import counter_uniform
from kinfolk.distributed import all_gather
from kinfolk.losses import InfoNCELoss, NTXentLoss
from kinfolk.losses.fnc import fnc_given
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import positive_cosine, projection_health
from kinfolk.nn import Attack, HeadConfig, Progress, encoder_dim, evaluating, worst_in_ball
from kinfolk.ops import PairMask, row_topk

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


Detector = Literal["none", "similarity", "labels"]


@dataclass(frozen=True)
class AdversarialConfig:
    """Settings of `Adversarial`; the defaults are those of the paper, for colour photos of 32x32 pixels.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = AdversarialConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> terms = method({"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)})
        >>> sorted(terms)
        ['adversarial_cosine', 'adversarial_loss', 'loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "adversarial"
    temperature: float = 0.5
    """Divides the cosines, in the attack as in the loss."""
    attack: Attack = field(default_factory=lambda: Attack(eps=8 / 255, steps=7, step=0.007))
    """How far a pixel of the attacked view may move, and in which steps."""
    seed: int = 0
    """Of the random starts of the attacks, which are functions of seed, step and sample."""
    false_negatives: Detector = "none"
    """Which other samples are no negatives: none, the most similar ones, or those of the same label."""
    false_negative_share: float = 0.05
    """Share of the batch that leaves each sample's negatives for its similarity; below 1."""
    false_negative_start: float = 0.1
    """Share of training before any leaves: similarities mean little at first."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and loss."""

    def __post_init__(self) -> None:
        if self.false_negatives not in get_args(Detector):
            raise ValueError(
                f"false_negatives must be one of {', '.join(get_args(Detector))}, found {self.false_negatives!r}."
            )
        for name in ("false_negative_share", "false_negative_start"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, found {getattr(self, name)}.")

    @property
    def labels_used(self) -> str:
        """Which labels training sees: all of them where they say which negatives are false."""
        return "all" if self.false_negatives == "labels" else "none"

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> Adversarial:
        """Build the method around an encoder, which does its normalising inside; `relation` stays unused."""
        return Adversarial(encoder, self)


@final
class Adversarial(Method):
    """NT-Xent over three views of each image, the third of which an attack makes to be found hardest.

    In `prepare`: encoder and head, in evaluation mode, embed both views of all ranks without gradient. From a random
    start near the first view, signed gradient steps maximise the value that NT-Xent has for the attacked view as
    anchor: its own second view against both clean views of every other sample. Each image is thus attacked by itself,
    the same on any number of ranks, and the worst iterate stands. In `embed` the three views go through the encoder as
    one batch, in training mode, and the loss is the mean of NT-Xent over the three pairs of views. No gradient flows
    through the attack.

    With `false_negatives`, the clean embeddings of `prepare` (or the labels, an upper bound on any detector) say which
    other samples are of the same kind as a sample. All rows of these leave the attack's negatives and the partition of
    the loss, once `false_negative_start` of training is done.

    Views must lie in [0, 1], where the ball is clipped: what is normalised is normalised inside the encoder. With
    ``eps=0`` the third view is the first once more. One sample alone has loss 0.

    Terms beside the loss: `adversarial_loss`, NT-Xent between attacked and second view; `adversarial_cosine` between
    the same two, to be held against `positive_cosine` of the clean views; `participation_ratio` of the clean
    projections. Where negatives may be false, `excluded_share` of the batch, and with labels in it
    `false_negative_precision`, the share of these that are of the sample's class: for the log, not for the loss.

    Reference: Kim, Tack, Hwang (2020), Adversarial Self-Supervised Contrastive Learning. `false_negatives`: Gupta,
    Akhtar, Mian, Shah (2022), Contrastive Self-Supervised Learning Leads to Higher Adversarial Susceptibility.
    """

    def __init__(self, encoder: nn.Module, config: AdversarialConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = NTXentLoss(temperature=config.temperature)
        self.harm = InfoNCELoss(temperature=config.temperature, reduction="none", gather=False)
        self.progress = Progress()
        self.config = config
        self._stepped = False

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is."""
        self.progress.begin(plan.total_steps)

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the batch with its `attacked` view and, where negatives may be false, `false_negatives`."""
        first, second = read_views(batch, method="Adversarial", count=2)
        ids = read_ids(batch)
        with evaluating(self.encoder, self.head):
            with torch.no_grad():
                clean = self.head(self.encoder(torch.cat([first, second])))
                others, other_ids = all_gather(clean), all_gather(ids.repeat(2))
                alike = self._alike(clean, batch, ids)
            positives, own = clean[len(first) :], ids[:, None] == other_ids
            excluded = own if alike is None else own | alike

            def harm(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
                found = self.head(self.encoder(images))
                values = self.harm(found, positives[rows], others, exclude=excluded[rows])
                return torch.zeros_like(rows, dtype=torch.bool), values  # the worst one counts, none is ever done

            attacked = worst_in_ball(harm, first, self.config.attack, starts=[self._starts(first, ids)]).images
        # Versions of torch whose autocast hands out weights cast without a graph would give `embed` no gradient.
        torch.clear_autocast_cache()
        return {**batch, "attacked": attacked, **({} if alike is None else {"false_negatives": alike})}

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of both views and of the attacked one."""
        views = [*read_views(batch, method="Adversarial", count=2), batch["attacked"]]
        return self.head(self.encoder(torch.cat(views))).tensor_split(3)

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms."""
        clean, first_attacked, second_attacked = (self._contrast(a, b, batch) for a, b in combinations(embeddings, 2))
        self._stepped |= self.training and torch.is_grad_enabled()
        first, second, attacked = embeddings
        return {
            "loss": (clean + first_attacked + second_attacked) / 3,
            "adversarial_loss": second_attacked.detach(),
            "adversarial_cosine": positive_cosine(torch.stack([attacked.float(), second.float()])),
            **projection_health([first, second]),
            **({} if self.config.false_negatives == "none" else _exclusion_health(batch)),
        }

    def after_step(self) -> None:
        """Count the step, so that the next attacks start elsewhere."""
        if self._stepped:
            self.progress.advance()
        self._stepped = False

    def negatives(self, *, samples: int, views: int) -> int:
        """Return two views of every other sample, in each of the three pairs of views."""
        return 2 * (samples - 1)

    def _alike(
        self, clean: Float[Tensor, "n2 d"], batch: Mapping[str, Any], ids: Int64[Tensor, " n"]
    ) -> Bool[Tensor, "n m"] | None:
        """Which of the clean rows of all ranks show a sample of the same kind; None while nothing is excluded."""
        config, n = self.config, len(ids)
        if config.false_negatives == "none" or not self.progress.has_reached(config.false_negative_start):
            return None
        all_ids = all_gather(ids)
        if config.false_negatives == "labels":
            labels = read_labels(batch, method="Adversarial with false_negatives=labels")
            alike = (labels[:, None] == all_gather(labels)) & (labels[:, None] >= 0)
        else:
            both = F.normalize(clean[:n].float(), dim=1) + F.normalize(clean[n:].float(), dim=1)
            alike = _most_similar(both, ids, all_ids, k=int(config.false_negative_share * (len(all_ids) - 1)))
        alike &= ids[:, None] != all_ids
        view = all_gather(torch.arange(2, device=ids.device).repeat_interleave(n))  # a rank's rows are view after view
        return alike[:, view.argsort(stable=True).argsort() % len(all_ids)]

    def _contrast(self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], batch: Mapping[str, Any]) -> Tensor:
        """NT-Xent between two views, without the negatives that are false."""
        ids, alike = read_ids(batch), batch.get("false_negatives")
        if alike is None:
            return self.loss(a, b, ids=ids)
        columns = alike.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        columns = columns.where(alike.gather(1, columns), -1)[:, : max(alike.sum(1).tolist(), default=0)]
        values = fnc_given([a, b], columns, temperature=self.config.temperature, mode="eliminate", ids=ids)
        return self.loss.reduce(*values)

    def _starts(self, images: Float[Tensor, "n c h w"], ids: Tensor) -> Float[Tensor, "n c h w"]:
        """Uniform in the ball, as shares of eps; the same after a resume and on any rank."""
        key = (self.config.seed, int(self.progress.step))
        return 2 * counter_uniform(key, ids, count=images[:1].numel()).view_as(images) - 1


def _most_similar(
    rows: Float[Tensor, "n d"], ids: Int64[Tensor, " n"], all_ids: Int64[Tensor, " m"], *, k: int
) -> Bool[Tensor, "n m"]:
    """Which k samples of all ranks are most similar to each of this rank's, itself left out."""
    found = torch.zeros(len(ids), len(all_ids) + 1, dtype=torch.bool, device=rows.device)
    keys = all_gather(rows)
    if k > 0 and len(ids):
        _, columns = row_topk(rows, keys, k=k, mask=PairMask.exclude(ids, all_ids), normalize=True)
        found.scatter_(1, columns.where(columns >= 0, len(all_ids)), True)  # the last column takes empty places
    return found[:, :-1]


@torch.no_grad()
def _exclusion_health(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What was excluded, and with labels how rightly; zeros while nothing is."""
    alike, labels = batch.get("false_negatives"), batch.get("labels")
    none = torch.zeros((), device=batch["attacked"].device)
    health = {"excluded_share": none if alike is None else alike.float().mean()}
    if labels is not None:
        same = labels[:, None] == all_gather(labels.repeat(2))
        right = none if alike is None else (alike & same & (labels[:, None] >= 0)).sum() / alike.sum().clamp(min=1)
        health["false_negative_precision"] = right
    return health
