"""A queue in which every class has a ring of its own, so that rare classes stay beside frequent ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk import distributed
from kinfolk.nn.queue import QueueSnapshot
from kinfolk.ops import integer_ids

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@final
class ClassQueue(nn.Module):
    """The last `per_class` feature vectors of every class, as unit vectors, with the ids of their samples.

    Slot `s` of class `c` is row `c * per_class + s`. A ring begins empty: the label of an empty slot is -1, its row 0.
    A batch of any size replaces the oldest rows of the classes that it has; of a class with more rows than its ring the
    last ones stay. Unlabelled rows (-1) are not stored. Rows, ids and the number of rows written so far, from which the
    write position and the labels follow, are buffers, so a checkpoint holds them.

    Args:
        classes: number of rings, at least 1.
        per_class: slots of a ring, at least 1.
        dim: length of a row.

    Attributes:
        written: int64 [classes], rows of each class that were ever written; a ring is full from `per_class` on.

    With several processes every rank holds the whole queue: enqueue what `kinfolk.distributed.all_gather` gives. With
    TORCH_DISTRIBUTED_DEBUG=INFO each call of `enqueue` compares the ranks and raises `ValueError` where they differ.

    In eval mode `enqueue` changes nothing. Read with `snapshot()`: a copy, so that writing between a loss and its
    backward pass cannot corrupt the gradient. A method calls `hold` where its rows are made and `flush` after the step.

    Reference: Zhong, Cui, Li, Lo, Sun, Jia (2022), Rebalanced Siamese Contrastive Mining for Long-Tailed Recognition.

    Example:
        >>> queue, features = ClassQueue(2, 2, 1), torch.tensor([[3.0], [-2.0], [5.0]])
        >>> queue.enqueue(features, ids=torch.tensor([7, 8, 9]), labels=torch.tensor([1, 1, 1]))
        >>> queue.snapshot().ids.tolist(), queue.snapshot().labels.tolist()
        ([-1, -1, 9, 8], [-1, -1, 1, 1])
    """

    rows: Tensor
    row_ids: Tensor
    written: Tensor

    def __init__(self, classes: int, per_class: int, dim: int) -> None:
        super().__init__()
        if min(classes, per_class, dim) < 1:
            raise ValueError(
                "a class queue needs at least one class, one slot per class and one dimension, found "
                f"classes={classes}, per_class={per_class}, dim={dim}."
            )
        self.classes, self.per_class, self.dim = classes, per_class, dim
        self.register_buffer("rows", torch.zeros(classes * per_class, dim))
        self.register_buffer("row_ids", torch.full((classes * per_class,), -1))
        self.register_buffer("written", torch.zeros(classes, dtype=torch.int64))
        self._held: list[tuple[Tensor, Tensor | None, Tensor]] = []

    @property
    def size(self) -> int:
        """Slots of all rings."""
        return self.classes * self.per_class

    @property
    def fill(self) -> Float[Tensor, ""]:
        """Share of the slots that came from data."""
        return self.written.clamp(max=self.per_class).sum() / self.size

    def snapshot(self) -> QueueSnapshot:
        """Return copies of the rows, ids and labels, class by class; -1 labels an empty slot."""
        slots = torch.arange(self.per_class, device=self.rows.device)
        own = torch.arange(self.classes, device=self.rows.device)[:, None]
        labels = own.where(slots < self.written[:, None], -1).flatten()
        return QueueSnapshot(self.rows.clone(), self.row_ids.clone(), labels)

    @torch.no_grad()
    def enqueue(
        self, features: Float[Tensor, "b d"], ids: Int64[Tensor, " b"] | None, labels: Int64[Tensor, " b"]
    ) -> None:
        """Write a batch over the oldest rows of its classes; without effect in eval mode.

        Args:
            features: any scale; stored as unit vectors, detached.
            ids: sample ids; None stores -1.
            labels: classes; the rows of -1 are left out.

        Raises:
            ValueError: a shape does not fit, or a label is no class.
            TypeError: ids or labels are not integers.
        """
        ids, labels = self._checked(features, ids, labels)
        if not self.training:
            return
        counts = labels[labels >= 0].bincount(minlength=self.classes)
        # By class, within a class in the order of the batch, unlabelled rows first and then gone.
        order = labels.argsort(stable=True)[int((labels < 0).sum()) :]
        own = labels[order]
        turn = torch.arange(len(order), device=own.device) - (counts.cumsum(0) - counts)[own]
        places = own * self.per_class + (self.written[own] + turn) % self.per_class
        newest = turn >= counts[own] - self.per_class  # no slot is written twice
        order, places = order[newest], places[newest]
        wide = features[order].to(self.rows.device, torch.promote_types(self.rows.dtype, torch.float32))
        self.rows[places] = F.normalize(wide, dim=1, eps=1e-6).to(self.rows)
        self.row_ids[places] = ids[order]
        self.written += counts
        if distributed.debugging():
            for name, values in self.named_buffers():
                distributed.require_equal(values, f"the class queue's {name}")

    def hold(
        self, features: Float[Tensor, "b d"], ids: Int64[Tensor, " b"] | None, labels: Int64[Tensor, " b"]
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
            >>> queue = ClassQueue(2, 1, 2)
            >>> queue.hold(torch.eye(2), torch.tensor([5, 6]), torch.tensor([1, 0]))
            >>> queue.flush(), queue.flush(), queue.snapshot().ids.tolist()
            (True, False, [6, 5])
        """
        held, self._held = self._held, []
        for features, ids, labels in held:
            known = None if ids is None else distributed.all_gather(ids)
            self.enqueue(distributed.all_gather(features), known, distributed.all_gather(labels))
        return bool(held)

    def _checked(self, features: Tensor, ids: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids and labels as int64 on the queue's device, one per row of `features`."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(
                f"a class queue of {self.dim}-d rows takes features [b, {self.dim}], got {tuple(features.shape)}."
            )
        ids = torch.full((len(features),), -1) if ids is None else ids
        columns = []
        for name, values in (("ids", ids), ("labels", labels)):
            if values.shape != features.shape[:1]:
                raise ValueError(
                    f"{name} must have one entry per row: features {tuple(features.shape)}, {name} "
                    f"{tuple(values.shape)}."
                )
            columns.append(integer_ids(values, name).to(self.rows.device, torch.int64))
        if len(labels) and not -1 <= int(columns[1].min()) <= int(columns[1].max()) < self.classes:
            raise ValueError(
                f"labels must be one of {self.classes} classes, 0 to {self.classes - 1}, or -1; found "
                f"{int(columns[1].min())} to {int(columns[1].max())}."
            )
        return columns[0], columns[1]

    def extra_repr(self) -> str:
        """Show the size of the queue."""
        return f"classes={self.classes}, per_class={self.per_class}, dim={self.dim}"
