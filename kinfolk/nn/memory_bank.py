"""A row for every training sample, found by the sample's id."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk import distributed

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@final
class MemoryBank(nn.Module):
    """One unit vector per training sample, a moving average of what was made of it.

    The bank starts full of random unit vectors. An update is ``v = l2(momentum * v + (1 - momentum) * f)`` with f of
    unit length; a sample's first vector replaces the random one altogether. Where an id occurs several times in one
    update, the mean of its vectors counts as one. Everything is a buffer, so a checkpoint holds it.

    Args:
        ids: int64 [N], unique; the order does not matter.
        dim: length of a row.
        momentum: share of the old row that an update keeps, in [0, 1); 0 replaces it.
        seed: of the initial rows.

    Attributes:
        rows: [N, d], in ascending order of id.
        labels: int64 [N], classes of the samples as far as they were told, else -1.
        seen: bool [N], whether a row came from data.

    With several processes every rank holds the whole bank, and `flush` takes in the rows of all. In eval mode nothing
    changes.

    Raises:
        ValueError: for ids that repeat, no ids, no dimension, or a momentum outside [0, 1).

    Example:
        >>> bank = MemoryBank(torch.tensor([7, 3]), 2)
        >>> bank.hold(torch.tensor([[0.0, 2.0]]), torch.tensor([7]))
        >>> bank.flush().tolist(), bank.rows_of(torch.tensor([7])).tolist(), bank.seen.tolist()
        ([1], [[0.0, 1.0]], [False, True])
    """

    rows: Tensor
    ids: Tensor
    labels: Tensor
    seen: Tensor

    def __init__(self, ids: Int64[Tensor, " N"], dim: int, *, momentum: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        ordered = ids.to(torch.int64).sort().values
        if len(ids) < 1 or dim < 1:
            raise ValueError(f"a bank needs at least one sample and one dimension, found {len(ids)} ids, dim={dim}.")
        if bool((ordered.diff() == 0).any()):
            raise ValueError("ids must be unique: a bank has one row per sample.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), found {momentum}; at 1 no row would ever change.")
        self.momentum = momentum
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("ids", ordered)
        self.register_buffer("rows", F.normalize(torch.randn(len(ids), dim, generator=generator), dim=1))
        self.register_buffer("labels", torch.full((len(ids),), -1))
        self.register_buffer("seen", torch.zeros(len(ids), dtype=torch.bool))
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, ids: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Return the row number of each id.

        Raises:
            ValueError: for an id that the bank was not made for.
        """
        ids = ids.to(self.ids)
        places = torch.searchsorted(self.ids, ids).clamp(max=len(self) - 1)
        if not bool((self.ids[places] == ids).all()):
            strange = ids[self.ids[places] != ids]
            raise ValueError(
                f"{len(strange)} of {len(ids)} samples have no row in the bank, the first has id {int(strange[0])}; "
                "the bank is made for the training samples that method.begin(plan) names."
            )
        return places

    def rows_of(self, ids: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Return copies of the rows of some samples."""
        return self.rows[self.places(ids)]

    def snapshot(self) -> Float[Tensor, "N d"]:
        """Return a copy of all rows, which later updates do not change."""
        return self.rows.clone()

    def hold(
        self, rows: Float[Tensor, "n d"], ids: Int64[Tensor, " n"], labels: Int64[Tensor, " n"] | None = None
    ) -> None:
        """Keep this rank's rows of a training pass until `flush`; those of a pass without gradient are let go.

        Args:
            rows: any scale.
            ids: whose they are.
            labels: classes, which no method may learn from that has no labels; they tell how good neighbours are.

        Raises:
            ValueError: for shapes that do not fit, or an unknown id.
        """
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1] or ids.shape != rows.shape[:1]:
            raise ValueError(
                f"a bank of {self.rows.shape[1]}-d rows takes rows [n, {self.rows.shape[1]}] and ids [n], found "
                f"{tuple(rows.shape)} and {tuple(ids.shape)}."
            )
        self.places(ids)
        if self.training and torch.is_grad_enabled():
            self._held.append((rows.detach(), ids, torch.full_like(ids, -1) if labels is None else labels))

    @torch.no_grad()
    def flush(self) -> Int64[Tensor, " m"]:
        """Take in what was held since the last call, of all ranks; return the numbers of the rows that changed."""
        held, self._held = self._held, []
        changed = [self.ids.new_empty(0)]
        for part in held:
            changed.append(self._update(*map(distributed.all_gather, part)))
        return torch.cat(changed).unique()

    def _update(self, rows: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        wide = torch.promote_types(self.rows.dtype, torch.float32)
        new = F.normalize(rows.to(wide), dim=1, eps=1e-6)
        # In the order of the ids, and within one id of its vectors: the sum does not depend on the split over ranks.
        places, group = self.places(ids).unique(return_inverse=True)
        new = F.normalize(torch.zeros(len(places), new.shape[1], dtype=wide).to(new).index_add_(0, group, new), dim=1)
        keep = (self.momentum * self.seen[places]).to(new)[:, None]
        self.rows[places] = F.normalize(keep * self.rows[places].to(new) + (1 - keep) * new, dim=1).to(self.rows)
        self.seen[places] = True
        self.labels[self.places(ids)] = labels
        if distributed.debugging():
            for name, values in self.named_buffers():
                distributed.require_equal(values, f"the bank's {name}")
        return places

    def extra_repr(self) -> str:
        """Show the size of the bank."""
        return f"rows={len(self)}, dim={self.rows.shape[1]}, momentum={self.momentum}"
