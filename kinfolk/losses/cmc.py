"""Contrastive multiview coding: find a sample's row of one view among the rows of another view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, Loss, Reduction, checked_ids, inverse, other_samples, own_scores, positive
from kinfolk.losses.over_ranks import two_way_over_ranks
from kinfolk.losses.views import checked_views
from kinfolk.ops import ready, row_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def cmc(
    views: Sequence[Float[Tensor, "n d"]],
    *,
    temperature: float | Tensor = 0.07,
    core: int | None = None,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropies of finding the own row in another view, summed over pairs of views.

    For an ordered pair of views (a, b), with ``s_ij = <z_ai, z_bj> / temperature``: ``L_ab,i = lse_j s_ij - s_ii``.
    ``loss_i`` is their sum over all ordered pairs a != b, or with ``core`` over those that contain that view. A pair's
    two directions come from one pass. Equal ids at other positions leave the partitions.

    Returns:
        Values [n] and which of them count (all).

    Example:
        >>> values, valid = cmc([torch.eye(2), torch.eye(2)], temperature=1.0)
        >>> values
        tensor([0.6265, 0.6265])
    """
    rows = checked_views(views, "CMCLoss")
    pairs = _pairs(len(rows), core)
    scale, ids = inverse(temperature), checked_ids(ids, rows[0])
    what = f"CMCLoss: {len(rows)} views, core {core}{', ids' * (ids is not None)}"
    ranks, joined = Ranks.of(rows, gather=gather, what=what)
    with torch.autocast(rows[0].device.type, enabled=False):
        prepared = [ready(view, normalize=normalize, impl=impl) for view in joined]
        rows, raw = [view for view, _ in prepared], prepared[0][1]
        others, own_left = other_samples(ids, ranks)
        options: dict[str, Any] = {"mask": others if own_left else None, "normalize": raw, "impl": impl}
        terms = []
        for (a, b), both in zip(pairs, _partitions(rows, pairs, ranks, scale=scale, **options), strict=True):
            own = scale * own_scores(rows[a], rows[b], normalize=raw)
            terms += [(torch.logaddexp(lse, own) if own_left else lse) - own for lse in both]
        values = torch.stack(terms).sum(0)
        return values, torch.ones_like(values, dtype=torch.bool)


def _pairs(views: int, core: int | None) -> list[tuple[int, int]]:
    """The pairs of views that are contrasted, in both directions each."""
    if core is not None and not 0 <= core < views:
        raise ValueError(f"core must be one of the {views} views, 0 to {views - 1}, or None for all; found {core}.")
    return [pair for pair in combinations(range(views), 2) if core is None or core in pair]


def _partitions(
    rows: list[Float[Tensor, "n d"]], pairs: list[tuple[int, int]], ranks: Ranks, **options: Any
) -> Iterator[tuple[Float[Tensor, " n"], Float[Tensor, " n"]]]:
    """Both partitions of every pair of views; each view is gathered once, however many pairs it is in."""
    if ranks.world == 1 or ranks.ring:
        yield from (two_way_over_ranks(rows[a], rows[b], ranks, **options) for a, b in pairs)
        return
    keys = [ranks.gather(view) for view in rows]
    for a, b in pairs:
        yield row_logsumexp(rows[a], keys[b], **options), row_logsumexp(rows[b], keys[a], **options)


class CMCLoss(Loss):
    """Contrastive multiview coding (CMC) in its softmax form, ``loss(views)``.

    Negatives of a row are the other samples' rows of the *other* view; rows of one view are not contrasted with one
    another. The value is a sum over ordered pairs of views and so grows with their number: V = 2 gives twice CLIP's
    loss, and all pairs half of the sum over all cores. The noise-contrastive form with a frozen normaliser is not
    offered: its authors withdrew its numbers.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        core: number of the view that every pair must contain; None contrasts all pairs (the full graph).
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        views: V >= 2 projections [n, d], row k of each belonging to sample k; each view usually has its own encoder.
        ids: sample ids [n]; a sample that the batch holds twice is then no negative of itself. None = all differ.

    Returns:
        A scalar, or [n] for ``reduction="none"``: the sum over the pairs of views of sample i's terms. One sample alone
        gives 0.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for fewer than 2 views, views of different shapes, a core that is none of them, a temperature that
            is not positive, an empty batch.

    Reference:
        Yonglong Tian, Dilip Krishnan, Phillip Isola, 2020, Contrastive Multiview Coding.

    Example:
        >>> CMCLoss(temperature=1.0, core=0)([torch.eye(2), torch.eye(2), torch.eye(2)])
        tensor(1.2530)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.07,
        core: int | None = None,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        if core is not None and (isinstance(core, bool) or not isinstance(core, int) or core < 0):
            raise ValueError(f"core must be the number of a view, 0 or more, or None for all pairs; found {core!r}.")
        self.temperature, self.core = positive(temperature), core

    def forward(self, views: Sequence[Tensor], ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of V views [n, d]."""
        values, valid = cmc(
            views,
            temperature=self.temperature,
            core=self.core,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
