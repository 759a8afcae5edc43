"""The attraction of a kernel graph, three ways: fused with the partition, FlexAttention, scaled dot-product attention.

With ``T = softmax(u v^T / tau_s)`` the attraction ``sum_j T_ij s_ij`` is ``scale <x_i, o_i>`` with o the attention of
queries u and keys v over the values y. Rivals compute that and kinfolk's `row_logsumexp`; the fused form has both from
one sweep. The backend of scaled dot-product attention is forced, since its fall-back to the quadratic path is silent;
a backend that refuses the shapes says so in its row. Forward and backward, gradient in x and y; keys differ from
anchors, since without a mask matrix scaled dot-product attention cannot leave the anchor itself out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize, pad, scaled_dot_product_attention

from benchmarks import machine
from benchmarks.losses import compare
from benchmarks.probe import OK
from benchmarks.table import Row, Table
from benchmarks.timing import in_turns, seconds
from kinfolk.graphs import KernelGraph
from kinfolk.ops import row_logsumexp

COLUMNS = (
    *("contender", "rows", "keys", "d", "e", "dtype", "status", "milliseconds", "fastest", "slowest", "repeats"),
    *("peak megabytes", "value ratio", "gradient ratio", "gradient cosine", "time / fused", *machine.COLUMNS),
)
FUSED = "kinfolk, fused"
TEMPERATURE, GRAPH_TEMPERATURE = 0.1, 0.1
COSINE = {torch.float32: 1 - 1e-6, torch.bfloat16: 1 - 1e-3}
BACKENDS = {
    "cpu": {"SDPA, flash": SDPBackend.FLASH_ATTENTION, "SDPA, math": SDPBackend.MATH},
    "cuda": {
        "SDPA, flash": SDPBackend.FLASH_ATTENTION,
        "SDPA, memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
        "SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION,
        "SDPA, math": SDPBackend.MATH,
    },
}


@dataclass(frozen=True)
class Settings:
    """Sizes and bounds of a run: anchors x keys, d of the embeddings, e of the side embeddings."""

    sizes: tuple[tuple[int, int, int, int], ...] = ((4096, 4096, 128, 64),)
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    repeats: int = 9
    budget: float = 10.0


@dataclass(frozen=True)
class Sides:
    """Anchors x and keys y, their side embeddings u and v."""

    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor

    def clear(self) -> None:
        self.x.grad = self.y.grad = None


Step = Callable[[Sides], Tensor]


def measure(settings: Settings, path: Path) -> list[Row]:
    """Measure every size and write rows as they come."""
    table, about = Table(path, COLUMNS), machine.describe(settings.device)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    for n, m, d, e in settings.sizes:
        for row in _case(settings, n, m, d, e):
            dtype = str(settings.dtype).removeprefix("torch.")
            known: Row = {"rows": n, "keys": m, "d": d, "e": e, "dtype": dtype}
            table.add(known | row | about)
            time = row.get("milliseconds")
            print(f"{n} x {m}  {row['contender']:<26}{row['status'] if time is None else f'{time:.2f} ms'}", flush=True)
    return table.rows


def ways(device: str) -> dict[str, Step]:
    """Return every way to compute ``mean(lse - attraction)``, the fused one first."""
    found: dict[str, Step] = {FUSED: _fused}
    found |= {name: _with_attention(_sdpa(backend)) for name, backend in BACKENDS[device].items()}
    if device == "cuda":
        found["FlexAttention, compiled"] = _with_attention(_flex)
    return found


def _fused(s: Sides) -> Tensor:
    target = KernelGraph(s.u, s.v, temperature=GRAPH_TEMPERATURE).row_normalised()
    lse, pull = target.logsumexp_and_attraction(s.x, s.y, scale=1 / TEMPERATURE)
    return (lse - pull).mean()


def _with_attention(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Step:
    def step(s: Sides) -> Tensor:
        lse = row_logsumexp(s.x, s.y, scale=1 / TEMPERATURE)
        u, v = normalize(s.u, dim=1), normalize(s.v, dim=1)
        out = attend(u[None, None], v[None, None], s.y[None, None])[0, 0]
        return (lse - torch.linalg.vecdot(s.x.float(), out.float()) / TEMPERATURE).mean()

    return step


def _sdpa(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Narrower side embeddings are padded to the values' width where a backend wants one width (flash, cuDNN)."""

    def attend(u: Tensor, v: Tensor, y: Tensor) -> Tensor:
        if backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            u, v = (pad(side, (0, y.shape[-1] - side.shape[-1])) for side in (u, v))
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(u, v, y, scale=1 / GRAPH_TEMPERATURE)

    return attend


def _flex(u: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return _compiled_flex()(u, v, y, scale=1 / GRAPH_TEMPERATURE)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention  # brings the compiler along

    return torch.compile(flex_attention)


def _case(s: Settings, n: int, m: int, d: int, e: int) -> list[Row]:
    sides, rows, live = _draw(s, n, m, d, e), {}, {}
    reference: tuple[float, Tensor] | None = None
    for name, step in ways(s.device).items():
        row: Row = {"contender": name, "status": OK}
        rows[name] = row
        try:
            value, gradient = _evaluate(step, sides)
            reference = reference or (value, gradient)
            row |= compare(value, gradient, reference)
            row["peak megabytes"] = _peak(step, sides) if s.device == "cuda" else None
        except Exception as error:  # what a backend refuses is its result
            row["status"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
            continue
        if float(str(row["gradient cosine"])) > COSINE[s.dtype]:
            live[name] = step
        else:
            row["status"] = "another value: not timed"
    return _with_times(s, rows, live, sides)


def _with_times(s: Settings, rows: dict[str, Row], live: dict[str, Step], sides: Sides) -> list[Row]:

    def full(step: Step) -> Callable[[], None]:
        return lambda: step(sides).backward()

    functions = {name: full(step) for name, step in live.items()}
    times = in_turns(functions, repeats=s.repeats, budget=s.budget, device=s.device, between=sides.clear)
    for name, found in times.items():
        rows[name] |= {
            "milliseconds": 1e3 * found.median,
            "fastest": 1e3 * min(found.values),
            "slowest": 1e3 * max(found.values),
            "repeats": len(found.values),
            "time / fused": found.median / times[FUSED].median if FUSED in times else None,
        }
    return list(rows.values())


def _draw(s: Settings, n: int, m: int, d: int, e: int) -> Sides:
    draw = torch.Generator().manual_seed(0)
    x, y = (normalize(torch.randn(k, d, generator=draw), dim=1) for k in (n, m))
    u, v = (normalize(torch.randn(k, e, generator=draw), dim=1) for k in (n, m))
    x, y, u, v = (side.to(s.device, s.dtype) for side in (x, y, u, v))
    return Sides(x.requires_grad_(), y.requires_grad_(), u, v)


def _evaluate(step: Step, sides: Sides) -> tuple[float, Tensor]:
    sides.clear()
    loss = step(sides)
    loss.backward()
    assert sides.x.grad is not None
    assert sides.y.grad is not None
    return loss.item(), torch.cat([sides.x.grad.flatten(), sides.y.grad.flatten()]).double()


def _peak(step: Step, sides: Sides) -> float:
    sides.clear()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds(lambda: step(sides).backward(), device="cuda")
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def smoke(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Settings:
    """Return settings that take seconds."""
    return Settings(((96, 80, 16, 8),), device=device, dtype=dtype, repeats=2)
