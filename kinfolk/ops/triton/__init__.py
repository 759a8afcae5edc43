"""The pairwise primitives as Triton kernels: NVIDIA GPUs, float32, bfloat16 and float16, linear memory.

One primitive a file. Vectors come raw and in their own precision: scores are products of raw rows, accumulated in
float32, times the float32 inverse norms of row and column where `normalize` asks for it, so that no normalised vector
is ever rounded. Nothing here uses atomics: every sum has one order, and the deterministic mode is the only one (as
far as the library's matrix product is deterministic, which cuBLAS promises on one stream).

Forward: a program owns a block of rows and walks over a chunk of the columns (`tiles`). Backward: the weights
``dL/ds`` go panel by panel into a bounded buffer in the precision of the inputs, and the library's matrix product
multiplies them (`panels`): a float32 accumulator of 128 x 512 would fill the registers.

Importing this package loads neither Triton nor a kernel; the first use of a primitive does.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from kinfolk.ops.triton.kernel_attraction import logsumexp_and_kernel_attraction
    from kinfolk.ops.triton.logsumexp import row_logsumexp, two_way_logsumexp
    from kinfolk.ops.triton.softmax_mean import row_softmax_mean
    from kinfolk.ops.triton.sums import row_sum
    from kinfolk.ops.triton.topk import row_topk

__all__ = [
    "HAS_TRITON",
    "available",
    "logsumexp_and_kernel_attraction",
    "row_logsumexp",
    "row_softmax_mean",
    "row_sum",
    "row_topk",
    "two_way_logsumexp",
]

HAS_TRITON: bool = importlib.util.find_spec("triton") is not None
"""Whether Triton is installed; it is not loaded to find out."""

_FILES = {
    "logsumexp_and_kernel_attraction": "kernel_attraction",
    "row_logsumexp": "logsumexp",
    "row_softmax_mean": "softmax_mean",
    "row_sum": "sums",
    "row_topk": "topk",
    "two_way_logsumexp": "logsumexp",
}


def available(device: torch.device | str) -> bool:
    """Whether the kernels run on a device: any CUDA device, or a CPU where Triton's interpreter is switched on.

    The interpreter is on when ``TRITON_INTERPRET=1`` was set before Triton was first imported; it is for tests.

    Example:
        >>> available("meta")
        False
    """
    kind = torch.device(device).type
    if not HAS_TRITON:
        return False
    if kind == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1" and _interpreted()
    return kind == "cuda" and torch.cuda.is_available() and torch.version.hip is None


def _interpreted() -> bool:
    return bool(importlib.import_module("kinfolk.ops.triton.tiles").INTERPRETED)


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
