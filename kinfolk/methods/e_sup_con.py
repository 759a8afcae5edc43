"""ESupCon: supervised contrast in which a classifier's prototypes are rows like all others, learnt in one stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.losses import ESupConLoss
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import labelled_accuracy, projection_health
from kinfolk.methods.predicting import ClassesConfig, PredictingMethod
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class ESupConConfig(ClassesConfig):
    """Settings of `ESupCon`.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = ESupConConfig(classes=3)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> batch = {"views": [torch.rand(4, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 2, -1])}
        >>> sorted(method(batch)), method.eval().predict(batch["views"][0]).shape
        (['accuracy', 'loss', 'participation_ratio', 'positive_cosine'], torch.Size([4]))
    """

    kind: ClassVar[str] = "esupcon"
    temperature: float = 0.1
    """Divides the cosines between rows, and between rows and prototypes."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and loss; the classifier stands behind it."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> ESupCon:
        """Build the method around an encoder; its graph is the batch's labels, so `relation` stays unused.

        Raises:
            ValueError: when the number of classes is still open.
        """
        return ESupCon(encoder, self)


@final
class ESupCon(PredictingMethod):
    """Supervised contrast over all views and one learnt prototype per class: encoder and classifier in one stage.

    A prototype is a positive of its class's rows and a negative of all others, and an anchor itself where the batch has
    its class; two prototypes are never compared. An image belongs to the class whose prototype its projection has the
    largest cosine with, and cosines over the temperature are the logits: nothing else is trained for them.

    A reconstruction: the paper's text was not at hand, and its abstract and one caption leave open how the parts are
    weighted. What a run of this gives says nothing about the paper's numbers.

    In forward: projections of all views, then the loss, whose mean is over all anchors of both kinds. The prototypes
    are parameters of the loss; only their directions count, so they are kept from weight decay, see `without_decay`.

    An unlabelled sample (-1) is a candidate of all others and an anchor through its own views only. The prototypes of
    classes that the batch lacks stay candidates. A batch without labels is SimCLR's, with the prototypes as further
    negatives of every row.

    Attributes:
        loss: holds the prototypes, `loss.weight` [classes, d].
        without_decay: names of submodules whose parameters no optimiser decays.

    Terms beside the loss: `accuracy` of the prototypes on the labelled rows as they are augmented, 0 where there are
    none; `positive_cosine` (between views of one sample), `participation_ratio` of the projections.

    Reference: Aljundi, Patel, Sulc, Olmeda, Chumerin (2022), Contrastive Classification and Representation Learning
    with Probabilistic Interpretation.
    """

    def __init__(self, encoder: nn.Module, config: ESupConConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = ESupConLoss(config.known_classes(), self.head.out_dim, temperature=config.temperature)
        self.without_decay = ("loss",)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view; a batch without labels raises `ValueError`."""
        views = read_views(batch, method="ESupCon")
        read_labels(batch, method="ESupCon")
        return self.head(self.encoder(torch.cat(views))).tensor_split(len(views))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss, the accuracy of the prototypes on this batch and the health terms.

        Raises:
            ValueError: for a label that there is no prototype for.
        """
        count, labels = len(embeddings), read_labels(batch, method="ESupCon")
        rows, targets = torch.cat(list(embeddings)), labels.repeat(count)
        loss = self.loss(rows, targets, ids=read_ids(batch).repeat(count))
        accuracy = labelled_accuracy(self.loss.logits(rows.detach()), targets)
        return {"loss": loss, "accuracy": accuracy, **projection_health(embeddings)}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return all rows of other samples; those of the anchor's class are positives. Prototypes come on top."""
        return views * (samples - 1)

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the cosines of the projections with every prototype over the temperature, with gradient.

        Args:
            images: float, in [0, 1].
        """
        return self.loss.logits(self.head(self.encoder(images)))
