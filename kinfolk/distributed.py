"""What the losses ask of a process group. The only file that talks to one."""

from __future__ import annotations

import torch


def world_size() -> int:
    """Return the number of processes that train together; 1 without a process group.

    Example:
        >>> world_size()
        1
    """
    dist = torch.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def require_local(loss: str, *, gather: bool) -> None:
    """Refuse to compute a loss over gathered keys: this version has no gather with gradient yet.

    Raises:
        RuntimeError: with more than one process and ``gather=True``, rather than a silently wrong gradient.

    Example:
        >>> require_local("NTXentLoss", gather=True)
    """
    if gather and world_size() > 1:
        raise RuntimeError(
            f"{loss} would have to gather keys from {world_size()} processes, which this version cannot do with a "
            f"right gradient; pass gather=False to contrast within each process, or train with one process."
        )
