"""ReLICv2: predict another crop's target, and predict it alike from whichever crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.losses import ReLICLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import encode_views, read_ids
from kinfolk.methods.health import projection_health
from kinfolk.methods.online_target import OnlineTargetConfig
from kinfolk.nn import encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class ReLICConfig(OnlineTargetConfig):
    """Settings of `ReLIC`; the defaults are those for small images.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = ReLICConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> crops = [torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8), torch.rand(4, 1, 4, 4)]
        >>> sorted(method({"views": crops, "ids": torch.arange(4)}))
        ['contrastive', 'divergence', 'loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "relic"
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    alpha: float = 1.0
    """Weight of finding the own target."""
    beta: float = 1.0
    """Weight of the divergence between what two views predict; 0 leaves it out."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> ReLIC:
        """Build the method around an encoder; ReLIC knows no relation but the views and leaves `relation` unused."""
        return ReLIC(encoder, self)


@final
class ReLIC(Method):
    """Cross-entropy of finding the own target in another crop, plus the divergence between two crops' predictions.

    The online side is encoder, head and predictor; the target is a moving average of encoder and head, and sees the
    large crops only. Every online crop is compared with the target of every large crop but its own, among the targets
    of all samples of the batch. What it says about all of them should be what the other crop says about them, so that
    neither position nor style nor background matters; the other crop's side is a constant. Views may lose their
    background (`ViewsConfig.background`), for which the data must have masks.

    In forward: predictions of all crops, those of one size as one batch; targets of the large ones; loss. In
    `after_step`: the target takes in the new weights. A forward pass in eval mode or without gradient leaves nothing
    for `after_step` to do.

    Terms beside the loss, which is `contrastive` plus `beta` times `divergence`: `contrastive`, the weighted
    cross-entropy; `divergence`, mean KL from one view's prediction to another's, also where `beta` is 0;
    `positive_cosine` and `participation_ratio` of the predictions. One sample alone gives a loss of 0.

    Reference: Tomasev, Bica, McWilliams, Buesing, Pascanu, Blundell, Mitrovic (2022), Pushing the limits of
    self-supervised ResNets: Can we outperform supervised learning without labels on ImageNet? Mitrovic, McWilliams,
    Walker, Buesing, Blundell (2021), Representation Learning via Invariant Causal Mechanisms.
    """

    def __init__(self, encoder: nn.Module, config: ReLICConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.predictor = config.predictor.build_predictor(self.head)
        self.twin = config.build_twin(encoder, self.head)
        self.loss = ReLICLoss(temperature=config.temperature, alpha=config.alpha, beta=config.beta)
        self.divergence = ReLICLoss(temperature=config.temperature, alpha=0.0, beta=1.0)
        self.config = config
        self._trained = False  # whether a training pass awaits `after_step`

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for a momentum that rises."""
        self.twin.begin(plan.total_steps)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the predictions of every crop."""
        crops = self.config.read_crops(batch, method="ReLIC")
        return tuple(encode_views(lambda x: self.predictor(self.head(self.encoder(x))), crops))

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the targets of the large crops."""
        crops = self.config.read_crops(batch, method="ReLIC")
        return tuple(encode_views(self.twin, crops[: self.config.large]))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss, its two parts and the health terms."""
        ids = read_ids(batch)
        loss = self.loss(embeddings, keys, ids)
        with torch.no_grad():
            divergence = self.divergence(embeddings, keys, ids)
            contrastive = loss - self.config.beta * divergence
        self._trained |= self.training and torch.is_grad_enabled()
        health = projection_health(embeddings)
        return {"loss": loss, "contrastive": contrastive, "divergence": divergence, **health}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the other samples, each once: every softmax is over the targets of one crop."""
        return samples - 1

    def after_step(self) -> None:
        """Let the target follow, if there was a training pass since the last call."""
        if self._trained:
            self.twin.update(self.encoder, self.head)
        self._trained = False
