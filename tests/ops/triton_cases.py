"""Calls of the Triton kernels beside the reference's: on a GPU where there is one, otherwise in Triton's interpreter.

This file and the tests that use it need torch, triton, numpy and pytest only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

NATIVE = torch.cuda.is_available()
if not NATIVE:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, so nothing may do that before
pytest.importorskip("triton", reason="Triton is not installed")
DEVICE = torch.device("cuda" if NATIVE else "cpu")

from kinfolk.ops import PairMask, reference  # noqa: E402
from kinfolk.ops import triton as kernels  # noqa: E402

HALF = [torch.bfloat16, torch.float16]
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
MaskBuilder = Callable[[int, int, Any], PairMask | None]


@pytest.fixture
def small_kernel_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, one small configuration and small buffers: as many tiles as in the interpreter, compiled fast."""
    if not NATIVE:
        return
    import triton

    from kinfolk.ops.triton import kernel_attraction, logsumexp, panels, softmax_mean, sums, tiles, topk

    small = [triton.Config({"BLOCK_N": 32}, num_warps=4, num_stages=2)]
    for kernel in (
        logsumexp.sweep,
        logsumexp.weigh,
        softmax_mean.sweep_mean,
        softmax_mean.weigh_mean,
        sums.sweep_sum,
        sums.weigh_sum,
        kernel_attraction.sweep_attraction,
        kernel_attraction.weigh_attraction,
        topk.write_logits,
    ):
        monkeypatch.setattr(kernel, "configs", small)
    for dtype in tiles._ROW_BLOCK:
        monkeypatch.setitem(tiles._ROW_BLOCK, dtype, 32)
    monkeypatch.setattr(tiles, "_CHUNK", 32)
    monkeypatch.setattr(panels, "PANEL_BYTES", 1 << 12)
    monkeypatch.setattr(logsumexp, "_COLUMN_BYTES", 1 << 11)


def normalised(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1, eps=1e-6)


def joined(result: Any) -> Tensor:
    return torch.cat(result) if isinstance(result, tuple) else result


@dataclass(frozen=True)
class Primitive:
    """A call of both implementations; ``vectors`` names further inputs with a gradient: a shift, side embeddings."""

    kernel: Callable[..., Any]
    define: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    extra: Callable[[int, int], dict[str, Tensor]] = lambda n, m: {}


def _define_attraction(x: Tensor, y: Tensor, u: Tensor, v: Tensor, **kw: Any) -> tuple[Tensor, Tensor]:
    target_mask = None if kw["target_mask"] is None else kw["target_mask"].without_bias()
    target = reference.kernel_target(u, v, scale=kw["relation_scale"], mask=target_mask)
    lse = reference.row_logsumexp(x, y, scale=kw["scale"], mask=kw["mask"])
    return lse, reference.attraction(x, y, scale=kw["scale"], target=target)


def _call_attraction(call: Callable[..., Any]) -> Callable[..., Any]:
    def both(x: Tensor, y: Tensor, *, u: Tensor, v: Tensor, **kw: Any) -> Any:
        return call(x, y, u, v, relation_scale=3.0, target_mask=kw["mask"], **kw)

    return both


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)


def _sides(n: int, m: int) -> dict[str, Tensor]:
    return {"u": normalised(random(n, 5, seed=5)), "v": normalised(random(m, 5, seed=6))}


def _sum(fn: str) -> Primitive:
    return Primitive(kernels.row_sum, reference.row_sum, {"fn": fn}, lambda n, m: {"row_shift": random(n, seed=4)})


def _mean(rate: float, detach: bool) -> Primitive:
    options = {"weight_scale": rate, "detach_weights": detach}
    return Primitive(kernels.row_softmax_mean, reference.row_softmax_mean, options)


PRIMITIVES = {
    "row_logsumexp": Primitive(kernels.row_logsumexp, reference.row_logsumexp),
    "two_way": Primitive(kernels.two_way_logsumexp, reference.two_way_logsumexp),
    "attraction": Primitive(
        _call_attraction(kernels.logsumexp_and_kernel_attraction), _call_attraction(_define_attraction), {}, _sides
    ),
    "mean": _mean(1.5, detach=False),
    "mean_detached": _mean(-0.7, detach=True),
    "mean_uniform": _mean(0.0, detach=False),
    "sum_identity": _sum("identity"),
    "sum_softplus": _sum("softplus"),
    "sum_square": _sum("square"),
    "sum_exp": _sum("exp"),
}


def ids(count: int, kinds: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, kinds, (count,), generator=generator).to(DEVICE)


def dense(n: int, m: int) -> Tensor:
    return random(n, m, seed=9) > -0.3


MASKS: dict[str, MaskBuilder] = {
    "none": lambda n, m, b: None,
    "self": lambda n, m, b: PairMask.exclude_self(n, m),
    "two_offsets": lambda n, m, b: PairMask.exclude_self(n, m, offset=2) & PairMask.exclude_self(n, m, offset=-1),
    "exclude": lambda n, m, b: PairMask.exclude(ids(n, 3, 0), ids(m, 3, 1)),
    "only": lambda n, m, b: PairMask.only(ids(n, 2, 0), ids(m, 2, 1)),
    "union": lambda n, m, b: PairMask.only(ids(n, 3, 0), ids(m, 3, 1), or_ids=(ids(n, 4, 2), ids(m, 4, 3))),
    "columns": lambda n, m, b: PairMask.exclude_columns((ids(3 * n, m, 0) - 1).clamp_min(-1).reshape(n, 3), m),
    "dense": lambda n, m, b: PairMask.from_dense(dense(n, m)),
    "transposed_dense": lambda n, m, b: PairMask.from_dense(dense(m, n).T),
    "bias": lambda n, m, b: PairMask.bias(b, n),
    "margin": lambda n, m, b: PairMask.bias_on_equal(ids(n, 3, 0), ids(m, 3, 1), -1.25),
}


def _everything(n: int, m: int, bias: Tensor) -> PairMask:
    mask = PairMask.exclude(ids(n, 5, 20), ids(m, 5, 21)) & PairMask.exclude(ids(n, 6, 22), ids(m, 6, 23))
    for name in ("self", "two_offsets", "union", "columns", "dense", "transposed_dense", "bias", "margin"):
        part = MASKS[name](n, m, bias)
        assert part is not None
        mask = mask & part
    mask = mask & PairMask.only(ids(n, 2, 24), ids(m, 2, 25), or_ids=(ids(n, 2, 26), ids(m, 2, 27)))
    return mask & PairMask.bias_on_equal(ids(n, 2, 28), ids(m, 2, 29), 0.5)


MASKS["everything"] = _everything


def vectors(n: int, m: int, d: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Raw vectors of very different lengths, rounded to their precision."""
    lengths = 2.0 ** (2 * random(n, 1, seed=seed + 1))
    return (random(n, d, seed=seed) * lengths).to(dtype), random(m, d, seed=seed + 2).to(dtype)


def check(
    name: str,
    x: Tensor,
    y: Tensor,
    *,
    mask: MaskBuilder = MASKS["none"],
    scale: float = 4.0,
    normalize: bool = True,
) -> None:
    """Compare values and all gradients of a primitive with the reference's in float64; y may be x."""
    primitive, same = PRIMITIVES[name], x is y
    n, m = x.shape[0], y.shape[0]
    if not normalize:
        scale = scale / max(1.0, float(x.double().norm(dim=1).amax() * y.double().norm(dim=1).amax()) / 4)
    inputs = {"x": x, "scale": torch.tensor(scale, device=DEVICE), **primitive.extra(n, m)}
    inputs |= {} if same else {"y": y}
    bias = random(m, seed=8)
    if getattr(mask(n, m, bias), "column_bias", None) is not None:
        inputs["bias"] = bias
    upstream = random(2 * max(n, m), seed=7)

    def run(
        call: Callable[..., Any], kinds: Callable[[Tensor], Tensor], prepare: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        leaves = {key: kinds(value).detach().requires_grad_() for key, value in inputs.items()}
        rows, columns = leaves["x"], leaves["x"] if same else leaves["y"]
        more: dict[str, Any] = {} if prepare else {"normalize": normalize}
        if prepare and normalize:
            rows = normalised(rows)
            columns = rows if same else normalised(columns)
        extra = {key: leaves[key] for key in primitive.extra(n, m)}
        built = mask(n, m, leaves.get("bias"))
        value = joined(call(rows, columns, scale=leaves["scale"], mask=built, **primitive.options, **extra, **more))
        finite = value.masked_fill(value == -math.inf, 0.0)
        got = torch.autograd.grad(finite, list(leaves.values()), upstream[: len(value)].to(value), allow_unused=True)
        return value.detach(), dict(zip(leaves, got, strict=True))

    value, gradients = run(primitive.kernel, lambda t: t if t.dtype != torch.float64 else t.float(), prepare=False)
    expected, wanted = run(primitive.define, torch.Tensor.double, prepare=True)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5, msg=lambda m: f"{name}: {m}")
    for key, want in wanted.items():
        got = gradients[key]
        if want is None:
            assert got is None, f"gradient of {key}"
            continue
        assert got.dtype == (inputs[key].dtype if inputs[key].dtype != torch.float64 else torch.float32)
        error, size = float((got.double() - want).norm()), float(want.norm())
        least = 1.0 if key == "scale" else 1e-3  # the scale's is a sum of both signs, of order 1 each
        limit = GRADIENT_TOLERANCE[x.dtype] * max(size, least)
        assert error <= limit, f"gradient of {key} is off by {error:.2e}, its norm is {size:.2e}"
