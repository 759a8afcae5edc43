"""`logsumexp_and_kernel_attraction`: partition and soft target from one sweep, for graphs made of side embeddings.

With scores ``s = scale x y^T`` and relations ``r = u v^T / tau_s``, ``T = softmax_j(r)`` over the target's kept pairs,
one pass yields ``lse_j(s_ij)`` and ``a_i = sum_j T_ij s_ij``. With upstream gradients g and h:
``dL/ds_ij = g_i p_ij + h_i T_ij``, so that one product serves both, and, where side embeddings are learnt,
``dL/dr_ij = h_i T_ij (s_ij - a_i)``.

Multiply-adds of forward and backward together: n m (4 d + 2 e), or half of that where both sides are the same rows and
the upper triangle serves both halves; memory O((n + m)(d + e)), five tiles and at most 16 MB of kept scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.chunked import operators as op
from kinfolk.ops.chunked.softmax import TileSoftmax, TileSums
from kinfolk.ops.chunked.tiles import Kept, Walk, full_precision, keeps_scores, shaped
from kinfolk.ops.masks import PairMask, Span

_MASKS = f"{op.MASK.format('')}, {op.MASK.format('target_')}"


def logsumexp_and_kernel_attraction(
    x: Tensor,
    y: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    scale: Tensor,
    relation_scale: float,
    mask: PairMask | None,
    target_mask: PairMask | None,
) -> tuple[Tensor, Tensor]:
    """``lse_j(s_ij + b_ij)`` over the kept and ``sum_j T_ij s_ij`` over the target's kept columns.

    The attraction is 0 where the target's row is empty. Biases of ``target_mask`` play no role.
    """
    target_mask = None if target_mask is None else target_mask.without_bias()
    constant = not (u.requires_grad or v.requires_grad)
    masks_symmetric = all(m is None or m.symmetric for m in (mask, target_mask))
    symmetric = x is y and u is v and constant and masks_symmetric
    keep = constant and torch.is_grad_enabled() and keeps_scores(x, y, None, triangle=symmetric, tiles=2)
    lse, pull, *_ = _forward(
        x,
        None if symmetric else y,
        u,
        None if symmetric else v,
        scale,
        op.column_bias(mask, x),
        *op.pack(mask),
        *op.pack(target_mask),
        relation_scale,
        keep,
    )
    return lse, pull


def _masks(x: Tensor, y: Tensor | None, *packed: tuple[Any, ...]) -> list[PairMask | None]:
    n, m = x.shape[0], (x if y is None else y).shape[0]
    return [op.unpack(n, m, *mask) for mask in packed]


class _Tiles:
    """The partition's and the target's softmax over one walk."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        u: Tensor,
        v: Tensor | None,
        scale: float,
        relation_scale: float,
        mask: PairMask | None,
        target_mask: PairMask | None,
    ) -> None:
        self.symmetric, self.y, self.v = y is None, x if y is None else y, u if v is None else v
        self.walk = Walk(x.shape[0], self.y.shape[0], x, triangle=self.symmetric, at_once=2)
        self.partition = TileSoftmax(x, self.y, scale, mask, self.walk)
        self.target = TileSoftmax(u, self.v, relation_scale, target_mask, self.walk)

    def products(self, scores: Tensor, kernel: Tensor) -> Tensor:
        """Scores times the kernel, in a buffer of the partition's."""
        return torch.mul(scores, kernel, out=self.partition.spare[: scores.numel()].view(scores.shape))


@torch.library.custom_op(
    "kinfolk::logsumexp_and_kernel_attraction",
    mutates_args=(),
    schema=f"(Tensor x, Tensor? y, Tensor u, Tensor? v, Tensor scale, Tensor? bias, {_MASKS}, float relation_scale,"
    " bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(
    x: Tensor,
    y: Tensor | None,
    u: Tensor,
    v: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    target_parts: list[Tensor],
    target_layout: str,
    relation_scale: float,
    keep: bool,
) -> tuple[Tensor, ...]:
    masks = _masks(x, y, (parts, layout, bias), (target_parts, target_layout))
    with full_precision(x):
        tiles = _Tiles(x, y, u, v, float(scale), relation_scale, *masks)
        n = x.shape[0]
        sums, pulls = TileSums(tiles.partition, n, x), TileSums(tiles.target, n, x, weighted=())
        assert pulls.weighted is not None
        kept = x.new_empty(2 * n * tiles.y.shape[0] if keep else 0)
        store = Kept(kept)
        for rows, columns in tiles.walk:
            scores, relations = tiles.partition.scores(rows, columns), tiles.target(rows, columns)
            if keep:
                store.put(relations)
            if tiles.symmetric and rows != columns:
                kernel = pulls.add(columns, relations, of_rows=False, in_place=False)
                products = tiles.products(scores, kernel)
                pulls.weighted[slice(*columns)] += products.sum(0)
                kernel = pulls.add(rows, relations)
                if not tiles.target.fixed:  # rows and columns share exponentials only where neither needs a shift
                    products = tiles.products(scores, kernel)
            else:
                products = tiles.products(scores, pulls.add(rows, relations))
            pulls.weighted[slice(*rows)] += products.sum(1)
            logits = tiles.partition.finish_(scores, rows, columns)
            if keep:
                store.put(logits)
            if tiles.symmetric and rows != columns:
                sums.add(columns, logits, of_rows=False, in_place=False)
            sums.add(rows, logits)
        return sums.logsumexp(), pulls.mean() / tiles.partition.unit, kept, *sums.state(), *pulls.state()


@_forward.register_fake
def _(x, y, u, v, scale, bias, p, lay, tp, tl, relation_scale, keep):  # type: ignore[no-untyped-def]
    n, m = x.shape[0], (x if y is None else y).shape[0]
    return tuple(x.new_empty(size) for size in (n, n, 2 * n * m if keep else 0, n, n, n, n))


@torch.library.custom_op(
    "kinfolk::logsumexp_and_kernel_attraction_backward",
    mutates_args=(),
    schema="(Tensor g, Tensor h, Tensor x, Tensor? y, Tensor u, Tensor? v, Tensor scale, Tensor? bias,"
    f" {_MASKS}, float relation_scale, bool keep, Tensor pull, Tensor kept, Tensor maximum, Tensor total,"
    " Tensor target_maximum, Tensor target_total,"
    " bool[] needed) -> Tensor[]",
)
def _backward(
    g: Tensor,
    h: Tensor,
    x: Tensor,
    y: Tensor | None,
    u: Tensor,
    v: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    parts: list[Tensor],
    layout: str,
    target_parts: list[Tensor],
    target_layout: str,
    relation_scale: float,
    keep: bool,
    pull: Tensor,
    kept: Tensor,
    maximum: Tensor,
    total: Tensor,
    target_maximum: Tensor,
    target_total: Tensor,
    needed: list[bool],
) -> list[Tensor]:
    need_x, need_y, need_u, need_v, need_scale, need_bias = needed
    masks = _masks(x, y, (parts, layout, bias), (target_parts, target_layout))
    with full_precision(x):
        tiles = _Tiles(x, y, u, v, float(scale), relation_scale, *masks)
        partition, target, both = tiles.partition, tiles.target, tiles.symmetric
        y, v = tiles.y, tiles.v
        dx, dy, du, dv, dbias = op.wanted(
            (x.shape, need_x or need_scale),
            (y.shape, need_y and not both),
            (u.shape, need_u),
            (v.shape, need_v),
            (y.shape[:1], need_bias),
            like=x,
        )
        push_shares, pull_shares = partition.shares(g, maximum, total), target.shares(h, target_maximum, target_total)
        store = Kept(kept)
        for rows, columns in tiles.walk:
            here, there = slice(*rows), slice(*columns)
            relations, scores = _read(tiles, store if keep else None, rows, columns)
            kernel = target.weigh_(relations, rows, columns, pull_shares, pull_shares if both else None)
            if need_u or need_v:
                slope = kernel * (scores / partition.unit - pull[here, None])
                if need_u:
                    du[here].addmm_(slope, v[there])
                if need_v:
                    dv[there].addmm_(slope.T, u[here])
            logits = scores if keep else partition.finish_(scores, rows, columns)
            weights = partition.weigh_(logits, rows, columns, push_shares, push_shares if both else None)
            if need_bias:
                dbias[there] += weights.sum(0)
            weights += kernel
            if dx.numel():
                dx[here].addmm_(weights, y[there])
            if both and rows != columns:
                dx[there].addmm_(weights.T, x[here])
            if dy.numel():
                dy[there].addmm_(weights.T, x[here])
        dscale = op.scale_gradient(x, dx, scale) if need_scale else dx.new_empty(0)
        if both:  # both factors of the product were x
            dscale = dscale / 2
        return [
            dx.mul_(scale),
            dy.mul_(scale),
            du.mul_(relation_scale),
            dv.mul_(relation_scale),
            dscale,
            dbias,
        ]


def _read(tiles: _Tiles, store: Kept | None, rows: Span, columns: Span) -> tuple[Tensor, Tensor]:
    """Return the target's tile and the scores, or the partition's tile where tiles were kept."""
    if store is None:
        return tiles.target(rows, columns), tiles.partition.scores(rows, columns)
    relations = store.take(shaped(tiles.target.scores.buffer, rows, columns))
    return relations, store.take(shaped(tiles.partition.scores.buffer, rows, columns))


@_backward.register_fake
def _(g, h, x, y, u, v, scale, bias, p, lay, tp, tl, relation_scale, keep, *rest):  # type: ignore[no-untyped-def]
    other, side, needed = x if y is None else y, u if v is None else v, rest[-1]
    return op.wanted_like(
        (x, needed[0] or needed[4]),
        (other, needed[1] and y is not None),
        (u, needed[2]),
        (side, needed[3]),
        (scale, needed[4]),
        (other[:, 0], needed[5]),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, parts, layout, target_parts, target_layout, relation_scale, keep = inputs
    ctx.set_materialize_grads(False)  # zeros for what is kept would cost as much as keeping it
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors, *output[1:], *parts, *target_parts)
    ctx.count = len(parts)
    ctx.rest = (layout, target_layout, relation_scale, keep)


def _differentiate(ctx: Any, g: Tensor | None, h: Tensor | None, *_: None) -> tuple[Any, ...]:
    tensors, state, masks = ctx.saved_tensors[:6], ctx.saved_tensors[6:12], list(ctx.saved_tensors[12:])
    parts, target_parts = masks[: ctx.count], masks[ctx.count :]
    layout, target_layout, relation_scale, keep = ctx.rest
    needed = list(ctx.needs_input_grad[:6])
    g = torch.zeros_like(state[0]) if g is None else g
    h = torch.zeros_like(state[0]) if h is None else h
    found = _backward(
        g, h, *tensors, parts, layout, target_parts, target_layout, relation_scale, keep,
        *state, needed,
    )  # fmt: skip
    return *op.given(found, needed), *op.none_for(parts), *op.none_for(target_parts), None, None


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(op.refuse)
