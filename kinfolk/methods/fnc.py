"""FNC: find the negatives that are none, by more views of the anchor, and attract them or leave them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kinfolk import distributed
from kinfolk.losses import FNCLoss
from kinfolk.losses.fnc import false_negatives
from kinfolk.methods.base import Method
from kinfolk.methods.batches import encode_views, read_ids, read_views
from kinfolk.methods.health import projection_health, same_label_share
from kinfolk.nn import HeadConfig, Progress, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class FNCConfig:
    """Settings of `FNC`; V views and S support views need V + S views, which `ViewsConfig.count` sets.

    Raises:
        ValueError: for numbers out of range, naming the field.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = FNCConfig(top_k=2, threshold=0.0, start=0.0)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 3, "ids": torch.arange(4)}))
        ['false_negatives', 'loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "fnc"
    labels_used: ClassVar[str] = "none"
    temperature: float = 0.1
    """Divides the cosines."""
    mode: Literal["attract", "eliminate"] = "attract"
    """Make false negatives positives, or leave them out, which forgives wrong finds."""
    top_k: int = 10
    """Rows that a sample has at most as false negatives; 2 to 5 % of the rows of a batch are plenty."""
    threshold: float = 0.7
    """Cosine that a row must exceed to be one."""
    support_views: int = 1
    """How many of the views, the last ones of every sample, serve to find false negatives only, without gradient."""
    start: float = 0.1
    """Share of training before the first search: early features find nonsense."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and loss."""

    def __post_init__(self) -> None:
        if self.support_views < 0:
            raise ValueError(f"support_views must be 0 or more, found {self.support_views}.")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start is a share of training, 0 to 1, found {self.start}.")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> FNC:
        """Build the method around an encoder; FNC finds its relations itself and leaves `relation` unused."""
        return FNC(encoder, self)


@final
class FNC(Method):
    """NT-Xent whose likely false negatives become positives, or leave the denominator.

    Every sample has V views that are contrasted and S support views that only help to look for others like it: the
    `top_k` rows of other samples with the largest cosine to any of its views, as far as it exceeds `threshold`. Until
    `start` of training is over, nothing is looked for, and the support views are encoded in vain, so that batch norm
    sees the same throughout. This is the form within a batch, without the moving average and memory of the paper's
    largest runs.

    Terms beside the loss: `false_negatives`, how many are found for a sample; `same_label`, the share of them with its
    class, where the batch has labels; `positive_cosine`, `participation_ratio`.

    Reference: Huynh, Kornblith, Walter, Maire, Khademi (2022), Boosting Contrastive Self-Supervised Learning with False
    Negative Cancellation.
    """

    def __init__(self, encoder: nn.Module, config: FNCConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.progress = Progress()
        options: dict[str, Any] = {"temperature": config.temperature, "mode": config.mode}
        self.loss = FNCLoss(top_k=config.top_k, threshold=config.threshold, **options)
        self.loss_before = FNCLoss(top_k=0, **options)
        self.config = config
        self._trained = False

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for the share of it without a search."""
        self.progress.begin(plan.total_steps)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of the views that are contrasted."""
        return tuple(encode_views(self._project, self._views(batch)[0]))

    @torch.no_grad()
    def embed_keys(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of the support views."""
        return tuple(encode_views(self._project, self._views(batch)[1]))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms."""
        views, support, ids = list(embeddings), list(keys), read_ids(batch)
        searching = self.progress.has_reached(self.config.start)
        loss = (self.loss if searching else self.loss_before)(views, support, ids=ids)
        found: dict[str, Tensor] = {"false_negatives": loss.new_zeros(()).detach()}
        if searching:
            top_k, threshold = self.config.top_k, self.config.threshold
            rows = false_negatives(views, support, top_k=top_k, threshold=threshold, ids=ids)
            found = {"false_negatives": (rows >= 0).sum() / max(len(rows), 1)}
            if batch.get("labels") is not None:
                labels = distributed.all_gather(batch["labels"].repeat(len(views)))
                found |= same_label_share(batch["labels"], labels[rows].masked_fill(rows < 0, -1))
        self._trained |= self.training and torch.is_grad_enabled()
        return {"loss": loss, **found, **projection_health(views)}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return all rows of other samples; false negatives are among them."""
        return (views - self.config.support_views) * (samples - 1)

    def after_step(self) -> None:
        """Count the step, if there was a training pass."""
        if self._trained:
            self.progress.advance()
        self._trained = False

    def _project(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.head(self.encoder(images))

    def _views(self, batch: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the views that are contrasted, and the support views."""
        views, support = read_views(batch, method="FNC"), self.config.support_views
        if len(views) < 2 + support:
            raise ValueError(
                f"FNC contrasts at least 2 views of each image and takes {support} more to find false negatives, found "
                f"{len(views)} views; set ViewsConfig.count to {2 + support}, or support_views."
            )
        return views[: len(views) - support], views[len(views) - support :]
