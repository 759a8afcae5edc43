"""Deep Bregman: SimCLR with a second similarity, which many small networks define and learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.losses import BregmanLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.health import projection_health
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class BregmanConfig:
    """Settings of `Bregman`.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8))
        >>> method = BregmanConfig(networks=16, hidden=8).build(encoder)
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)}))
        ['active_networks', 'loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "bregman"
    labels_used: ClassVar[str] = "none"
    networks: int = 100
    """How many small networks judge every row; 16 to 100 for small images."""
    hidden: int = 512
    """Width of each network's hidden layer; a step holds 2 x batch x `networks` x `hidden` numbers."""
    sigma: float = 0.9
    """Width of the similarity exp(-D / (2 sigma^2)) that the networks' divergence D gives."""
    temperature: float = 0.1
    """Divides the cosines and the networks' similarities; smaller looks harder at the nearest negatives."""
    weight: float = 1.0
    """Weight of the networks' term; 0 is SimCLR."""
    dropout: float = 0.2
    """Share of hidden units of the networks that a training step leaves out."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and loss."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> Bregman:
        """Build the method around an encoder; it knows no relation but the views and leaves `relation` unused."""
        return Bregman(encoder, self)


@final
class Bregman(Method):
    """NT-Xent between the views of a batch, plus its like with a learnt similarity.

    Small networks judge every projection; two rows are near where the same network is largest at both. The networks are
    parameters of the method, trained with the encoder and left behind when it is exported. If one network is largest at
    all rows, everything is equally near and the networks stop learning; `active_networks` shows it. With more than two
    views the loss is the mean over all pairs of them.

    Dropout draws from torch's global generator, as dropout in an encoder does: the trainer's checkpoints hold its
    state, one per process, so that a resumed run continues bitwise; two processes drop other units than one. With
    `dropout` 0 nothing is drawn.

    Terms beside the loss: `active_networks`, how many networks are largest at some row of this process; 1 is collapse;
    `positive_cosine`, `participation_ratio` of the projections. One sample alone gives a loss of 0.

    Reference: Rezaei, Soleymani, Bischl, Azizi (2021), Deep Bregman Divergence for Contrastive Learning of Visual
    Representations.
    """

    def __init__(self, encoder: nn.Module, config: BregmanConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = BregmanLoss(
            self.head.out_dim,
            networks=config.networks,
            hidden=config.hidden,
            sigma=config.sigma,
            temperature=config.temperature,
            weight=config.weight,
            dropout=config.dropout,
        )

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view."""
        views = read_views(batch, method="Bregman")
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
        loss = torch.stack([self.loss(a, b, ids) for a, b in combinations(embeddings, 2)]).mean()
        active = torch.tensor(float(self.loss.active(*embeddings)), device=loss.device)
        return {"loss": loss, "active_networks": active, **projection_health(embeddings)}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return both views of every other sample."""
        return 2 * (samples - 1)
