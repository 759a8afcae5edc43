"""X-CLR: similarities between images should follow a given graph of similarities between samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.losses import XSampleLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.health import projection_health
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation
    from kinfolk.graphs import SimilarityGraph


@dataclass(frozen=True)
class XCLRConfig:
    """Settings of `XCLR`.

    The method itself reads no labels, so `labels_used` is "none"; a relation made from classes brings its own.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = XCLRConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> batch = {"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4), "text_embedding": torch.rand(4, 6)}
        >>> sorted(method(batch))
        ['loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "xclr"
    labels_used: ClassVar[str] = "none"
    temperature: float = 0.1
    """Divides the cosines of the images."""
    graph_temperature: float = 0.1
    """Divides the cosines of the batch's text embeddings; a relation brings its own."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and loss."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> XCLR:
        """Build the method around an encoder; without a relation every batch must bring `text_embedding`."""
        return XCLR(encoder, self, relation=relation)


@final
class XCLR(Method):
    """Cross-entropy between the graph's rows and the model's softmax over the other rows of the batch.

    The graph comes from the relation, over the batch's ids; without one it is the softmax of the cosines between the
    `text_embedding` of the batch. Every other row is a positive and a negative in proportion to its weight. The loss
    cannot fall below the mean entropy of the graph's rows, so a plateau there is not a failure: read it beside the
    target's perplexity.

    Terms beside the loss: `positive_cosine` (between views of one sample), `participation_ratio` of the projections.

    Reference: Sobal, Ibrahim, Balestriero, Cabannes, Bouchacourt, Astolfi, Cho, LeCun (2024), X-Sample Contrastive
    Loss: Improving Contrastive Learning with Sample Similarity Graphs.
    """

    def __init__(self, encoder: nn.Module, config: XCLRConfig, *, relation: Relation | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.relation = relation
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = XSampleLoss(temperature=config.temperature, graph_temperature=config.graph_temperature)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view."""
        views = read_views(batch, method="X-CLR")
        return self.head(self.encoder(torch.cat(views))).tensor_split(len(views))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms; a batch with nothing to relate by raises `ValueError`, side
        embeddings that are no rows of floats `TypeError`."""
        count = len(embeddings)
        target = self._target(batch, views=count)
        loss = self.loss(torch.cat(list(embeddings)), target, ids=read_ids(batch).repeat(count))
        return {"loss": loss, **projection_health(embeddings)}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return all rows of other samples; each is a positive too, in proportion to its weight."""
        return views * (samples - 1)

    def _target(self, batch: Mapping[str, Any], *, views: int) -> SimilarityGraph | Float[Tensor, "m e"]:
        """Return what the batch's rows, in view-major order, are compared by."""
        if self.relation is not None:
            if "ids" not in batch:
                raise ValueError(f"X-CLR looks samples up in its relation by ids; found batch keys {sorted(batch)}.")
            return self.relation.for_batch(batch["ids"], views)
        if batch.get("text_embedding") is None:
            raise ValueError(
                "X-CLR needs a similarity between samples and found none: give a relation (ClassTableConfig, "
                f"SideEmbeddingsConfig), or batches with text_embedding [b, e]; found batch keys {sorted(batch)}."
            )
        side = batch["text_embedding"]
        if side.ndim != 2 or not side.is_floating_point():
            raise TypeError(f"text_embedding must be floats [b, e], found {side.dtype} {list(side.shape)}")
        return side.repeat(views, 1)
