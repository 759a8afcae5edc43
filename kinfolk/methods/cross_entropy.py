"""Cross-entropy: encoder and linear classifier trained together from scratch, the baseline of what learns from labels.

With settings: adjusted to long-tailed classes, or with supervised contrast beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.losses import SupConLoss
from kinfolk.methods.batches import one_or_more_views, read_ids, read_labels
from kinfolk.methods.health import labelled_accuracy, projection_health
from kinfolk.methods.predicting import ClassCountsConfig, PredictingMethod, check_classes, labelled_cross_entropy
from kinfolk.nn import HeadConfig, ProjectionHead, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class CrossEntropyConfig(ClassCountsConfig):
    """Settings of `CrossEntropy`.

    Raises:
        ValueError: for smoothing outside [0, 1), or a negative adjustment or weight.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = CrossEntropyConfig(classes=3, class_counts=(50, 9, 2), logit_adjustment=1.0)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> batch = {"views": [torch.rand(4, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 2, -1])}
        >>> sorted(method(batch)), method.eval().predict(batch["views"][0]).shape
        (['accuracy', 'loss', 'participation_ratio', 'positive_cosine'], torch.Size([4]))
    """

    kind: ClassVar[str] = "cross-entropy"
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    logit_adjustment: float = 0.0
    """How many times the logarithm of a class's frequency is added to its logit, in the loss only; 0 is plain."""
    contrast_weight: float = 0.0
    """Weight of SupCon beside the cross-entropy, on the same rows; 0 builds no projection head."""
    temperature: float = 0.1
    """Divides the cosines of the contrast."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and contrast; the classifier does not see it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and less than 1, found {self.label_smoothing}")
        for name, value in (("logit_adjustment", self.logit_adjustment), ("contrast_weight", self.contrast_weight)):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, which is without it; found {value}")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> CrossEntropy:
        """Build the method around an encoder; its target is the labels, so `relation` stays unused.

        Raises:
            ValueError: when the number of classes is still open, or for an adjustment their frequencies.
        """
        return CrossEntropy(encoder, self)


@final
class CrossEntropy(PredictingMethod):
    """Cross-entropy of a linear classifier on the encoder's features, over all views of the labelled samples.

    What every supervised method has to beat at the same work. With `logit_adjustment` (tau) the loss sees
    ``logits + tau log(class frequency)`` and prediction the logits alone, so that a rare class is not predicted less
    only because it is rare; tau = 1 is balanced softmax. With `contrast_weight` a projection head stands beside the
    classifier, and the loss has SupCon of its rows as well: two tasks for one encoder.

    In forward: features of all views, logits of all, with contrast the projections of all; then the loss. In
    `FineTune`, which trains an encoder that has been trained before, the classifier is another one: it starts at 0
    behind a batch norm, where this one starts as `nn.Linear` does, the encoder having nothing to lose.

    An unlabelled sample (-1) has no cross-entropy, and in the contrast its own views only. A batch without any label
    has cross-entropy 0 and gradient 0. With an adjustment, classes that the training set lacks leave the loss, the even
    part of `label_smoothing` included; a label of one is an error. One view is enough.

    Attributes:
        classifier: `nn.Linear` from features to one logit per class.
        head: the projection head; None without contrast.

    Terms beside the loss: `accuracy` on the labelled rows as they are augmented, 0 where there are none; with contrast
    the parts, `cross_entropy` and `contrastive`; with two views or more `positive_cosine` (between views of one sample)
    and `participation_ratio`, of the projections if there are any, else of the logits.

    Reference: Menon, Jayasumana, Rawat, Jain, Veit, Kumar (2021), Long-tail learning via logit adjustment. Contrast
    beside a classifier: Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan (2020), Supervised
    Contrastive Learning (its contrast). `label_smoothing`: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna (2016), Rethinking
    the Inception Architecture for Computer Vision.
    """

    class_counts: Tensor | None

    def __init__(self, encoder: nn.Module, config: CrossEntropyConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = config.known_classes()
        self.classifier = nn.Linear(encoder_dim(encoder), self.classes)
        self.head: ProjectionHead | None = None
        if config.contrast_weight > 0:
            self.head = config.head.build(encoder_dim(encoder))
            self.contrast = SupConLoss(temperature=config.temperature)
        counts = torch.tensor(config.known_counts()) if config.logit_adjustment else None
        self.register_buffer("class_counts", counts, persistent=False)  # the config has them
        self.config = config

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the logits of each view, then with contrast the projections of each."""
        views = one_or_more_views(batch, method="cross-entropy")
        read_labels(batch, method="cross-entropy")
        features = self.encoder(torch.cat(views))
        rows = [self.classifier(features)] if self.head is None else [self.classifier(features), self.head(features)]
        return tuple(part for both in rows for part in both.tensor_split(len(views)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss, its parts if there are two, the accuracy on this batch and the health terms.

        Raises:
            ValueError: for a label that the classifier has no class for.
        """
        count = len(batch["views"])
        logits, rows = torch.cat(list(embeddings[:count])), embeddings[-count:]
        labels = read_labels(batch, method="cross-entropy")
        check_classes(labels, self.classes, config="CrossEntropyConfig")
        targets = labels.repeat(count)

        loss = labelled_cross_entropy(*self._adjusted(logits, targets), label_smoothing=self.config.label_smoothing)
        parts = {}
        if self.head is not None:
            contrastive = self.contrast(torch.cat(list(rows)), targets, ids=read_ids(batch).repeat(count))
            parts = {"cross_entropy": loss.detach(), "contrastive": contrastive.detach()}
            loss = loss + self.config.contrast_weight * contrastive
        health = projection_health(rows) if count > 1 else {}
        return {"loss": loss, **parts, "accuracy": labelled_accuracy(logits, targets), **health}

    def negatives(self, *, samples: int, views: int) -> int | None:
        """Return all rows of other samples, those of the anchor's class being positives; None without contrast."""
        return None if self.head is None else views * (samples - 1)

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return one logit per class and image, without the class frequencies, with gradient.

        Args:
            images: float, in [0, 1].
        """
        return self.classifier(self.encoder(images))

    def _adjusted(
        self, logits: Float[Tensor, "m k"], targets: Int64[Tensor, " m"]
    ) -> tuple[Float[Tensor, "m present"], Int64[Tensor, " m"]]:
        """Return logits with the weighted prior and their targets, both of the classes that occur."""
        counts = self.class_counts
        if counts is None:
            return logits, targets
        known = targets.clamp_min(0)
        absent = targets[(targets >= 0) & (counts[known] == 0)]
        if len(absent):
            raise ValueError(
                f"label {int(absent[0])} belongs to a class with class_counts 0; count the training set again, or use"
                " -1."
            )
        present = counts.nonzero().squeeze(1)
        frequency = counts[present] / counts.sum(dtype=torch.float64)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        places = ((counts > 0).cumsum(0) - 1)[known]
        prior = (self.config.logit_adjustment * frequency.log()).to(wide.dtype)
        return wide[:, present] + prior, torch.where(targets >= 0, places, -1)
