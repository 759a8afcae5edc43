"""Scores of two sets of rows, as a matrix or as vectors whose products they are: what matching asks of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.ops import PairMask, prepare, row_logsumexp, row_topk

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    Scores = Float[Tensor, "n m"] | tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]


@dataclass(frozen=True)
class MatrixScores:
    """An explicit matrix of scores [n, m]."""

    matrix: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    def none(self) -> Float[Tensor, " 0"]:
        """No score at all, on their device and in their precision."""
        return self.matrix.new_empty(0)

    @property
    def columns_first(self) -> MatrixScores:
        """The same scores seen from the columns."""
        return MatrixScores(self.matrix.T)

    def logsumexp(self, scale: float, bias: Float[Tensor, " m"] | None = None) -> Float[Tensor, " n"]:
        """``lse_j(scale s_ij + bias_j)``."""
        logits = scale * self.matrix
        return torch.logsumexp(logits if bias is None else logits + bias, 1)

    def best(self, bias: Float[Tensor, " m"] | None = None) -> Int[Tensor, " n"]:
        """The column of the largest ``s_ij + bias_j`` of every row."""
        return (self.matrix if bias is None else self.matrix + bias).argmax(1)

    def several(self, k: int) -> Int[Tensor, "n k"]:
        """The columns of the k largest scores of every row, largest first."""
        return self.matrix.topk(k, 1).indices

    def at(self, columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """One score per row."""
        return self.matrix.gather(1, columns[:, None])[:, 0]

    def block(self, rows: slice) -> Float[Tensor, "b m"]:
        """All scores of some rows."""
        return self.matrix[rows]


@dataclass(frozen=True)
class ProductScores:
    """Products of rows x [n, d] with rows y [m, d], never stored."""

    x: Tensor
    y: Tensor
    impl: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.x), len(self.y)

    @property
    def none(self) -> Float[Tensor, " 0"]:
        """No score at all, on their device and in their precision."""
        return self.x.new_empty(0)

    @property
    def columns_first(self) -> ProductScores:
        """The same scores seen from the columns."""
        return ProductScores(self.y, self.x, self.impl)

    def logsumexp(self, scale: float, bias: Float[Tensor, " m"] | None = None) -> Float[Tensor, " n"]:
        """``lse_j(scale s_ij + bias_j)``."""
        return row_logsumexp(self.x, self.y, scale=scale, mask=self._biased(bias), impl=self.impl)

    def best(self, bias: Float[Tensor, " m"] | None = None) -> Int[Tensor, " n"]:
        """The column of the largest ``s_ij + bias_j`` of every row."""
        return row_topk(self.x, self.y, k=1, mask=self._biased(bias), impl=self.impl)[1][:, 0]

    def several(self, k: int) -> Int[Tensor, "n k"]:
        """The columns of the k largest scores of every row, largest first."""
        return row_topk(self.x, self.y, k=k, impl=self.impl)[1]

    def at(self, columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """One score per row."""
        return torch.linalg.vecdot(self.x, self.y[columns])

    def block(self, rows: slice) -> Float[Tensor, "b m"]:
        """All scores of some rows."""
        return self.x[rows] @ self.y.T

    def _biased(self, bias: Tensor | None) -> PairMask | None:
        return None if bias is None else PairMask.bias(bias, len(self.x))


def as_scores(scores: Scores, *, normalize: bool = False, impl: str = "auto") -> MatrixScores | ProductScores:
    """Take scores in either form, in float32 at least and without gradient.

    Raises:
        TypeError: for tensors that are not float.
        ValueError: for shapes that do not fit, or no column at all.

    Example:
        >>> as_scores((torch.eye(2), torch.eye(2))).shape
        (2, 2)
        >>> as_scores(torch.zeros(3))
        Traceback (most recent call last):
            ...
        ValueError: scores must be [n, m] with at least one column, or a pair (x [n, d], y [m, d]); found (3,).
    """
    if isinstance(scores, Tensor):
        if not scores.is_floating_point():
            raise TypeError(f"scores must be a float tensor, found {scores.dtype}.")
        if scores.ndim != 2 or not scores.shape[1]:
            raise ValueError(
                "scores must be [n, m] with at least one column, or a pair (x [n, d], y [m, d]); "
                f"found {tuple(scores.shape)}."
            )
        return MatrixScores(scores.detach().to(torch.promote_types(scores.dtype, torch.float32)))
    x, y = prepare(scores[0].detach(), scores[1].detach(), normalize=normalize)
    if not len(y):
        raise ValueError(f"y must have at least one row to match with, found {tuple(y.shape)}.")
    return ProductScores(x, y, impl)
