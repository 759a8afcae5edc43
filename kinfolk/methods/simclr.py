"""SimCLR: two augmented views of an image should be closest to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.losses import DCLLoss, NTXentLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.health import projection_health
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class SimCLRConfig:
    """Settings of `SimCLR`.

    Raises:
        ValueError: for weights of positives without the decoupled form.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = SimCLRConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)}))
        ['loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "simclr"
    labels_used: ClassVar[str] = "none"
    temperature: float = 0.2
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    decoupled: bool = False
    """Leave the positive out of the denominator (DCL), which keeps the gradient strong in small batches."""
    sigma: float | None = None
    """Weigh positives by how hard they are (DCLW), softly for a large number; None weighs them alike. DCL only."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and loss."""

    def __post_init__(self) -> None:
        if self.sigma is not None and not self.decoupled:
            raise ValueError(f"sigma = {self.sigma:g} weighs the positives of DCL: set decoupled, or leave sigma out.")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> SimCLR:
        """Build the method around an encoder; SimCLR knows no relation but the views and leaves `relation` unused."""
        return SimCLR(encoder, self)


@final
class SimCLR(Method):
    """NT-Xent, or its decoupled form, between the views of a batch.

    Each of the 2n rows picks its other view among all 2n - 1 others. All views go through the encoder as one batch, so
    that batch norm sees them together. With more than two views the loss is the mean of NT-Xent over all pairs of them.

    Terms beside the loss: `positive_cosine`, `participation_ratio` of the projections.

    Reference: Chen, Kornblith, Norouzi, Hinton (2020), A Simple Framework for Contrastive Learning of Visual
    Representations. `decoupled`: Yeh, Hong, Hsu, Liu, Chen, LeCun (2022), Decoupled Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: SimCLRConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        if config.decoupled:
            self.loss: nn.Module = DCLLoss(temperature=config.temperature, sigma=config.sigma)
        else:
            self.loss = NTXentLoss(temperature=config.temperature)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view."""
        views = read_views(batch, method="SimCLR")
        return self.head(self.encoder(torch.cat(views))).tensor_split(len(views))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms."""
        ids = read_ids(batch)
        loss = torch.stack([self.loss(a, b, ids=ids) for a, b in combinations(embeddings, 2)]).mean()
        return {"loss": loss, **projection_health(embeddings)}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return both views of every other sample."""
        return 2 * (samples - 1)
