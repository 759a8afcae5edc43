"""NNCLR: a view is predicted from the nearest neighbour of the other view, found in a queue of earlier projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from kinfolk.losses import NNCLRLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_views
from kinfolk.methods.health import projection_health, same_label_share
from kinfolk.nn import FeatureQueue, HeadConfig, QueueSnapshot, encoder_dim
from kinfolk.ops import row_topk

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class NNCLRConfig:
    """Settings of `NNCLR`; the defaults are those for small images.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = NNCLRConfig(queue_size=8).build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> terms = method({"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)})
        >>> method.after_step()
        >>> sorted(terms), int(method.queue.filled)
        (['loss', 'neighbour_is_own', 'participation_ratio', 'positive_cosine', 'queue_fill'], 4)
    """

    kind: ClassVar[str] = "nnclr"
    labels_used: ClassVar[str] = "none"
    temperature: float = 0.2
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    decoupled: bool = False
    """Leave the own prediction out of the denominator (DCL), which keeps the gradient strong in small batches."""
    queue_size: int = 4096
    """Number of earlier projections to find neighbours in; well below the number of training images, or samples find
    themselves."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head after the encoder; its rows are what neighbours are sought for and among."""
    predictor: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """What turns projections into predictions; its `out_dim` is the head's. 0 layers leave it out."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> NNCLR:
        """Build the method around an encoder; NNCLR finds its relations itself and leaves `relation` unused."""
        return NNCLR(encoder, self)

    def smoke(self) -> Self:
        """Return the settings for a run of a few hundred samples."""
        return replace(self, queue_size=128)


@final
class NNCLR(Method):
    """A neighbour of one view must find the prediction of the other among those of the whole batch.

    The positive of an image is thus another image, the nearest among earlier ones, and training learns more than
    augmentations show. Each projection looks for its nearest row in the queue; that row, a constant, is the anchor, and
    the predictions of the other view are its candidates, the own sample's being the positive. Both directions are
    averaged. There is no moving average; gradient passes through predictions only.

    In forward: projections and predictions of both views, as one batch, so that batch norm sees them together; both
    searches in a copy of the queue as it was; loss. In `after_step`: the first view's projections enter the queue, one
    row a sample. A forward pass in eval mode or without gradient leaves nothing for `after_step` to do.

    Terms beside the loss: of the first view's neighbours, `same_label`, where the batch has labels, the share with the
    sample's label, and `neighbour_is_own`, where it has ids, the share that are the sample's own earlier projection;
    `queue_fill`; `positive_cosine` and `participation_ratio` of the projections.

    Degenerate: where the queue holds the batch's own projections this is CLIP between projections and predictions. One
    sample alone has no negatives: the loss is 0, and an error if `decoupled`.

    Reference: Dwibedi, Aytar, Tompson, Sermanet, Zisserman (2021), With a Little Help from My Friends: Nearest-Neighbor
    Contrastive Learning of Visual Representations. `decoupled`: Yeh, Hong, Hsu, Liu, Chen, LeCun (2022), Decoupled
    Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: NNCLRConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.predictor = config.predictor.build_predictor(self.head)
        self.queue = FeatureQueue(config.queue_size, self.head.out_dim)
        self.loss = NNCLRLoss(temperature=config.temperature, decoupled=config.decoupled)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of both views, then the predictions of both."""
        views = read_views(batch, method="NNCLR", count=2)
        projections = self.head(self.encoder(torch.cat(views)))
        return *projections.tensor_split(2), *self.predictor(projections).tensor_split(2)

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms, and keep the projections for `after_step`."""
        queue = self.queue.snapshot()
        projections, predictions = embeddings[:2], embeddings[2:]
        loss = self.loss(projections, predictions, queue.features, ids=batch.get("ids"))
        self.queue.hold(projections[0], batch.get("ids"), batch.get("labels"))
        return {
            "loss": loss,
            "queue_fill": self.queue.fill,
            **_neighbours(projections[0].detach(), queue, batch),
            **projection_health(projections),
        }

    def negatives(self, *, samples: int, views: int) -> int:
        """Return one prediction of every other sample; the queue gives anchors, not negatives."""
        return samples - 1

    def after_step(self) -> None:
        """Enqueue the projections of the training passes since the last call."""
        self.queue.flush()


@torch.no_grad()
def _neighbours(projections: Float[Tensor, "n d"], queue: QueueSnapshot, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return whose neighbours were found: of the same class, or the sample itself."""
    nearest = row_topk(projections, queue.features, k=1, normalize=True)[1][:, 0]
    found = same_label_share(batch.get("labels"), queue.labels[nearest])
    ids = batch.get("ids")
    return found if ids is None else found | {"neighbour_is_own": (queue.ids[nearest] == ids).float().mean()}
