"""Gradients in closed form: run in full precision, and refuse to be differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from kinfolk.ops.triton.rows import on_device


class _Refusal(torch.autograd.Function):
    """Pass a gradient on, and say what to do when it is to be differentiated again."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, _graph: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> Any:
        raise RuntimeError(
            "second derivatives were asked for, but impl='triton' computes its gradient in closed form, once; "
            "use impl='reference' for double backward."
        )


def closed_form(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Run a backward without autocast and without a graph, on the gradients' device."""

    @wraps(backward)
    def wrapped(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        first = gradients[0]
        with torch.no_grad(), torch.autocast(first.device.type, enabled=False), on_device(first):
            results = backward(ctx, *(g.contiguous() for g in gradients))
        if not torch.is_grad_enabled():
            return results
        anchor = torch.zeros((), requires_grad=True)
        return tuple(None if r is None else _Refusal.apply(r, anchor) for r in results)

    return wrapped
