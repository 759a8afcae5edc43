"""What losses over a queue of earlier keys ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kinfolk.distributed import Ranks, debugging, require_equal

if TYPE_CHECKING:
    from jaxtyping import Float


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
