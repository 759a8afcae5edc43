"""What every loss module shares: its options, its checks and the mean over the anchors that have a target."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from kinfolk.distributed import require_local
from kinfolk.ops import Impl, choose, integer_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Reduction = Literal["mean", "sum", "none"]
"""``"mean"`` over valid anchors, their ``"sum"``, or one value per anchor."""

_warned = False


class Loss(nn.Module, ABC):
    """A loss over one set of anchors: options in the constructor, tensors in the call.

    Args:
        reduction: ``"mean"`` over the anchors that have a target, ``"sum"``, or ``"none"`` (exactly 0 for the others).
        normalize: l2-normalise the vectors inside, with norms in float32 floored at 1e-6.
        gather: contrast with the candidates of all processes.
        impl: ``"auto"``, ``"chunked"`` or ``"reference"``; changes speed and memory, not the value.
    """

    def __init__(
        self, *, reduction: Reduction = "mean", normalize: bool = True, gather: bool = True, impl: Impl = "auto"
    ) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, found {reduction!r}.")
        choose(impl, torch.empty(0))
        self.reduction, self.normalize, self.gather, self.impl = reduction, normalize, gather, impl

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the reduced loss."""

    def reduce(self, values: Float[Tensor, " n"], valid: Bool[Tensor, " n"]) -> Tensor:
        """Reduce one value per anchor over the valid ones; without any, a zero that still has a graph."""
        name = type(self).__name__
        if not len(values):
            raise ValueError(f"{name} needs at least one row, found none.")
        require_local(name, gather=self.gather)
        values = values.where(valid, torch.zeros_like(values))
        if self.reduction == "none":
            return values
        count = int(valid.sum())
        if count == 0:
            _warn_once(name)
        return values.sum() / max(count, 1) if self.reduction == "mean" else values.sum()

    def extra_repr(self) -> str:
        """Return the options."""
        numbers = [f"{k}={v}" for k, v in vars(self).items() if k[0] != "_" and isinstance(v, int | float | str)]
        return ", ".join(text for text in numbers if not text.startswith("training"))


def _warn_once(name: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"{name}: no anchor in this batch has a target, so the loss is 0; check labels, ids and masks.",
            RuntimeWarning,
            stacklevel=4,
        )


def positive(value: float | Tensor, name: str = "temperature") -> float | Tensor:
    """Check a temperature, a number or a tensor with one element (learnable).

    Raises:
        ValueError: unless it is positive.

    Example:
        >>> positive(0.1)
        0.1
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} must be a number or a tensor with one element, found shape {tuple(value.shape)}.")
    number = float(value.detach()) if isinstance(value, Tensor) else value
    if not number > 0:
        raise ValueError(f"{name} must be positive, found {number}.")
    return value


def inverse(temperature: float | Tensor) -> float | Tensor:
    """Return the factor on scores that a temperature stands for, in float32 at least.

    Example:
        >>> inverse(torch.tensor(0.0130, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    temperature = positive(temperature)
    if isinstance(temperature, Tensor) and temperature.dtype in (torch.float16, torch.bfloat16):
        temperature = temperature.float()
    return 1 / temperature


def same_shape(**tensors: Tensor) -> None:
    """Check that vectors which belong together are matrices of one shape.

    Example:
        >>> same_shape(z0=torch.zeros(2, 3), z1=torch.zeros(3, 3))
        Traceback (most recent call last):
            ...
        ValueError: z0 and z1 must be [n, d] of one shape, row k of each belonging to sample k; found (2, 3), (3, 3).
    """
    shapes = [tuple(t.shape) for t in tensors.values()]
    if len(set(shapes)) > 1 or any(len(shape) != 2 for shape in shapes):
        raise ValueError(
            f"{' and '.join(tensors)} must be [n, d] of one shape, row k of each belonging to sample k; "
            f"found {', '.join(map(str, shapes))}."
        )


def one_per_row(labels: Tensor, rows: Tensor, name: str = "labels") -> None:
    """Check that there is one label or id per row.

    Example:
        >>> one_per_row(torch.zeros(2), torch.zeros(4, 8))
        Traceback (most recent call last):
            ...
        ValueError: labels must have one entry per row: rows (4, 8), labels (2,); repeat them once per view.
    """
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{name} must have one entry per row: rows {tuple(rows.shape)}, {name} {tuple(labels.shape)}; "
            "repeat them once per view."
        )


def duplicated(ids: Int[Tensor, " n"] | None, rows: Tensor) -> Int[Tensor, " n"] | None:
    """Return checked sample ids where any occurs twice, otherwise None: then every row is its own sample.

    Example:
        >>> duplicated(torch.tensor([3, 4]), torch.zeros(2, 8)) is None
        True
    """
    if ids is None:
        return None
    ids = integer_ids(ids)
    if ids.shape != rows.shape[:1]:
        raise ValueError(f"ids must have one entry per sample: rows {tuple(rows.shape)}, ids {tuple(ids.shape)}.")
    return ids if len(torch.unique(ids[ids != -1])) < int((ids != -1).sum()) else None


def softplus(x: Tensor) -> Tensor:
    """Return ``log(1 + e^x)``, exact at any size and 0 with zero gradient at -inf.

    Example:
        >>> softplus(torch.tensor([-float("inf"), 100.0]))
        tensor([  0., 100.])
    """
    return torch.logaddexp(x, torch.zeros_like(x))
