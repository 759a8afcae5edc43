"""eps-SupInfoNCE and eps-SupCon: supervised contrast with a margin; with bias labels also FairKL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kinfolk.losses import EpsSupConLoss, EpsSupInfoNCELoss, FairKLLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import projection_health
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation

_LOSSES = {"info-nce": EpsSupInfoNCELoss, "con": EpsSupConLoss}


@dataclass(frozen=True)
class EpsSupConfig:
    """Settings of `EpsSup`.

    Raises:
        ValueError: for a loss that does not exist, negative weights, or none above 0.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = EpsSupConfig(fair_weight=1.0).build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> batch = {"views": [torch.rand(4, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 1, -1])}
        >>> sorted(method({**batch, "bias_labels": torch.tensor([0, 1, 1, 0])}))
        ['contrastive', 'fairness', 'loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "eps-sup"
    labels_used: ClassVar[str] = "all"
    loss: Literal["info-nce", "con"] = "info-nce"
    """Whether a positive meets the negatives alone (eps-SupInfoNCE), or all positives at once (eps-SupCon)."""
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    epsilon: float = 0.25
    """By how much a positive must beat the negatives, on cosines over the temperature; 0 to 0.5 in use."""
    form: Literal["out", "in"] = "out"
    """Where the mean over a row's positives stands: outside the logarithm, or inside it."""
    alpha: float = 1.0
    """Weight of the contrastive loss."""
    fair_weight: float = 0.0
    """Weight of FairKL on the encoder's features, the paper's lambda; above 0 the batch must bring bias labels."""
    fair_form: Literal["kl", "moments"] = "kl"
    """How FairKL compares two groups of similarities: as normals, or by squared differences of their moments."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and contrastive loss."""

    def __post_init__(self) -> None:
        if self.loss not in _LOSSES:
            raise ValueError(f"loss must be one of {', '.join(_LOSSES)}; found {self.loss!r}")
        for name in ("alpha", "fair_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, found {getattr(self, name)}")
        if self.alpha == self.fair_weight == 0:
            raise ValueError("alpha and fair_weight are both 0, so there is nothing to learn; set one above 0")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> EpsSup:
        """Build the method around an encoder; its graph is the batch's labels, so `relation` stays unused."""
        return EpsSup(encoder, self)


@final
class EpsSup(Method):
    """Supervised contrast in which a positive must beat the negatives by a margin, and, if asked, a fairness penalty.

    `alpha * contrastive + fair_weight * fairness`. The contrast is over all views of a batch: positives of a row are
    the rows of its class and the other views of its sample. Its margin `epsilon` is on cosines over the temperature, so
    a cosine must be larger by `epsilon * temperature`. FairKL asks that two rows be equally similar whether they share
    the bias or not, among pairs of one class and among pairs of two. It looks at the encoder's features, which are what
    is kept, at temperature 1, over the rows of all views and of all processes.

    In forward: features of all views; projections of these; the contrast on projections, FairKL on features. There is
    no state and nothing after the step.

    An unlabelled sample (-1) is no anchor of its class but a negative of all others, and has its own views as
    positives. A sample of unknown bias (-1) is contrasted as always and in no pair of FairKL. FairKL is 0 where a batch
    has no two pairs of each group to compare, as is frequent when few samples conflict: larger batches see more.

    Terms beside the loss: with FairKL its two parts, `contrastive` and `fairness`; `positive_cosine` (between views of
    one sample), `participation_ratio` of the projections.

    Reference: Barbano, Dufumier, Tartaglione, Grangetto, Gori (2023), Unbiased Supervised Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: EpsSupConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = _LOSSES[config.loss](temperature=config.temperature, epsilon=config.epsilon, form=config.form)
        self.fairness = FairKLLoss(form=config.fair_form) if config.fair_weight > 0 else None
        self.alpha, self.fair_weight = config.alpha, config.fair_weight

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view and, for FairKL, then the features of each view.

        Raises:
            ValueError: for a batch without labels, or, with FairKL, without bias labels.
        """
        views = read_views(batch, method="eps-SupInfoNCE")
        read_labels(batch, method="eps-SupInfoNCE")
        features = self.encoder(torch.cat(views))
        projections = self.head(features).tensor_split(len(views))
        if self.fairness is None:
            return projections
        read_bias_labels(batch)
        return (*projections, *features.tensor_split(len(views)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss, its parts and the health terms."""
        count = len(batch["views"])
        projections, features = embeddings[:count], embeddings[count:]
        labels = read_labels(batch, method="eps-SupInfoNCE").repeat(count)
        contrastive = self.loss(torch.cat(list(projections)), labels, ids=read_ids(batch).repeat(count))
        loss, health = self.alpha * contrastive, projection_health(projections)
        if self.fairness is None:
            return {"loss": loss, **health}
        fairness = self.fairness(torch.cat(list(features)), labels, read_bias_labels(batch).repeat(count))
        parts = {"contrastive": contrastive.detach(), "fairness": fairness.detach()}
        return {"loss": loss + self.fair_weight * fairness, **parts, **health}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return all rows of other samples; those of the anchor's class are positives."""
        return views * (samples - 1)


def read_bias_labels(batch: Mapping[str, Any]) -> Int64[Tensor, " n"]:
    """Return the bias labels of a batch, one per sample; -1 is unknown.

    Raises:
        ValueError: the batch has none; the message says where they come from.

    Example:
        >>> read_bias_labels({"bias_labels": torch.tensor([2, 0])}).tolist()
        [2, 0]
    """
    if batch.get("bias_labels") is None:
        raise ValueError(
            f"FairKL needs bias_labels in the batch, found keys {sorted(batch)}; use a source that has them (a derived "
            "set such as ColouredConfig or TexturedConfig, or ArraySource(bias_labels=...)), or set fair_weight=0."
        )
    return batch["bias_labels"]
