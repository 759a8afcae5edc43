"""Adversarial contrastive learning: each image's worst view in a small ball is a third view of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.data.counter import counter_uniform
from kinfolk.distributed import all_gather
from kinfolk.losses import InfoNCELoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.contrast import ViewContrast, rows_of_samples
from kinfolk.methods.false_negatives import FalseNegativesConfig
from kinfolk.methods.health import positive_cosine, projection_health
from kinfolk.nn import Attack, HeadConfig, Progress, encoder_dim, evaluating, worst_in_ball

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


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
    decoupled: bool = False
    """Leave the sample's own views out of the denominator of the loss (DCL)."""
    false_negatives: FalseNegativesConfig = field(default_factory=FalseNegativesConfig)
    """Which other samples are no negatives, in the attack and in the loss, found by the clean views."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and loss."""

    @property
    def labels_used(self) -> str:
        """Which labels training sees: none, but for an oracle of false negatives."""
        return self.false_negatives.labels_used

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> Adversarial:
        """Build the method around an encoder, which does its normalising inside.

        A relation takes the place of "own view or not" as the target of the loss; the attack stays as it is.
        """
        return Adversarial(encoder, self, relation=relation)


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
    the loss. `ViewContrast` says what a decoupled denominator and a relation change in the loss.

    Views must lie in [0, 1], where the ball is clipped: what is normalised is normalised inside the encoder. With
    ``eps=0`` the third view is the first once more. One sample alone has loss 0.

    Terms beside the loss: `adversarial_loss`, NT-Xent between attacked and second view; `adversarial_cosine` between
    the same two, to be held against `positive_cosine` of the clean views; `participation_ratio` of the clean
    projections. Where negatives may be false, `excluded_share` of the batch, and with labels in it
    `false_negative_precision`, the share of these that are of the sample's class: for the log, not for the loss.

    Reference: Kim, Tack, Hwang (2020), Adversarial Self-Supervised Contrastive Learning. `false_negatives`: Gupta,
    Akhtar, Mian, Shah (2022), Contrastive Self-Supervised Learning Leads to Higher Adversarial Susceptibility.
    """

    def __init__(self, encoder: nn.Module, config: AdversarialConfig, *, relation: Relation | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.relation = relation
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = ViewContrast(temperature=config.temperature, decoupled=config.decoupled, relation=relation)
        self.false_negatives = config.false_negatives.build()
        self.harm = InfoNCELoss(temperature=config.temperature, reduction="none", gather=False)
        self.progress = Progress()
        self.config = config
        self._stepped = False
        self._exclusion: dict[str, Tensor] = {}

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is."""
        self.progress.begin(plan.total_steps)
        self.false_negatives.begin(plan)

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the batch with its `attacked` view and the `false_negatives` of its samples, if any are looked for."""
        first, second = read_views(batch, method="Adversarial", count=2)
        ids, n = read_ids(batch), len(first)
        with evaluating(self.encoder, self.head):
            with torch.no_grad():
                clean = self.head(self.encoder(torch.cat([first, second])))
                others, other_ids = all_gather(clean), all_gather(ids.repeat(2))
            found, health = self.false_negatives.among_samples([clean[:n], clean[n:]], ids, batch.get("labels"))
            positives, excluded = clean[n:], ids[:, None] == other_ids
            if found is not None:
                columns = rows_of_samples(found, n)
                marked = F.pad(excluded, (0, 1))  # the last column takes empty places
                excluded = marked.scatter(1, columns.where(columns >= 0, len(other_ids)), True)[:, :-1]

            def harm(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
                attacked = self.head(self.encoder(images))
                values = self.harm(attacked, positives[rows], others, exclude=excluded[rows])
                return torch.zeros_like(rows, dtype=torch.bool), values  # the worst one counts, none is ever done

            attacked = worst_in_ball(harm, first, self.config.attack, starts=[self._starts(first, ids)]).images
        # Versions of torch whose autocast hands out weights cast without a graph would give `embed` no gradient.
        torch.clear_autocast_cache()
        self._exclusion = health
        return {**batch, "attacked": attacked, **({} if found is None else {"false_negatives": found})}

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
        ids, found = read_ids(batch), batch.get("false_negatives")
        clean, first_attacked, second_attacked = (self.loss(a, b, ids, found) for a, b in combinations(embeddings, 2))
        self._stepped |= self.training and torch.is_grad_enabled()
        first, second, attacked = embeddings
        return {
            "loss": (clean + first_attacked + second_attacked) / 3,
            "adversarial_loss": second_attacked.detach(),
            "adversarial_cosine": positive_cosine(torch.stack([attacked.float(), second.float()])),
            **projection_health([first, second]),
            **self._exclusion,
        }

    def after_step(self) -> None:
        """Count the step, so that the next attacks start elsewhere."""
        self.false_negatives.after_step()
        if self._stepped:
            self.progress.advance()
        self._stepped = False

    def negatives(self, *, samples: int, views: int) -> int:
        """Return two views of every other sample, in each of the three pairs of views."""
        return 2 * (samples - 1)

    def _starts(self, images: Float[Tensor, "n c h w"], ids: Tensor) -> Float[Tensor, "n c h w"]:
        """Uniform in the ball, as shares of eps; the same after a resume and on any rank."""
        key = (self.config.seed, int(self.progress.step))
        return 2 * counter_uniform(key, ids, count=images[:1].numel()).view_as(images) - 1
