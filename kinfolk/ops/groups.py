"""`group_sums`: sums over equal ids, the attraction of labels without edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.ops.masks import IdPair

if TYPE_CHECKING:
    from jaxtyping import Float


def group_sums(pair: IdPair, y: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
    """Sum the candidates whose id equals the row's; ids of -1 gather nothing. O((n + m) d) time and memory.

    Args:
        pair: ids of the rows [n] and of the candidates [m].
        y: candidates [m, d]; differentiable, twice too.

    Returns:
        Sums [n, d].

    Example:
        >>> pair = IdPair(torch.tensor([5, 6, -1]), torch.tensor([6, 5, 5, -1]))
        >>> group_sums(pair, torch.tensor([[1.0], [2.0], [4.0], [8.0]])).flatten()
        tensor([6., 1., 0.])
    """
    return _group_sums(pair.rows, pair.columns, y)


@torch.library.custom_op(
    "kinfolk::group_sums", mutates_args=(), schema="(Tensor rows, Tensor columns, Tensor y) -> Tensor"
)
def _group_sums(rows: Tensor, columns: Tensor, y: Tensor) -> Tensor:
    n, ids = len(rows), torch.cat([rows, columns])
    unique, group = torch.unique(ids, return_inverse=True)
    group.masked_fill_(ids == -1, len(unique))
    sums = y.new_zeros(len(unique) + 1, y.shape[1]).index_add_(0, group[n:], y)
    sums[-1] = 0
    return sums[group[:n]]


@_group_sums.register_fake
def _(rows, columns, y):  # type: ignore[no-untyped-def]
    return y.new_empty(rows.shape[0], y.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
    rows, columns = ctx.saved_tensors
    return None, None, _group_sums(columns, rows, gradient)  # the sum is linear, and equality has no direction


_group_sums.register_autograd(_differentiate, setup_context=_save)
