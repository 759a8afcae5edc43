"""CACR with constant keys: those of the batch, of a momentum encoder, and a queue of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, checked_ids
from kinfolk.losses.cacr import Weighting, by_view, check_options, mean_distance, own_weights
from kinfolk.losses.over_queue import checked_queue, same_on_all_ranks
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.losses.views import checked_views
from kinfolk.ops import PairMask, prepare

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def cacr_over_queue(
    queries: Sequence[Float[Tensor, "n d"]],
    keys: Sequence[Float[Tensor, "n d"]],
    queue: Float[Tensor, "K d"],
    *,
    ids: Int[Tensor, " n"],
    queue_ids: Int[Tensor, " K"],
    t_pos: float = 1.0,
    t_neg: float = 2.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    detach_weights: bool = False,
    attraction: Weighting = "contrastive",
    repulsion: Weighting = "contrastive",
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Weighted cost to the keys of the own other views, minus weighted cost to the keys of other samples.

    With cost ``d(a, b) = |a - b|^2``, V views, queries q and keys k:
    ``CA_i = mean_v sum_{u != v} softmax_u(t_pos d(q_vi, k_ui)) alpha d(q_vi, k_ui)`` and
    ``CR_i = mean_v sum_{y in R_vi} softmax_y(-t_neg d(q_vi, y)) (-beta d(q_vi, y))``; ``loss_i = CA_i + CR_i``.
    ``R_vi`` are the queue's keys and those of the batch's other views u != v, of all ranks, as one set, without those
    of sample i itself. Keys and queue are constants, so every view must be a query to be pushed: `cacr` makes do with
    the pairs v < u. Memory is linear in the number of keys.

    Args:
        queries: V >= 2 views with gradient.
        keys: as many, row by row of the same samples.
        queue: earlier keys, the same on all ranks.
        ids: sample ids; -1 equals nothing but the sample itself.
        queue_ids: of the queue's keys; -1 is nobody's.
        t_pos, t_neg, alpha, beta, detach_weights, attraction, repulsion, normalize, gather, impl: as in `CACRLoss`.

    Returns:
        Values [n] and which samples have a negative; the value is 0 where there is none.

    Raises:
        ValueError: for shapes that do not fit, fewer than 2 views, negative or infinite strengths.

    Reference:
        Huangjie Zheng, Xu Chen, Jiangchao Yao, Hongxia Yang, Chunyuan Li, Ya Zhang, Hao Zhang, Ivor Tsang, Jingren
        Zhou, Mingyuan Zhou, 2023, Contrastive Attraction and Contrastive Repulsion for Representation Learning.

    Example:
        >>> views, own = [torch.eye(2)] * 2, torch.arange(2)
        >>> values, valid = cacr_over_queue(views, views, -torch.eye(2), ids=own, queue_ids=own, t_neg=0.0)
        >>> values
        tensor([-2., -2.])
    """
    refuse_ring("CACR over a queue", gather)
    check_options(t_pos, t_neg, attraction, repulsion)
    rows = torch.stack(checked_views(queries, "CACR over a queue"), 1)
    constant = torch.stack(checked_views(keys, "CACR over a queue"), 1).detach()
    if rows.shape != constant.shape:
        raise ValueError(
            f"CACR over a queue needs a key for every query, view by view: queries [n, v, d] = {tuple(rows.shape)}, "
            f"found keys {tuple(constant.shape)}."
        )
    queue = checked_queue(queue, rows[:, 0])
    checked_ids(ids, rows)
    ranks, (rows,) = Ranks.of([rows], gather=gather, what=f"CACR over a queue: {rows.shape[1]} views")
    same_on_all_ranks(queue, ranks)
    with torch.autocast(rows.device.type, enabled=False):
        q, k = by_view(rows, normalize), by_view(constant, normalize)
        every = k if ranks.world == 1 else by_view(ranks.gather(constant), normalize)
        queue = prepare(queue, queue, normalize=normalize)[0].to(k)
        own, others = _columns(ids.to(q.device), queue_ids.to(q.device), ranks, len(q) - 1)
        mask = PairMask.exclude(own, others)
        push = []
        for view, x in enumerate(q):
            candidates = torch.cat([*every[:view], *every[view + 1 :], queue])
            strength = t_neg if repulsion == "contrastive" else 0.0
            push.append(mean_distance(x, candidates, strength, detach_weights, mask, impl))
        pull = _attraction(q, k, t_pos if attraction == "contrastive" else 0.0, detach_weights)
        values = alpha * pull - beta * torch.stack(push).mean(0)
        valid = ~((others == others[:1]).all() & (own == others[:1]))
        return values.where(valid, torch.zeros_like(values)), valid


def _columns(ids: Tensor, queue_ids: Tensor, ranks: Ranks, views: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """The ids of this rank's samples and of all candidates, with one of its own for every sample that has none."""
    place = ranks.offset + torch.arange(len(ids), device=ids.device)
    own = ids.to(torch.int64).where(ids != -1, -2 - place)
    every = own if ranks.world == 1 else ranks.gather(own)
    return own, torch.cat([every.repeat(views), queue_ids.to(torch.int64)])


def _attraction(
    q: Float[Tensor, "v n d"], k: Float[Tensor, "v n d"], strength: float, detach: bool
) -> Float[Tensor, " n"]:
    products = torch.einsum("vnd,und->vnu", q, k)
    costs = q.square().sum(-1)[:, :, None] + k.square().sum(-1).T[None] - 2 * products
    weights = own_weights(costs.detach() if detach else costs, strength)
    return (weights * costs).sum(-1).mean(0)
