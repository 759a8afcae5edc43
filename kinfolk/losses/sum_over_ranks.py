"""Elementwise sums over the keys of all ranks: gathered, or visiting one rank's at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from kinfolk.distributed import Ranks
from kinfolk.ops import PairMask, as_scale, row_sum
from kinfolk.ops.dispatch import Function

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.ops import Impl


def sum_over_ranks(
    x: Float[Tensor, "n d"],
    keys: Float[Tensor, "k d"],
    ranks: Ranks,
    *,
    fn: Function,
    scale: float | Tensor,
    row_shift: Float[Tensor, " n"],
    mask: PairMask | None,
    normalize: bool,
    impl: Impl,
) -> Float[Tensor, " n"]:
    """Return `kinfolk.ops.row_sum` of this rank's anchors against the keys of all ranks.

    Args:
        x: this rank's anchors.
        keys: this rank's keys.
        ranks: who holds how many keys, and whether they are gathered or visit.
        fn, scale: as in `row_sum`.
        row_shift: subtracted from the logits of this rank's anchors; in float32 at least.
        mask: anchors of this rank by keys of all.
        normalize: l2-normalise both sides.
        impl: as in `row_sum`.

    Example:
        >>> ranks, (x,) = Ranks.of([torch.eye(2)])
        >>> shift = torch.zeros(2)
        >>> sum_over_ranks(
        ...     x, x, ranks, fn="identity", scale=1.0, row_shift=shift, mask=None, normalize=True, impl="auto"
        ... )
        tensor([1., 1.])
    """
    if ranks.ring and ranks.world > 1:
        return _RingSum.apply(x, keys, as_scale(scale, row_shift), row_shift, _Ring(ranks, fn, mask, normalize, impl))
    keys = ranks.gather(keys)
    return row_sum(x, keys, fn=fn, scale=scale, row_shift=row_shift, mask=mask, normalize=normalize, impl=impl)


class _Ring(NamedTuple):
    """How one visiting block of keys is compared."""

    ranks: Ranks
    fn: Function
    mask: PairMask | None
    normalize: bool
    impl: Impl

    def visits(self, *carried: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
        """Whose keys are here, and what travels with them, step by step: first the own ones.

        What came is replaced in the list that was handed out, so that the caller may add to it before it moves on.
        """
        visiting, own = list(carried), self.ranks.rank
        for step in range(self.ranks.world):
            holder = (own - step) % self.ranks.world
            if step:
                visiting[:] = [self.ranks.rotate(t, (holder + 1) % self.ranks.world) for t in visiting]
            yield holder, visiting

    def total(self, x: Tensor, keys: Tensor, scale: Tensor, shift: Tensor, holder: int) -> Float[Tensor, " n"]:
        mask = None if self.mask is None else self.mask.column_slice(self.ranks.span(holder))
        return row_sum(
            x, keys, fn=self.fn, scale=scale, row_shift=shift, mask=mask, normalize=self.normalize, impl=self.impl
        )


class _RingSum(torch.autograd.Function):
    """Keys go round once; partial sums add up. Backward, keys go round with their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor, scale: Tensor, shift: Tensor, ring: _Ring) -> Tensor:
        ctx.save_for_backward(x, keys, scale, shift)
        ctx.ring = ring
        total = torch.zeros_like(shift)
        for holder, (visiting,) in ring.visits(keys):
            total = total + ring.total(x, visiting, scale, shift, holder)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # only under create_graph=True
            raise RuntimeError('gather="ring" has no second derivative; do without create_graph=True.')
        x, keys, scale, shift = ctx.saved_tensors
        ring: _Ring = ctx.ring
        stay = [torch.zeros_like(t, dtype=grad.dtype) for t in (x, scale, shift)]
        for holder, guests in ring.visits(keys, torch.zeros_like(keys, dtype=grad.dtype)):
            leaves = [t.detach().requires_grad_() for t in (x, scale, shift, guests[0])]
            with torch.enable_grad():
                value = ring.total(leaves[0], leaves[3], leaves[1], leaves[2], holder)
            *found, for_guest = torch.autograd.grad(value, leaves, grad)
            stay = [a + b for a, b in zip(stay, found, strict=True)]
            guests[1] = guests[1] + for_guest
        home = ring.ranks.rotate(guests[1], (ring.ranks.rank + 1) % ring.ranks.world)
        return stay[0].to(x.dtype), home.to(keys.dtype), stay[1], stay[2], None
