"""A first-in first-out queue of feature vectors with the ids and labels of their samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk import distributed

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


class QueueSnapshot(NamedTuple):
    """What a queue held at one moment: copies that later calls of `enqueue` do not change.

    Example:
        >>> FeatureQueue(3, 2).snapshot().ids.tolist()
        [-1, -1, -1]
    """

    features: Float[Tensor, "k d"]
    ids: Int64[Tensor, " k"]
    labels: Int64[Tensor, " k"]


@final
class FeatureQueue(nn.Module):
    """The last `size` feature vectors, as unit vectors, with the ids and labels of their samples.

    The queue starts full of random unit vectors with id and label -1. A batch of any size replaces the oldest rows,
    around the end of the storage where necessary; of a batch larger than the queue the last `size` rows stay. Rows,
    ids, labels, the write position and the number of rows written so far are buffers, so a checkpoint holds them.

    Args:
        size: number of rows, at least 1.
        dim: length of a row.
        generator: source of the initial rows; None draws from torch's global one.

    Attributes:
        filled: int64 scalar, number of rows that came from data, at most `size`.

    With several processes every rank holds the whole queue: enqueue what `kinfolk.distributed.all_gather` gives. With
    TORCH_DISTRIBUTED_DEBUG=INFO each call of `enqueue` compares the ranks and raises `ValueError` where they differ.

    In eval mode `enqueue` changes nothing. Read with `snapshot()`: a copy, so that writing between a loss and its
    backward pass cannot corrupt the gradient. A method calls `hold` where its rows are made and `flush` after the step.

    Example:
        >>> queue = FeatureQueue(3, 2)
        >>> queue.enqueue(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), ids=torch.tensor([7, 8]))
        >>> queue.snapshot().ids.tolist(), queue.snapshot().features[0].tolist()
        ([7, 8, -1], [0.6000000238418579, 0.800000011920929])
    """

    rows: Tensor
    row_ids: Tensor
    row_labels: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"a queue needs at least one row and one dimension, found size={size}, dim={dim}.")
        self.size = size
        self.dim = dim
        self.register_buffer("rows", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("row_ids", torch.full((size,), -1))
        self.register_buffer("row_labels", torch.full((size,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self._held: list[tuple[Tensor, Tensor | None, Tensor | None]] = []

    @property
    def fill(self) -> Float[Tensor, ""]:
        """Share of the rows that came from data."""
        return self.filled / self.size

    def snapshot(self) -> QueueSnapshot:
        """Return copies of the rows, ids and labels, in storage order."""
        return QueueSnapshot(self.rows.clone(), self.row_ids.clone(), self.row_labels.clone())

    @torch.no_grad()
    def enqueue(
        self,
        features: Float[Tensor, "b d"],
        ids: Int64[Tensor, " b"] | None = None,
        labels: Int64[Tensor, " b"] | None = None,
    ) -> None:
        """Write a batch over the oldest rows; without effect in eval mode.

        Args:
            features: any scale; stored as unit vectors, detached.
            ids: sample ids; None stores -1.
            labels: classes, -1 for unlabelled; None stores -1.

        Raises:
            ValueError: a shape does not fit.
            TypeError: ids or labels are not integers.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(
                f"a queue of {self.dim}-d rows takes features [b, {self.dim}], got {tuple(features.shape)}."
            )
        ids, labels = self._column("ids", ids, features), self._column("labels", labels, features)
        if not self.training:
            return
        n, kept = len(features), min(len(features), self.size)
        # The pointer stays a tensor: reading it as a number would make a GPU wait.
        places = (self.pointer + torch.arange(n - kept, n, device=self.rows.device)) % self.size
        newest = features[n - kept :].to(torch.promote_types(self.rows.dtype, torch.float32))
        self.rows[places] = F.normalize(newest, dim=1, eps=1e-6).to(self.rows)
        self.row_ids[places] = ids[n - kept :]
        self.row_labels[places] = labels[n - kept :]
        self.pointer.copy_((self.pointer + n) % self.size)
        self.filled.copy_((self.filled + n).clamp(max=self.size))
        if distributed.debugging():
            for name, values in self.named_buffers():
                distributed.require_equal(values, f"the queue's {name}")

    def hold(
        self,
        features: Float[Tensor, "b d"],
        ids: Int64[Tensor, " b"] | None = None,
        labels: Int64[Tensor, " b"] | None = None,
    ) -> None:
        """Keep this rank's rows of a training pass until `flush`; those of a pass without gradient are let go.

        Args:
            features, ids, labels: as in `enqueue`.
        """
        if self.training and torch.is_grad_enabled():
            self._held.append((features.detach(), ids, labels))

    def flush(self) -> bool:
        """Enqueue what was held since the last call, of all ranks in rank order; return whether there was anything.

        Example:
            >>> queue = FeatureQueue(2, 2)
            >>> queue.hold(torch.eye(2), ids=torch.tensor([5, 6]))
            >>> queue.flush(), queue.flush(), queue.snapshot().ids.tolist()
            (True, False, [5, 6])
        """
        held, self._held = self._held, []
        for rows in held:
            features, ids, labels = (None if x is None else distributed.all_gather(x) for x in rows)
            assert features is not None
            self.enqueue(features, ids, labels)
        return bool(held)

    def _column(self, name: str, values: Tensor | None, features: Tensor) -> Tensor:
        """Return ids or labels as int64 on the queue's device, one per row of `features`."""
        if values is None:
            return torch.full((len(features),), -1, device=self.rows.device)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise TypeError(f"{name} must be integers, found {values.dtype}.")
        if values.shape != features.shape[:1]:
            raise ValueError(
                f"{name} must have one entry per row: features {tuple(features.shape)}, {name} {tuple(values.shape)}."
            )
        return values.to(self.rows.device, torch.int64)

    def extra_repr(self) -> str:
        """Show the size of the queue."""
        return f"size={self.size}, dim={self.dim}"
