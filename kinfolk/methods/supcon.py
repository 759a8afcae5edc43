"""SupCon: views of images of the same class attract one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kinfolk.losses import SupConLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import projection_health
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class SupConConfig:
    """Settings of `SupCon`.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = SupConConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> batch = {"views": [torch.rand(4, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 1, -1])}
        >>> sorted(method(batch))
        ['loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "supcon"
    labels_used: ClassVar[str] = "all"
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    form: Literal["out", "in"] = "out"
    """Where the mean over a row's positives stands: outside the logarithm, or inside it."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and loss."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> SupCon:
        """Build the method around an encoder; its graph is the batch's labels, so `relation` stays unused."""
        return SupCon(encoder, self)


@final
class SupCon(Method):
    """Supervised contrastive loss over all views of a batch.

    Positives of a row are the rows of its class and the other views of its sample. An unlabelled sample (-1) has its
    own views only. A class-balanced sampler keeps every sample in company.

    Terms beside the loss: `positive_cosine` (between views of one sample), `participation_ratio` of the projections.

    Reference: Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan (2020), Supervised
    Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: SupConConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = SupConLoss(temperature=config.temperature, form=config.form)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view; a batch without labels raises `ValueError`."""
        views = read_views(batch, method="SupCon")
        read_labels(batch, method="SupCon")
        return self.head(self.encoder(torch.cat(views))).tensor_split(len(views))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms."""
        count, labels = len(embeddings), read_labels(batch, method="SupCon")
        loss = self.loss(torch.cat(list(embeddings)), labels.repeat(count), ids=read_ids(batch).repeat(count))
        return {"loss": loss, **projection_health(embeddings)}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return all rows of other samples; those of the anchor's class are positives."""
        return views * (samples - 1)
