"""The table of pairwise primitives: how the library is called and which loops define the call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mask_cases
import pairwise_loops as loops
import torch
from torch import Tensor

from kinfolk import ops

IMPLS = ["reference", "chunked"]


@dataclass(frozen=True)
class Primitive:
    """One call of the library and the loops that define it; both give one flat tensor of values."""

    call: Callable[..., Tensor]
    define: Callable[..., Tensor]


def _softmax_mean(rate: float, detach: bool) -> Primitive:
    more: dict[str, Any] = {"weight_scale": rate, "detach_weights": detach}
    return Primitive(
        lambda x, y, **kw: ops.row_softmax_mean(x, y, **more, **kw),
        lambda x, y, **kw: loops.row_softmax_mean(x, y, **more, **kw),
    )


def _sum(fn: str) -> Primitive:
    return Primitive(
        lambda x, y, **kw: ops.row_sum(x, y, fn=fn, **kw),
        lambda x, y, **kw: loops.row_sum(x, y, fn=fn, **kw),
    )


PRIMITIVES = {
    "row_logsumexp": Primitive(ops.row_logsumexp, loops.row_logsumexp),
    "two_way_logsumexp": Primitive(
        lambda x, y, **kw: torch.cat(ops.two_way_logsumexp(x, y, **kw)),
        lambda x, y, **kw: torch.cat(loops.two_way_logsumexp(x, y, **kw)),
    ),
    "row_softmax_mean": _softmax_mean(1.5, detach=False),
    "row_softmax_mean, negative": _softmax_mean(-0.7, detach=False),
    "row_softmax_mean, detached": _softmax_mean(1.5, detach=True),
    "row_softmax_mean, uniform": _softmax_mean(0.0, detach=False),
    **{f"row_sum, {fn}": _sum(fn) for fn in loops.FUNCTIONS},
}
CASES = [(name, mask) for name in PRIMITIVES for mask in mask_cases.MASKS]


def random_pair(n: int, m: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + 97 * n + 31 * m + d)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    y = torch.randn(m, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    return x.to(dtype), y.to(dtype)
