"""One unit vector per class that follows the samples of its class, without a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk import distributed
from kinfolk.ops import integer_ids

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@final
class Prototypes(nn.Module):
    """Unit vectors, one per class, that are moved by one sample after the other.

    A row z of class c moves its prototype: ``mu_c <- l2(momentum * mu_c + (1 - momentum) * l2(z))``. The rows of an
    update count one after the other, in their order, so that later ones weigh more. They begin as random unit vectors
    of a seed of their own, and are a buffer, so a checkpoint holds them.

    Args:
        classes: how many, at least 1.
        dim: length of a prototype.
        momentum: share of itself that a prototype keeps at each row, in [0, 1]; 1 never moves it.
        seed: of the initial vectors.

    Attributes:
        rows: [classes, dim], of unit length; no gradient flows into them.

    With several processes every rank holds all of them, and `flush` takes in the rows of all ranks in rank order. With
    TORCH_DISTRIBUTED_DEBUG=INFO each update compares the ranks and raises `ValueError` where they differ. In eval mode
    nothing changes. A method calls `hold` where its rows are made and `flush` after the step.

    Raises:
        ValueError: for no class or no dimension, or a momentum outside [0, 1].

    Reference: Wang, Xiao, Li, Feng, Niu, Chen, Zhao (2022), PiCO: Contrastive Label Disambiguation for Partial Label
    Learning. Sun, Li (2023), OpenCon: Open-world Contrastive Learning.

    Example:
        >>> prototypes = Prototypes(2, 2, momentum=0.0)
        >>> prototypes.hold(torch.tensor([[0.0, 3.0], [4.0, 0.0], [1.0, 1.0]]), torch.tensor([1, 0, -1]))
        >>> prototypes.flush(), prototypes.rows.tolist()
        (True, [[1.0, 0.0], [0.0, 1.0]])
    """

    rows: Tensor

    def __init__(self, classes: int, dim: int, *, momentum: float = 0.9, seed: int = 0) -> None:
        super().__init__()
        if classes < 1 or dim < 1:
            raise ValueError(
                f"prototypes need at least one class and one dimension, found classes={classes}, dim={dim}."
            )
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], found {momentum}.")
        self.momentum = momentum
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("rows", F.normalize(torch.randn(classes, dim, generator=generator), dim=1))
        self._held: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def similarities(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the cosine of each row with each prototype, in float32 at least, with the gradient of the rows.

        Example:
            >>> Prototypes(3, 2).similarities(torch.rand(4, 2)).shape
            torch.Size([4, 3])
        """
        self._check(features)
        with torch.autocast(features.device.type, enabled=False):
            wide = torch.promote_types(features.dtype, torch.float32)
            # A copy: an update between a loss and its backward pass must not corrupt the gradient.
            return F.normalize(features.to(wide), dim=1, eps=1e-6) @ self.rows.to(wide, copy=True).T

    @torch.no_grad()
    def nearest(self, features: Float[Tensor, "n d"]) -> Int64[Tensor, " n"]:
        """Return the class of the nearest prototype of each row; of equally near ones the lowest.

        Example:
            >>> Prototypes(1, 2).nearest(torch.rand(3, 2)).tolist()
            [0, 0, 0]
        """
        return self.similarities(features).argmax(1)

    def hold(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> None:
        """Keep this rank's rows of a training pass until `flush`; those of a pass without gradient are let go.

        Args:
            features: any scale.
            labels: the class that each row moves; -1 moves none.

        Raises:
            TypeError: for labels that are no integers.
            ValueError: for shapes that do not fit, or a label that is no class.
        """
        labels = self._checked(features, labels)
        if self.training and torch.is_grad_enabled():
            self._held.append((features.detach(), labels))

    def flush(self) -> bool:
        """Update by what was held since the last call, of all ranks in rank order; return whether anything was held."""
        held, self._held = self._held, []
        for features, labels in held:
            self.update(distributed.all_gather(features), distributed.all_gather(labels))
        return bool(held)

    @torch.no_grad()
    def update(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> None:
        """Move prototypes by one row after the other; with several processes by the same rows on all; not in eval mode.

        Args:
            features, labels: as in `hold`.

        Raises:
            TypeError, ValueError: as `hold`.
        """
        labels = self._checked(features, labels)
        if not self.training:
            return
        moving, wide = labels >= 0, torch.promote_types(self.rows.dtype, torch.float32)
        labels, units = labels[moving], F.normalize(features[moving].to(self.rows.device, wide), dim=1, eps=1e-6)
        # Classes do not see one another: the k-th rows of all classes move their prototypes together.
        turns = _occurrences(labels, classes=len(self))
        rows = self.rows.to(wide, copy=True)
        for turn in range(int(turns.max()) + 1 if len(turns) else 0):
            now = turns == turn
            moved = self.momentum * rows[labels[now]] + (1 - self.momentum) * units[now]
            has_direction = moved.norm(dim=1, keepdim=True) > 1e-6  # a row may cancel its prototype; that one stays
            rows[labels[now]] = torch.where(has_direction, F.normalize(moved, dim=1), rows[labels[now]])
        self.rows.copy_(rows)
        if distributed.debugging():
            distributed.require_equal(self.rows, "the prototypes' rows")

    def _checked(self, features: Tensor, labels: Tensor) -> Tensor:
        self._check(features)
        labels = integer_ids(labels, name="labels").to(self.rows.device)
        if labels.shape != features.shape[:1]:
            raise ValueError(
                f"labels must have one entry per row: features {tuple(features.shape)}, labels {tuple(labels.shape)}."
            )
        if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < len(self):
            raise ValueError(
                f"labels must be classes 0 to {len(self) - 1}, or -1 for none; found {int(labels.min())} to "
                f"{int(labels.max())}."
            )
        return labels

    def _check(self, features: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.rows.shape[1]:
            dim = self.rows.shape[1]
            raise ValueError(f"prototypes of {dim} dimensions take rows [n, {dim}], found {tuple(features.shape)}.")

    def extra_repr(self) -> str:
        """Show the size and the momentum."""
        return f"classes={len(self)}, dim={self.rows.shape[1]}, momentum={self.momentum}"


def standardised(similarities: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Return each row's z-scores: how many standard deviations (over the row) an entry lies above the row's mean.

    The order within a row stays. A row of equal entries gives zeros.

    Example:
        >>> standardised(torch.tensor([[1.0, 3.0], [2.0, 2.0]])).tolist()
        [[-1.0, 1.0], [0.0, 0.0]]
    """
    centred = similarities - similarities.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    return centred / spread.where(spread > 1e-6, 1.0)  # below this, what is left of equal cosines is rounding


def _occurrences(labels: Int64[Tensor, " n"], *, classes: int) -> Int64[Tensor, " n"]:
    """Return how many earlier entries equal each one."""
    order = labels.argsort(stable=True)
    counts = labels.bincount(minlength=classes)
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    return torch.empty_like(place).scatter_(0, order, place)
