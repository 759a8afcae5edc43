"""OpenCon: contrast in an open world, where some classes have labels and others are yet to be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from kinfolk import distributed
from kinfolk.data.derived.classes import required_labels
from kinfolk.data.sources import Source
from kinfolk.losses import OpenConLoss
from kinfolk.losses.open_con import open_world_prior
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import labelled_accuracy, projection_health
from kinfolk.methods.predicting import ClassesConfig, PredictingMethod
from kinfolk.nn import HeadConfig, Progress, Prototypes, encoder_dim
from kinfolk.nn.prototypes import standardised

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class OpenConConfig(ClassesConfig):
    """Settings of `OpenCon`.

    `classes` counts all classes, with labels or without. A source that hides the labels of novel classes says how many
    there are by its class names, as `OpenWorldConfig` does.

    Raises:
        ValueError: for more labelled classes than classes, three weights or temperatures that are not three, or shares
            and ratios outside their ranges.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = OpenConConfig(classes=3, labelled_classes=2, ramp=0.0)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> terms = method({"views": [torch.rand(5, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 1, -1, -1])})
        >>> method.after_step()
        >>> sorted(terms)
        ['accuracy', 'loss', 'novel_share', 'participation_ratio', 'positive_cosine', 'prior']
    """

    kind: ClassVar[str] = "opencon"
    labelled_classes: int | None = None
    """How many classes have labels; they come first. None counts the training set's, see `settled`."""
    labelled_ratio: float = 0.5
    """Share of a labelled class's samples that have their label; the prior expects the others among the unlabelled. It
    is not found out: give what `OpenWorldConfig.labelled`, or your own data, has."""
    temperatures: tuple[float, ...] = (0.1, 0.4, 0.7)
    """Of the contrast among labelled, unlabelled and novel rows."""
    weights: tuple[float, ...] = (0.2, 1.0, 0.1)
    """Of the same three."""
    ramp: float = 0.5
    """Share of training over which the weight of the novel rows rises from 0; with 0 it is there from the start."""
    percentile: float = 0.3
    """Share of the labelled samples that the novelty test would take for novel: where its threshold lies."""
    prior_weight: float = 0.05
    """Of the divergence between the mean prediction for unlabelled samples and what classes they should have."""
    prior_temperature: float = 0.1
    """Divides the cosines with prototypes, in the prior and when it predicts."""
    momentum: float = 0.9
    """How slowly a prototype follows its samples, 0 to 1."""
    tested_only: bool = False
    """Let an unlabelled sample move the prototype of a novel class only if the novelty test took it for novel."""
    frozen: tuple[str, ...] = ()
    """Parts of the encoder that stay as they are, by name (`stem`, `stages.0`), for one that was trained before."""
    seed: int = 0
    """Seed of the first prototypes."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head; prototypes live behind it, and so does what it predicts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.labelled_classes
        if known is not None and not 1 <= known <= (known if self.classes is None else self.classes):
            raise ValueError(
                f"labelled_classes must be at least 1 and at most classes = {self.classes}, found {known}; classes "
                "counts all of them, those without labels too."
            )
        for name in ("temperatures", "weights"):
            if len(getattr(self, name)) != 3:
                raise ValueError(
                    f"{name} must be three, for labelled, unlabelled and novel rows; found {getattr(self, name)}"
                )
        for name in ("ramp", "percentile", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], found {getattr(self, name)}")
        if not 0 <= self.labelled_ratio < 1:
            raise ValueError(f"labelled_ratio must lie in [0, 1), found {self.labelled_ratio}")
        if not (self.prior_weight >= 0 and self.prior_temperature > 0):
            raise ValueError(
                f"prior_weight must be at least 0 and prior_temperature positive, found {self.prior_weight} and "
                f"{self.prior_temperature}"
            )

    def settled(self, source: Source) -> Self:
        """Return the config with both numbers of classes filled in from a training set; training calls it.

        Raises:
            ValueError: when one is open and the source has no labels, when the labelled classes do not come first, or
                when nothing says that there are classes beyond them.
        """
        settled = super().settled(source)
        if settled.labelled_classes is not None:
            return settled
        labels = torch.as_tensor(required_labels(source, needed_for="OpenCon", complete=False))
        known = labels[labels >= 0].unique()
        if not len(known) or int(known.max()) + 1 != len(known):
            raise ValueError(
                "the classes with labels must be the first ones, as OpenWorldConfig numbers them; the training set has "
                f"labels of {known.tolist()[:20]}. Renumber them, or say labelled_classes=... if some have no sample."
            )
        if self.classes is None and len(known) == settled.classes:
            raise ValueError(
                f"all {len(known)} classes that are known of have labels, so there is nothing to discover; give "
                "OpenConConfig(classes=...), novel ones included, or hide some with OpenWorldConfig."
            )
        return replace(settled, labelled_classes=len(known))

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> OpenCon:
        """Build the method around an encoder; `relation` stays unused.

        Raises:
            ValueError: when a number of classes is still open, or the encoder has no part of a name in `frozen`.
        """
        return OpenCon(encoder, self)


@final
class OpenCon(PredictingMethod):
    """Contrast among labelled, unlabelled and novel samples, each kind within itself, around one prototype per class.

    The nearest prototype of a sample's first view is its pseudo-label, for all its views. The cosines with all
    prototypes, as z-scores, tell whether it is near any labelled class: the largest z-score of these is its score, and
    an unlabelled sample that scores below the 30th percentile of the batch's labelled samples is taken for novel.
    Labelled rows attract those of their label, unlabelled rows the other views of their sample, novel rows those of
    their pseudo-label. No kind is pushed from another: that would teach known against new. A prior keeps a few
    prototypes from taking all samples.

    In forward: projections of all views; pseudo-labels and novelty by the prototypes as they were; the three contrasts,
    the third with a weight that rises over `ramp` of training; the prior on the unlabelled samples' first views. In
    `after_step`: the first views move prototypes one after the other, by their label or, if unlabelled and nearest to a
    novel class, by their pseudo-label (whether or not the test took them for novel, see `tested_only`); no unlabelled
    sample moves the prototype of a labelled class. No gradient flows into prototypes. A pass in eval mode or without
    gradient leaves no trace.

    The percentile is over the labelled samples of all processes. A batch without any takes the running mean of earlier
    ones; until there is one, nothing is novel. A batch without unlabelled samples has no prior and the first contrast
    alone. Without ids in the batch every sample of it is one of its own.

    Frozen parts of the encoder are in evaluation mode and receive no gradient.

    Attributes:
        prototypes: one unit vector per class in the space of projections, labelled classes first.
        threshold: running novelty threshold, a buffer; minus infinity until a batch had labelled samples.

    Terms beside the loss: `accuracy` of the nearest prototype on labelled first views; `novel_share` of the unlabelled
    samples; `prior`, unweighted; `positive_cosine`; `participation_ratio`.

    Reference: Sun, Li (2023), OpenCon: Open-world Contrastive Learning.
    """

    threshold: Tensor
    is_known: Tensor

    def __init__(self, encoder: nn.Module, config: OpenConConfig) -> None:
        super().__init__()
        if config.labelled_classes is None:
            raise ValueError(
                "how many classes have labels is open; give OpenConConfig(labelled_classes=...), or take it from a "
                "training set with config.settled(source)."
            )
        classes = config.known_classes()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.prototypes = Prototypes(classes, self.head.out_dim, momentum=config.momentum, seed=config.seed)
        self.progress = Progress()
        self.register_buffer("threshold", torch.tensor(-torch.inf))
        self.register_buffer("is_known", torch.arange(classes) < config.labelled_classes, persistent=False)
        self.loss = OpenConLoss(temperatures=config.temperatures, weights=config.weights)
        self.config = config
        for name in config.frozen:
            _part(encoder, name).requires_grad_(False)
        self._held_thresholds: list[Tensor] = []
        self.train()

    def train(self, mode: bool = True) -> OpenCon:
        """Switch to training or evaluation mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in self.config.frozen:
            _part(self.encoder, name).eval()
        return self

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for the weight of the novel rows."""
        self.progress.begin(plan.total_steps)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view; a batch without labels raises `ValueError`."""
        views = read_views(batch, method="OpenCon")
        read_labels(batch, method="OpenCon")
        return self.head(self.encoder(torch.cat(views))).tensor_split(len(views))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep what moves prototypes and threshold for `after_step`.

        Raises:
            ValueError: for a label beyond the labelled classes.
        """
        count, labels = len(embeddings), self._checked(read_labels(batch, method="OpenCon"))
        similarities = self.prototypes.similarities(embeddings[0])  # with gradient, for the prior
        guesses = similarities.detach().argmax(1)
        novel, threshold = self.find_novel(similarities.detach(), labels)

        *others, novel_weight = self.config.weights
        self.loss.weights = (*others, novel_weight * self.ramped())
        sets = (labels, guesses, novel, read_ids(batch))
        contrast = self.loss(torch.cat(list(embeddings)), *(column.repeat(count) for column in sets))
        logits = similarities / self.config.prior_temperature
        prior = open_world_prior(logits[labels < 0], self.is_known, self.config.labelled_ratio)

        self.prototypes.hold(embeddings[0], self.movers(labels, guesses, novel))
        if threshold is not None and self.training and torch.is_grad_enabled():
            self._held_thresholds.append(threshold)
        unlabelled = distributed.all_reduce((labels < 0).sum()) / distributed.world_size()
        return {
            "loss": contrast + self.config.prior_weight * prior,
            "prior": prior.detach(),
            "accuracy": labelled_accuracy(logits.detach(), labels),
            "novel_share": novel.sum() / torch.where(unlabelled > 0, unlabelled, 1.0),
            **projection_health(embeddings),
        }

    def find_novel(
        self, similarities: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]
    ) -> tuple[Bool[Tensor, " n"], Float[Tensor, ""] | None]:
        """Return which unlabelled samples score below the threshold, and the threshold of this batch if it has one.

        Args:
            similarities: of first views with all prototypes.
            labels: of these samples, -1 being none.
        """
        scores = standardised(similarities)[:, self.is_known].amax(1)
        labelled = distributed.all_gather(scores[labels >= 0])
        own = labelled.quantile(self.config.percentile) if len(labelled) else None
        return (labels < 0) & (scores < (self.threshold if own is None else own)), own

    def movers(
        self, labels: Int64[Tensor, " n"], guesses: Int64[Tensor, " n"], novel: Bool[Tensor, " n"]
    ) -> Int64[Tensor, " n"]:
        """Return the class whose prototype each sample moves, -1 for none."""
        moves = ~self.is_known[guesses] & (novel if self.config.tested_only else True)
        return torch.where(labels >= 0, labels, guesses.where(moves, -1))

    def ramped(self) -> float:
        """Return how much of its final weight the contrast among novel rows has in the coming step, 0 to 1."""
        return min(self.progress.share() / self.config.ramp, 1.0) if self.config.ramp else 1.0

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the cosines with all prototypes over `prior_temperature`, with gradient; labelled classes come first.

        Which true class a novel prototype stands for is not known: match them (`kinfolk.evals.open_world_accuracy`).

        Args:
            images: float, in [0, 1].
        """
        return self.prototypes.similarities(self.head(self.encoder(images))) / self.config.prior_temperature

    @torch.no_grad()
    def after_step(self) -> None:
        """Move prototypes and threshold by the training passes since the last call."""
        held, self._held_thresholds = self._held_thresholds, []
        for new in held:
            kept = self.config.momentum * self.threshold + (1 - self.config.momentum) * new
            self.threshold.copy_(torch.where(self.threshold.isfinite(), kept, new))
        if self.prototypes.flush():
            self.progress.advance()

    def _checked(self, labels: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        known = self.config.labelled_classes
        assert known is not None
        if len(labels) and int(labels.max()) >= known:
            raise ValueError(
                f"the first {known} classes have labels, and the batch has the label {int(labels.max())}; give samples "
                "of novel classes the label -1, as OpenWorldConfig does, or set OpenConConfig.labelled_classes."
            )
        return labels


def _part(encoder: nn.Module, name: str) -> nn.Module:
    """The part of an encoder that has this name."""
    parts = dict(encoder.named_modules())
    if not name or name not in parts:
        there = ", ".join(part for part in parts if part and part.count(".") < 2)
        raise ValueError(f"frozen names parts of the encoder, and {name!r} is none of {there}.")
    return parts[name]
