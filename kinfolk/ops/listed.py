"""Products of rows with the few candidates that are listed for them: mined negatives, edges, private candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int

_NUMBERS = 1 << 20  # of the gathered block [rows, k, d] that is held at a time


def listed_products(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], index: Int[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Return ``<x_i, y_j>`` for the columns j listed for every row, without gathering all of them at once.

    Args:
        x: rows [n, d], as they are to be multiplied: float32 or float64, normalised where that is wanted.
        y: candidates [m, d] of the same precision.
        index: columns per row [n, k], repetitions allowed; -1 is no column.

    Returns:
        [n, k], 0 where there is no column. Gradients reach x and y, in O(n k) memory beyond the inputs.

    Raises:
        ValueError: for columns outside y or an index without a row per row of x.

    Example:
        >>> listed_products(torch.eye(2), torch.tensor([[3.0, 4.0]]), torch.tensor([[0, -1], [0, 0]]))
        tensor([[3., 0.],
                [4., 4.]])
    """
    if index.ndim != 2 or len(index) != len(x) or index.dtype != torch.int64:
        raise ValueError(
            f"index must be int64 [n, k], one row per row of x {tuple(x.shape)}; found {index.dtype} "
            f"{tuple(index.shape)}."
        )
    if not torch.compiler.is_compiling() and index.numel() and not -1 <= int(index.min()) <= int(index.max()) < len(y):
        raise ValueError(
            f"columns must lie in [0, {len(y) - 1}], or be -1; found {int(index.min())} to {int(index.max())}."
        )
    return _ListedProducts.apply(x, y.view_as(y) if y is x else y, index)  # torch.compile takes no tensor twice


class _ListedProducts(torch.autograd.Function):
    """Blocks of rows, gathered anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, index)
        out = x.new_zeros(index.shape)
        for rows in _blocks(x, index):
            out[rows] = torch.einsum("nd,nkd->nk", x[rows], _columns(y, index[rows]))
        return out.masked_fill_(index < 0, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if torch.is_grad_enabled():  # only under create_graph=True
            raise RuntimeError("listed_products has no second derivative; do without create_graph=True.")
        x, y, index = ctx.saved_tensors
        grad = grad.masked_fill(index < 0, 0.0)
        need_x, need_y, _ = ctx.needs_input_grad
        dx = torch.zeros_like(x) if need_x else None
        dy = torch.zeros_like(y) if need_y else None
        for rows in _blocks(x, index):
            if dx is not None:
                dx[rows] = torch.einsum("nk,nkd->nd", grad[rows], _columns(y, index[rows]))
            if dy is not None and len(y):
                shares = grad[rows, :, None] * x[rows, None, :]
                dy.index_add_(0, index[rows].clamp_min(0).flatten(), shares.flatten(0, 1))
        return dx, dy, None


def _columns(y: Float[Tensor, "m d"], index: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The listed candidates; any one where none is listed, for the caller to drop."""
    return y[index.clamp_min(0)] if len(y) else y.new_zeros(*index.shape, y.shape[1])


def _blocks(x: Tensor, index: Tensor) -> Iterator[slice]:
    height = max(1, _NUMBERS // max(1, index.shape[1] * x.shape[1]))
    return (slice(i, i + height) for i in range(0, len(x), height))
