"""CACR: pull far positives and push near negatives, each in proportion to how much it needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kinfolk.losses import CACRLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.health import projection_health, relative_entropy
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation

# The weights are an explicit matrix; its entropy is an estimate over this many samples, so that it stays cheap.
_ENTROPY_SAMPLES = 256


@dataclass(frozen=True)
class CACRConfig:
    """Settings of `CACR`; K positives per query need K + 1 views, which `ViewsConfig.count` sets.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = CACRConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 3, "ids": torch.arange(4)}))
        ['loss', 'participation_ratio', 'positive_cosine', 'repulsion_entropy']
    """

    kind: ClassVar[str] = "cacr"
    labels_used: ClassVar[str] = "none"
    t_pos: float = 1.0
    """How strongly far positives are preferred; 0 weighs all the same."""
    t_neg: float = 2.0
    """How strongly near negatives are preferred; 0 weighs all the same."""
    alpha: float = 1.0
    """Factor of the attraction."""
    beta: float = 1.0
    """Factor of the repulsion."""
    attraction: Literal["contrastive", "uniform"] = "contrastive"
    """Weights of the positives: by distance, or all equal (to compare with)."""
    repulsion: Literal["contrastive", "uniform"] = "contrastive"
    """Weights of the negatives: by nearness, or all equal (to compare with)."""
    detach_weights: bool = False
    """Whether the weights are constants in the gradient."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=0))
    """A projection head between encoder and loss; none by default (0 layers)."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> CACR:
        """Build the method around an encoder; CACR weighs pairs by their distance and leaves `relation` unused."""
        return CACR(encoder, self)


@final
class CACR(Method):
    """Contrastive attraction within a sample's views and contrastive repulsion between samples.

    With V views each query has K = V - 1 positives, weighted towards the far ones, and the other samples as negatives,
    weighted towards the near ones. There is no softmax over positives and negatives together, and the value may be
    negative.

    Terms beside the loss: `repulsion_entropy`, the entropy of the repulsion weights relative to uniform ones, between
    the first two views of the first 256 samples (it falls as training goes on); `positive_cosine`,
    `participation_ratio` of the projections.

    Reference: Zheng, Chen, Yao, Yang, Li, Zhang, Zhang, Tsang, Zhou, Zhou (2021), Contrastive Attraction and
    Contrastive Repulsion for Representation Learning.
    """

    def __init__(self, encoder: nn.Module, config: CACRConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = CACRLoss(
            t_pos=config.t_pos,
            t_neg=config.t_neg,
            alpha=config.alpha,
            beta=config.beta,
            attraction=config.attraction,
            repulsion=config.repulsion,
            detach_weights=config.detach_weights,
        )

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view."""
        views = read_views(batch, method="CACR")
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
        loss = self.loss(embeddings, ids=ids)
        entropy = self._repulsion_entropy(embeddings, ids)
        return {"loss": loss, "repulsion_entropy": entropy, **projection_health(embeddings)}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the other samples, each once: the repulsion is a mean over pairs of views."""
        return samples - 1

    @torch.no_grad()
    def _repulsion_entropy(self, z: Sequence[Float[Tensor, "n d"]], ids: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
        first = slice(_ENTROPY_SAMPLES)
        _, repulsion = self.loss.weights([view[first] for view in z[:2]], ids[first])
        return relative_entropy(repulsion.float())
