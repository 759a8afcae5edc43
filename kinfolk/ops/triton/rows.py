"""Raw vectors as kernels take them, and the gradient back through the norms."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from kinfolk.ops.triton.tiles import INTERPRETED, Sides

_NORM_FLOOR = 1e-6
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Rows(NamedTuple):
    """A set of vectors with rows contiguous, and what relates them to what the caller passed.

    float16 rows that are to be normalised are first multiplied by a power of two each, which is exact, so that their
    norms lie near 1: otherwise one tiny row would push every other weight out of float16's range in the backward pass.
    """

    data: Tensor  # [n, d]
    inverse: Tensor | None  # [n] float32, one over the norm of the data, or over its floor
    floored: Tensor | None  # [n] bool, where that is the floor, which does not depend on the row
    factor: Tensor | None  # [n] float32, data = factor * what was passed

    @classmethod
    def of(cls, x: Tensor, normalize: bool) -> Rows:
        """Read a matrix of vectors."""
        x = x.detach()
        x = x if x.stride(1) == 1 else x.contiguous()
        if not normalize:
            return cls(x, None, None, None)
        norm = norms(x)
        floored = norm < _NORM_FLOOR
        inverse = norm.clamp_min(_NORM_FLOOR).reciprocal()
        if x.dtype != torch.float16:
            return cls(x, inverse, floored, None)
        factor = torch.exp2(torch.floor(torch.log2(inverse)))
        return cls((x * factor.unsqueeze(1)).to(x.dtype), inverse / factor, floored, factor)

    def gradient(self, products: Tensor, dots: Tensor, factor: Tensor) -> Tensor:
        """Return the gradient of what was passed, in its precision.

        Args:
            products: [n, d] float32, weights of the raw products times the other side's raw vectors; overwritten.
            dots: [n], ``<data, products>`` of every row.
            factor: what the gradient is multiplied by.
        """
        if self.inverse is not None and self.floored is not None:
            along = (self.inverse * self.inverse * dots).masked_fill(self.floored, 0.0)
            products = products.sub_(self.data * along.unsqueeze(1))
        products = products.mul_(factor if self.factor is None else factor * self.factor.unsqueeze(1))
        return products.to(self.data.dtype)


def norms(x: Tensor) -> Tensor:
    """Norms of rows, taken in float32 without a float32 copy of them."""
    if x.shape[1] == 0:
        return x.new_zeros(x.shape[0], dtype=torch.float32)
    return torch.linalg.vector_norm(x, dim=1, dtype=torch.float32)


def sides(x: Rows, y: Rows, scale: Tensor) -> Sides:
    """Join two sets of vectors to what a kernel reads."""
    (n, d), m = x.data.shape, y.data.shape[0]
    return Sides(x.data, y.data, x.inverse, y.inverse, scale, x.data.stride(0), y.data.stride(0), n, m, d)


def same_precision(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cast two sets of vectors to the wider of their precisions, and refuse what kernels do not take.

    Raises:
        TypeError: for float64.
        RuntimeError: for tensors on a device without kernels.
    """
    for name, side in (("x", x), ("y", y)):
        if side.dtype not in _DTYPES:
            raise TypeError(
                f"impl='triton' takes float32, bfloat16 and float16, found {name} in {side.dtype}; "
                "use impl='chunked', which keeps float64."
            )
        if side.device.type != "cuda" and not (INTERPRETED and side.device.type == "cpu"):
            raise RuntimeError(
                f"impl='triton' needs CUDA tensors, found {name} on {side.device}; use impl='chunked', or set "
                "TRITON_INTERPRET=1 before Triton is imported to run its interpreter."
            )
    if x is y or x.dtype == y.dtype:
        return x, y
    wide = torch.promote_types(x.dtype, y.dtype)
    return x.to(wide), y.to(wide)


def as_float32(value: Tensor, like: Tensor) -> Tensor:
    """Return a scale, a shift or a bias in float32 beside the vectors, with its gradient."""
    return value.to(device=like.device, dtype=torch.float32)


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Make a tensor's GPU the current one, which is where Triton launches."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def largest_score(x: Rows, y: Rows, scale: Tensor) -> Tensor:
    """Return a bound on the size of every score, [] float32, without waiting for the device."""
    bound = scale.abs()
    for side in (x, y) if x.inverse is None else ():
        bound = bound * (norms(side.data).amax() if side.data.shape[0] else 0.0)
    return bound
