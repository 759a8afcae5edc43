"""ResCom: a balanced classifier, and contrast with class weights and hard pairs from a class-balanced queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.losses import BalancedSoftmaxLoss, ResComLoss
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import labelled_accuracy, projection_health
from kinfolk.methods.predicting import ClassCountsConfig, PredictingMethod
from kinfolk.nn import ClassQueue, HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class ResComConfig(ClassCountsConfig):
    """Settings of `ResCom`; the sizes are from the middle of what is usually searched.

    Raises:
        ValueError: for a negative weight, or more positives than a class has slots.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = ResComConfig(classes=3, class_counts=(50, 9, 2))
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> terms = method({"views": [torch.rand(4, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 2, -1])})
        >>> method.after_step()
        >>> sorted(terms)[:4], method.queue.written.tolist()
        (['accuracy', 'balanced_softmax', 'contrastive', 'loss'], [2, 0, 1])
    """

    kind: ClassVar[str] = "rescom"
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    con_weight: float = 1.0
    """Weight of the contrast; 0 leaves the balanced softmax alone."""
    beta: float = 0.99
    """Of the weights of classes in the contrast, in [0, 1): 0 weighs all alike, towards 1 by inverse frequency."""
    positives: int = 2
    """Queue rows of its class that a row attracts beside the batch's: those it is least similar to."""
    negatives: int = 16
    """Queue rows of other classes that a row repels beside the batch's: those it is most similar to."""
    queue_per_class: int = 8
    """Earlier rows of every class that are kept."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and contrast; the classifier does not see it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.con_weight >= 0:
            raise ValueError(f"con_weight must be at least 0, found {self.con_weight}")
        if self.positives > self.queue_per_class:
            raise ValueError(
                f"a class has {self.queue_per_class} slots in the queue, and positives={self.positives} are asked for;"
                " raise queue_per_class"
            )

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> ResCom:
        """Build the method around an encoder; its graph is the labels, so `relation` stays unused.

        Raises:
            ValueError: when the number of classes or their frequencies are still open.
        """
        return ResCom(encoder, self)


@final
class ResCom(PredictingMethod):
    """Balanced softmax on the encoder's features, and supervised contrast that gives rare classes their share.

    In a long-tailed batch frequent classes fill the contrast, and most pairs of them are easy. Here a queue keeps
    equally many earlier rows of every class. Each row adds to its contrast with the batch the queue's hardest pairs:
    the least similar rows of its class as positives, the most similar rows of others as negatives. Rows of rare classes
    weigh more. The classifier's logits take the logarithms of the class frequencies in the loss, and not when it
    predicts. Encoder, head and classifier learn in one stage.

    In forward: features of all views; logits of all and projections of all; balanced softmax plus `con_weight` times
    the contrast, against a copy of the queue as it was. In `after_step`: the projections of the first view enter the
    queue, made by the encoder as it was and constant from then on; there is no moving average.

    An unlabelled sample (-1) has no classifier loss, is not stored, and attracts its own views only. A class whose
    ring is empty or short gives what it has. A sample's own earlier row may be among its positives; it is seldom among
    the least similar. With `con_weight=0` this is balanced softmax alone, at the same work.

    Attributes:
        classifier: `nn.Linear` from features to one logit per class.
        queue: the class-balanced queue.

    Terms beside the loss: its parts, `balanced_softmax` and `contrastive`; `accuracy` of the classifier on the labelled
    rows as they are augmented; `queue_fill`, the share of slots with rows of data; `positive_cosine` (between views of
    one sample), `participation_ratio` of the projections.

    Reference: Zhong, Cui, Li, Lo, Sun, Jia (2022), Rebalanced Siamese Contrastive Mining for Long-Tailed Recognition.
    """

    def __init__(self, encoder: nn.Module, config: ResComConfig) -> None:
        super().__init__()
        counts = config.known_counts()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.classifier = nn.Linear(encoder_dim(encoder), len(counts))
        self.queue = ClassQueue(len(counts), config.queue_per_class, self.head.out_dim)
        self.balanced_softmax = BalancedSoftmaxLoss(counts)
        self.contrast = ResComLoss(
            counts,
            temperature=config.temperature,
            beta=config.beta,
            positives=config.positives,
            negatives=config.negatives,
        )
        self.con_weight = config.con_weight

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view, then the logits of each; a batch without labels raises `ValueError`."""
        views = read_views(batch, method="ResCom")
        read_labels(batch, method="ResCom")
        features = self.encoder(torch.cat(views))
        rows = self.head(features), self.classifier(features)
        return tuple(part for both in rows for part in both.tensor_split(len(views)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss, its parts and the health terms, and keep the first view's rows for `after_step`."""
        count, labels = len(embeddings) // 2, read_labels(batch, method="ResCom")
        projections, logits = embeddings[:count], torch.cat(list(embeddings[count:]))
        targets, ids = labels.repeat(count), read_ids(batch).repeat(count)
        queue = self.queue.snapshot()

        balanced = self.balanced_softmax(logits, targets)
        contrastive = self.contrast(torch.cat(list(projections)), targets, queue.features, queue.labels, ids=ids)
        self.queue.hold(projections[0], batch.get("ids"), labels)
        return {
            "loss": balanced + self.con_weight * contrastive,
            "balanced_softmax": balanced.detach(),
            "contrastive": contrastive.detach(),
            "accuracy": labelled_accuracy(logits, targets),
            "queue_fill": self.queue.fill,
            **projection_health(projections),
        }

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the rows of other samples, those of the anchor's class being positives, and what is mined."""
        return views * (samples - 1) + self.contrast.negatives

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return one logit per class and image, without the class frequencies, with gradient.

        Args:
            images: float, in [0, 1].
        """
        return self.classifier(self.encoder(images))

    def after_step(self) -> None:
        """Enqueue the rows of the training passes since the last call."""
        self.queue.flush()
