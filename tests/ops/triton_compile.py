"""Compile every kernel for a Hopper GPU without one, and run none: what only the compiler refuses shows here.

Run as a script, without Triton's interpreter; prints the name of each kernel that was compiled. Tiles are small, so
that this takes seconds; block sizes make no difference to what the language accepts.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget


class _Hopper:
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0


def _compile_only(run: Any) -> Any:
    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        print(self.__name__, len(kernel.asm["cubin"]))
        return kernel

    return compile_only


def _first_configuration(self: Any, *args: Any, **options: Any) -> Any:
    return self.fn.run(*args, **options, BLOCK_N=32, num_warps=4, num_stages=2)


def main() -> None:
    triton.runtime.driver.set_active(_Hopper())
    triton.runtime.jit.JITFunction.run = _compile_only(triton.runtime.jit.JITFunction.run)
    triton.runtime.autotuner.Autotuner.run = _first_configuration

    from kinfolk.ops import PairMask
    from kinfolk.ops import triton as kernels
    from kinfolk.ops.triton import rows, tiles

    rows.INTERPRETED = True  # lets CPU tensors through; nothing reads them
    tiles._ROW_BLOCK = dict.fromkeys(tiles._ROW_BLOCK, 32)
    ids, scale = torch.arange(64) % 7, torch.ones((), requires_grad=True)
    mask = PairMask.exclude(ids, ids) & PairMask.only(ids, ids, or_ids=(ids, ids)) & PairMask.exclude_self(64)
    mask = mask & PairMask.bias_on_equal(ids, ids, 0.5) & PairMask.bias(torch.zeros(64, requires_grad=True))
    mask = mask & PairMask.from_dense(torch.ones(64, 64, dtype=torch.bool))
    mask = mask & PairMask.exclude_columns(torch.zeros(64, 2, dtype=torch.int64), 64)
    both: dict[str, Any] = {"scale": scale, "normalize": True}
    x, y, u = (torch.randn(64, 40).to(d).requires_grad_() for d in (torch.bfloat16, torch.bfloat16, torch.float32))
    calls = [
        kernels.row_logsumexp(x, x, mask=PairMask.exclude_self(64), **both),
        kernels.row_logsumexp(x, y, mask=mask, **both),
        kernels.row_logsumexp(u, u, mask=None, **both),
        kernels.row_softmax_mean(x, y, mask=None, weight_scale=1.5, detach_weights=False, **both),
    ]
    for fn in ("identity", "softplus", "square", "exp"):
        calls.append(kernels.row_sum(x, y, mask=None, fn=fn, row_shift=u[:, 0], **both))
    options = {"mask": None, "target_mask": PairMask.exclude_self(64), "relation_scale": 2.0, **both}
    calls.append(torch.cat(kernels.logsumexp_and_kernel_attraction(x, y, u, u, **options)))
    for value in calls:
        value.backward(torch.ones_like(value))
    kernels.row_topk(x, y, k=3, largest=True, mask=mask, normalize=True)


if __name__ == "__main__":
    main()
