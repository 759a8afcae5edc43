"""The matmul floor: a loss's own multiply-adds as plain ``torch.mm``, and nothing else.

A loss over a pairs x columns problem that stores no score matrix forms every tile of scores ``passes`` times (forward,
and again in the backward) and multiplies it once for the gradient of either side (``gradients``):

    multiply-adds = rows x columns x (passes (d + e) + gradients d),    flops = 2 x multiply-adds

| loss | rows x columns | passes | gradients | flops at n rows a side |
|---|---|---|---|---|
| NT-Xent, SupCon (one set, symmetric) | n/2 x n | 2 | 2 | 4 n^2 d |
| X-CLR (and the tile of relations, width e) | n/2 x n | 2 | 2 | 4 n^2 d + 2 n^2 e |
| InfoNCE (a queue; only queries have a gradient, which the forward can sum) | n x n | 1 | 1 | 4 n^2 d |
| CLIP, CACR (two sets) | n x n | 2 | 2 | 8 n^2 d |

The products run over tiles of 512 x 1024 (8,192 x 8,192 on a GPU) into one preallocated tile, so that nothing of the
size of the score matrix is written to memory; the gradients accumulate into preallocated outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.inputs import SELF_CONTRAST

TILE = {"cpu": (512, 1024), "cuda": (8192, 8192)}


@dataclass(frozen=True)
class Work:
    """The products of one loss at one size."""

    rows: int
    columns: int
    d: int
    e: int = 0
    passes: int = 2
    gradients: int = 2

    @property
    def flops(self) -> int:
        """Of forward and backward."""
        return 2 * self.rows * self.columns * (self.passes * (self.d + self.e) + self.gradients * self.d)

    @property
    def forward_flops(self) -> int:
        """Of the value alone."""
        return 2 * self.rows * self.columns * (self.d + self.e)


def work(loss: str, rows: int, d: int, e: int) -> Work:
    """Return what a loss cannot avoid at a size, by the table above."""
    if loss == "InfoNCE":
        return Work(rows, rows, d, passes=1, gradients=1)
    if loss in SELF_CONTRAST:
        return Work(rows // 2, rows, d, e if loss == "X-CLR" else 0)
    return Work(rows, rows, d)


def products(work: Work, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """Return a function that runs exactly these products on preallocated tensors."""
    height, width = TILE[device]

    def draw(n: int, k: int) -> Tensor:
        return torch.randn(n, k, device=device, dtype=dtype)

    x, y, u, v = (draw(n, k) for k in (work.d, work.e) for n in (work.rows, work.columns))
    grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
    size = min(height, work.rows) * min(width, work.columns)
    buffer, relations = (torch.empty(size, device=device, dtype=dtype) for _ in range(2))
    tiles = [
        (slice(i, min(i + height, work.rows)), slice(j, min(j + width, work.columns)))
        for i in range(0, work.rows, height)
        for j in range(0, work.columns, width)
    ]

    def run() -> None:
        for turn in range(work.passes):
            last = turn == work.passes - 1
            for i, j in tiles:
                shape = (i.stop - i.start, j.stop - j.start)
                tile = torch.mm(x[i], y[j].T, out=buffer[: shape[0] * shape[1]].view(shape))
                if work.e:
                    torch.mm(u[i], v[j].T, out=relations[: shape[0] * shape[1]].view(shape))
                if last:
                    grad_x[i].addmm_(tile, y[j], beta=0 if j.start == 0 else 1)
                if last and work.gradients == 2:
                    grad_y[j].addmm_(tile.T, x[i], beta=0 if i.start == 0 else 1)

    return run


def matmul_rate(*, device: str, dtype: torch.dtype, size: int = 8192, repeats: int = 20) -> float:
    """Return the flops per second of one large ``torch.mm``, the rate that fractions are quoted against."""
    from benchmarks.timing import seconds

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    times = sorted(seconds(lambda: torch.mm(a, b, out=out), device=device) for _ in range(repeats + 3))
    return 2 * size**3 / times[len(times) // 2]
