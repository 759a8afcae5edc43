"""RenyiCL: a contrastive bound on a skew Renyi divergence, which stands harder augmentations than InfoNCE."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.distributed import all_reduce
from kinfolk.losses import RenyiCLLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import encode_views, read_ids
from kinfolk.methods.health import projection_health
from kinfolk.methods.online_target import OnlineTargetConfig
from kinfolk.nn import encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan

# Weights of pairs are an explicit matrix; their effective number is an estimate over this many samples of a rank.
_WEIGHED_SAMPLES = 256


@dataclass(frozen=True)
class RenyiCLConfig(OnlineTargetConfig):
    """Settings of `RenyiCL`; the defaults are those for small images.

    Raises:
        ValueError: for fewer than two large crops, or an alpha that is neither a number nor a rule.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = RenyiCLConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 2, "ids": torch.arange(4)}))
        ['effective_negatives', 'effective_positives', 'loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "renyi-cl"
    temperature: float = 0.5
    """Divides the cosines."""
    gamma: float = 2.0
    """Order of the divergence, 1 (Kullback-Leibler) or more; more weighs easy positives and hard negatives more."""
    alpha: float | Literal["1/n", "1/n^2"] = "1/n^2"
    """Skew: how much positives count among the negatives, 0 to 1, or from the n samples of a batch; 0 is unstable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.alpha, str) and self.alpha not in ("1/n", "1/n^2"):
            raise ValueError(f"alpha must be a number, '1/n' or '1/n^2', found {self.alpha!r}.")

    def skew(self, samples: int) -> float:
        """Return alpha as a number.

        Args:
            samples: in the batch of all processes.

        Example:
            >>> RenyiCLConfig(alpha="1/n").skew(64), RenyiCLConfig(alpha=0.1).skew(64)
            (0.015625, 0.1)
        """
        if isinstance(self.alpha, str):
            return 1 / samples if self.alpha == "1/n" else 1 / samples**2
        return self.alpha

    def build_loss(self, samples: int) -> RenyiCLLoss:
        """Build the loss of a batch with so many samples on all processes."""
        return RenyiCLLoss(temperature=self.temperature, gamma=self.gamma, alpha=self.skew(samples))

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> RenyiCL:
        """Build the method around an encoder; RenyiCL knows no relation but the views and leaves `relation` unused."""
        return RenyiCL(encoder, self)


@final
class RenyiCL(Method):
    """The negative of a lower bound on the skew Renyi divergence between positive and other pairs.

    The online side is encoder, head and predictor; the target is a moving average of encoder and head, and sees the
    large crops only. For each target crop, pairs of it with every other online crop of the same sample are positives,
    and with those of all other samples negatives. There is one logarithm of means for the whole batch of all processes,
    where InfoNCE has one per anchor. So a positive that an augmentation has spoilt weighs little, and harder
    augmentations (`kinfolk.data.views.hard_views`; corrupted features of a table) hurt less.

    In forward: predictions of all crops, those of one size as one batch; targets of the large ones; loss. In
    `after_step`: the target takes in the new weights. A forward pass in eval mode or without gradient leaves nothing
    for `after_step` to do. The loss may be negative; it needs two samples, and is 0 where ids leave no negative.

    Terms beside the loss: `effective_positives` and `effective_negatives`, the effective sample size of the weights
    that pairs have in the gradient, as a share of the pairs (1: all weigh the same; among the first 256 samples of a
    process); `positive_cosine` and `participation_ratio` of the predictions.

    Reference: Lee, Shin (2022), RenyiCL: Contrastive Representation Learning with Skew Renyi Divergence.
    """

    def __init__(self, encoder: nn.Module, config: RenyiCLConfig) -> None:
        super().__init__()
        config.build_loss(2)  # refuses what no batch could be trained with
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.predictor = config.predictor.build_predictor(self.head)
        self.twin = config.build_twin(encoder, self.head)
        self.config = config
        self._trained = False  # whether a training pass awaits `after_step`

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for a momentum that rises."""
        self.twin.begin(plan.total_steps)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the predictions of every crop."""
        crops = self.config.read_crops(batch, method="RenyiCL")
        return tuple(encode_views(lambda x: self.predictor(self.head(self.encoder(x))), crops))

    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the targets of the large crops."""
        crops = self.config.read_crops(batch, method="RenyiCL")
        return tuple(encode_views(self.twin, crops[: self.config.large]))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms."""
        ids = read_ids(batch)
        samples = int(all_reduce(torch.tensor(len(ids), device=embeddings[0].device)))
        loss = self.config.build_loss(max(samples, 1))(embeddings, keys, ids)  # which says that none are too few
        self._trained |= self.training and torch.is_grad_enabled()
        positives, negatives = self._effective_shares(embeddings, keys, ids)
        health = projection_health(embeddings)
        return {"loss": loss, "effective_positives": positives, "effective_negatives": negatives, **health}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the other samples, each with all its online crops but that of the target."""
        return (views - 1) * (samples - 1)

    def after_step(self) -> None:
        """Let the target follow, if there was a training pass since the last call."""
        if self._trained:
            self.twin.update(self.encoder, self.head)
        self._trained = False

    @torch.no_grad()
    def _effective_shares(
        self, queries: Sequence[Float[Tensor, "n d"]], keys: Sequence[Float[Tensor, "n d"]], ids: Int64[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        first = slice(_WEIGHED_SAMPLES)
        online, target = ([F.normalize(view[first].float(), dim=1) for view in views] for views in (queries, keys))
        pairs = [(v, t) for v in range(len(online)) for t in range(len(target)) if v != t]
        scores = torch.stack([online[v] @ target[t].T for v, t in pairs]) / self.config.temperature
        own = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
        same = own | ((ids[first, None] == ids[first]) & (ids[first] != -1))
        gamma = self.config.gamma
        return effective_share((gamma - 1) * scores[:, own]), effective_share(gamma * scores[:, ~same])


def effective_share(scores: Float[Tensor, ...]) -> Float[Tensor, ""]:
    """Return Kish's effective sample size of the weights ``e^scores`` over their number, in (0, 1]; 1 for no weights.

    Example:
        >>> effective_share(torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])).item()
        0.5
    """
    if not scores.numel():
        return scores.new_ones(())
    scores = scores.flatten() - scores.max()
    return torch.exp(2 * scores.logsumexp(0) - (2 * scores).logsumexp(0) - math.log(len(scores)))
