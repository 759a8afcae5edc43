"""Explicit weights, one per pair: for small batches and for anything that has no shorter form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.graphs.base import SimilarityGraph
from kinfolk.ops.masks import Span

if TYPE_CHECKING:
    from jaxtyping import Float


class DenseGraph(SimilarityGraph):
    """Anchor i relates to candidate j with ``weights[i, j] >= 0``.

    Raises:
        ValueError: when the weights are not a matrix of non-negative numbers.

    Example:
        >>> DenseGraph(torch.tensor([[0.0, 2.0]])).neighbours(0, k=5)
        (tensor([1]), tensor([2.]))
    """

    def __init__(self, weights: Float[Tensor, "n m"]) -> None:
        if weights.ndim != 2:
            raise ValueError(f"weights must be [n, m], one per pair, found shape {tuple(weights.shape)}.")
        if not torch.compiler.is_compiling() and not bool((weights >= 0).all()):
            raise ValueError("weights must be non-negative numbers, found negative ones or NaN.")
        self.weights = weights.detach() if weights.is_floating_point() else weights.float()

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        n, m = self.weights.shape
        return n, m

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return a block of log weights."""
        return self.weights[slice(*rows), slice(*columns)].log()

    def __repr__(self) -> str:
        n, m = self.shape
        return f"DenseGraph({n} x {m}: {int((self.weights > 0).sum())} related pairs)"
