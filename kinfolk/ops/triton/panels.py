"""The backward pass: weights of scores, panel by panel, times vectors.

A kernel writes the weights ``P = dL/d<x_i, y_j>`` (apart from the scale) of a panel of pairs into a buffer in the
precision of the vectors, and the library's matrix product gives ``dx += P y`` and ``dy += P^T x`` in float32. Against
a fully fused kernel this writes and reads two bytes a pair, which the products hide from about 128 features on, and
saves computing the scores twice; the products run at the library's rate. With both sides the same and symmetric
weights, panels above the diagonal suffice: ``3 n^2 d`` operations where the plain form takes ``6 n m d``.

Scratch: one panel of at most `PANEL_BYTES`, and float32 sums of the gradients' shapes. Not yet measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kinfolk.ops.masks import Span
from kinfolk.ops.triton.rows import Rows
from kinfolk.ops.triton.tiles import INTERPRETED

PANEL_BYTES = 1 << 12 if INTERPRETED else 1 << 27
"""8,192 x 8,192 weights in half precision: both products of a panel with 512 features fill 132 multiprocessors."""

_ALIGN = 64  # tiles never straddle panels, and rows of a panel start on 128 bytes


def panels(n: int, m: int, *, like: Tensor, above_diagonal: bool = False) -> Iterator[tuple[Span, Span, Tensor]]:
    """Walk over panels of pairs with a buffer for their weights, which the next panel overwrites.

    Panels above the diagonal are square, so that those on it are their own mirror image.
    """
    budget = PANEL_BYTES // like.element_size()
    height = width = _aligned(int(budget**0.5))
    if not above_diagonal and n <= height:
        height, width = max(n, 1), _aligned(budget // max(n, 1))
    elif not above_diagonal and m <= width:
        height, width = _aligned(budget // max(m, 1)), max(m, 1)
    stride = -(-min(width, m) // _ALIGN) * _ALIGN
    buffer = torch.empty(min(height, n), stride, dtype=like.dtype, device=like.device)
    for top in range(0, n, height):
        for left in range(top if above_diagonal else 0, m, width):
            rows, columns = (top, min(top + height, n)), (left, min(left + width, m))
            yield rows, columns, buffer[: rows[1] - rows[0], : columns[1] - columns[0]]


def _aligned(length: int) -> int:
    return max(_ALIGN, length // _ALIGN * _ALIGN)


class Gradients:
    """Sums of weights times vectors for either side of the scores, and the gradients that follow.

    Args:
        x: anchors.
        y: candidates; ``None`` where they are the anchors and the weights symmetric.
        need: whether the anchors' sums are needed, and the candidates'.
    """

    def __init__(self, x: Rows, y: Rows | None, *, need: tuple[bool, bool]) -> None:
        self.x, self.y = x, y
        self.sum_x = _zeros(x.data) if need[0] else None
        self.sum_y = _zeros(y.data) if need[1] and y is not None else None
        self._dots: Tensor | None = None

    def add(self, panel: Tensor, rows: Span, columns: Span) -> None:
        """Add the products of one panel of weights."""
        here, there = slice(*rows), slice(*columns)
        keys = self.x if self.y is None else self.y
        if self.sum_x is not None:
            add_product_(self.sum_x[here], panel, keys.data[there])
            if self.y is None and rows != columns:
                add_product_(self.sum_x[there], panel.T, self.x.data[here])
        if self.sum_y is not None:
            add_product_(self.sum_y[there], panel.T, self.x.data[here])

    def scale(self, gain: Tensor, like: Tensor) -> Tensor:
        """Return the gradient of the scale: the sum of weights times scores over the scale."""
        total = self._row_dots().sum() / gain
        return (total / 2 if self.y is None else total).reshape(like.shape)

    def rows(self, factor: Tensor) -> Tensor:
        """Return the gradient of the anchors; the sums are used up."""
        assert self.sum_x is not None
        return self.x.gradient(self.sum_x, self._row_dots(), factor)

    def columns(self, factor: Tensor) -> Tensor:
        """Return the gradient of the candidates; the sums are used up."""
        assert self.y is not None
        assert self.sum_y is not None
        return self.y.gradient(self.sum_y, (self.y.data * self.sum_y).sum(1), factor)

    def _row_dots(self) -> Tensor:
        assert self.sum_x is not None
        if self._dots is None:
            self._dots = (self.x.data * self.sum_x).sum(1)
        return self._dots


def add_product_(total: Tensor, weights: Tensor, vectors: Tensor) -> None:
    """Add a product of half-precision (or float32) matrices to a float32 sum, in place."""
    if weights.dtype == torch.float32:
        total.addmm_(weights, vectors)
    elif weights.is_cuda:
        torch.addmm(total, weights, vectors, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(weights.float(), vectors.float())


def half_gain(limit: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a power of two that brings weights of at most ``limit`` into the range of their precision.

    float16 ends at 65,504 and rounds coarsely below 6e-5, where a mean over many pairs lives; the others need nothing.
    """
    if dtype != torch.float16:
        return torch.ones_like(limit)
    gain = torch.exp2(14.0 - torch.ceil(torch.log2(limit))).clamp(2.0**-60, 2.0**60)
    return torch.where((limit > 0) & torch.isfinite(limit), gain, torch.ones_like(gain))


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros(x.shape, dtype=torch.float32, device=x.device)
