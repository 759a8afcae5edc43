"""The processes of the battery: each runs every case on its slice of the batch and saves what it found.

They are forks of one interpreter, which has imported everything and computed nothing.
"""

from __future__ import annotations

import copy
import datetime
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch would import these two in every process
import torch.distributed as dist
import torch.distributed.fsdp
from rank_cases import LOCAL, PARTITIONS, Batch, Model, cases, joined_batch, part, ways
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Found = dict[str, Any]


def key(name: str, partition: str, gather: Any) -> str:
    return f"{name} | {partition} | {gather}"


def distributed(model: nn.Module) -> DistributedDataParallel:
    with warnings.catch_warnings():  # newer versions announce another name for broadcast_buffers
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)


def gradient(model: nn.Module) -> Tensor:
    """All parameters' gradients, one after the other; a parameter that does not train counts as 0."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def measure(model: DistributedDataParallel, batch: Batch, gather: Any) -> Found:
    """Loss and DDP's mean gradient on this rank's slice."""
    model.zero_grad()
    value = model(batch, gather=gather)
    value.backward()
    return {"mean": value.detach(), "gradient": gradient(model)}


def measure_more(model: DistributedDataParallel, batch: Batch, gather: Any) -> Found:
    """The sum and its gradient, values per anchor, and parameters after a step of SGD (which are then put back)."""
    model.zero_grad()
    value = model(batch, gather=gather, reduction="sum")
    value.backward()
    found = {"sum": value.detach(), "gradient of sum": gradient(model)}
    if not model.module.case.pooled:
        with torch.no_grad():
            found["none"] = model(batch, gather=gather, reduction="none")
    before = copy.deepcopy(model.state_dict())
    model.zero_grad()
    model(batch, gather=gather).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    found["stepped"] = torch.cat([p.detach().flatten() for p in model.parameters()])
    model.load_state_dict(before)
    return found


def battery(rank: int, world: int) -> Found:
    found = {}
    for name, case in cases(world).items():
        model = distributed(Model(case))
        for number, (partition, sizes) in enumerate(PARTITIONS[world].items()):
            batch = part(joined_batch(), sizes, rank)
            for gather in ways(name):
                answer = measure(model, batch, gather)
                more = measure_more(model, batch, gather) if number == len(PARTITIONS[world]) - 1 else {}
                found[key(name, partition, gather)] = answer | more
        if world == LOCAL[0]:
            found[key(name, "local", False)] = local(model, rank)
    return found


def local(model: DistributedDataParallel, rank: int) -> Found:
    """``gather=False``; what names the columns of all ranks has no place there and is refused."""
    try:
        return measure(model, part(joined_batch(), LOCAL[1], rank), False)
    except ValueError as error:
        return {"error": str(error)}


def main(rank: int, world: int, folder: Path) -> None:
    from rank_jobs import JOBS

    torch.set_num_threads(1)
    warnings.filterwarnings("error")
    warnings.filterwarnings("ignore", message=".*no anchor in this batch")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    dist.barrier()
    jobs = {} if "RANK_CASES" in os.environ else JOBS  # jobs name cases that may then be missing
    found = {**battery(rank, world), **{name: job(rank, world) for name, job in jobs.items()}}
    torch.save(found, folder / f"rank{rank}.pt")
    dist.barrier()  # a rank that is done must not leave while another is still busy
    dist.destroy_process_group()


def logged(rank: int, world: int, folder: Path) -> None:
    with open(folder / f"rank{rank}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    main(rank, world, folder)


def fork(world: int, folder: Path, timeout: float) -> list[int | None]:
    """Run every rank; once one has failed, the others, which would only wait for it, are ended."""
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=logged, args=(rank, world, folder)) for rank in range(world)]
    for process in running:
        process.start()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and any(process.is_alive() for process in running):
        if any(process.exitcode for process in running):
            time.sleep(1.0)
            break
        time.sleep(0.05)
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
        process.join()
    return codes


Job = Callable[[int, int], Any]

if __name__ == "__main__":
    codes = fork(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
    sys.exit(f"codes of the ranks: {codes}" if any(code != 0 for code in codes) else 0)
