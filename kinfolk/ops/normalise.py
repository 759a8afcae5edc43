"""`normalise`: unit rows; the backward pass takes a few passes over the rows and keeps nothing but the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

NORM_FLOOR = 1e-6
"""Shorter rows are divided by this instead of by their norm, so that a zero row stays one."""


def normalise(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Divide every row by its norm, floored at 1e-6; a zero row stays a zero row.

    Args:
        x: rows [n, d] in the precision to compute in; differentiable, twice too.

    Example:
        >>> normalise(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    return _forward(x)


@torch.library.custom_op("kinfolk::normalise", mutates_args=(), schema="(Tensor x) -> Tensor")
def _forward(x: Tensor) -> Tensor:
    return x / _norms(x).clamp(min=NORM_FLOOR)


@torch.library.custom_op("kinfolk::normalise_backward", mutates_args=(), schema="(Tensor gradient, Tensor x) -> Tensor")
def _backward(gradient: Tensor, x: Tensor) -> Tensor:
    return _formula(gradient, x)


@_forward.register_fake
@_backward.register_fake
def _(x, _=None):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


def _norms(x: Tensor) -> Float[Tensor, "n 1"]:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def _formula(gradient: Tensor, x: Tensor) -> Tensor:
    """Drop what the gradient has along x, and divide the rest by the norm."""
    norms = _norms(x)
    inverse = 1 / norms.clamp(min=NORM_FLOOR)
    along = (gradient * x).sum(1, keepdim=True) * inverse.square() * (norms > NORM_FLOOR)
    return torch.addcmul(gradient, x, along, value=-1) * inverse


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> Tensor:
    return _backward(gradient, *ctx.saved_tensors)


def _differentiate_again(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        return torch.autograd.grad(_formula(*inputs), inputs, gradient)


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_differentiate_again, setup_context=_save)
