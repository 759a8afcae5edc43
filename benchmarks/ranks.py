"""Real processes on gloo: one training step's gradient of a scheme under DistributedDataParallel, in float64."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.inputs import TEMPERATURE
from benchmarks.peers import AbsentError
from benchmarks.processes import Failure, call_each
from benchmarks.schemes import Scheme, Share, schemes

WIDTH, D, QUEUE = 6, 4, 10
CLASSES = 3


class Encoder(nn.Module):
    """A tiny encoder of both views, with a learnable inverse temperature where the scheme uses one."""

    def __init__(self, *, learns_scale: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, D))
        self.log_scale = nn.Parameter(-torch.tensor(TEMPERATURE).log(), requires_grad=learns_scale)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings of rows of both views, and the inverse temperature."""
        return self.layers(x), self.log_scale.exp()


@dataclass(frozen=True)
class Step:
    """What one rank saw: its loss and, after DDP, the gradient of the encoder and of the log inverse temperature."""

    value: float
    gradient: list[float]
    scale_gradient: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The steps of all ranks in order, or what happened instead."""

    steps: tuple[Step, ...] = ()
    failure: str = ""


def joined(scheme: Scheme, total: int, folder: Path | None) -> Outcome:
    """Return the step of a single process, without a process group, on the joined batch."""
    try:
        return Outcome((_step(scheme, (total,), 0, folder, ddp=False),))
    except AbsentError as absent:
        return Outcome(failure=f"absent: {absent}")


def distributed(scheme: Scheme, sizes: Sequence[int], folder: Path | None, *, limit: float) -> Outcome:
    """Return the step with one process a size; a scheme that hangs is ended after ``limit`` seconds."""
    with tempfile.TemporaryDirectory() as place:
        common = (scheme.name, tuple(sizes), f"file://{place}/store", folder, limit)
        everyone = [(rank, *common) for rank in range(len(sizes))]
        results = call_each(_rank, everyone, limit=limit, prepare=_import)
    failures = {rank: result for rank, result in enumerate(results) if isinstance(result, Failure)}
    if not failures:
        return Outcome(tuple(results))
    late = all(result.text.startswith("no result") for result in failures.values())
    rank, failure = next((r, f) for r, f in failures.items() if late or not f.text.startswith("no result"))
    return Outcome(failure=failure.text if late else f"rank {rank}: {failure.text}")


def _import(rank: int, name: str, sizes: tuple[int, ...], store: str, folder: Path | None, limit: float) -> None:
    """Load what the scheme needs before the clock runs, so that a busy machine is not taken for a scheme that hangs."""
    schemes()[name].build(folder)


def _rank(rank: int, name: str, sizes: tuple[int, ...], store: str, folder: Path | None, limit: float) -> Step:
    """What a process does."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=len(sizes), timeout=timedelta(seconds=limit)
    )
    return _step(schemes()[name], sizes, rank, folder, ddp=True)


def _step(scheme: Scheme, sizes: tuple[int, ...], rank: int, folder: Path | None, *, ddp: bool) -> Step:
    torch.manual_seed(0)
    encoder = Encoder(learns_scale=scheme.learns_scale).double()
    model: nn.Module = DistributedDataParallel(encoder) if ddp else encoder
    rows, rest = _rows(sizes, rank)
    embeddings, scale = model(rows)
    z0, z1 = embeddings.chunk(2) if len(embeddings) else (embeddings, embeddings)
    share = Share(z0=z0, z1=z1, scale=scale, rank=rank, world=len(sizes), **rest)
    loss = scheme.build(folder)(share)
    loss.backward()
    gradients = [p.grad for p in encoder.layers.parameters()]
    flat = torch.cat([g.flatten() for g in gradients if g is not None])
    return Step(loss.item(), flat.tolist(), None if encoder.log_scale.grad is None else encoder.log_scale.grad.item())


def _rows(sizes: tuple[int, ...], rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A rank's part of one joined batch: images of both views, and what belongs to its samples."""
    total = sum(sizes)
    draw = torch.Generator().manual_seed(1)
    base = torch.randn(total, WIDTH, generator=draw, dtype=torch.float64)
    views = [base + 0.5 * torch.randn(total, WIDTH, generator=draw, dtype=torch.float64) for _ in range(2)]
    side = torch.randn(total, 3, generator=draw, dtype=torch.float64)
    keys = torch.randn(QUEUE, D, generator=draw, dtype=torch.float64)
    ids = torch.arange(total)
    start = (0, *accumulate(sizes))[rank]
    own = slice(start, start + sizes[rank])
    rest = {"ids": ids[own], "labels": ids[own] % CLASSES, "side": side[own], "queue": keys}
    return torch.cat([view[own] for view in views]), rest
