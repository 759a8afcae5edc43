"""torch.compile traces through every primitive, mask form and loss as one graph, with the same values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mask_cases
import pytest
import torch
from primitive_cases import PRIMITIVES, random_pair
from torch import Tensor

from kinfolk import ops
from kinfolk.ops import PairMask
from kinfolk.ops.chunked import logsumexp, two_way

LABELS = torch.arange(12) % 3
pytestmark = pytest.mark.no_cover


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """One graph, traced without a break, gives the eager value and gradient."""
    results = []
    for call in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        leaves = [t.detach().clone().requires_grad_() for t in inputs]
        value = call(*leaves)
        finite = value.where(value.isfinite(), torch.zeros_like(value))
        upstream = torch.arange(1, finite.numel() + 1, dtype=value.dtype).view(value.shape)
        results.append((value, *torch.autograd.grad((finite * upstream).sum(), leaves, materialize_grads=True)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "mask", ["no mask", "union & exclude", "exclude & exclude_columns & from_dense", "bias & bias_on_equal"]
)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives(name: str, mask: str) -> None:
    built, _ = mask_cases.MASKS[mask](11, 10, torch.Generator().manual_seed(0))
    check(lambda x, y: PRIMITIVES[name].call(x, y, scale=1.7, mask=built, normalize=True), *random_pair(11, 10, 4))


MADE_INSIDE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "self": lambda x, y: ops.row_logsumexp(x, x, scale=2.0, mask=PairMask.exclude_self(len(x))),
    "ids and bias": lambda x, y: ops.row_logsumexp(
        x, y, scale=2.0, mask=PairMask.exclude(LABELS, LABELS) & PairMask.bias(y[:, 0])
    ),
    "union": lambda x, y: ops.row_logsumexp(
        x, y, scale=2.0, mask=PairMask.only(LABELS, LABELS, or_ids=(LABELS, LABELS))
    ),
    "constant keys": lambda x, y: ops.row_logsumexp(x, y.detach(), scale=2.0),
    "top k": lambda x, y: ops.row_topk(x, y, k=3)[0] + 0 * x.sum(),
}


@pytest.mark.parametrize("name", MADE_INSIDE)
def test_masks_made_inside(name: str) -> None:
    check(MADE_INSIDE[name], *random_pair(12, 12, 4))


def test_operators_keep_torchs_contract() -> None:
    """Schema, fake implementation and autograd registration agree, as torch's own checker sees it."""
    x, y = (t.requires_grad_() for t in random_pair(7, 5, 3))
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    for saved in ("nothing", "scores", "mean"):
        keys = y.detach() if saved == "mean" else y
        torch.library.opcheck(logsumexp._forward, (x, keys, scale, None, [], "", False, saved))
    torch.library.opcheck(logsumexp._forward, (x, None, scale, None, [], "", True, "scores"))
    torch.library.opcheck(two_way._forward, (x, y, scale, None, [], "", True))
