"""`top_pairs`: the best pairs of all, while blocks of scores pass by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.theory.pair_scores import MatrixScores, ProductScores, as_scores

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from kinfolk.theory.pair_scores import Scores

_NUMBERS = 1 << 18  # of the scores that are held at a time


def top_pairs(
    scores: Scores, *, k: int, normalize: bool = False
) -> tuple[Float[Tensor, " k"], Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Return the k largest of all scores and where they are, best first; no gradient.

    A row may occur several times or never. Among equal scores at the end of the list any may be taken.

    Args:
        scores: [n, m], or a pair (x [n, d], y [m, d]) whose products are meant, in O(n + m + k) memory beyond them.
        k: how many, at least 1.
        normalize: l2-normalise x and y first.

    Returns:
        Values, rows and columns, [k] each; places that cannot be filled hold -inf and -1. Scores of -inf are no pairs.

    Raises:
        TypeError: for scores that are not float.
        ValueError: for shapes that do not fit or k < 1.

    Reference:
        Ryumei Nakada, Halil Ibrahim Gulluk, Zhun Deng, Wenlong Ji, James Zou, Linjun Zhang, 2023, Understanding
        Multimodal Contrastive Learning and Incorporating Unpaired Data.

    Example:
        >>> top_pairs(torch.tensor([[1.0, 5.0], [4.0, 0.0]]), k=2)
        (tensor([5., 4.]), tensor([0, 1]), tensor([1, 0]))
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}.")
    found = as_scores(scores, normalize=normalize)
    if isinstance(found, MatrixScores):
        values, places = _top_of_matrix(found.matrix, k)
    else:
        values, places = _top_of_products(found.x, found.y, k)
    nothing, m = places < 0, found.shape[1]
    return values, (places // m).masked_fill(nothing, -1), (places % m).masked_fill(nothing, -1)


@torch.library.custom_op("kinfolk::top_of_matrix", mutates_args=(), schema="(Tensor s, int k) -> (Tensor, Tensor)")
def _top_of_matrix(s: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return _running(MatrixScores(s), s, k)


@torch.library.custom_op(
    "kinfolk::top_of_products", mutates_args=(), schema="(Tensor x, Tensor y, int k) -> (Tensor, Tensor)"
)
def _top_of_products(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return _running(ProductScores(x, y, "auto"), x, k)


def _running(scores: MatrixScores | ProductScores, like: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values [k] and flat places [k]; what lies below the k best so far is dropped before anything is sorted."""
    n, m = scores.shape
    best, places = like.new_full((k,), -torch.inf), torch.full((k,), -1, dtype=torch.int64, device=like.device)
    height = max(1, _NUMBERS // m)
    for start in range(0, n, height):
        block = scores.block(slice(start, start + height)).reshape(-1)
        above = (~(block <= best[-1])).nonzero()[:, 0]  # NaN is not hidden
        best, order = torch.cat([best, block[above]]).topk(k)
        places = torch.cat([places, above + start * m])[order]
    return best, places


@_top_of_matrix.register_fake
def _(s, k):  # type: ignore[no-untyped-def]
    return s.new_empty(k), s.new_empty(k, dtype=torch.int64)


@_top_of_products.register_fake
def _(x, y, k):  # type: ignore[no-untyped-def]
    return x.new_empty(k), x.new_empty(k, dtype=torch.int64)
