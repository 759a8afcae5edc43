"""Partitions over the keys of all ranks: gathered, or visiting one rank's at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.ops import PairMask, as_scale, row_logsumexp, two_way_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.ops import Impl


def logsumexp_over_ranks(
    x: Float[Tensor, "n d"],
    keys: Float[Tensor, "k d"],
    ranks: Ranks,
    *,
    scale: float | Tensor,
    mask: PairMask | None,
    normalize: bool,
    impl: Impl,
) -> Float[Tensor, " n"]:
    """Return `kinfolk.ops.row_logsumexp` of this rank's anchors against the keys of all ranks.

    Args:
        x: this rank's anchors.
        keys: this rank's keys; pass the anchors themselves for self-contrast.
        ranks: who holds how many keys, and whether they are gathered or visit.
        scale: inverse temperature.
        mask: anchors of this rank by keys of all.
        normalize: l2-normalise both sides.
        impl: as in `row_logsumexp`.

    Example:
        >>> x = torch.eye(2)
        >>> ranks, (x,) = Ranks.of([x])
        >>> logsumexp_over_ranks(x, x, ranks, scale=1.0, mask=None, normalize=True, impl="auto")
        tensor([1.3133, 1.3133])
    """
    if ranks.ring and ranks.world > 1:
        ring = _Ring(ranks, mask, normalize, impl)
        return _RingLogsumexp.apply(x, keys, as_scale(scale, x.float() if x.element_size() < 4 else x), ring)
    return row_logsumexp(x, ranks.gather(keys), scale=scale, mask=mask, normalize=normalize, impl=impl)


def two_way_over_ranks(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    ranks: Ranks,
    *,
    scale: float | Tensor,
    mask: PairMask | None,
    normalize: bool,
    impl: Impl,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the partitions of this rank's x over all y, and of this rank's y over all x.

    With local keys both come from one pass. ``mask`` holds for both directions: it drops by place or by id.

    Example:
        >>> ranks, (x, y) = Ranks.of([torch.eye(2), torch.eye(2)])
        >>> two_way_over_ranks(x, y, ranks, scale=1.0, mask=None, normalize=True, impl="auto")
        (tensor([1.3133, 1.3133]), tensor([1.3133, 1.3133]))
    """
    if ranks.world == 1:
        return two_way_logsumexp(x, y, scale=scale, mask=mask, normalize=normalize, impl=impl)
    rows = logsumexp_over_ranks(x, y, ranks, scale=scale, mask=mask, normalize=normalize, impl=impl)
    return rows, logsumexp_over_ranks(y, x, ranks, scale=scale, mask=mask, normalize=normalize, impl=impl)


def refuse_ring(loss: str, gather: Gather) -> None:
    """Refuse visiting keys where a loss needs all of them at once.

    Example:
        >>> refuse_ring("CACRLoss", "ring")
        Traceback (most recent call last):
            ...
        ValueError: CACRLoss needs the keys of all ranks at once, found gather="ring"; use gather=True.
    """
    if gather == "ring":
        raise ValueError(f'{loss} needs the keys of all ranks at once, found gather="ring"; use gather=True.')


class _Ring(NamedTuple):
    """How one visiting block of keys is compared."""

    ranks: Ranks
    mask: PairMask | None
    normalize: bool
    impl: Impl

    def holders(self) -> Iterator[int]:
        """Whose keys visit, step by step: first the own ones."""
        return ((self.ranks.rank - step) % self.ranks.world for step in range(self.ranks.world))

    def logsumexp(self, x: Tensor, keys: Tensor, scale: Tensor, holder: int) -> Float[Tensor, " n"]:
        mask = None if self.mask is None else self.mask.column_slice(self.ranks.span(holder))
        return row_logsumexp(x, keys, scale=scale, mask=mask, normalize=self.normalize, impl=self.impl)


class _RingLogsumexp(torch.autograd.Function):
    """Keys go round once; partial results join by logaddexp. Backward, keys go round with their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor, scale: Tensor, ring: _Ring) -> Tensor:
        visiting = keys
        partial: list[Tensor] = []
        for holder in ring.holders():
            if partial:
                visiting = ring.ranks.rotate(visiting, (holder + 1) % ring.ranks.world)
            partial.append(ring.logsumexp(x, x if keys is x and not partial else visiting, scale, holder))
        blocks = torch.stack(partial)
        total = blocks.logsumexp(0)
        ctx.save_for_backward(x, keys, scale, torch.exp(blocks - total.where(total > -torch.inf, 0.0)))
        ctx.ring, ctx.same = ring, keys is x
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        if torch.is_grad_enabled():  # only under create_graph=True
            raise RuntimeError('gather="ring" has no second derivative; do without create_graph=True.')
        x, visiting, scale, shares = ctx.saved_tensors
        ring: _Ring = ctx.ring
        carried = torch.zeros_like(visiting, dtype=shares.dtype)
        dx, dscale = torch.zeros_like(x, dtype=shares.dtype), torch.zeros_like(scale)
        for step, holder in enumerate(ring.holders()):
            if step:
                before = (holder + 1) % ring.ranks.world
                visiting, carried = (ring.ranks.rotate(t, before) for t in (visiting, carried))
            leaves = [t.detach().requires_grad_() for t in (x, visiting, scale)]
            if ctx.same and not step:
                leaves[1] = leaves[0]
            with torch.enable_grad():
                value = ring.logsumexp(leaves[0], leaves[1], leaves[2], holder)
            gx, gkeys, gscale = torch.autograd.grad(value, leaves, grad * shares[step])
            dx, dscale = dx + gx, dscale + gscale
            carried = carried if leaves[1] is leaves[0] else carried + gkeys
        home = ring.ranks.rotate(carried, (ring.ranks.rank + 1) % ring.ranks.world)
        return dx.to(x.dtype), home.to(x.dtype), dscale, None
