"""The projection head between an encoder and a loss; evaluation leaves it off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

HeadNorm = Literal["none", "batch"]


@final
class ProjectionHead(nn.Module):
    """A small perceptron: `layers` linear maps with ReLU (and batch norm, if asked) between them.

    Args:
        in_dim: length of the encoder's features.
        hidden: width between the layers; None takes `in_dim`.
        out_dim: length of the projections.
        layers: number of linear maps; 2 is Linear-ReLU-Linear, 0 hands the features through (`out_dim` is ignored).
        norm: `"batch"` puts batch norm before each ReLU, `"none"` nothing.

    Attributes:
        out_dim: length of the projections, `in_dim` for a head of 0 layers.

    The projections are not normalised; every loss does that itself.

    Example:
        >>> import torch
        >>> ProjectionHead(512, hidden=256, out_dim=128)(torch.rand(4, 512)).shape
        torch.Size([4, 128])
    """

    def __init__(
        self, in_dim: int, *, hidden: int | None = None, out_dim: int = 128, layers: int = 2, norm: HeadNorm = "none"
    ) -> None:
        super().__init__()
        width = in_dim if hidden is None else hidden
        for name, value in (("in_dim", in_dim), ("hidden", width), ("out_dim", out_dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        if layers < 0:
            raise ValueError(f"layers must be 0 (no head) or more, found {layers}.")
        if norm not in ("none", "batch"):
            raise ValueError(f"norm must be 'none' or 'batch', found {norm!r}.")
        self.out_dim = in_dim if layers == 0 else out_dim
        widths = [in_dim, *[width] * (layers - 1), out_dim]
        steps: list[nn.Module] = []
        for layer in range(layers):
            last = layer == layers - 1
            normed = norm == "batch" and not last
            steps.append(nn.Linear(widths[layer], widths[layer + 1], bias=not normed))
            steps += [nn.BatchNorm1d(width)] if normed else []
            steps += [] if last else [nn.ReLU(inplace=True)]
        self.steps = nn.Sequential(*steps)

    def forward(self, features: Float[Tensor, "b in_dim"]) -> Float[Tensor, "b out_dim"]:
        """Project the features."""
        return self.steps(features)


@dataclass(frozen=True)
class HeadConfig:
    """Settings of a `ProjectionHead`.

    Example:
        >>> HeadConfig(layers=0).build(64).out_dim
        64
    """

    hidden: int | None = None
    """Width between the layers; None takes that of the features."""
    out_dim: int = 128
    """Length of the projections."""
    layers: int = 2
    """Number of linear maps; 0 is no head at all."""
    norm: HeadNorm = "none"
    """Batch puts batch norm before each ReLU."""

    def build(self, in_dim: int) -> ProjectionHead:
        """Build the head for features of length `in_dim`."""
        return ProjectionHead(in_dim, hidden=self.hidden, out_dim=self.out_dim, layers=self.layers, norm=self.norm)

    def build_predictor(self, head: ProjectionHead) -> ProjectionHead:
        """Build a predictor behind a head, whose projections it predicts; 0 layers hand them through.

        Raises:
            ValueError: if predictions and projections would differ in length.

        Example:
            >>> HeadConfig(hidden=64, out_dim=16).build_predictor(HeadConfig(out_dim=16).build(32)).out_dim
            16
        """
        predictor = self.build(head.out_dim)
        if predictor.out_dim != head.out_dim:
            raise ValueError(
                f"predictions are compared with projections and must be as long: predictor.out_dim is "
                f"{predictor.out_dim}, the head gives {head.out_dim}; set both alike."
            )
        return predictor
