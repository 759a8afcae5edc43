"""A multilayer perceptron as encoder of a table's rows, or of tiny images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

MLPNorm = Literal["batch", "layer", "none"]
_NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


@final
class MLPEncoder(nn.Module):
    """Linear layers on the flattened input, each with normalisation and ReLU, then one linear layer.

    Nothing is subtracted from the input: a table's features are standardised by their source.

    Args:
        inputs: numbers in one sample.
        hidden: widths of the hidden layers; none leaves one linear layer.
        norm: `"batch"`, `"layer"` where samples of a batch must not see one another, or `"none"`.
        dropout: share of each hidden layer that is dropped in training.
        feature_dim: width of the closing linear layer; None leaves it out, so that the last hidden layer is the output.

    Attributes:
        feature_dim: length of a feature vector.

    Raises:
        ValueError: for widths below 1, no layer at all, a dropout outside [0, 1), or another norm.

    Example:
        >>> import torch
        >>> encoder = MLPEncoder(inputs=30, hidden=(64,), feature_dim=16)
        >>> encoder(torch.rand(2, 30, 1, 1)).shape, encoder.feature_dim
        (torch.Size([2, 16]), 16)
    """

    def __init__(
        self,
        *,
        inputs: int,
        hidden: Sequence[int] = (256, 256),
        norm: MLPNorm = "batch",
        dropout: float = 0.0,
        feature_dim: int | None = None,
    ) -> None:
        super().__init__()
        _check(hidden, norm, dropout, feature_dim)
        self.inputs = inputs
        layers: list[nn.Module] = []
        width = inputs
        for outgoing in hidden:
            layers += [nn.Linear(width, outgoing, bias=norm == "none"), _NORMS[norm](outgoing), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout > 0 else []
            width = outgoing
        self.blocks = nn.Sequential(*layers)
        self.out = nn.Identity() if feature_dim is None else nn.Linear(width, feature_dim)
        self.feature_dim: int = width if feature_dim is None else feature_dim

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b feature_dim"]:
        """Encode rows `[b, F, 1, 1]`, or images of the size that the encoder was built for."""
        rows = images.flatten(1)
        if rows.shape[1] != self.inputs:
            raise ValueError(
                f"this encoder takes {self.inputs} numbers per sample, found {tuple(images.shape)}; build it with the"
                " channels and image size of the source."
            )
        return self.out(self.blocks(rows))


@dataclass(frozen=True)
class MLPConfig:
    """Settings of an `MLPEncoder`.

    Raises:
        ValueError: for widths below 1, no layer at all, a dropout outside [0, 1), or another norm.

    Example:
        >>> MLPConfig(hidden=(32,)).build(channels=30, image_size=(1, 1)).feature_dim
        32
    """

    kind: ClassVar[str] = "mlp"
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    norm: MLPNorm = "batch"
    """Batch norm, layer norm where samples of a batch must not see one another, or none."""
    dropout: float = 0.0
    """Share of each hidden layer that is dropped in training."""
    feature_dim: int | None = None
    """Width of a closing linear layer; None leaves it out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check(self.hidden, self.norm, self.dropout, self.feature_dim)

    def build(self, *, channels: int, image_size: tuple[int, int]) -> MLPEncoder:
        """Build the encoder for rows of this many features, or images of this shape."""
        return MLPEncoder(
            inputs=channels * math.prod(image_size),
            hidden=self.hidden,
            norm=self.norm,
            dropout=self.dropout,
            feature_dim=self.feature_dim,
        )


def _check(hidden: Sequence[int], norm: str, dropout: float, feature_dim: int | None) -> None:
    widths = [*hidden, *([] if feature_dim is None else [feature_dim])]
    if not widths or min(widths) < 1:
        raise ValueError(
            f"an MLP needs a layer, and widths of at least 1; found hidden {tuple(hidden)}, feature_dim {feature_dim}."
        )
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {', '.join(_NORMS)}; found {norm!r}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be within 0 to 1, 1 excluded; found {dropout}.")
