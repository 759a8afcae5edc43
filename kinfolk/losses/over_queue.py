"""What losses over a queue of earlier keys ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Ranks, debugging, require_equal
from kinfolk.graphs import checked_labels
from kinfolk.losses.base import one_per_row, softplus
from kinfolk.ops import PairMask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Dropped = Bool[Tensor, "n K"] | tuple[Int[Tensor, " n"], Int[Tensor, " K"]] | PairMask | None


def checked_queue(queue: Float[Tensor, "K d"], queries: Float[Tensor, "n d"]) -> Float[Tensor, "K d"]:
    """Check that a queue holds vectors of the queries' width, and return it as a constant.

    Raises:
        ValueError: naming both shapes, when it does not.

    Example:
        >>> import torch
        >>> checked_queue(torch.zeros(8, 3), torch.zeros(2, 4))
        Traceback (most recent call last):
            ...
        ValueError: queue must be [K, d] of the queries' width: queries (2, 4), found queue (8, 3).
    """
    if queue.ndim != 2 or queue.shape[1] != queries.shape[1]:
        raise ValueError(
            f"queue must be [K, d] of the queries' width: queries {tuple(queries.shape)}, "
            f"found queue {tuple(queue.shape)}."
        )
    return queue.detach()


def same_on_all_ranks(queue: Tensor, ranks: Ranks) -> None:
    """Compare the ranks' queues bit for bit, where replicas are to be compared.

    Example:
        >>> import torch
        >>> same_on_all_ranks(torch.zeros(8, 3), Ranks((2,)))
    """
    if ranks.world > 1 and debugging():
        require_equal(queue, "queue")


def kept_slots(exclude: Dropped, queries: Float[Tensor, "n d"], queue: Float[Tensor, "K d"]) -> PairMask | None:
    """Return which queue rows are candidates of which query.

    Args:
        exclude: what is none: bool [n, K] (True = dropped), a pair ``(query_labels [n], queue_labels [K])``, equal ones
            being dropped, or a `PairMask` that drops them; None drops nothing.
        queries, queue: [n, d] and [K, d].

    Raises:
        ValueError: for something else, or shapes that do not fit.

    Example:
        >>> own = torch.tensor([0, 1])
        >>> kept_slots((own, own), torch.eye(2), torch.eye(2))
        PairMask(2 x 2: keeps 2 of 4 pairs; drops equal ids)
    """
    if exclude is None:
        return None
    shape = (len(queries), len(queue))
    if isinstance(exclude, PairMask):
        return exclude.for_shape(*shape)
    if isinstance(exclude, Tensor) and exclude.dtype == torch.bool and exclude.shape == shape:
        return PairMask.from_dense(~exclude.to(queries.device))
    if not isinstance(exclude, tuple) or len(exclude) != 2:
        found = type(exclude).__name__
        found = f"{exclude.dtype} of shape {tuple(exclude.shape)}" if isinstance(exclude, Tensor) else f"a {found}"
        raise ValueError(
            f"exclude must be bool [n, K] = {shape}, True = dropped, or a pair (query_labels, queue_labels), or a "
            f"PairMask; found {found}."
        )
    query_labels = checked_labels(exclude[0], name="query labels").to(queries.device)
    queue_labels = checked_labels(exclude[1], name="queue labels").to(queries.device)
    one_per_row(query_labels, queries, "query labels")
    one_per_row(queue_labels, queue, "queue labels")
    return PairMask.exclude(query_labels, queue_labels)


def own_against(
    own: Float[Tensor, " n"], others: Float[Tensor, " n"], *, decoupled: bool
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return minus the log-probability of the own score beside the partition of the others, and which rows count.

    Args:
        own: scores of the own keys.
        others: ``lse`` over the other candidates, -inf where there are none.
        decoupled: leave the own score out of the partition; a row without other candidates then does not count.

    Example:
        >>> own_against(torch.zeros(2), torch.tensor([0.0, -torch.inf]), decoupled=True)
        (tensor([0., 0.]), tensor([ True, False]))
    """
    if not decoupled:
        return softplus(others - own), torch.ones_like(own, dtype=torch.bool)
    valid = others != -torch.inf  # a broken row is not hidden: NaN counts
    return (others.where(valid, own) - own).where(valid, torch.zeros_like(own)), valid
