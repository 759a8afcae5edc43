"""PaCo and GPaCo: class centres join the softmax of supervised contrast, against the long tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from kinfolk import distributed
from kinfolk.losses import PaCoLoss
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import labelled_accuracy, projection_health
from kinfolk.methods.predicting import ClassCountsConfig, PredictingMethod
from kinfolk.nn import FeatureQueue, HeadConfig, MomentumTwin, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class CentresConfig(ClassCountsConfig):
    """What the settings of `PaCo` and `GPaCo` have in common.

    Example:
        >>> CentresConfig(classes=2, class_counts=(9, 1)).build_loss(8).class_counts
        tensor([9, 1])
    """

    alpha: float = 0.05
    """Weight of a positive sample against the class centre; smaller moves mass to the centre."""
    temperature: float = 0.2
    """Divides the cosines between samples; logits are not divided."""
    logit_adjustment: bool = True
    """Add the logarithms of the class frequencies to the logits in the loss, and only there."""
    queue_size: int = 1024
    """Earlier rows that serve as positives and negatives; at most the number of training images is sensible."""

    def build_loss(self, dim: int) -> PaCoLoss:
        """Build the loss, which holds the class centres, for features of length `dim`.

        Raises:
            ValueError: when the number of classes, or, with logit adjustment, their frequencies are still open.
        """
        counts = self.known_counts() if self.logit_adjustment else None
        return PaCoLoss(self.known_classes(), dim, alpha=self.alpha, temperature=self.temperature, class_counts=counts)

    def smoke(self) -> Self:
        """Return the settings for a run of a few hundred samples."""
        return replace(self, queue_size=128)


@dataclass(frozen=True)
class PaCoConfig(CentresConfig):
    """Settings of `PaCo`.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = PaCoConfig(classes=3, class_counts=(50, 9, 2), queue_size=8)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> batch = {"views": [torch.rand(4, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 2, -1])}
        >>> terms = method(batch)
        >>> method.after_step()
        >>> sorted(terms), int(method.queue.filled)
        (['accuracy', 'loss', 'participation_ratio', 'positive_cosine', 'queue_fill'], 3)
    """

    kind: ClassVar[str] = "paco"
    momentum: float = 0.999
    """How slowly the key encoder follows, 0 to 1; short trainings need less, 0.99."""
    batch_norm_splits: int = 8
    """Groups of the batch that batch norm normalises apart, as several devices would; 1 leaves batch norm alone."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and contrast; the class centres do not see it."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> PaCo:
        """Build the method around an encoder, whose batch norm becomes split batch norm; `relation` stays unused.

        Raises:
            ValueError: when the number of classes or their frequencies are still open.
        """
        return PaCo(encoder, self)


@dataclass(frozen=True)
class GPaCoConfig(CentresConfig):
    """Settings of `GPaCo`.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = GPaCoConfig(classes=3, logit_adjustment=False, queue_size=8)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> terms = method({"views": [torch.rand(4, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 2, 1])})
        >>> method.eval().predict(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    kind: ClassVar[str] = "gpaco"
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=3))
    """The projection head between encoder and contrast; the class centres do not see it."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> GPaCo:
        """Build the method around an encoder; its graph is the labels, so `relation` stays unused.

        Raises:
            ValueError: when the number of classes or their frequencies are still open.
        """
        return GPaCo(encoder, self)


@final
class PaCo(PredictingMethod):
    """Parametric contrast: a query's candidates are keys, a queue of earlier keys, and a learnt centre per class.

    In supervised contrast frequent classes have more positives and so attract more. Here the own class's centre is a
    positive of weight 1, every sample of the class one of weight `alpha`, and all share one softmax; centres score
    features, as an ordinary linear classifier, and samples score projections. The logarithms of the class frequencies
    are added to the centres' scores in the loss, and not when it predicts.

    Keys come from an exponential moving average of the encoder, parameters only, without gradient;
    `kinfolk.nn.MomentumTwin` says how batch norm is kept from telling a query which key is its own.

    In forward: features and projections of the first view; keys of the second; the loss of each labelled query against
    the centres, the other queries, all keys of the batch and a copy of the queue as it was, without the sample's own
    earlier keys. In `after_step`: the keys enter the queue with labels and ids, and the moving average takes in the new
    weights; it is up to date when the next keys are made. A pass in eval mode or without gradient leaves nothing to do.

    An unlabelled sample (-1) is no anchor; its query is a negative of the others, its key is nobody's candidate and
    does not enter the queue. Without ids in the batch, a sample's own earlier keys stay among its positives.

    Attributes:
        loss: holds the centres, `loss.weight` [classes, feature_dim] and `loss.bias`.

    Terms beside the loss: `accuracy` of the centres on the labelled rows as they are augmented; `queue_fill`, the share
    of the queue that holds keys of data; `positive_cosine` between queries and keys; `participation_ratio` of both.

    Reference: Cui, Zhong, Liu, Yu, Jia (2021), Parametric Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: PaCoConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = config.build_loss(encoder_dim(encoder))
        self.twin = MomentumTwin(encoder, self.head, momentum=config.momentum, splits=config.batch_norm_splits)
        self.queue = FeatureQueue(config.queue_size, self.head.out_dim)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return projections and features of the first view; a batch without labels raises `ValueError`."""
        first, _ = read_views(batch, method="PaCo", count=2)
        read_labels(batch, method="PaCo")
        features = self.encoder(first)
        return self.head(features), features

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the keys, from the second view."""
        return (self.twin(read_views(batch, method="PaCo", count=2)[1]),)

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the keys for `after_step`."""
        (queries, features), (key,) = embeddings, keys
        ids, labels, queue = batch.get("ids"), read_labels(batch, method="PaCo"), self.queue.snapshot()
        new, new_labels = distributed.all_gather(key), distributed.all_gather(labels)

        loss = self.loss(
            queries,
            labels,
            features,
            queue=torch.cat([new, queue.features]),
            queue_labels=torch.cat([new_labels, queue.labels]),
            ids=ids,
            # Only earlier keys of the own sample leave; the key of this step has no id here, and stays.
            queue_ids=None if ids is None else torch.cat([torch.full_like(new_labels, -1), queue.ids]),
        )
        hold_labelled(self.queue, key, ids, labels)
        return {
            "loss": loss,
            "accuracy": labelled_accuracy(self.loss.logits(features), labels),
            "queue_fill": self.queue.fill,
            **projection_health([queries, key]),
        }

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the rows of other samples, queries and keys, and the queue's; those of the class are positives."""
        return 2 * (samples - 1) + self.queue.size

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the centres' scores of each image, without the class frequencies, with gradient.

        Args:
            images: float, in [0, 1].
        """
        return self.loss.logits(self.encoder(images))

    def after_step(self) -> None:
        """Enqueue the keys of the training passes since the last call and let the key encoder follow."""
        if self.queue.flush():
            self.twin.update(self.encoder, self.head)


@final
class GPaCo(PredictingMethod):
    """Generalised parametric contrast: PaCo with one encoder, whose both views are anchors and have a gradient.

    The candidates of a row are all other rows of the batch, learnt class centres, and a queue of earlier rows of the
    same encoder; weights and frequencies are as in `PaCo`. There is no moving average, and the head has no batch norm.

    In forward: features and projections of both views; the loss of each labelled row against the centres, the other
    rows and a copy of the queue as it was, without the sample's own earlier rows. In `after_step`: the projections of
    the second view enter the queue, constant from then on. A pass in eval mode or without gradient leaves no trace.

    An unlabelled sample (-1) is no anchor, its rows are negatives of the others in this batch, and they do not enter
    the queue. Without ids in the batch, a sample's own earlier rows stay among its positives.

    Attributes:
        loss: holds the centres, `loss.weight` [classes, feature_dim] and `loss.bias`.

    Terms beside the loss: as in `PaCo`, over the rows of both views.

    Reference: Cui, Zhong, Tian, Liu, Yu, Jia (2023), Generalized Parametric Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: GPaCoConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = config.build_loss(encoder_dim(encoder))
        self.queue = FeatureQueue(config.queue_size, self.head.out_dim)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view, then the features; a batch without labels raises `ValueError`."""
        views = read_views(batch, method="GPaCo", count=2)
        read_labels(batch, method="GPaCo")
        features = self.encoder(torch.cat(views))
        return (*self.head(features).tensor_split(2), *features.tensor_split(2))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the second view's rows for `after_step`."""
        projections, features = embeddings[:2], torch.cat(list(embeddings[2:]))
        labels, queue = read_labels(batch, method="GPaCo"), self.queue.snapshot()
        loss = self.loss(
            torch.cat(list(projections)),
            labels.repeat(2),
            features,
            queue=queue.features,
            queue_labels=queue.labels,
            ids=read_ids(batch).repeat(2),
            queue_ids=queue.ids if "ids" in batch else None,
        )
        hold_labelled(self.queue, projections[1], batch.get("ids"), labels)
        return {
            "loss": loss,
            "accuracy": labelled_accuracy(self.loss.logits(features), labels.repeat(2)),
            "queue_fill": self.queue.fill,
            **projection_health(projections),
        }

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the rows of other samples and the queue's; those of the anchor's class are positives."""
        return views * (samples - 1) + self.queue.size

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the centres' scores of each image, without the class frequencies, with gradient.

        Args:
            images: float, in [0, 1].
        """
        return self.loss.logits(self.encoder(images))

    def after_step(self) -> None:
        """Enqueue the rows of the training passes since the last call."""
        self.queue.flush()


def hold_labelled(queue: FeatureQueue, rows: Tensor, ids: Tensor | None, labels: Tensor) -> None:
    """Let a queue hold the labelled rows of a batch: one without a label would take a slot and be nobody's candidate.

    Example:
        >>> queue = FeatureQueue(3, 2)
        >>> hold_labelled(queue, torch.eye(2), None, torch.tensor([-1, 4]))
        >>> queue.flush(), queue.snapshot().labels.tolist()
        (True, [4, -1, -1])
    """
    known = labels >= 0
    queue.hold(rows[known], None if ids is None else ids[known], labels[known])
