"""Every loss on the fused kernels: in Triton's interpreter on a CPU, on the kernels themselves where there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, Call, Case
from closeness import close, slopes
from torch import Tensor

from kinfolk.ops.triton import HAS_TRITON

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FIRST: dict[str, Case] = {}
for _case in CASES.values():
    FIRST.setdefault(_case.build.__name__, _case)

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")


def on_device(item: Any) -> Any:
    """Tensors, and lists and tuples of them, where the kernels run."""
    if isinstance(item, Tensor):
        return item.to(DEVICE)
    return type(item)(on_device(part) for part in item) if isinstance(item, list | tuple) else item


@pytest.mark.parametrize("name", FIRST)
def test_loss_on_the_kernels_is_the_reference(name: str) -> None:
    case = FIRST[name]
    call = case.random(6, 16, torch.float32)
    exact = case.leaves(call)
    expected = case.value(exact, impl="reference")
    wanted = slopes(expected, exact.tensors(case.learnt))
    moved = Call(
        [on_device(a) for a in call.args],
        {k: on_device(v) for k, v in call.kwargs.items()},
        {k: on_device(p) for k, p in call.parameters.items()},
    )
    moved = case.leaves(moved, torch.float32)
    got = moved.of(case.make(call, impl="triton").to(DEVICE))
    close(got.cpu(), expected, atol=1e-4, rtol=1e-4, what="value")
    for a, b in zip(slopes(got, moved.tensors(case.learnt)), wanted, strict=True):
        close(a.cpu(), b, atol=1e-3 * float(b.abs().max()) + 1e-6, what="gradient")
