"""CMC: what an image looks like through one channel should say which image it is through another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import Tensor, nn

from kinfolk.losses import CMCLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_views
from kinfolk.methods.health import projection_health
from kinfolk.nn import HeadConfig, encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class CMCConfig:
    """Settings of `CMC`; the encoder has a branch per view, as that of `ColourBranchesConfig` has.

    Example:
        >>> import torch
        >>> from kinfolk.nn import ColourBranchesConfig
        >>> method = CMCConfig().build(ColourBranchesConfig().build(channels=3, image_size=(8, 8)))
        >>> views = [torch.rand(4, 1, 8, 8), torch.rand(4, 2, 8, 8)]
        >>> sorted(method({"views": views, "ids": torch.arange(4)}))
        ['loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "cmc"
    labels_used: ClassVar[str] = "none"
    temperature: float = 0.07
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    core: int | None = None
    """The view that every pair of views must contain; None contrasts all pairs."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=1))
    """The projection head behind every branch, each with weights of its own; one linear layer by default."""

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> CMC:
        """Build the method around an encoder with branches; CMC leaves `relation` unused.

        Raises:
            TypeError: for an encoder without branches.
            ValueError: for a core that is none of the branches.
        """
        return CMC(encoder, self)


@final
class CMC(Method):
    """A softmax over the batch, between the views of different encoders.

    Each view has an encoder of its own, a branch of `encoder`, and a head. The rows of one view are contrasted with
    those of the other views in both directions; rows of one view are not contrasted with one another. What is evaluated
    and exported concatenates the features of all branches, so compare it with an encoder of as many features.

    In forward: each view through its branch and head; `CMCLoss` over the views. Nothing happens after a step. A batch
    of one sample has no negative and gives 0.

    Terms beside the loss: `positive_cosine` between the views, `participation_ratio` of the projections.

    Reference: Tian, Krishnan, Isola (2020), Contrastive Multiview Coding.
    """

    def __init__(self, encoder: nn.Module, config: CMCConfig) -> None:
        super().__init__()
        branches = getattr(encoder, "branches", None)
        if not isinstance(branches, nn.ModuleList) or len(branches) < 2:
            raise TypeError(
                f"CMC trains an encoder per view and needs one with `branches`, a ModuleList of two or more; found "
                f"{type(encoder).__name__}. Choose ColourBranchesConfig, with ColourSpaceViewsConfig for the views."
            )
        if config.core is not None and not 0 <= config.core < len(branches):
            raise ValueError(
                f"core must be one of the {len(branches)} views, 0 to {len(branches) - 1}, or None for all; found "
                f"{config.core}."
            )
        self.encoder = encoder
        self.heads = nn.ModuleList(config.head.build(encoder_dim(branch)) for branch in branches)
        self.loss = CMCLoss(temperature=config.temperature, core=config.core)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view, through its own branch and head."""
        views = read_views(batch, method="CMC", count=len(self.heads), same_size=False)
        parts = zip(self.heads, self.encoder.branches, views, strict=True)  # type: ignore[arg-type]
        return tuple(head(branch(view)) for head, branch, view in parts)

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms."""
        return {"loss": self.loss(embeddings, ids=read_ids(batch)), **projection_health(embeddings)}

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the other samples, each once: a row is contrasted within one other view at a time."""
        return samples - 1
