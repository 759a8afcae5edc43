"""What the processes of a run tell one another beside the losses' own exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kinfolk import distributed
from kinfolk.nn import SynchronisedBatchNorm
from kinfolk.train.checkpoint import random_states

T = TypeVar("T")

_BUCKET = 2**23  # entries that travel at once; 32 MB in float32


def reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the ranks, as a data-parallel wrapper does.

    Each rank calls it once, after its last backward pass and before clipping. It does not matter how many passes that
    took, so it is what chunks of a batch need whose loss has parameters of its own. A parameter without a gradient on
    some ranks counts as 0 there; one without any on all ranks stays without. With one process nothing changes.

    Args:
        parameters: in the same order on all ranks.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> layer(torch.ones(3, 2)).sum().backward()
        >>> reduce_gradients(layer.parameters())
        >>> layer.weight.grad
        tensor([[3., 3.]])
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if distributed.world_size() == 1 or not wanted:
        return
    has = torch.tensor([parameter.grad is not None for parameter in wanted], device=wanted[0].device)
    anywhere = distributed.all_reduce(has.int()).tolist()
    for parameter, count in zip(wanted, anywhere, strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([parameter.grad for parameter in wanted if parameter.grad is not None]):
        mean = distributed.all_reduce(torch.cat([grad.flatten() for grad in bucket])) / distributed.world_size()
        for grad, part in zip(bucket, mean.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(part.view_as(grad))


def average_statistics(module: nn.Module) -> None:
    """Replace the running statistics of local batch norm by their mean over the ranks.

    They follow each rank's own samples where the layers are not synchronised, and rank 0 alone exports them. The mean
    moves as its parts do, so how often it is taken does not matter.

    Example:
        >>> average_statistics(nn.BatchNorm1d(2))
    """
    if distributed.world_size() == 1:
        return
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, SynchronisedBatchNorm):
            for values in (layer.running_mean, layer.running_var):
                if values is not None:
                    values.copy_(distributed.all_reduce(values) / distributed.world_size())


def mean_terms(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean over the ranks of each term, from one exchange.

    Example:
        >>> mean_terms({"loss": torch.tensor(2.0), "queue_fill": torch.tensor(0.5)})
        {'loss': 2.0, 'queue_fill': 0.5}
    """
    values = torch.stack([term.detach().double() for term in terms.values()])
    return dict(zip(terms, (distributed.all_reduce(values) / distributed.world_size()).tolist(), strict=True))


def on_first_rank(action: Callable[[], object]) -> None:
    """Run something on rank 0 while the others wait; its error is raised on all ranks.

    Example:
        >>> on_first_rank(lambda: int("x"))
        Traceback (most recent call last):
            ...
        ValueError: invalid literal for int() with base 10: 'x'
    """
    from accelerate.utils import broadcast_object_list

    outcome: list[Exception | None] = [None]
    if distributed.rank() == 0:
        try:
            action()
        except Exception as error:
            outcome = [error]
    if distributed.world_size() > 1:
        broadcast_object_list(outcome)
    if outcome[0] is not None:
        raise outcome[0]


def from_first_rank(question: Callable[[], T]) -> T:
    """Return on all ranks what rank 0 finds, such as the state of a file; its error is raised on all ranks.

    Example:
        >>> from_first_rank(lambda: 3)
        3
    """
    from accelerate.utils import broadcast_object_list

    answer: list[Any] = [None]

    def ask() -> None:
        answer[0] = question()

    on_first_rank(ask)
    if distributed.world_size() > 1:
        broadcast_object_list(answer)
    return answer[0]


def gather_states() -> list[dict[str, Any]]:
    """Return the random-number states of every rank, in rank order.

    Example:
        >>> [sorted(states) for states in gather_states()]
        [['cuda', 'numpy', 'python', 'torch']]
    """
    from accelerate.utils import gather_object

    return gather_object([random_states()])


def gather_names(names: Iterable[str]) -> set[str]:
    """Return the names that any rank has; each rank calls it.

    Example:
        >>> sorted(gather_names(["b.png", "a.png"]))
        ['a.png', 'b.png']
    """
    from accelerate.utils import gather_object

    return set(gather_object(sorted(names)))


def _buckets(grads: list[Tensor]) -> list[list[Tensor]]:
    """Group gradients of one type into parts that travel together."""
    buckets: list[list[Tensor]] = []
    filled = 0
    for grad in grads:
        if not buckets or filled + grad.numel() > _BUCKET or buckets[-1][0].dtype != grad.dtype:
            buckets.append([])
            filled = 0
        buckets[-1].append(grad)
        filled += grad.numel()
    return buckets
