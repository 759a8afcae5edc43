"""What every rank does beside the cases: primitives, refusals, FSDP2, hidden differences between replicas."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from rank_cases import CASES, PARTITIONS, Model, N, joined_batch, part
from torch import Tensor

from kinfolk import graphs, losses
from kinfolk.distributed import Ranks, all_gather, all_reduce, require_equal
from kinfolk.ops import PairMask

SIZES = {1: (4,), 2: (3, 0), 4: (2, 0, 3, 1)}


def rows_of(rank: int, world: int, dtype: torch.dtype) -> Tensor:
    """Distinct rows of one rank, some of them none; small multiples of 1/8, exact in every precision."""
    total = sum(SIZES[world])
    table = (torch.arange(total * 3).view(total, 3) % 64) / 8
    return part({"x": table.to(dtype)}, SIZES[world], rank)["x"]


def primitives(rank: int, world: int) -> dict[str, Any]:
    """Gathered rows, and the gradient of a sum that every rank weights differently."""
    found: dict[str, Any] = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = rows_of(rank, world, dtype).requires_grad_()
        y = all_gather(x)
        ((1 + rank) * y.float().square().sum()).backward()
        found[str(dtype)] = y.detach(), x.grad
    for dtype in (torch.int64, torch.int32, torch.bool, torch.uint8):
        found[str(dtype)] = all_gather(rows_of(rank, world, dtype))
    cube = all_gather(rows_of(rank, world, torch.float64)[:, None].expand(-1, 2, -1))
    flat = all_gather(rows_of(rank, world, torch.float64)[:, 0])
    found["shapes"] = cube.shape, flat.shape
    found["nothing"] = all_gather(torch.zeros(0, 3)).shape
    z = torch.full((2,), 1.0 + rank, dtype=torch.float64, requires_grad=True)
    total = all_reduce(z)
    ((1 + rank) * total.square().sum()).backward()
    found["all_reduce"] = total.detach(), z.grad
    found["count"] = int(all_reduce(torch.tensor(rank + 1)))
    ranks, (x,) = Ranks.of([rows_of(rank, world, torch.float64)])
    found["ranks"] = ranks, ranks.rotate(x, rank)
    return found


def join_backward(rank: int, world: int) -> dict[str, Any]:
    """A rank whose rows need no gradient joins the backward pass of those that do."""
    x = torch.ones(2, 2, requires_grad=rank == 0)
    y = all_gather(x)
    y.sum().backward()
    return {"requires_grad": y.requires_grad, "gradient": x.grad}


def second_derivative(rank: int, world: int) -> str:
    x = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    return said(lambda: torch.autograd.grad(all_gather(x).square().sum(), x, create_graph=True))


def said(call: Callable[[], Any]) -> str:
    """The type and text of the error that a call raises; empty without one."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def empty_everywhere(rank: int, world: int) -> dict[str, str]:
    """No rank has a row: an error on every rank, for every loss."""
    empty = {k: v[:0] for k, v in joined_batch().items()}
    return {name: said(lambda case=case: Model(case)(empty)) for name, case in CASES.items()}  # type: ignore[misc]


def too_few(rank: int, world: int) -> dict[str, str]:
    """One sample in the whole world is too few for some losses; two, on different ranks, are enough."""
    one, two = (part(joined_batch(), (1,) * n + (0,) * (world - n), rank) for n in (1, min(2, world)))
    return {
        f"{name} of {n}": said(lambda case=CASES[name], batch=batch: Model(case)(batch))  # type: ignore[misc]
        for name in ("DCL", "CACR")
        for n, batch in (("one", one), ("two", two))
    }


def disagreements(rank: int, world: int) -> dict[str, str]:
    """Ranks that ask for different things are told so, all of them."""
    odd = rank == world - 1
    x = torch.randn(4, 6, dtype=torch.float64)
    labels, ids = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    side = torch.randn(4, 3)
    sup_con = losses.SupConLoss()
    general = losses.GraphContrastiveLoss()
    calls: dict[str, Callable[[], Any]] = {
        "width": lambda: losses.NTXentLoss()(x[:, : 5 if odd else 6], x[:, : 5 if odd else 6]),
        "precision": lambda: sup_con(x.float() if odd else x, labels),
        "loss": lambda: losses.NTXentLoss()(x, x) if odd else losses.DCLLoss()(x, x),
        "form": lambda: losses.SupConLoss(form="in" if odd else "out")(x, labels),
        "ids": lambda: sup_con(x, labels, ids=ids if odd else None),
        "graph": lambda: general(x, x, graphs.PairGraph(4) if odd else graphs.LabelGraph(labels)),
        "mask": lambda: general(x, x, graphs.PairGraph(4), mask=PairMask.exclude_self(4) if odd else None),
        "views": lambda: losses.CACRLoss()([x, x, x] if odd else [x, x]),
        "side embeddings": lambda: losses.XSampleLoss()(x, side[:, : 2 if odd else 3]),
        "all_gather": lambda: all_gather(x[:, : 5 if odd else 6]),
        "local matrix": lambda: general(x, x, torch.ones(4, 4)),
        "local bool mask": lambda: general(x, x, graphs.PairGraph(4), mask=torch.ones(4, 4, dtype=torch.bool)),
        "listed columns": lambda: general(
            x, x, graphs.PairGraph(4), mask=PairMask.exclude_columns(torch.zeros(4, 1).long(), 4)
        ),
        "numbered edges": lambda: general(x, x, graphs.SparseGraph(torch.arange(5), torch.arange(4), m=4)),
        "replicas": lambda: require_equal(torch.tensor([1.0, 2.0 + odd]), "queue"),
        "shapes of replicas": lambda: require_equal(torch.zeros(2 + odd), "queue"),
        "equal replicas": lambda: require_equal(torch.tensor([1.0, float("nan")]), "queue"),
    }
    found = {name: said(call) for name, call in calls.items()}
    found["no_grad"] = said(lambda: _partly_no_grad(x, odd))
    return found


def _partly_no_grad(x: Tensor, odd: bool) -> Tensor:
    with torch.set_grad_enabled(not odd):
        return losses.NTXentLoss()(x.clone().requires_grad_(), x)


def fully_sharded(rank: int, world: int) -> dict[str, Tensor]:
    """FSDP2's gradients and parameters after a step, put together, beside DDP's of the same case."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    found = {}
    for name in ("NTXent", "SupCon out", "CLIP", "CACR"):
        model = Model(CASES[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own use of names that it has deprecated
            fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model(part(joined_batch(), PARTITIONS[world][list(PARTITIONS[world])[-1]], rank)).backward()
            optimizer.step()
            found[name] = torch.cat([p.full_tensor().detach().flatten() for p in model.parameters()])  # type: ignore[attr-defined]
    return found


def queue_in_debug(rank: int, world: int) -> str:
    """With TORCH_DISTRIBUTED_DEBUG a queue that differs between ranks is found."""
    before = dist.get_debug_level()
    dist.set_debug_level(dist.DebugLevel.INFO)
    try:
        x = torch.eye(3)
        return said(lambda: losses.InfoNCELoss()(x, x, torch.eye(3) * (1 + rank)))
    finally:
        dist.set_debug_level(before)


def mask_over_all_keys(rank: int, world: int) -> tuple[Tensor, Tensor | None]:
    """A mask over the keys of all ranks is taken as it is, also where only one rank has keys."""
    sizes = (N,) + (0,) * (world - 1)
    x = part(joined_batch(), sizes, rank)["x"][:, 0].requires_grad_()
    mask = PairMask.exclude(torch.arange(sizes[rank]), torch.arange(N))
    graph = graphs.LabelGraph(torch.zeros(len(x), dtype=torch.int64))
    value = losses.GraphContrastiveLoss(reduction="sum")(x, x, graph, mask=mask)
    value.backward()
    ranks, _ = Ranks.of([x])
    return ranks.sum(value.detach()), x.grad


JOBS: dict[str, Callable[[int, int], Any]] = {
    "primitives": primitives,
    "join backward": join_backward,
    "second derivative": second_derivative,
    "empty": empty_everywhere,
    "too few": too_few,
    "disagreements": disagreements,
    "fsdp": fully_sharded,
    "queue in debug": queue_in_debug,
    "mask over all keys": mask_over_all_keys,
}
