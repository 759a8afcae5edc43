"""The unpaired multimodal contrastive loss: pairs are found by scores, never by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks, all_gather
from kinfolk.losses.base import PooledLoss, Reduction, checked_ids, inverse, positive, same_shape
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import prepare, row_logsumexp, row_topk, two_way_logsumexp
from kinfolk.theory import match, top_pairs

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from kinfolk.ops import Impl

Matching = Literal["top", "argmax", "assignment"]
"""How pairs are found: the best of all, everyone's best, or one-to-one."""


def unpaired_mmcl(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    scores: Float[Tensor, "n b"] | None = None,
    *,
    temperature: float | Tensor = 1.0,
    matching: Matching = "top",
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, ""], int]:
    """Two-way contrast of all rows, with the pairs that the scores suggest as positives.

    With ``s_ij = <x_i, y_j> / temperature`` and B rows on each side, on all ranks:
    ``1/2 (sum_i lse_j s_ij + sum_j lse_i s_ij) - B/|E| sum_E s_ij`` for the pairs E, or for ``"argmax"`` with every
    row's and every column's own best.

    Returns:
        That sum, the same on all ranks, and B.

    Example:
        >>> value, rows = unpaired_mmcl(torch.eye(2), torch.eye(2).flip(0))
        >>> value / rows
        tensor(0.3133)
    """
    _check(matching)
    refuse_ring("UnpairedMMCLLoss", gather)
    same_shape(x=x, y=y)
    scale = inverse(temperature)
    form = f"{matching}{', scores' * (scores is not None)}"
    ranks, (x, y) = Ranks.of([x, y], gather=gather, what=f"UnpairedMMCLLoss: {form}")
    with torch.autocast(x.device.type, enabled=False):
        x, y = prepare(x, y, normalize=normalize)
        every_x, every_y = ranks.gather(x), ranks.gather(y)
        scores = None if scores is None else _checked_scores(scores, ranks).to(x.device)
        if ranks.world == 1:
            rows, columns = two_way_logsumexp(x, y, scale=scale, impl=impl)
        else:
            rows, columns = (row_logsumexp(a, b, scale=scale, impl=impl) for a, b in ((x, every_y), (y, every_x)))
        if scores is not None:  # a broken teacher is not hidden by the matches it still gives
            rows = rows.masked_fill(scores.isnan().any(1), torch.nan)
        if matching == "argmax":
            to_y, to_x = _best_of_each(x, y, every_x, every_y, scores, ranks, impl)
            pull = (torch.linalg.vecdot(x, every_y[to_y]).sum() + torch.linalg.vecdot(y, every_x[to_x]).sum()) / 2
        else:
            i, j = _pairs(x, every_x, every_y, scores, ranks, matching)
            paired = torch.linalg.vecdot(every_x[i.clamp_min(0)], every_y[j.clamp_min(0)]).masked_fill(i < 0, 0.0)
            share = (i >= 0).sum().clamp_min(1) * ranks.world  # of each rank, as all of them hold all pairs
            pull = paired.sum() * ranks.total / share
        return ranks.sum((rows.sum() + columns.sum()) / 2 - (scale * pull).reshape(())), ranks.total


def _check(matching: str) -> None:
    if matching not in get_args(Matching):
        raise ValueError(f"matching must be one of {', '.join(get_args(Matching))}, found {matching!r}.")


def _checked_scores(scores: Tensor, ranks: Ranks) -> Tensor:
    """Scores of this rank's rows of x with the rows of y of all ranks, as constants."""
    shape = (ranks.sizes[ranks.rank], ranks.total)
    if not scores.is_floating_point():
        raise TypeError(f"scores must be a float tensor, found {scores.dtype}.")
    if scores.shape != shape:
        raise ValueError(
            f"scores must be {list(shape)}, the own rows of x by all rows of y (of all ranks, in rank order); "
            f"found {tuple(scores.shape)}."
        )
    return scores.detach()


@torch.no_grad()
def _best_of_each(
    x: Tensor, y: Tensor, every_x: Tensor, every_y: Tensor, scores: Tensor | None, ranks: Ranks, impl: Impl
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The best y of every own x, and the best x of every own y, among those of all ranks."""
    if scores is None:
        return tuple(row_topk(a, b, k=1, impl=impl)[1][:, 0] for a, b in ((x, every_y), (y, every_x)))  # type: ignore[return-value]
    value, place = scores.new_full((ranks.total,), -torch.inf), torch.zeros_like(scores[:0].sum(0), dtype=torch.int64)
    if len(scores):
        value, place = scores.max(0)
    if ranks.world > 1:
        values, places = (all_gather(t).reshape(ranks.world, -1) for t in (value, place + ranks.offset))
        place = places.gather(0, values.argmax(0, keepdim=True))[0, slice(*ranks.span(ranks.rank))]
    return scores.argmax(1), place


@torch.no_grad()
def _pairs(
    x: Tensor, every_x: Tensor, every_y: Tensor, scores: Tensor | None, ranks: Ranks, matching: Matching
) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]]:
    """The pairs of the joined batch, alike on all ranks; -1 where there are fewer."""
    if matching == "assignment":
        index = match((every_x, every_y) if scores is None else ranks.gather(scores), how="assignment").columns
        return torch.arange(len(index), device=index.device), index
    best, i, j = top_pairs((x, every_y) if scores is None else scores, k=ranks.total)
    if ranks.world > 1:
        i = torch.where(i < 0, i, i + ranks.offset)
        best, i, j = (all_gather(t) for t in (best, i, j))
        order = best.topk(ranks.total).indices
        i, j = i[order], j[order]
    return i, j


class UnpairedMMCLLoss(PooledLoss):
    """Multimodal contrastive loss without pairs, ``loss(x, y)`` or ``loss(x, y, scores)``.

    Row i of x and row i of y have nothing to do with one another: positives are found by scores, those of the rows
    themselves or a teacher's, and any permutation of the rows of y gives the same loss. B = rows of x = rows of y,
    ``s_ij = <x_i, y_j> / temperature``.

    - ``"top"``: E = the B largest of all scores,
      ``L = 1/2B [sum_i lse_j s_ij + sum_j lse_i s_ij - 2 B/|E| sum_E s_ij]``. A row may be in several pairs or in none.
      Scores of -inf are no pairs.
    - ``"argmax"``: every row with its best column, and every column with its best row, each in its own direction.
    - ``"assignment"``: E = the one-to-one assignment with the largest sum of scores, all its own finite; needs SciPy
      and B^2 numbers, and `torch.compile` does not take it.

    With E the true pairs it is CLIP's loss at ``logit_scale = 1 / temperature``. The choice carries no gradient, the
    values do. A loss on its own matches locks onto its errors: fit on some pairs first, or take a fitted teacher's
    scores. Among equal scores any may be chosen.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        matching: ``"top"``, ``"argmax"`` or ``"assignment"``.
        reduction: ``"mean"`` over the B rows, or their ``"sum"``; not ``"none"``, as pairs belong to no row.
        normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``gather="ring"`` is refused.

    Call:
        x, y: rows of the two modalities, [n, d] each. On several ranks matches are found in the joined batch.
        scores: [B, B], a teacher's, finite or -inf (NaN gives NaN); on several ranks the own rows of x by the rows of y
            of all. None = the products of x and y, never stored except for ``"assignment"``.
        ids: sample ids [n], checked only: places, and what stands there, do not enter.

    Returns:
        A scalar, the same on all ranks.

    Raises:
        TypeError: for scores that are not float, or ids that are no integers.
        ValueError: for sides of different shapes, scores of another shape, an unknown matching, ``reduction="none"``, a
            temperature that is not positive, an empty batch; for ``"assignment"`` where every one-to-one assignment
            takes a score of -inf or NaN.
        ImportError: for ``"assignment"`` without SciPy.

    Reference:
        Ryumei Nakada, Halil Ibrahim Gulluk, Zhun Deng, Wenlong Ji, James Zou, Linjun Zhang, 2023, Understanding
        Multimodal Contrastive Learning and Incorporating Unpaired Data.

    Example:
        >>> UnpairedMMCLLoss()(torch.eye(2), torch.eye(2).flip(0))
        tensor(0.3133)
        >>> UnpairedMMCLLoss(matching="argmax")(torch.eye(2), torch.eye(2), scores=torch.eye(2).flip(0))
        tensor(1.3133)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 1.0,
        matching: Matching = "top",
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        _check(matching)
        refuse_ring("UnpairedMMCLLoss", gather)
        self.temperature = positive(temperature)
        self.matching = matching

    def forward(  # type: ignore[override]
        self, x: Tensor, y: Tensor, scores: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of rows [n, d] of two modalities."""
        checked_ids(ids, x)
        total, rows = unpaired_mmcl(
            x,
            y,
            scores,
            temperature=self.temperature,
            matching=self.matching,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return total / rows if self.reduction == "mean" else total
