"""What losses ask of a process group: rows of all ranks with their gradient, counts, sums. The only file of ours with
collectives.

Every rank must make the same calls in the same order, forward and backward, whatever its own rows are: a rank without
rows joins in. What decides whether a call is made is therefore never read off local data.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Shaped

Gather = bool | Literal["ring"]
"""Where a loss finds its keys: on all ranks (gathered, or one rank's at a time) or on its own."""

_TEXT = 192  # bytes of the description that ranks compare and quote


def world_size() -> int:
    """Return the number of processes that train together; 1 without a process group.

    Example:
        >>> world_size()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them; 0 without a process group.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def debugging() -> bool:
    """Whether replicas are to be compared, which costs a broadcast each: TORCH_DISTRIBUTED_DEBUG is INFO or DETAIL.

    Example:
        >>> debugging()
        False
    """
    return world_size() > 1 and dist.get_debug_level() != dist.DebugLevel.OFF


def all_gather(x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
    """Return the rows of all ranks in rank order; the gradient of a row is the sum over all ranks.

    Ranks may hold different numbers of rows, or none. Rows keep their precision on the way; the gradients of half
    precision rows are summed in float32. Integers are gathered too, without gradient. With one process this is ``x``.

    Args:
        x: this rank's rows [n, ...]; type and width must be those of the other ranks.

    Raises:
        ValueError: on every rank, when types or widths differ.

    Example:
        >>> x = torch.ones(2, 3)
        >>> all_gather(x) is x
        True
    """
    if world_size() == 1:
        return x
    ranks, (x,) = Ranks.of([x], what="all_gather", allow_empty=True)
    return ranks.gather(x)


def all_reduce(x: Tensor) -> Tensor:
    """Return the sum over ranks of tensors of one shape; the gradient is the sum of all ranks' gradients.

    With one process this is ``x``. Whether it requires gradient must be the same on all ranks.

    Example:
        >>> x = torch.tensor(2.0)
        >>> all_reduce(x) is x
        True
    """
    if world_size() == 1:
        return x
    if x.requires_grad and torch.is_grad_enabled():
        return _AllReduce.apply(x)
    return _summed(x)


def require_equal(x: Tensor, name: str) -> None:
    """Check that a replicated tensor (a queue, a table) is the same on all ranks, bit for bit.

    Raises:
        ValueError: on every rank, naming the tensor and the ranks whose copy is not rank 0's.

    Example:
        >>> require_equal(torch.ones(2), "queue")
    """
    if world_size() == 1:
        return
    x = x.detach().contiguous()
    _exchange(x.device, [], f"{name} {_kind(x)}")
    first = x.clone()
    dist.broadcast(first, 0)
    same = torch.equal(first.reshape(-1).view(torch.uint8), x.reshape(-1).view(torch.uint8))
    answers = _exchange(x.device, [same], name)
    wrong = [r for r, (answer,) in enumerate(answers) if not answer]
    if wrong:
        raise ValueError(
            f"{name} must be the same on all ranks; that of rank {', '.join(map(str, wrong))} differs from rank 0's. "
            "Broadcast it once, and update it from gathered rows."
        )


@dataclass(frozen=True)
class Ranks:
    """Who holds how many rows: exchanged once per loss call, before anything is gathered.

    Attributes:
        sizes: rows of every rank; a single entry when keys are local.
        rank: this process's place in them.
        ring: keys visit rank by rank instead of being gathered.
        columns: columns of every rank's mask, exchanged beside the sizes; -1 without one.

    Example:
        >>> ranks = Ranks(sizes=(2, 0, 3), rank=2)
        >>> ranks
        Ranks(rank 2 of 3: rows 2 to 4 of 5)
        >>> ranks.offset, ranks.total
        (2, 5)
    """

    sizes: tuple[int, ...]
    rank: int = 0
    ring: bool = False
    columns: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[Tensor],
        *,
        gather: Gather = True,
        what: str = "loss",
        columns: int = -1,
        allow_empty: bool = False,
    ) -> tuple[Ranks, tuple[Tensor, ...]]:
        """Exchange the number of rows, and all that must agree, in one small collective.

        Args:
            rows: tensors with one row per datum of this rank.
            gather: False stays local, without any collective.
            what: what is computed and in which form; compared, with the rows' types and widths.
            columns: columns of this rank's mask, to be exchanged beside the sizes.
            allow_empty: whether it is fine that no rank has a row.

        Returns:
            The ranks, and the rows: those that require gradient on any rank do so on every one, so that every rank
            joins the backward pass.

        Raises:
            ValueError: on every rank, when they disagree, or when none of them has a row.

        Example:
            >>> ranks, (x,) = Ranks.of([torch.zeros(4, 2)], what="example")
            >>> ranks
            Ranks(rank 0 of 1: rows 0 to 3 of 4)
        """
        size = len(rows[0])
        if not gather or world_size() == 1:
            if not size and not allow_empty:
                raise ValueError(f"{what.split(':')[0]} needs at least one row, found none.")
            return cls((size,)), tuple(rows)
        learnt = sum(1 << i for i, x in enumerate(rows) if x.requires_grad and torch.is_grad_enabled())
        answers = _exchange(
            rows[0].device,
            [size, learnt, torch.is_grad_enabled(), columns],
            f"{what}; rows {', '.join(map(_kind_of_row, rows))}",
        )
        sizes = tuple(answer[0] for answer in answers)
        if not any(sizes) and not allow_empty:
            raise ValueError(f"{what.split(':')[0]} needs at least one row, found none on any of {len(sizes)} ranks.")
        anywhere = reduce(lambda a, b: a | b, (answer[1] for answer in answers))
        without = [r for r, answer in enumerate(answers) if anywhere and not answer[2]]
        if without:
            raise ValueError(
                f"{what.split(':')[0]}: rank {', '.join(map(str, without))} computes under no_grad while others need "
                "gradient; every rank must join the backward pass."
            )
        joined = tuple(
            x.detach().requires_grad_() if anywhere >> i & 1 and not x.requires_grad else x for i, x in enumerate(rows)
        )
        return cls(sizes, rank(), gather == "ring", tuple(answer[3] for answer in answers)), joined

    @property
    def world(self) -> int:
        """Number of ranks that share keys."""
        return len(self.sizes)

    @property
    def offset(self) -> int:
        """Rows on the ranks before this one."""
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        """Rows of all ranks."""
        return sum(self.sizes)

    def span(self, of: int) -> tuple[int, int]:
        """Return the columns that a rank's rows take among those of all.

        Example:
            >>> Ranks(sizes=(2, 0, 3)).span(2)
            (2, 5)
        """
        start = sum(self.sizes[:of])
        return start, start + self.sizes[of]

    def are_own(self, columns: int | None) -> bool:
        """Whether so many columns stand for this rank's keys rather than those of all; judged alike on every rank.

        Example:
            >>> Ranks(sizes=(2, 3), rank=1).are_own(3), Ranks(sizes=(2, 3), rank=1).are_own(5)
            (True, False)
        """
        if self.columns and columns == self.columns[self.rank]:
            return self.columns == self.sizes
        return columns == self.sizes[self.rank]

    def gather(self, x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
        """Return the rows of all ranks in rank order, with gradient; ``x`` itself when keys are local."""
        if self.world == 1:
            return x
        assert len(x) == self.sizes[self.rank], f"{len(x)} rows, {self.sizes[self.rank]} announced"
        if x.requires_grad and torch.is_grad_enabled():
            return _AllGather.apply(x, self.sizes, self.rank)
        return _gathered(x, self.sizes)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over ranks, with gradient; ``x`` itself when keys are local."""
        return x if self.world == 1 else all_reduce(x)

    def rotate(self, x: Shaped[Tensor, "k ..."], holder: int) -> Shaped[Tensor, "l ..."]:
        """Send the visiting rows of rank ``holder`` to the next rank and take those of ``holder - 1``; no gradient.

        Example:
            >>> x = torch.ones(2, 1)
            >>> Ranks(sizes=(2,)).rotate(x, 0) is x
            True
        """
        if self.world == 1:
            return x
        arriving = x.new_empty(self.sizes[holder - 1], *x.shape[1:])
        steps = []
        if x.numel():
            steps.append(dist.P2POp(dist.isend, x.contiguous(), (self.rank + 1) % self.world))
        if arriving.numel():
            steps.append(dist.P2POp(dist.irecv, arriving, (self.rank - 1) % self.world))
        for work in dist.batch_isend_irecv(steps) if steps else []:
            work.wait()
        return arriving

    def __repr__(self) -> str:
        if not self.sizes[self.rank]:
            return f"Ranks(rank {self.rank} of {self.world}: no rows of {self.total})"
        first, stop = self.span(self.rank)
        return f"Ranks(rank {self.rank} of {self.world}: rows {first} to {stop - 1} of {self.total})"


class _AllGather(torch.autograd.Function):
    """Rows of all ranks; the gradient of this rank's rows, summed over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...], own: int) -> Tensor:
        ctx.sizes, ctx.own, ctx.dtype = sizes, own, x.dtype
        return _gathered(x, sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        _once()
        return _scattered(_wide(grad), ctx.sizes, ctx.own).to(ctx.dtype), None, None


class _AllReduce(torch.autograd.Function):
    """Sum over ranks, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        _once()
        return _summed(grad)


def _once() -> None:
    if torch.is_grad_enabled():  # only under create_graph=True
        raise RuntimeError("rows gathered from other ranks have no second derivative; do without create_graph=True.")


def _gathered(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """All-gather; unequal sizes travel padded to the largest, as gloo and NCCL want one shape."""
    most = max(sizes)
    if not most:
        return x.detach()
    equal = min(sizes) == most
    own = x.detach().contiguous() if equal else _padded(x.detach(), most)
    out = x.new_empty(len(sizes) * most, *x.shape[1:])
    _collective("all_gather_single", "all_gather_into_tensor")(out, own)
    return out if equal else torch.cat([out[r * most : r * most + size] for r, size in enumerate(sizes)])


def _scattered(grad: Tensor, sizes: tuple[int, ...], own: int) -> Tensor:
    """Reduce-scatter: the sum over ranks of the gradient of this rank's rows."""
    most = max(sizes)
    if not most:
        return grad
    padded = torch.cat([_padded(part, most) for part in grad.split(list(sizes))])
    out = grad.new_empty(most, *grad.shape[1:])
    _collective("reduce_scatter_single", "reduce_scatter_tensor")(out, padded)
    return out[: sizes[own]]


def _padded(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])


def _summed(x: Tensor) -> Tensor:
    total = _wide(x.detach()).clone()
    dist.all_reduce(total)
    return total.to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """Half precision becomes float32 before anything is summed."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _collective(name: str, before: str) -> Any:
    """Return a collective under its name in this version of torch."""
    return getattr(dist, name, None) or getattr(dist, before)


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def _kind_of_row(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape[1:])}"


def _exchange(device: torch.device, numbers: Sequence[int], text: str) -> list[list[int]]:
    """Return every rank's numbers; texts must agree.

    Raises:
        ValueError: on every rank, quoting the texts, when they do not.
    """
    raw = text.encode()
    payload = [len(numbers), zlib.crc32(raw), *numbers]
    payload += [0] * (16 - len(payload)) + list(raw[:_TEXT].ljust(_TEXT, b"\0"))
    out = torch.tensor(payload, dtype=torch.int64, device=device)
    table = _gathered(out[None], (1,) * world_size()).tolist()
    if len({row[1] for row in table}) > 1:
        texts = [bytes(row[16:]).rstrip(b"\0").decode(errors="replace") for row in table]
        listed = " | ".join(f"rank {r}: {text}" for r, text in enumerate(texts))
        raise ValueError(f"all ranks must compute the same thing from rows of one kind; found {listed}.")
    return [row[2 : 2 + row[0]] for row in table]
