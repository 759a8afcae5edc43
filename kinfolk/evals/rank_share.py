"""Batches shared out over ranks: every rank computes some, and all have the result in the order of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from kinfolk.distributed import all_gather, rank, world_size

Columns = dict[str, Tensor]


def share_of(parts: Sequence[Tensor], *, rank: int, world: int) -> list[Tensor]:
    """Return the consecutive parts that one rank computes; as many on every rank, the last one repeated to fill up.

    Example:
        >>> parts = list(torch.arange(5))
        >>> [[int(part) for part in share_of(parts, rank=rank, world=3)] for rank in range(3)]
        [[0, 1], [2, 3], [4, 4]]
    """
    each = -(-len(parts) // world)
    return [parts[min(i, len(parts) - 1)] for i in range(rank * each, (rank + 1) * each)]


def computed_over_ranks(
    compute: Callable[[Sequence[Tensor]], Columns],
    parts: Sequence[Tensor],
    *,
    names: Sequence[str],
    device: torch.device,
) -> Columns:
    """Compute every rank's share and gather the rows of all, in the order of ``parts``, repeated ones at the end.

    Args:
        compute: from parts to columns of one length, under some of ``names``: float32 ``[b, d]`` or int64 ``[b]``. It
            may give no column at all where its parts hold nothing.
        parts: the same on all ranks, at least one.
        names: every column that there can be, in an order that all ranks share.
        device: where the encoder computes, for groups that cannot gather on the CPU.

    Returns:
        On the CPU, the columns that every rank with rows has; the same on every rank.

    Raises:
        ValueError: on every rank, when they do not share parts or the widths of their rows.
        RuntimeError: on the other ranks, when one of them fails; it raises its own error.

    Example:
        >>> rows = computed_over_ranks(
        ...     lambda mine: {"rows": torch.cat(list(mine))},
        ...     torch.arange(4).split(2),
        ...     names=("rows",),
        ...     device=torch.device("cpu"),
        ... )
        >>> rows["rows"].tolist()
        [0, 1, 2, 3]
    """
    failure: Exception | None = None
    own: Columns = {}
    try:
        own = compute(share_of(parts, rank=rank(), world=world_size()))
    except Exception as error:  # said to the others first, which would wait for ever
        failure = error
    where = torch.device("cpu") if world_size() == 1 or dist.get_backend() != "nccl" else device
    told = [failure is not None, len(parts), sum(map(len, parts)), bool(own)]
    widths = [1 + own[name][0].numel() * (own[name].ndim - 1) if name in own else 0 for name in names]
    ranks = all_gather(torch.tensor([[*told, *widths]], dtype=torch.int64, device=where)).cpu()
    failed, shared, filled = ranks[:, 0].bool(), ranks[:, 1:3], ranks[ranks[:, 3] > 0][:, 4:]
    if failure is not None:
        raise failure
    if bool(failed.any()):
        which = ", ".join(map(str, failed.nonzero().flatten().tolist()))
        raise RuntimeError(f"rank {which} could not compute its share; see the error there.")
    if bool((shared != shared[0]).any()):
        raise ValueError(
            f"all ranks must share the same batches; found {shared[:, 0].tolist()} batches of "
            f"{shared[:, 1].tolist()} samples; give every rank the same source, indices and batch_size."
        )
    return {
        name: all_gather((own[name] if own else _no_rows(int(filled[0, i]) - 1)).to(where)).cpu()
        for i, name in enumerate(names)
        if len(filled) and bool((filled[:, i] > 0).all())
    }


def _no_rows(width: int) -> Tensor:
    """What a rank whose samples cannot be read adds to a column of the others."""
    return torch.zeros(0, width) if width else torch.zeros(0, dtype=torch.int64)
