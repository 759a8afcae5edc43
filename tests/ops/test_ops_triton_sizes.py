"""The Triton kernels with the block sizes that users get, at sizes that need a GPU."""

from __future__ import annotations

import pytest
import torch
import triton_cases as cases
from triton_cases import MASKS, check, kernels, vectors

pytestmark = pytest.mark.skipif(not cases.NATIVE, reason="needs a GPU")


@pytest.mark.parametrize("d", [96, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["row_logsumexp", "two_way", "attraction", "mean", "sum_softplus"])
def test_real_block_sizes(name: str, dtype: torch.dtype, d: int) -> None:
    x, y = vectors(1501, 2777, d, dtype)
    check(name, x, y, mask=MASKS["exclude"])


@pytest.mark.parametrize("scale", [5.0, 100.0], ids=["one shift", "running maximum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_triangle(dtype: torch.dtype, scale: float) -> None:
    x, _ = vectors(3333, 1, 512, dtype)
    check("row_logsumexp", x, x, mask=lambda n, m, b: cases.PairMask.exclude_self(n), scale=scale)


def test_a_million_keys() -> None:
    x = torch.randn(64, 1024, device="cuda", dtype=torch.bfloat16)
    y = torch.randn(1 << 20, 1024, device="cuda", dtype=torch.bfloat16)
    scale = torch.tensor(20.0, device="cuda")
    before = torch.cuda.max_memory_allocated()
    value = kernels.row_logsumexp(x, y, scale=scale, mask=None, normalize=True)
    assert torch.cuda.max_memory_allocated() - before < 1 << 28
    unit = cases.normalised(x.float())
    parts = [20.0 * unit @ cases.normalised(part.float()).T for part in y.split(1 << 16)]
    torch.testing.assert_close(value, torch.cat(parts, 1).logsumexp(1), rtol=1e-4, atol=1e-4)
