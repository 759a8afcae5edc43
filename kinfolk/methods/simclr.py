"""SimCLR: two augmented views of an image should be closest to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.contrast import ViewContrast
from kinfolk.methods.false_negatives import FalseNegativesConfig
from kinfolk.methods.health import projection_health
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


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
    temperature: float = 0.2
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    decoupled: bool = False
    """Leave the positive out of the denominator (DCL), which keeps the gradient strong in small batches."""
    sigma: float | None = None
    """Weigh positives by how hard they are (DCLW), softly for a large number; None weighs them alike. DCL only."""
    false_negatives: FalseNegativesConfig = field(default_factory=FalseNegativesConfig)
    """Which other samples are no negatives, found by the projections of both views."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(norm="batch"))
    """The projection head between encoder and loss."""

    def __post_init__(self) -> None:
        if self.sigma is not None and not self.decoupled:
            raise ValueError(f"sigma = {self.sigma:g} weighs the positives of DCL: set decoupled, or leave sigma out.")
        if self.sigma is not None and self.false_negatives.is_on:
            raise ValueError(f"sigma = {self.sigma:g} weighs all positives of DCL: leave it or false_negatives out.")

    @property
    def labels_used(self) -> str:
        """Which labels training sees: none, but for an oracle of false negatives."""
        return self.false_negatives.labels_used

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> SimCLR:
        """Build the method around an encoder; a relation takes the place of "own view or not" as the target."""
        return SimCLR(encoder, self, relation=relation)


@final
class SimCLR(Method):
    """NT-Xent, or what its settings make of it, between the views of a batch.

    Each of the 2n rows picks its other view among all 2n - 1 others. All views go through the encoder as one batch, so
    that batch norm sees them together. With more than two views the loss is the mean of NT-Xent over all pairs of them.
    `ViewContrast` says what a decoupled denominator, false negatives and a relation change; with a relation and nothing
    else this is X-CLR.

    Terms beside the loss: `positive_cosine`, `participation_ratio` of the projections; where false negatives are looked
    for, `excluded_share` of the batch and, with labels in it, `false_negative_precision`.

    Reference: Chen, Kornblith, Norouzi, Hinton (2020), A Simple Framework for Contrastive Learning of Visual
    Representations. `decoupled`: Yeh, Hong, Hsu, Liu, Chen, LeCun (2022), Decoupled Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: SimCLRConfig, *, relation: Relation | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.relation = relation
        self.head = config.head.build(encoder_dim(encoder))
        self.false_negatives = config.false_negatives.build()
        self.loss = ViewContrast(
            temperature=config.temperature, decoupled=config.decoupled, sigma=config.sigma, relation=relation
        )

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is, for the search for false negatives."""
        self.false_negatives.begin(plan)

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
        found, health = self.false_negatives.among_samples(embeddings, ids, batch.get("labels"))
        loss = torch.stack([self.loss(a, b, ids, found) for a, b in combinations(embeddings, 2)]).mean()
        return {"loss": loss, **health, **projection_health(embeddings)}

    def after_step(self) -> None:
        """Count the step, where false negatives are looked for."""
        self.false_negatives.after_step()

    def negatives(self, *, samples: int, views: int) -> int:
        """Return both views of every other sample."""
        return 2 * (samples - 1)
