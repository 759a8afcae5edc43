"""How the battery compares: in float64, absolutely, with NaN never equal."""

from __future__ import annotations

import torch
from torch import Tensor


def close(
    got: Tensor | float, expected: Tensor | float, *, atol: float = 1e-9, rtol: float = 0.0, what: str = ""
) -> None:
    """Assert that |got - expected| <= atol + rtol |expected| everywhere."""
    a, b = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (got, expected))
    torch.testing.assert_close(a, b, atol=atol, rtol=rtol, msg=lambda text: f"{what}: {text}")


def slopes(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a scalar; an input that is not used has gradient 0. The graph stays for another pass."""
    found = torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]


def slope(value: Tensor, at: Tensor) -> Tensor:
    return slopes(value, [at])[0]
